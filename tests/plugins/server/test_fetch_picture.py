"""A picture is fetched from public addresses alone, whatever its name resolves to or its server redirects to."""

from __future__ import annotations

import http.server
import threading

import pytest

from worldclip.plugins.server import fetch_picture as module
from worldclip.plugins.server.fetch_picture import fetch_picture, is_public


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
     "::1", "::", "fe80::1%eth0", "fd00::1", "::ffff:127.0.0.1", "2002:7f00:0001::", "64:ff9b::7f00:1", "ff02::1"],
)  # fmt: skip
def test_addresses_of_private_networks_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808"])
def test_addresses_of_the_internet_are_public(address):
    assert is_public(address)


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("http://127.0.0.1/a.png", "private network"),
        ("http://localhost/a.png", "private network"),
        ("http://2130706433/a.png", "private network"),
        ("http://[::1]/a.png", "private network"),
        ("http://0/a.png", "private network"),
        ("file:///etc/passwd", "only http:// and https://"),
        ("ftp://127.0.0.1/a", "only http:// and https://"),
        ("http://user:secret@127.0.0.1/", "without a user"),
        ("http:///a.png", "only http:// and https://"),
    ],
)
def test_what_is_not_public_is_refused_before_it_is_connected(address, problem, monkeypatch):
    monkeypatch.setattr(module.socket, "create_connection", lambda *arguments, **options: pytest.fail("connected"))
    with pytest.raises(ValueError, match=problem):
        fetch_picture(address, 1000)


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
            self.send_response(200 if name == "picture" else 404)
            self.end_headers()
            self.wfile.write(b"x" * 1000)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        real = is_public
        monkeypatch.setattr(module, "is_public", lambda address: address == "127.0.0.1" or real(address))
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_redirect_is_followed_and_checked_like_the_first_address(redirecting):
    assert len(fetch_picture(f"{redirecting}/to=/picture", 1000)) == 1000
    with pytest.raises(ValueError, match=r"127\.0\.0\.2 is in a private network"):
        fetch_picture(f"{redirecting}/to=http://127.0.0.2/picture", 1000)
    with pytest.raises(ValueError, match="only http:// and https://"):
        fetch_picture(f"{redirecting}/to=file:///etc/passwd", 1000)
    with pytest.raises(ValueError, match="more than 5 redirects"):
        fetch_picture(f"{redirecting}/to={'to=/' * 6}picture", 1000)


def test_too_many_bytes_and_other_answers_are_problems(redirecting):
    with pytest.raises(ValueError, match="more than 999 bytes"):
        fetch_picture(f"{redirecting}/picture", 999)
    with pytest.raises(ValueError, match="answered 404"):
        fetch_picture(f"{redirecting}/other", 1000)
