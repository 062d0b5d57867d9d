"""Fetch a picture from an address that a client names: public hosts alone, redirects checked like the first address.

The name is resolved once, and the connection goes to the address that was checked: a name that resolves to another
address a moment later (DNS rebinding) reaches nothing.  Proxies of the environment are not used.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from urllib.parse import urljoin, urlsplit

MAX_REDIRECTS = 5
CONNECT_SECONDS = 10
TOTAL_SECONDS = 30
CHUNK_BYTES = 2**16
REDIRECTS = frozenset({301, 302, 303, 307, 308})
PORTS = {"http": 80, "https": 443}


def fetch_picture(address: str, max_bytes: int) -> bytes:
    """Return the content of an http(s) address.

    Raises ValueError for another scheme, a host in a private network, a status other than 200, more than max_bytes, and
    more than TOTAL_SECONDS.
    """
    deadline = time.monotonic() + TOTAL_SECONDS
    for _ in range(MAX_REDIRECTS + 1):
        try:
            content, location = _get(address, max_bytes, deadline)
        except (OSError, http.client.HTTPException) as error:
            raise ValueError(f"{address} cannot be fetched ({error or type(error).__name__})") from error
        if content is not None:
            return content
        address = urljoin(address, location)
    raise ValueError(f"{address}: more than {MAX_REDIRECTS} redirects")


def _get(address: str, max_bytes: int, deadline: float) -> tuple[bytes | None, str]:
    """Return (content, "") or (None, where the server redirects to)."""
    parts = urlsplit(address)
    if parts.scheme not in PORTS or not parts.hostname or parts.username is not None:
        raise ValueError(f"{address}: only http:// and https:// addresses without a user are fetched")
    port = parts.port or PORTS[parts.scheme]
    connection = http.client.HTTPConnection(parts.hostname, port, timeout=CONNECT_SECONDS)
    connection.sock = _connect(parts.hostname, port, is_secure=parts.scheme == "https")
    try:
        path = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
        connection.request("GET", path, headers={"Accept": "image/*", "User-Agent": "worldclip"})
        answer = connection.getresponse()
        if answer.status in REDIRECTS and (location := answer.headers.get("Location")):
            return None, location
        if answer.status != http.HTTPStatus.OK:
            raise ValueError(f"{address}: the server answered {answer.status}")
        return _read(answer, address, max_bytes, deadline), ""
    finally:
        connection.close()


def _connect(host: str, port: int, *, is_secure: bool) -> socket.socket:
    """Connect to the first address of a host.  Raises ValueError where any of its addresses is not public."""
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for *_, place in infos:
        if not is_public(str(place[0])):
            raise ValueError(f"{host} is in a private network ({place[0]}); only public addresses are fetched")
    plain = socket.create_connection((str(infos[0][4][0]), port), timeout=CONNECT_SECONDS)
    return ssl.create_default_context().wrap_socket(plain, server_hostname=host) if is_secure else plain


def is_public(address: str) -> bool:
    """Return whether an IP address belongs to the public internet; one that embeds an IPv4 address, whether that does.

    ::ffff:127.0.0.1 (mapped), 2002:7f00:1:: (6to4) and 64:ff9b::127.0.0.1 (NAT64) reach 127.0.0.1.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        nat64 = ipaddress.ip_network("64:ff9b::/96")
        embedded = ip.ipv4_mapped or ip.sixtofour
        if ip in nat64:
            embedded = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if ip.teredo is not None:
            embedded = ip.teredo[1]
        if embedded is not None:
            return is_public(str(embedded))
    return ip.is_global and not ip.is_multicast


def _read(answer: http.client.HTTPResponse, address: str, max_bytes: int, deadline: float) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while chunk := answer.read1(CHUNK_BYTES):  # read() would wait for a whole chunk of a slow server
        size += len(chunk)
        if size > max_bytes:
            raise ValueError(f"{address}: more than {max_bytes:,} bytes")
        if time.monotonic() > deadline:
            raise ValueError(f"{address}: takes longer than {TOTAL_SECONDS} s")
        chunks.append(chunk)
    return b"".join(chunks)
