"""The server answers whatever other clients hold, send or leave behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import sys
import threading
import time
import tracemalloc
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest

from embedded_world import picture
from serving import address as address  # a fixture
from serving import data_url, post, service_and_app, serving, serving_app
from worldclip.plugins.server import connections
from worldclip.plugins.server.app import create_app
from worldclip.plugins.server.connections import BACKLOG, Server, listen, server_config
from worldclip.plugins.server.metrics import Metrics
from worldclip.plugins.server.read_request import Limits, count_separators, read_json
from worldclip.plugins.server.service import MAX_CAPTION_CHARS

MANY = 40
HEAD = "POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def connect(address: str, sent: bytes = b"", received_bytes: int | None = None) -> socket.socket:
    """Return a connection whose kernel takes up to `received_bytes`, None: as many as is usual."""
    host, _, port = address.removeprefix("http://").partition(":")
    client = socket.socket()
    client.settimeout(30)
    if received_bytes is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, received_bytes)
    client.connect((host, int(port)))
    client.sendall(sent)
    return client


def is_closed(client: socket.socket) -> bool:
    """Return whether the server ended a connection, without an answer."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


# --- connections ------------------------------------------------------------------------------------------------------


def test_silent_connections_make_room_for_new_ones(world, clip, monkeypatch):
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 8)
    with serving(world, clip) as address:
        silent = [connect(address, b"GET /healthz" if i % 2 else b"") for i in range(MANY)]
        assert httpx.get(f"{address}/healthz", timeout=10).status_code == 200
        assert all(is_closed(client) for client in silent[: MANY - 8])
        for client in silent:
            client.close()


def test_a_connection_with_a_request_under_way_is_not_closed_for_others(world, clip, monkeypatch):
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 4)
    body = json.dumps({"input": "a red apple"}).encode()
    head = HEAD + f"Content-Length: {len(body)}\r\n\r\n"
    with serving(world, clip) as address:
        under_way = [connect(address, head.encode()) for _ in range(4)]
        time.sleep(0.2)
        assert is_closed(connect(address, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"))
        for client in under_way:
            client.sendall(body)
            assert client.recv(15).startswith(b"HTTP/1.1 200")
            client.close()


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\nA: "])
def test_a_head_that_does_not_come_ends_its_connection(sent, world, clip, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    with serving(world, clip) as address:
        assert is_closed(connect(address, sent))


def test_the_bounds_leave_descriptors_for_everything_else():
    usual_limit = 1024
    assert usual_limit > connections.MAX_CONNECTIONS + BACKLOG


def test_sigterm_ends_the_server_whatever_a_client_does(world, clip, monkeypatch):
    monkeypatch.setattr(sys.modules[server_config.__module__], "STOP_SECONDS", 1)
    _, app = service_and_app(clip)
    server = Server(server_config(app))

    def hold_then_stop():
        while not server.started:
            time.sleep(0.01)
        clients.append(connect(address, f"{HEAD}Content-Length: 100\r\n\r\n{{".encode()))
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)

    clients: list[socket.socket] = []
    with listen("127.0.0.1", 0) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        other = threading.Thread(target=hold_then_stop)
        other.start()
        start = time.monotonic()
        server.run(sockets=[listener])
        other.join()
    assert time.monotonic() - start < 15
    clients[0].close()


# --- answers ----------------------------------------------------------------------------------------------------------


class LargeAnswers:
    """A service whose embeddings are 11 MB in base64."""

    name = "model"
    collections: Mapping[str, Any] = {}
    clip = SimpleNamespace(embed_dim=1024, tokenizer=SimpleNamespace(encode=lambda texts: SimpleNamespace(ids=[])))

    async def embed(self, items):
        return np.zeros((len(items), self.clip.embed_dim), np.float32)

    def problems(self):
        return []

    def close(self):
        pass


LARGE = {"input": ["a"] * 2048, "encoding_format": "base64"}
LARGE_BODY = json.dumps(LARGE).encode()
LARGE_REQUEST = f"{HEAD}Content-Length: {len(LARGE_BODY)}\r\n\r\n".encode() + LARGE_BODY


def ask_until(address: str, status: int) -> bool:
    """Return whether the server answers with a status within 20 s."""
    end = time.monotonic() + 20
    while post(address, "embeddings", LARGE).status_code != status:
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def read_all(client: socket.socket, pause: float = 0.0) -> bytes:
    content = bytearray()
    while part := client.recv(2**18):
        content += part
        time.sleep(pause)
    return bytes(content)


def test_an_unread_answer_holds_its_bytes_until_the_connection_is_closed(monkeypatch):
    monkeypatch.setattr(connections, "READ_SECONDS", 1.5)
    limits = Limits(bytes_in_flight=136 * 2**20)  # 128 MiB to write an answer
    with serving_app(create_app(LargeAnswers(), limits, Metrics())) as address:
        client = connect(address, LARGE_REQUEST, received_bytes=2**12)
        assert ask_until(address, 429)
        assert httpx.get(f"{address}/healthz").status_code == 200
        assert ask_until(address, 200)
        assert len(read_all(client)) < 10_000_000
        client.close()


def test_a_slow_client_gets_its_whole_answer(monkeypatch):
    monkeypatch.setattr(connections, "READ_SECONDS", 1.0)
    with serving_app(create_app(LargeAnswers(), Limits(), Metrics())) as address:
        start = time.monotonic()
        request = LARGE_REQUEST.replace(b"Host: x", b"Host: x\r\nConnection: close")
        client = connect(address, request, received_bytes=2**17)
        content = read_all(client, pause=0.05)
        client.close()
    assert time.monotonic() - start > 2
    assert len(json.loads(content.partition(b"\r\n\r\n")[2])["data"]) == 2048


# --- bodies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_separators_are_counted_outside_strings(size, monkeypatch):
    monkeypatch.setattr("worldclip.plugins.server.read_request.SCAN_BYTES", size)
    random = np.random.default_rng(size)
    texts = ["", ",", '"', "\\", '\\"', "[{", "red, green", 'a\\\\"b', "\u2028,", "\\\\\\"]
    for _ in range(50):
        value = [{"a": [texts[i] for i in random.integers(len(texts), size=4)], texts[random.integers(10)]: 1}]
        content = json.dumps(value, ensure_ascii=False).encode()
        outside = re.sub(rb'"(?:[^"\\]|\\.)*"', b"", content)
        assert count_separators(content, 10**6) == sum(byte in b",[{" for byte in outside)


@pytest.mark.parametrize("part", [b"[],", b'"",', b"{},", b"1,", b"[["])
def test_millions_of_values_are_refused_before_they_are_objects(part):
    content = b"[" + part * (2**25 // len(part))
    tracemalloc.start()
    with pytest.raises(ValueError, match="more than 16,384 values"):
        read_json(content, Limits())
    assert tracemalloc.get_traced_memory()[1] < len(content)
    tracemalloc.stop()


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_only_utf8_is_read(encoding):
    with pytest.raises(ValueError, match=r"UTF-8|Expecting"):
        read_json('{"input": ["\u2200", "red apple"]}'.encode(encoding), Limits())


def test_bodies_that_do_not_come_keep_nobody_out(world, clip):
    limits = Limits()
    head = f"{HEAD}Content-Length: {limits.body_bytes}\r\n\r\n"
    with serving(world, clip, limits, has_folder=False) as address:
        waiting = [connect(address, head.encode() + b"{") for _ in range(limits.bytes_in_flight // limits.body_bytes)]
        time.sleep(0.3)
        assert post(address, "embeddings", {"input": "a red apple"}).status_code == 200
        for client in waiting:
            client.close()


def test_bodies_under_way_hold_the_bytes_that_came(world, clip):
    with serving(world, clip, Limits(bytes_in_flight=20_000), has_folder=False) as address:
        client = connect(address, f"{HEAD}Content-Length: 20000\r\n\r\n".encode() + b"{" * 19_000)
        time.sleep(0.3)
        assert post(address, "embeddings", {"input": "x" * 2000}).status_code == 429
        client.close()
        time.sleep(0.3)
        assert post(address, "embeddings", {"input": "x" * 2000}).status_code == 200


def test_the_largest_request_is_read():
    limits = Limits()
    items = [{"text": "a, b [c] {d}"}] * limits.inputs
    body = {"input": items, "model": "m", "encoding_format": "float", "user": ","}
    assert read_json(json.dumps(body).encode(), limits) == body


# --- addresses --------------------------------------------------------------------------------------------------------


def test_slow_addresses_do_not_keep_others_from_the_server(world, clip):
    released = threading.Event()

    def wait(address: str, max_bytes: int, deadline: float) -> bytes:
        released.wait(30)
        return picture(5)

    limits = Limits(body_bytes=2**20, bytes_in_flight=8 * 2**20)
    with serving(world, clip, limits, fetch=wait) as address:
        body = {"input": {"image": "https://slow.example/5.png"}}
        slow = [threading.Thread(target=post, args=(address, "embeddings", body)) for _ in range(7)]
        for thread in slow:
            thread.start()
        time.sleep(0.3)
        for value in ["a red apple", data_url(picture(1))]:
            assert post(address, "embeddings", {"input": value}).status_code == 200
        released.set()
        for thread in slow:
            thread.join()


def test_all_addresses_of_a_request_share_one_deadline(world, clip):
    deadlines = []

    def note(address: str, max_bytes: int, deadline: float) -> bytes:
        deadlines.append(deadline)
        return picture(5)

    with serving(world, clip, fetch=note) as address:
        body = {"input": [{"image": f"https://example.org/{i}.png"} for i in range(3)]}
        rows = post(address, "embeddings", body).json()["data"]
    assert len(deadlines) == 3
    assert len(set(deadlines)) == 1
    np.testing.assert_allclose([row["embedding"] for row in rows], clip.encode_image([picture(5)] * 3), atol=1e-6)


# --- what answers say -------------------------------------------------------------------------------------------------


def test_every_answer_keeps_the_page_to_itself(address):
    for path in ("/", "/healthz", "/pictures/0", "/nothing"):
        headers = httpx.get(f"{address}{path}").headers
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]


@pytest.mark.parametrize("px", ["²", "٣", "-1", "0", "1025", "1e2", "", "9" * 5000])
def test_sizes_that_are_no_number_are_refused(px, address):
    assert httpx.get(f"{address}/pictures/0", params={"px": px}).status_code == 400


@pytest.mark.parametrize("row", ["9" * 18, "9" * 19, "9" * 5000, "-1", "²", "x"])
def test_rows_that_are_no_number_are_not_found(row, address):
    for path in ("pictures", "v1/pairs/images"):
        answer = httpx.get(f"{address}/{path}/{row}")
        assert answer.status_code == 404
        assert "no row" in answer.json()["error"]["message"]


def test_a_long_caption_is_cut_in_hits_and_whole_in_its_pair(address, clip):
    service, _ = service_and_app(clip)
    long = "x" * 5000
    hit = httpx.post(f"{address}/v1/search", json={"input": "a", "top": 1}).json()["data"][0]["hits"][0]
    assert len(hit["text"]) < MAX_CAPTION_CHARS

    class Rows:
        def rows(self, ids):
            return [{"shard": "s", "key": "k", "text_idx": 0, "text": long} for _ in ids]

        def captions(self, rows):
            return {}

    hits = [type("H", (), {"ids": np.array([0]), "scores": np.array([1.0])})]
    (row,) = service._describe(Rows(), hits)[0]
    assert len(row["text"]) == MAX_CAPTION_CHARS + 1
    service.close()


def test_a_folder_that_is_gone_is_503_with_the_remedy(world, clip, tmp_path):
    root = tmp_path / "served"
    shutil.copytree(world, root)
    with serving(root, clip) as address:
        assert httpx.get(f"{address}/healthz").json()["status"] == "ok"
        (root / "embedded").rename(root / "away")
        for answer in (
            httpx.get(f"{address}/healthz"),
            httpx.get(f"{address}/pictures/0"),
            httpx.get(f"{address}/v1/pairs/images/0"),
            httpx.post(f"{address}/v1/search", json={"input": "a red apple"}),
        ):
            assert answer.status_code == 503, answer.text
            assert "embedded folder 'embedded' is gone; put it back" in answer.text
            assert str(root) not in answer.text
        assert post(address, "embeddings", {"input": "a red apple"}).status_code == 200
        (root / "away").rename(root / "embedded")
        assert httpx.get(f"{address}/healthz").status_code == 200
        assert httpx.get(f"{address}/pictures/0").status_code == 200
