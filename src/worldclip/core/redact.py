"""Keep credentials out of all that is written and said: recipes, manifests, exports, cards, logs, messages.

Keep the folders of a machine out of what is published.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

HIDDEN = "***"
# Schemes whose part before the @ is a user or, on Azure, a container; elsewhere it is a key or a token.
_USER_SCHEMES = ("sftp", "ssh", "ftp", "ftps", "smb", "hdfs", "webhdfs", "abfs", "abfss", "wasb", "wasbs", "adl", "git")
# Parameters of addresses that are no credentials: the value of every other one is replaced, since stores, proxies and
# vendors have more names for tokens than a list can hold.
_HARMLESS = re.compile(
    "algorithm|anon|anonymous|branch|by|category|config|count|cursor|d|date|dl|download|end|endpoint|endpoint_url|expires|"
    "export|ext|file|filename|filter|fm|format|from|h|height|i|id|index|item|k|l|lang|language|limit|locale|m|max|min|"
    "month|n|name|num|offset|order|p|page|part|path|per_page|position|px|q|quality|query|raw|ref|region|rev|revision|role|"
    "row|rows|s|se|search|seed|shard|shuffle|size|skip|sort|sp|split|spr|sr|srt|ss|st|start|step|style|subset|sv|tab|time|"
    "timeout|title|to|top|type|u|usp|v|ver|version|versionid|view|w|week|width|x|y|year|z|utm_source|utm_medium|"
    "x-(?:amz|goog)-(?:algorithm|date|expires|signedheaders)|response-content-(?:disposition|type)"
)
# Names of credentials outside of addresses: storage options of a record, connection strings, environments.
_CREDENTIAL = (
    "secret|secret_?key|client_?secret|(?:aws_)?secret_?access_?key|(?:aws_)?session_?token|access_?token|auth_?token|"
    "bearer_?token|hf_?token|hub_?token|sas_?token|refresh_?token|id_?token|security_?token|account_?key|access_?key|"
    "private_?key|shared_?access_?key|shared_?access_?signature|connection_?string|api_?key|pass_?word|passwd|pwd|"
    "authorization|credentials?|sasl_password"
)
_SECRET_OPTION = re.compile(rf"(?:\w+_)?(?:{_CREDENTIAL})", re.IGNORECASE)  # `key` and `token` are ordinary words
_ASSIGNED = re.compile(
    rf"\b((?:\w{{1,40}}_)?(?:{_CREDENTIAL})[\"']?\s{{0,3}}=\s{{0,3}}[\"']?)([^\s;,&\"'<>]+)", re.IGNORECASE
)
# Each begins with its letters: a page of megabytes is searched only for them.
_USER = re.compile(r"://([^\s/?#\"'<>]{1,4000})@")
_KEY_AND_SECRET = re.compile(r"://([^\s?#\"'<>@:/]{1,200}:[^\s?#\"'<>]{1,200})@")  # secret keys hold slashes
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*$")
_BUCKET_SCHEMES = ("s3", "s3a", "s3n", "gs", "gcs", "oss", "cos", "r2")  # their addresses have no port
_ONE_SLASH = re.compile(":/(?!/)")  # `Path` makes one of two
# Other names before one slash are no schemes: in a recipe `folders:/data/me@home` is a layout and its folder.
_ONE_SLASH_SCHEMES = ("http", "https", "hf", *_USER_SCHEMES, *_BUCKET_SCHEMES)
_LOCAL_PATH = re.compile(r"(?:file://)?([\w-]+:)?([/~].*)", re.DOTALL)  # form in recipes: absolute, or `layout:path`
_ADDRESS = re.compile(r"://[^\s\"'<>]+")
_PARAMETER = re.compile(r"([?&;#])([^=&;#?\s]+)=([^&;#\s]+)")


def redact(text: str) -> str:
    """Return `text` with the credentials in its addresses replaced: users, passwords, signatures, tokens."""
    if ":/" in text:
        whole = _ONE_SLASH.sub(_add_slash, text)
        hidden = _USER.sub(_hide_user, _KEY_AND_SECRET.sub(_hide_secret, whole))
        hidden = _ADDRESS.sub(lambda address: _PARAMETER.sub(_hide_parameter, address[0]), hidden)
        text = text if hidden == whole else hidden
    return _ASSIGNED.sub(rf"\1{HIDDEN}", text) if "=" in text else text


def _hide_parameter(match: re.Match[str]) -> str:
    before, name, value = match.groups()
    plain = unquote(unquote(name)).lower().removeprefix("amp;")  # encoded more often, it is not in the list
    is_harmless = _HARMLESS.fullmatch(plain)
    return f"{before}{name}={value if is_harmless else HIDDEN}"


def _scheme_before(match: re.Match[str]) -> str:
    scheme = _SCHEME.search(match.string[max(0, match.start() - 24) : match.start()])
    return scheme[0].lower() if scheme else ""


def _add_slash(match: re.Match[str]) -> str:
    return "://" if _scheme_before(match) in _ONE_SLASH_SCHEMES else match[0]


def _hide_secret(match: re.Match[str]) -> str:
    return f"://{HIDDEN}@" if _scheme_before(match) in _BUCKET_SCHEMES else match[0]


def _hide_user(match: re.Match[str]) -> str:
    name, colon, _ = match[1].partition(":")
    if _scheme_before(match) in _USER_SCHEMES:
        return f"://{name}{colon and f':{HIDDEN}'}@"
    return f"://{HIDDEN}@"


def redact_record(record: Any) -> Any:
    """Return a JSON-able record with `redact` on every text, and the values of secret storage options replaced."""
    if isinstance(record, str):
        return redact(record)
    if isinstance(record, Mapping):
        return {
            (redact(name) if isinstance(name, str) else name): HIDDEN
            if _is_secret_option(name, value)
            else redact_record(value)
            for name, value in record.items()
        }
    if isinstance(record, list | tuple):
        return [redact_record(value) for value in record]
    return record


def _is_secret_option(name: Any, value: Any) -> bool:
    """Return whether an item of a record is an option of a storage whose value is a credential."""
    is_text = isinstance(name, str) and isinstance(value, str) and value != ""
    return is_text and _SECRET_OPTION.fullmatch(name) is not None


def has_credential(value: Any) -> bool:
    """Return whether `redact_record` would change a value of a config."""
    if isinstance(value, str):
        return redact(value) != value
    if isinstance(value, Mapping):
        is_named_so = any(_is_secret_option(name, item) for name, item in value.items())
        return is_named_so or any(has_credential(item) for pair in value.items() for item in pair)
    return isinstance(value, list | tuple) and any(map(has_credential, value))


def shorten_paths(record: Any) -> Any:
    """Return a JSON-able record with each text that is an absolute local path cut to its last part."""
    if isinstance(record, Mapping):
        return {name: shorten_paths(value) for name, value in record.items()}
    if isinstance(record, list | tuple):
        return [shorten_paths(value) for value in record]
    if not isinstance(record, str):
        return record
    return "::".join(map(_shorten_path, record.split("::")))  # `simplecache::/folder/file`


def _shorten_path(text: str) -> str:
    path = _LOCAL_PATH.fullmatch(text)
    if path is None or path[2].startswith("//"):  # the rest of a URL
        return text
    return f"{path[1] or ''}{PurePosixPath(path[2]).name}"
