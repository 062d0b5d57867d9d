"""Fetch a picture from an address that a client names: public hosts only, redirects checked like the first address.

The name is resolved once, and the connection goes to the address that was checked: a name that resolves to another
address a moment later (DNS rebinding) reaches nothing.  Proxies of the environment are not used.  What a name resolves
to is not told to the client, who could map the private network by it.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any
from urllib.parse import urljoin, urlsplit

MAX_REDIRECTS = 5
CHUNK_BYTES = 2**16
REDIRECTS = frozenset({301, 302, 303, 307, 308})
PORTS = {"http": 80, "https": 443}
NAT64 = ipaddress.ip_network("64:ff9b::/96")
COMPATIBLE = ipaddress.ip_network("::/96")  # IPv4-compatible addresses, obsolete (RFC 4291)
OBSOLETE = tuple(ipaddress.ip_network(block) for block in ("fec0::/10", "3ffe::/16", "5f00::/8"))


class _Unreachable(ValueError):
    """A host that does not resolve, is not public, or does not answer: which of these is not told."""


def fetch_picture(address: str, max_bytes: int, deadline: float) -> bytes:
    """Return the content of an http(s) address.

    deadline: on the monotonic clock; it covers names, TLS, heads, redirects and the body.

    Raises ValueError for another scheme, a host that is not public, a status other than 200, more than max_bytes, and
    a deadline that has passed.
    """
    place = address
    for _ in range(MAX_REDIRECTS + 1):
        try:
            content, location = _get(place, max_bytes, deadline)
        except _Unreachable as error:
            raise ValueError(f"{address} cannot be fetched: no public host answers there") from error
        except (OSError, http.client.HTTPException) as error:
            if time.monotonic() >= deadline:
                raise ValueError(f"{address} takes too long") from error
            raise ValueError(f"{address} cannot be fetched ({error or type(error).__name__})") from error
        if content is not None:
            return content
        place = urljoin(place, location)
    raise ValueError(f"{address}: more than {MAX_REDIRECTS} redirects")


def _get(address: str, max_bytes: int, deadline: float) -> tuple[bytes | None, str]:
    """Return (content, "") or (None, where the server redirects to)."""
    parts = urlsplit(address)
    if parts.scheme not in PORTS or not parts.hostname or parts.username is not None:
        raise ValueError(f"{address}: only http:// and https:// addresses without a user are fetched")
    port = parts.port or PORTS[parts.scheme]
    plain = _connect(parts.hostname, port, deadline)
    connection = http.client.HTTPConnection(parts.hostname, port)
    with plain, _closed_at(plain, deadline):
        connection.sock = plain
        if parts.scheme == "https":
            connection.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=parts.hostname)
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


def _connect(host: str, port: int, deadline: float) -> socket.socket:
    """Connect to the first address of a host.  Raises _Unreachable where any of its addresses is not public."""
    try:
        infos = _resolve(host, port, deadline)
        if not all(is_public(str(place[0])) for *_, place in infos):
            raise _Unreachable(host)
        return socket.create_connection((str(infos[0][4][0]), port), timeout=_remaining(deadline))
    except OSError as error:
        if time.monotonic() >= deadline:
            raise TimeoutError from error
        raise _Unreachable(host) from error


def _resolve(host: str, port: int, deadline: float) -> list[Any]:
    """Return what getaddrinfo does, which takes no time limit: a thread that may outlast the deadline asks it."""
    answer: Future[list[Any]] = Future()

    def ask() -> None:
        try:
            answer.set_result(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except Exception as error:  # noqa: BLE001  it is raised where the answer is awaited
            answer.set_exception(error)

    threading.Thread(target=ask, name="worldclip-resolve", daemon=True).start()
    return answer.result(_remaining(deadline))


def _remaining(deadline: float) -> float:
    return max(0.001, deadline - time.monotonic())


@contextlib.contextmanager
def _closed_at(connected: socket.socket, deadline: float) -> Iterator[None]:
    """Shut a connection down at the deadline, whatever waits on it: a server may send a byte now and then for ever."""
    connected.settimeout(_remaining(deadline))
    same = connected.dup()  # TLS takes over the first one's descriptor
    timer = threading.Timer(_remaining(deadline), _shut_down, [same])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        same.close()


def _shut_down(connected: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)


def is_public(address: str) -> bool:
    """Return whether an IP address belongs to the public internet; one that embeds an IPv4 address, whether that does.

    ::ffff:127.0.0.1 (mapped), ::127.0.0.1 (compatible), 2002:7f00:1:: (6to4) and 64:ff9b::127.0.0.1 (NAT64) reach
    127.0.0.1.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if any(ip in block for block in OBSOLETE):
            return False
        embedded = ip.ipv4_mapped or ip.sixtofour
        if ip in NAT64 or ip in COMPATIBLE:
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
        chunks.append(chunk)
    if time.monotonic() >= deadline:  # the connection was shut down, which looks like the end of the content
        raise TimeoutError
    return b"".join(chunks)
