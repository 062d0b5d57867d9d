"""Normalise URLs (RFC 3986 sections 6.2.2 and 6.2.3), so that one image has one key."""

from __future__ import annotations

import functools
import hashlib
import re
from urllib.parse import SplitResult, urljoin, urlsplit

KEY_HEX_DIGITS = 32
UNRESERVED = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~")
# Reserved characters and "%" stay as they are; everything else is percent-encoded.
_KEPT = UNRESERVED | frozenset(b":/?#[]@!$&'()*+,;=%")
_IS_PLAIN = re.compile(f"[{re.escape(''.join(map(chr, sorted(_KEPT - {ord('%')}))))}]*")
_PERCENT = re.compile(rb"%([0-9A-Fa-f]{2})")
_STRAY_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_REMOVED = re.compile("[\t\n\r]")  # browsers remove them, https://url.spec.whatwg.org/#concept-basic-url-parser
DEFAULT_PORTS = {"http": 80, "https": 443}


def key_of_url(url: str) -> str:
    """Return the first 32 hex digits of the SHA-256 of a normalised URL."""
    return hashlib.sha256(url.encode("ascii")).hexdigest()[:KEY_HEX_DIGITS]


def resolve(link: str, base: str) -> str | None:
    """Return `link` on a page at `base`, normalised and without its fragment; None for a scheme other than http(s).

    Raises ValueError for an invalid URL.
    """
    cleaned = _REMOVED.sub("", link).strip(" \0\f\v")
    if not cleaned[:8].lower().startswith(("http://", "https://")):
        cleaned = urljoin(base, cleaned)
    return normalise(cleaned)


@functools.lru_cache(maxsize=1 << 16)
def normalise(url: str) -> str | None:
    """Return the normal form of an absolute http(s) URL, None for another scheme.  Raises ValueError if invalid."""
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    if scheme not in DEFAULT_PORTS:
        return None
    path = _remove_dot_segments(_encode(parts.path) or "/")
    query = f"?{_encode(parts.query)}" if parts.query else ""
    return f"{scheme}://{_authority(parts, scheme)}{path}{query}"


def _authority(parts: SplitResult, scheme: str) -> str:
    host = parts.hostname or ""
    if not host:
        raise ValueError("URL without a host")
    if not host.isascii():
        host = host.encode("idna").decode("ascii")
    if any(char in host for char in ' <>"{}|\\^`\x7f%') or min(host) < "!":
        raise ValueError(f"invalid host {host!r}")
    authority = host.lower()
    if ":" in host:
        authority = f"[{authority}]"
    port = parts.port
    if port is not None and port != DEFAULT_PORTS[scheme]:
        authority += f":{port}"
    user = parts.netloc.rpartition("@")[0]
    return f"{_encode(user)}@{authority}" if user else authority


def _encode(part: str) -> str:
    """Percent-encode a part, in upper case; decode unreserved characters."""
    if _IS_PLAIN.fullmatch(part):
        return part
    raw = _STRAY_PERCENT.sub(b"%25", part.encode("utf-8"))
    raw = _PERCENT.sub(_decode_unreserved, raw)
    return "".join(chr(byte) if byte in _KEPT else f"%{byte:02X}" for byte in raw)


def _decode_unreserved(match: re.Match[bytes]) -> bytes:
    byte = int(match.group(1), 16)
    return bytes([byte]) if byte in UNRESERVED else b"%" + match.group(1).upper()


def _remove_dot_segments(path: str) -> str:
    """Remove `.` and `..` segments (RFC 3986 section 5.2.4)."""
    if "/." not in path:
        return path
    output: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del output[-1:]
        elif segment != ".":
            output.append(segment)
    if segments[-1] in (".", ".."):
        output.append("")
    return "/" + "/".join(output)
