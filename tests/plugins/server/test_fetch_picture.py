"""A picture is fetched from public addresses alone, whatever its name resolves to or its server redirects to."""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
import time

import pytest

from served import running
from worldclip.plugins.server import fetch_picture as module
from worldclip.plugins.server.fetch_picture import fetch_picture, is_public


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
     "::1", "::", "::127.0.0.1", "fec0::1", "3ffe::1", "5f00::1", "fe80::1%eth0",
     "fd00::1", "::ffff:127.0.0.1", "2002:7f00:0001::", "64:ff9b::7f00:1", "ff02::1"],
)  # fmt: skip
def test_addresses_of_private_networks_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808"])
def test_addresses_of_the_internet_are_public(address):
    assert is_public(address)


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("http://127.0.0.1/a.png", "no public host answers"),
        ("http://localhost/a.png", "no public host answers"),
        ("http://2130706433/a.png", "no public host answers"),
        ("http://[::1]/a.png", "no public host answers"),
        ("http://0/a.png", "no public host answers"),
        ("file:///etc/passwd", "only http:// and https://"),
        ("ftp://127.0.0.1/a", "only http:// and https://"),
        ("http://user:secret@127.0.0.1/", "without a user"),
        ("http:///a.png", "only http:// and https://"),
    ],
)
def test_what_is_not_public_is_refused_before_it_is_connected(address, problem, monkeypatch):
    monkeypatch.setattr(module.socket, "create_connection", lambda *arguments, **options: pytest.fail("connected"))
    with pytest.raises(ValueError, match=problem):
        fetch(address, 1000)


@pytest.mark.parametrize("hosts", [("8.8.8.8", "10.0.0.1"), ("10.0.0.1", "8.8.8.8"), ("8.8.8.8", "::1")])
def test_a_name_with_one_private_address_is_refused_whatever_the_order(hosts, monkeypatch):
    """Its server could give the public one first, and the private one where a connection is tried again."""
    monkeypatch.setattr(
        module.socket,
        "getaddrinfo",
        lambda host, port, **options: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in hosts],
    )
    monkeypatch.setattr(module.socket, "create_connection", lambda *arguments, **options: pytest.fail("connected"))
    with pytest.raises(ValueError, match="no public host answers"):
        fetch("http://mixed.example/a.png", 1000)


def fetch(address, max_bytes, seconds=30.0):
    return fetch_picture(address, max_bytes, time.monotonic() + seconds)


def test_what_a_name_resolves_to_is_not_told(monkeypatch):
    def resolve(host, port, **options):
        if host != "inside.example":
            raise socket.gaierror("Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.1.2.3", port))]

    monkeypatch.setattr(module.socket, "getaddrinfo", resolve)
    messages = []
    for host in ("inside.example", "nowhere.example"):
        with pytest.raises(ValueError, match="no public host answers") as caught:
            fetch(f"http://{host}/a.png", 1000)
        messages.append(str(caught.value).replace(host, "HOST"))
    assert messages[0] == messages[1]
    assert "10.1.2.3" not in messages[0]


@pytest.mark.parametrize("path", ["slow-head", "slow-body"])
def test_a_server_that_sends_a_byte_now_and_then_ends_at_the_deadline(path, redirecting):
    start = time.monotonic()
    with pytest.raises(ValueError, match="takes too long"):
        fetch(f"{redirecting}/{path}", 1000, seconds=0.5)
    assert time.monotonic() - start < 5


def test_names_count_towards_the_deadline(monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(module.socket, "getaddrinfo", lambda *arguments, **options: released.wait())
    start = time.monotonic()
    with pytest.raises(ValueError, match="takes too long"):
        fetch("http://slow.example/", 1000, seconds=0.2)
    released.set()
    assert time.monotonic() - start < 5


@pytest.fixture
def redirecting(monkeypatch):
    """Yield the address of a server; its host counts as public, 127.0.0.2 and every other one as they are."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *arguments) -> None: ...

        def do_GET(self) -> None:
            name = self.path.strip("/")
            if name.startswith("to="):
                self.send_response(302)
                self.send_header("Location", name[3:])
                self.end_headers()
                return
            if name.startswith("slow"):
                return self.send_slowly(name)
            self.send_response(200 if name == "picture" else 404)
            self.end_headers()
            self.wfile.write(b"x" * 1000)

        def send_slowly(self, name: str) -> None:
            self.wfile.write(b"HTTP/1.0 200 OK\r\n" + (b"A: " if name == "slow-head" else b"\r\n"))
            with contextlib.suppress(OSError):
                for _ in range(40):
                    self.wfile.write(b"x")
                    time.sleep(0.05)

    server, real = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler), is_public
    monkeypatch.setattr(module, "is_public", lambda address: address == "127.0.0.1" or real(address))
    with running(server):
        yield f"http://127.0.0.1:{server.server_port}"


def test_a_redirect_is_followed_and_checked_like_the_first_address(redirecting):
    assert len(fetch(f"{redirecting}/to=/picture", 1000)) == 1000
    with pytest.raises(ValueError, match="no public host answers"):
        fetch(f"{redirecting}/to=http://127.0.0.2/picture", 1000)
    with pytest.raises(ValueError, match="only http:// and https://"):
        fetch(f"{redirecting}/to=file:///etc/passwd", 1000)
    with pytest.raises(ValueError, match="more than 5 redirects"):
        fetch(f"{redirecting}/to={'to=/' * 6}picture", 1000)


def test_too_many_bytes_and_other_answers_are_problems(redirecting):
    with pytest.raises(ValueError, match="more than 999 bytes"):
        fetch(f"{redirecting}/picture", 999)
    with pytest.raises(ValueError, match="answered 404"):
        fetch(f"{redirecting}/other", 1000)
