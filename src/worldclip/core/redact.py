"""Keep credentials out of all that is written and said: recipes, manifests, exports, cards, logs, messages.

Keep the folders of a machine out of what is published.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

HIDDEN = "***"
# Schemes whose part before the @ is a user or, on Azure, a container; elsewhere it is a key or a token.
_USER_SCHEMES = ("sftp", "ssh", "ftp", "ftps", "smb", "hdfs", "webhdfs", "abfs", "abfss", "wasb", "wasbs", "adl", "git")
# Parameters of signed addresses (AWS, Google, Azure, Alibaba, CloudFront) and of storage options in an address.
_SECRET_PARAMETERS = (
    "x-amz-signature|x-amz-credential|x-amz-security-token|x-goog-signature|x-goog-credential|x-oss-signature|"
    "x-oss-credential|x-oss-security-token|awsaccesskeyid|googleaccessid|ossaccesskeyid|key-pair-id|policy|signature|"
    "sig|sas_token|sas|token|access_token|session_token|security_token|security-token|auth|authorization|api_key|"
    "apikey|api-key|key|secret|secret_key|client_secret|account_key|connection_string|credential|credentials|password|"
    "passwd|pwd"
)
# Names of storage options in a record.  `key` and `token` alone are words of ours.
_SECRET_OPTION = re.compile(
    r"secret|client_secret|secret_key|aws_secret_access_key|aws_session_token|session_token|access_token|sas_token|"
    r"account_key|connection_string|api_key|password|passwd|authorization",
    re.IGNORECASE,
)
# Each begins with its letters: a page of megabytes is searched for them alone.
_USER = re.compile(r"://([^\s/?#\"'<>]{1,4000})@")
_KEY_AND_SECRET = re.compile(r"://([^\s?#\"'<>@:/]{1,200}:[^\s?#\"'<>]{1,200})@")  # secret keys hold slashes
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*$")
_BUCKET_SCHEMES = ("s3", "s3a", "s3n", "gs", "gcs", "oss", "cos", "r2")  # their addresses have no port
_LOCAL_PATH = re.compile(r"(?:file://)?([\w-]+:)?([/~].*)", re.DOTALL)  # as recipes hold it: absolute, or `layout:path`
_PARAMETER = re.compile(rf"([?&;](?:{_SECRET_PARAMETERS})=)[^&;\s\"'<>#]+", re.IGNORECASE)


def redact(text: str) -> str:
    """Return `text` with the credentials in its addresses replaced: users, passwords, signatures, tokens."""
    if "://" not in text:
        return text
    return _PARAMETER.sub(rf"\1{HIDDEN}", _USER.sub(_hide_user, _KEY_AND_SECRET.sub(_hide_secret, text)))


def _scheme_before(match: re.Match[str]) -> str:
    scheme = _SCHEME.search(match.string[max(0, match.start() - 24) : match.start()])
    return scheme[0].lower() if scheme else ""


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
            if isinstance(name, str) and isinstance(value, str) and value and _SECRET_OPTION.fullmatch(name)
            else redact_record(value)
            for name, value in record.items()
        }
    if isinstance(record, list | tuple):
        return [redact_record(value) for value in record]
    return record


def has_credential(value: Any) -> bool:
    """Return whether `redact_record` would change a value of a config."""
    if isinstance(value, str):
        return redact(value) != value
    if isinstance(value, Mapping):
        return any(has_credential(item) for pair in value.items() for item in pair)
    return isinstance(value, list | tuple) and any(map(has_credential, value))


def shorten_paths(record: Any) -> Any:
    """Return a JSON-able record with each text that is an absolute local path cut to its last part."""
    if isinstance(record, Mapping):
        return {name: shorten_paths(value) for name, value in record.items()}
    if isinstance(record, list | tuple):
        return [shorten_paths(value) for value in record]
    path = _LOCAL_PATH.fullmatch(record) if isinstance(record, str) else None
    if path is None or path[2].startswith("//"):  # the rest of a URL
        return record
    return f"{path[1] or ''}{PurePosixPath(path[2]).name}"
