"""The server: answers equal worldclip's own, whatever other clients hold, send or leave behind."""

import asyncio
import base64
import contextlib
import functools
import io
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
from types import SimpleNamespace

import fsspec
import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from chromium import DROP, open_page
from embedded_world import BAD, PER_SHARD, change_places, key_of, picture, text_of
from miniature import write_files
from pools import encode
from serving import HEAD, connect, data_url, hold_model, post, service_and_app, serving, serving_app
from serving import address as address  # a fixture
from small_models import TEXTS
from worldclip.core.errors import UserError
from worldclip.export.embedded import open_embedded
from worldclip.plugins.server import app, connections
from worldclip.plugins.server import service as of_service
from worldclip.plugins.server.app import create_app
from worldclip.plugins.server.batches import Busy, SharedBatches
from worldclip.plugins.server.collections import Collections
from worldclip.plugins.server.connections import Server, listen, server_config
from worldclip.plugins.server.metrics import Metrics
from worldclip.plugins.server.read_request import Limits, Picture, read_json
from worldclip.plugins.server.serve import LOCAL_NAMES, knows, serve
from worldclip.plugins.server.service import Service
from worldclip.tools.search import nearest, search

NUM_CLIENTS = 60


@pytest.fixture(autouse=True)
def no_alarm(monkeypatch):
    monkeypatch.setattr(connections, "GONE_SECONDS", 0.0)  # would end pytest


def error_of(answer) -> str:
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error["message"]


@pytest.mark.parametrize("form", ["float", "base64", None])
def test_openais_client_gets_the_embeddings_of_texts_and_pictures(form, address, clip):
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="unused", max_retries=0)
    texts, url = [*TEXTS, TEXTS[0]], data_url(picture(1))
    options = {} if form is None else {"encoding_format": form}
    objects = [f"data:{i}" for i in range(65)]  # more than pictures may be
    inputs = [*texts, url, {"image": url}, *({"text": text} for text in objects)]
    answer = client.embeddings.create(model="model", input=inputs, **options)
    rows = [row.embedding for row in answer.data]
    if form == "base64":
        rows = [np.frombuffer(base64.b64decode(row), "<f4") for row in rows]
    image = clip.encode_image([picture(1)])
    expected = [*clip.encode_text(texts), *image, *image, *clip.encode_text(objects)]
    np.testing.assert_allclose(rows, expected, atol=1e-6)
    assert [row.index for row in answer.data] == list(range(len(inputs)))
    assert answer.usage.prompt_tokens == len(clip.tokenizer.encode([*texts, *objects]).ids)


def test_searches_of_one_batch_get_as_many_hits_as_each_asks_for(world, clip, monkeypatch):
    service, _ = service_and_app(clip, collections=Collections(world / "embedded", clip, "model"))
    query = clip.encode_text(["a red apple"])
    tops = [7, 1, 12, 3]
    sizes = []

    def nearest_slowly(parts, queries, top, is_chosen):
        sizes.append(len(queries))
        time.sleep(0.2)  # meanwhile the other requests come
        return nearest(parts, queries, top, is_chosen)

    async def ask_at_once():
        return await asyncio.gather(*(service.search("images", query, top) for top in tops))

    monkeypatch.setattr(of_service, "nearest", nearest_slowly)
    answers = asyncio.run(ask_at_once())
    assert max(sizes) > 1
    most = max(answers, key=lambda answer: len(answer[0]))
    assert [hits for (hits,) in answers] == [most[0][:top] for top in tops]


def test_classify_gives_the_probabilities_of_worldclip(address, clip):
    labels, templates = ["red apple", "赤いリンゴ", "قطة"], ["{}", "a photo of {}"]
    pictures = [picture(1), picture(2)]
    body = {"input": list(map(data_url, pictures)), "labels": labels, "templates": templates}
    data = post(address, "classify", body).json()["data"]
    expected = clip.classify(pictures, labels, templates)
    for row, probabilities in zip(data, expected, strict=True):
        scores = {score["label"]: score["score"] for score in row["scores"]}
        np.testing.assert_allclose([scores[label] for label in labels], probabilities, atol=1e-5)
        assert list(scores.values()) == sorted(scores.values(), reverse=True)


def test_search_gives_the_hits_of_worldclip_with_captions_and_their_language(address, world, monkeypatch):
    expected = search(world / "embedded", ["a red apple"], [picture(3)], top=5)
    data = post(address, "search", {"input": ["a red apple", data_url(picture(3))], "top": 5}).json()["data"]
    for row, result in zip(data, expected, strict=True):
        assert [hit["key"] for hit in row["hits"]] == [hit["key"] for hit in result["hits"]]
        np.testing.assert_allclose(
            [hit["score"] for hit in row["hits"]], [h["score"] for h in result["hits"]], atol=1e-6
        )
    best = data[1]["hits"][0]
    assert best["key"] == key_of(0, 3)
    assert best["text"] == text_of(0, 3)
    assert set(best) == {"id", "score", "shard", "key", "path", "text", "lang", "lang_name"}
    pair = httpx.get(f"{address}/v1/pairs/images/{best['id']}").json()
    assert (pair["key"], pair["shard"], pair["path"]) == (key_of(0, 3), "00000.tar", f"00000.tar/{key_of(0, 3)}")
    assert set(pair) == {"id", "shard", "key", "path", "bytes", "texts"}, "nothing of the server's folders"
    assert pair["bytes"] == len(picture(3))
    assert [text["text"] for text in pair["texts"]] == [text_of(0, 3)]
    shown = httpx.get(f"{address}/pictures/{best['id']}")
    assert shown.content == picture(3)
    assert shown.headers["content-type"] == "image/png"
    assert shown.headers["cache-control"] == "private, no-cache"  # the row may be another picture tomorrow
    monkeypatch.setattr(app, "MAX_BYTES", 10)  # a smaller file is sent as it is
    for px, size in (("", (60, 40)), ("?px=8", (8, 5)), ("?px=1024", (60, 40))):
        small = httpx.get(f"{address}/pictures/{best['id']}{px}")
        assert (small.headers["content-type"], Image.open(io.BytesIO(small.content)).size) == (
            "image/jpeg" if px else "image/png",
            size,
        )
    asked = {"If-None-Match": shown.headers["etag"]}
    again = httpx.get(f"{address}/pictures/{best['id']}", headers=asked)
    assert (again.status_code, again.content) == (304, b"")
    assert httpx.get(f"{address}/pictures/{data[0]['hits'][-1]['id']}", headers=asked).status_code == 200


NO_ID = "f" * 16
REQUESTS = (  # path, a body to send as JSON; None: GET
    *(("v1/embeddings", body) for body in ({}, [1], {"input": "x", "inputs": "y"}, {"input": "x", "model": "gpt"})),
    *(("v1/embeddings", {"input": text}) for text in ("\ud800", "data:image/png;base64,%%%", {"text": 3}, 7, [])),
    *(
        ("v1/embeddings", {"input": {"image": place}})
        for place in ("/etc/passwd", "http://127.0.0.1:9/a.png", "data:,")
    ),
    *(("v1/embeddings", {"input": "x", **field}) for field in ({"dimensions": 3}, {"encoding_format": "hex"})),
    *(("v1/classify", {"input": data_url(picture(0)), "labels": labels}) for labels in ([], "a", ["a", 3])),
    ("v1/classify", {"input": "x", "labels": ["a"]}),
    ("v1/classify", {"input": data_url(picture(0)), "labels": ["a"], "templates": ["none"]}),
    *(("v1/search", {"input": "x", **field}) for field in ({"top": "5"}, {"top": True}, {"of": "x"}, {"combine": 1})),
    *(("v1/search", {"input": "x", **field}) for field in ({"filter": 3}, {"keys": [1]}, {"path_prefix": 1})),
    ("v1/search", {"input": ["x", " "]}),
    *((path, {}) for path in ("v1/models/gpt", "embeddings", "healthz")),
    *((path, None) for path in ("v1/nothing", "docs", "healthz/", "v1/models/owner/name", "v1/embeddings", "static/a")),
    *((path, None) for path in (f"v1/pairs/images/{NO_ID}", f"v1/pairs/captions/{NO_ID}", f"pictures/{NO_ID}")),
    *((path, None) for path in ("pictures/0", f"pictures/{NO_ID}?px=x", f"pictures/{NO_ID}?px=1025")),
)


def test_a_request_that_has_no_answer_is_told_what_is_wrong_and_is_never_framed(address, snapshot):
    lines = []
    for path, body in REQUESTS:
        content = None if body is None else json.dumps(body)
        headers = {"Content-Type": "application/json"}
        answer = httpx.request("GET" if body is None else "POST", f"{address}/{path}", content=content, headers=headers)
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        asked = path if body is None else f"{path} {json.dumps(body)[:60]}"
        lines.append(f"{asked}\n  {answer.status_code} {answer.json()['error']['param']}: {error_of(answer)}")
    assert "\n".join(lines) == snapshot
    for content, kind, status in ((b"{", "application/json", 400), (b"{}", "text/plain", 415)):
        answer = httpx.post(f"{address}/v1/embeddings", content=content, headers={"Content-Type": kind})
        assert (answer.status_code, bool(error_of(answer))) == (status, True)


def test_openais_client_lists_the_model_and_knows_no_other(address):
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="unused", max_retries=0)
    assert client.models.retrieve("model") == client.models.list().data[0]
    with pytest.raises(openai.NotFoundError, match="this server has 'model'"):
        client.models.retrieve("owner/name")


def test_a_request_at_a_limit_is_answered_and_one_beyond_it_is_refused(world, clip):
    limits = Limits(inputs=4, pictures=2, text_chars=5, top=3, hits=6, pixels=60 * 40, body_bytes=50_000)
    url = data_url(picture(0))
    large = data_url(encode(Image.new("RGB", (60, 41))))
    with serving(world, clip, limits) as address:
        for path, at_limit, beyond in (
            ("embeddings", {"input": ["abcde", {"text": "x"}, url, url]}, {"input": ["a"] * 5}),
            ("embeddings", {"input": "abcde"}, {"input": "abcdef"}),
            ("embeddings", {"input": [url, {"image": url}, "x"]}, {"input": [url, {"image": url}, url]}),
            ("embeddings", {"input": url}, {"input": large}),
            ("embeddings", {"input": ["abcde"]}, {"input": "x" * 60_000}),
            ("classify", {"input": url, "labels": list("abcd")}, {"input": url, "labels": list("abcde")}),
            (
                "classify",
                {"input": url, "labels": ["a", "b"], "templates": ["{}"] * 2},
                {"input": url, "labels": list("abc"), "templates": ["{}"] * 2},
            ),
            ("search", {"input": "a", "top": 3}, {"input": "a", "top": 4}),
            ("search", {"input": ["a", "b"], "top": 3}, {"input": ["a", "b", "c"], "top": 3}),
            ("search", {"input": ["a", "b", "c"], "top": 3, "combine": True}, {"input": "a", "top": 0}),
        ):
            assert post(address, path, at_limit).status_code == 200
            assert post(address, path, beyond).status_code in (400, 413)
        chunks = iter([b'{"input": "', b"x" * 60_000, b'"}'])
        answer = httpx.post(f"{address}/v1/embeddings", content=chunks, headers={"Content-Type": "application/json"})
        assert answer.status_code == 413


def test_a_key_guards_everything_but_the_page_and_the_health(world, clip):
    with serving(world, clip, api_key="secret") as address:
        first = id_of(world, 0)
        for path in ("/v1/models", "/metrics", f"/pictures/{first}", f"/v1/pairs/images/{first}"):
            assert httpx.get(f"{address}{path}").status_code == 401
            for scheme in ("Bearer", "bearer"):
                headers = {"Authorization": f"{scheme} secret"}
                assert httpx.get(f"{address}{path}", headers=headers).status_code == 200
        for path in ("/", "/healthz", "/static/search.js", "/static/page.css"):
            assert httpx.get(f"{address}{path}").status_code == 200
        assert "#pair-body>img{" in httpx.get(f"{address}/static/page.css").text  # style sheets are not escaped
        wrong = openai.OpenAI(base_url=f"{address}/v1", api_key="wrong", max_retries=0)
        with pytest.raises(openai.AuthenticationError, match="API key is missing or wrong"):
            wrong.embeddings.create(model="model", input="a")
        right = openai.OpenAI(base_url=f"{address}/v1", api_key="secret")
        assert right.embeddings.create(model="model", input="a").data


def test_a_local_server_refuses_foreign_host_names(world, clip):
    with serving(world, clip, hosts=LOCAL_NAMES | {"127.0.0.2"}) as address:
        for host in ("localhost", "localhost:8000", "127.0.0.1:1", "[::1]", "[::1]:80", "127.0.0.2:80"):
            assert httpx.get(f"{address}/healthz", headers={"Host": host}).status_code == 200
        assert httpx.get(f"{address}/healthz", headers={"Host": "127.0.0.3"}).status_code == 400
        answer = httpx.get(f"{address}/healthz", headers={"Host": "evil.example:80"})
        assert answer.status_code == 400
        assert "evil.example" in error_of(answer)


def test_concurrent_requests_share_batches_and_a_bad_picture_is_an_error_for_its_request_alone(world, clip):
    pictures = [picture(i) for i in range(8)]
    urls = list(map(data_url, [picture(BAD)[:80], *pictures[1:]]))  # a whole header: only the decoder finds out

    async def ask(client, i):
        return await client.post("/v1/embeddings", json={"input": [f"text {i}", urls[i % 8]]})

    async def all_at_once(address):
        limits = httpx.Limits(max_connections=NUM_CLIENTS)
        async with httpx.AsyncClient(base_url=address, timeout=240, limits=limits) as client:
            return await asyncio.gather(*(ask(client, i) for i in range(NUM_CLIENTS)))

    expected = clip.encode_text([f"text {i}" for i in range(NUM_CLIENTS)])
    images = clip.encode_image(pictures)
    with serving(world, clip) as address:
        answers = asyncio.run(all_at_once(address))
        metrics = httpx.get(f"{address}/metrics").text
    for i, answer in enumerate(answers):
        if i % 8 == 0:
            assert answer.status_code == 400
            assert "input[1]" in error_of(answer)
        else:
            rows = [row["embedding"] for row in answer.json()["data"]]
            np.testing.assert_allclose(rows, [expected[i], images[i % 8]], atol=1e-5)
    numbers = {name: float(number) for name, number in re.findall(r"^(\w[^ ]*) (\S+)$", metrics, re.MULTILINE)}
    num_bad = -(-NUM_CLIENTS // 8)
    assert numbers["worldclip_batch_items_sum"] == 2 * NUM_CLIENTS
    assert numbers["worldclip_batch_items_count"] < NUM_CLIENTS / 2
    assert numbers["worldclip_waiting_items"] == 0
    assert numbers['worldclip_requests_total{path="/v1/embeddings",status="200"}'] == NUM_CLIENTS - num_bad
    assert numbers['worldclip_requests_total{path="/v1/embeddings",status="400"}'] == num_bad
    assert numbers['worldclip_request_seconds_count{path="/v1/embeddings"}'] == NUM_CLIENTS


def test_pictures_are_decoded_a_bounded_number_of_pixels_at_a_time():
    batches = []

    class Recorder:
        def encode_text(self, texts):
            return np.array([[-int(text)] for text in texts], np.float32)

        def encode_each(self, contents):
            batches.append(len(contents))
            rows = np.array([[int(content)] for content in contents], np.float32)
            return rows, {i: f"bad {content.decode()}" for i, content in enumerate(contents) if int(content) % 5 == 3}

    sizes = [30_000_000] * 4 + [120_000_000] + [1] * 65
    items = [Picture(str(i).encode(), size) for i, size in enumerate(sizes)]
    answers = of_service.encode(Recorder(), ["7", *items[:3], "8", *items[3:], "7"])
    rows = [f"bad {i}" if i % 5 == 3 else [float(i)] for i in range(len(items))]
    assert [row if isinstance(row, str) else row.tolist() for row in answers] == [
        [-7],
        *rows[:3],
        [-8],
        *rows[3:],
        [-7],
    ]
    assert batches == [3, 1, 1, 64, 1]


def test_a_full_queue_is_429_with_retry_after_and_those_who_wait_are_answered(clip, monkeypatch):
    work = hold_model(monkeypatch)
    _, app = service_and_app(clip, Limits(waiting=2))

    async def ask_three():
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")
        ask = functools.partial(client.post, "/v1/embeddings")
        async with client, asyncio.TaskGroup() as tasks:
            first = tasks.create_task(ask(json={"input": "a"}))
            await asyncio.to_thread(work.started.wait)
            second = tasks.create_task(ask(json={"input": ["b", "c"]}))
            while "worldclip_waiting_items 2.0" not in (await client.get("/metrics")).text:
                await asyncio.sleep(0.01)
            third = await ask(json={"input": "d"})
            work.release.set()
        return first.result(), second.result(), third

    first, second, third = asyncio.run(ask_three())
    assert (first.status_code, second.status_code, third.status_code) == (200, 200, 429)
    assert int(third.headers["retry-after"]) >= 1
    assert "try again in" in error_of(third)


def retry_after(waiting, max_waiting):
    """Return what a request is told behind others, of an item per batch: a text takes no time, a picture 0.3 s."""
    started, release = threading.Event(), threading.Event()

    def work(items):
        if "hold" in items:
            started.set()
            release.wait()
        time.sleep(0.3 if isinstance(items[0], bytes) else 0)
        return items

    batches = SharedBatches(work, max_batch=1, max_waiting=max_waiting)
    for item in ("text", b"picture"):
        batches.submit([item]).result()
    batches.submit(["hold"])
    started.wait()
    answers = batches.submit(waiting)
    with pytest.raises(Busy) as caught:
        batches.submit(["text"] * 2)
    release.set()
    answers.result()
    return caught.value.retry_after


def test_retry_after_is_not_before_what_waits_is_done_and_texts_do_not_take_as_long_as_pictures():
    assert retry_after([b"picture"] * 5, max_waiting=6) >= 2, "1.5 s of pictures"
    assert retry_after(["text"] * 999, max_waiting=1000) < 10


def id_of(folder, row):
    """Return the id of a row of the images that are embedded in a folder."""
    return open_embedded(folder / "embedded").rows(np.array([row]))[0]["id"]


def test_without_the_pool_the_server_searches_and_says_why_it_shows_no_picture(world, clip, tmp_path):
    for name in ("pool", "embedded"):
        shutil.copytree(world / name, tmp_path / name)
    manifest = json.loads((tmp_path / "embedded/manifest.json").read_text())
    (tmp_path / "embedded/manifest.json").write_text(json.dumps(manifest | {"places": [str(tmp_path / "pool")]}))
    first = id_of(tmp_path, 0)
    with serving(tmp_path, clip) as address:
        assert httpx.get(f"{address}/pictures/{first}").status_code == 200
        (tmp_path / "pool/00000.tar").rename(tmp_path / "00000.tar")
        picture = httpx.get(f"{address}/pictures/{first}")
        assert picture.status_code == 404
        assert f"the picture 00000.tar/{key_of(0, 0)} cannot be read: it changed or went" in error_of(picture)
        assert httpx.get(f"{address}/healthz").json()["pictures"] == "ok"
        (tmp_path / "pool").rename(tmp_path / "moved")
        gone = "pictures are not shown: the folder pool is gone; restore it, or give --pool NEW_PATH"
        health = httpx.get(f"{address}/healthz")
        assert (health.status_code, health.json()["pictures"]) == (200, gone)
        assert httpx.get(f"{address}/static/facts.json").json()["remarks"] == [gone]
        picture = httpx.get(f"{address}/pictures/{first}")
        assert (picture.status_code, error_of(picture)) == (503, gone)
        assert post(address, "search", {"input": "a"}).status_code == 200


@pytest.mark.parametrize("file", ["{}/pool/00000.tar", "http://127.0.0.1:9/00000.tar"])
def test_a_picture_outside_of_the_pool_is_404_and_no_address_is_asked(file, world, clip, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(fsspec, "url_to_fs", asked.append)
    for name in ("pool", "embedded"):
        shutil.copytree(world / name, tmp_path / name)
    change_places(tmp_path / "embedded", file=file.format(tmp_path), place=-1)
    with serving(tmp_path, clip) as address:
        answer = httpx.get(f"{address}/pictures/{id_of(tmp_path, 0)}")
        assert (answer.status_code, "--pictures-from" in error_of(answer)) == (404, True)
        assert str(tmp_path) not in answer.text
        assert httpx.get(f"{address}/pictures/{id_of(tmp_path, PER_SHARD - 1)}").status_code == 200
    assert asked == []


def stop_at(server, turn, listener, act):
    """Run a server; at its `turn`-th turn, while nothing is read or accepted, call `act` and send SIGTERM."""
    tick = server.on_tick

    async def on_tick(counter):
        if counter == turn:
            act()
            os.kill(os.getpid(), signal.SIGTERM)
        return await tick(counter)

    server.on_tick = on_tick
    server.run(sockets=[listener])


def test_sigterm_answers_all_that_was_sent_before_it(clip):
    _, app = service_and_app(clip)
    body = b'{"input": "a red apple"}'
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    with listen("127.0.0.1", 0) as listener, contextlib.ExitStack() as stack:
        place = listener.getsockname()

        def connect():
            return stack.enter_context(socket.create_connection(place, timeout=60))

        clients = [connect() for _ in range(32)]  # accepted, and silent until the signal

        def send():
            clients.extend(connect() for _ in range(32))  # not even accepted
            for client in clients:
                client.sendall(f"{head}\r\n\r\n".encode() + body)
            clients.append(connect())
            clients[-1].sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")

        server = Server(server_config(app))
        stop_at(server, 5, listener, send)
        answers = [b"".join(iter(functools.partial(client.recv, 2**16), b"")) for client in clients]
    assert [answer[9:12] for answer in answers] == [b"200"] * 64 + [b"503"]  # a load balancer's question is the last
    assert all(b"\r\nconnection: close\r\n" in answer for answer in answers)
    assert server.num_unanswered == 0


def test_a_request_that_takes_longer_than_stopping_may_gets_503_and_the_exit_code_1(world, monkeypatch, capfd):
    monkeypatch.setattr(connections, "STOP_SECONDS", 0.3)
    work, answers = hold_model(monkeypatch), []
    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]

    def ask_and_stop():
        said = ""
        while f":{port}  (stop" not in said:
            said += capfd.readouterr().err
            time.sleep(0.01)
        assert said.split()[:2] == ["serve", "loads"]
        asking = threading.Thread(
            target=lambda: answers.append(post(f"http://127.0.0.1:{port}", "embeddings", {"input": "a"}))
        )
        asking.start()
        work.started.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        asking.join()
        work.release.set()

    monkeypatch.setattr(os, "_exit", sys.exit)
    other = threading.Thread(target=ask_and_stop)
    other.start()
    with pytest.raises(SystemExit) as ended:
        serve(str(world / "model"), port=port, device="cpu")
    other.join()
    said = capfd.readouterr().err
    assert (answers[0].status_code, ended.value.code) == (503, 1)
    assert "the server stops" in error_of(answers[0])
    assert "stopped; not answered: 1" in said
    assert "Traceback" not in said


def test_an_alarm_ends_what_hangs_after_the_time_for_stopping(clip, monkeypatch):
    monkeypatch.setattr(connections, "STOP_SECONDS", 0.1)
    monkeypatch.setattr(connections, "GONE_SECONDS", 0.5)
    service, app = service_and_app(clip)
    started, release = threading.Event(), threading.Event()
    monkeypatch.setattr(service, "problems", lambda: (started.set(), release.wait(), [])[2])  # a disk that hangs
    before = signal.signal(signal.SIGALRM, lambda number, frame: release.set())  # by default it ends the process
    with listen("127.0.0.1", 0) as listener:
        place = listener.getsockname()
        with socket.create_connection(place) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
            stop_at(Server(server_config(app)), 5, listener, started.wait)
    assert release.wait(60)
    signal.signal(signal.SIGALRM, before)


def test_another_model_and_a_port_in_use_are_refused(world, address, tmp_path):
    folder = shutil.copytree(world / "embedded", tmp_path / "embedded")
    (probe,) = folder.glob("probe.*.npy")
    np.save(probe, -np.load(probe))
    with pytest.raises(UserError, match="is not the model that embedded"):
        serve(str(world / "model"), folder, port=0)
    port = int(address.rpartition(":")[2])
    with pytest.raises(UserError, match=f"--port {port}: cannot listen there"):
        serve("no model", port=port)  # before the model is loaded


def test_a_demos_model_says_what_it_knows_and_no_other_does(tmp_path):
    files = {"demo/recipe.toml": "[pool]\nbuild = 'emoji'", "mine/recipe.toml": "[pool]\npath = 'x'"}
    write_files(tmp_path, {**files, "odd/recipe.toml": "pool = 3", "demo/train/step_1/a": "", "bare/a": ""})
    for folder in ("demo", "demo/train/step_1"):
        assert knows(tmp_path / folder) == "OpenMoji's drawings"
    assert [knows(tmp_path / folder) for folder in ("mine", "odd", "bare", "owner/name")] == [""] * 4


def is_closed(client: socket.socket) -> bool:
    """Return whether the server ended a connection, without an answer."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def test_connections_that_are_silent_for_longest_make_room(world, clip, monkeypatch):
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 4)
    monkeypatch.setattr(connections, "HEAD_SECONDS", 60.0)
    with serving(world, clip) as address:
        clients = []
        for _ in range(4):
            clients.append(connect(address))
            time.sleep(0.1)
        clients[0].sendall(b"GET ")
        time.sleep(0.1)
        clients += [connect(address) for _ in range(2)]
        assert all(map(is_closed, clients[1:3]))
        for client in (clients[0], *clients[3:]):
            client.settimeout(0.1)
            with pytest.raises(TimeoutError):
                client.recv(1)
        for client in clients:
            client.close()


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\nA: "])
def test_a_head_that_does_not_come_ends_its_connection(sent, world, clip, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    with serving(world, clip) as address:
        assert is_closed(connect(address, sent))


class LargeAnswers:
    """A service whose embeddings are 11 MB in base64."""

    name, sizes = "model", {}
    clip = SimpleNamespace(embed_dim=1024, tokenizer=SimpleNamespace(encode=lambda texts: SimpleNamespace(ids=[])))

    async def embed(self, items):
        return np.zeros((len(items), self.clip.embed_dim), np.float32)

    def problems(self):
        return ()

    def remarks(self):
        return ()

    def close(self):
        pass


LARGE = {"input": ["a"] * 2048, "encoding_format": "base64"}
LARGE_BODY = json.dumps(LARGE).encode()
LARGE_REQUEST = f"{HEAD}Content-Length: {len(LARGE_BODY)}\r\n\r\n".encode() + LARGE_BODY


def ask_until(address: str, status: int) -> bool:
    """Return whether the server answers with a status within some 20 s."""
    pauses = (time.sleep(0.05) for _ in range(400))
    return any(post(address, "embeddings", LARGE).status_code == status for _ in pauses)


def test_an_unread_answer_holds_its_bytes_until_the_connection_is_closed(monkeypatch):
    monkeypatch.setattr(connections, "READ_SECONDS", 1.5)
    limits = Limits(bytes_in_flight=136 * 2**20)  # 128 MiB to write an answer
    with serving_app(create_app(LargeAnswers(), limits, Metrics())) as address:
        client = connect(address, LARGE_REQUEST, received_bytes=2**12)
        assert client.recv(12, socket.MSG_PEEK) == b"HTTP/1.1 200"  # its answer has begun; another may not overtake it
        assert ask_until(address, 429)
        assert httpx.get(f"{address}/healthz").status_code == 200
        assert ask_until(address, 200)
        assert sum(map(len, iter(lambda: client.recv(2**18), b""))) < 10_000_000
        client.close()


@pytest.mark.parametrize("part", [b"[],", b'"",', b"{},", b"1,", b"[["])
def test_millions_of_values_are_refused_before_they_are_objects(part):
    content = b"[" + part * (2**25 // len(part))
    tracemalloc.start()
    with pytest.raises(ValueError, match="more than 16,384 values"):
        read_json(content, Limits())
    assert tracemalloc.get_traced_memory()[1] < len(content)
    tracemalloc.stop()


def test_bodies_under_way_hold_the_bytes_that_came(world, clip):
    with serving(world, clip, Limits(bytes_in_flight=20_000), has_folder=False) as address:
        client = connect(address, f"{HEAD}Content-Length: 20000\r\n\r\n".encode() + b"{" * 19_000)
        time.sleep(0.3)
        assert post(address, "embeddings", {"input": "x" * 2000}).status_code == 429
        client.close()
        time.sleep(0.3)
        assert post(address, "embeddings", {"input": "x" * 2000}).status_code == 200


HITS = "[...document.querySelectorAll('.hit a[aria-label]')].map(a => a.getAttribute('aria-label'))"


def test_a_person_searches_by_text_by_picture_and_by_both(world):
    with serving(world) as address, open_page() as page:
        page.open(f"{address}/", "document.querySelector('#facts')?.textContent.includes('pictures')")
        page.run("document.querySelector('#text').focus()")
        page.type("赤いリンゴ")
        page.press("Enter", 13, "\r")
        page.wait("document.querySelectorAll('.hit').length > 20")
        assert page.run("document.querySelector('.hit .caption').textContent").startswith("a red apple")
        assert "q=" in page.run("location.search")

        page.run("document.querySelector('#text').value = ''")
        page.run(DROP % data_url(b"no picture"))
        page.wait("document.querySelector('#state').textContent.startsWith('a.png is not a picture that can be read')")
        page.run("document.querySelector('#queries button').click()")
        page.wait("document.querySelectorAll('#queries li').length === 0")
        page.errors.clear()  # the console notes the status 400
        page.run(DROP % data_url(picture(3)))
        page.wait(f"({HITS})[0] === 'Details of 00000.tar/{key_of(0, 3)}'")
        assert page.run("document.querySelector('.hit small').textContent").endswith("similarity 1.00")
        assert page.run("fetch(document.querySelector('.hit .path').href).then((answer) => answer.ok)")

        page.run("document.querySelector('#text').focus()")
        page.type("a red apple")
        page.press("Enter", 13, "\r")
        page.wait("document.querySelector('#state').textContent.startsWith('2 queries combined')")

        page.run("document.querySelector('.hit a').click()")
        page.wait("document.querySelector('#pair').open && document.querySelector('#pair img').naturalWidth > 0")
        assert "a red apple" in page.run("document.querySelector('#pair li').textContent")
        page.wait("document.querySelector('#pair').textContent.includes('60 × 40 pixels')")
        first = page.run("location.hash")
        assert page.run("document.querySelector('#previous').disabled")
        page.run("document.querySelector('#next').click()")
        page.wait(f"location.hash !== '{first}' && !document.querySelector('#previous').disabled")
        page.run("document.querySelector('#previous').click()")
        page.wait(f"location.hash === '{first}' && document.querySelector('#previous').disabled")
        assert page.errors == []
        assert all(url.startswith((address, "data:", "blob:")) for url in page.requests)


TYPED = "document.querySelector('#text').value"
NUM_HITS = "document.querySelectorAll('.hit').length"
IS_OPEN = "document.querySelector('#pair').open"


def search_page(page, text):
    """Search for a text as a person does, and wait for its results."""
    page.run(f"{TYPED} = ''; document.querySelector('#text').focus()")
    page.type(text)
    page.press("Enter", 13, "\r")
    page.wait(f"location.search === '?q={text}' && {NUM_HITS} > 20")


@pytest.mark.parametrize("width", [390, 1280])
def test_the_address_of_a_picture_in_a_search_opens_both(width, world):
    with serving(world) as address, open_page() as page:
        page.resize(width, 900)
        page.open(f"{address}/?q=gato", f"{NUM_HITS} > 20")
        shared, label = page.run("[...document.querySelectorAll('.hit a')].map((a) => [a.href, a.ariaLabel])[0]")
        page.open("about:blank")
        page.open(shared, f"{NUM_HITS} > 20 && {IS_OPEN}")
        page.wait("document.querySelector('#pair img').naturalWidth > 0")
        assert label.rpartition("/")[2] in page.run("document.querySelector('#pair').textContent")
        assert page.run("location.href") == shared
        assert page.run(TYPED) == "gato"
        assert not page.is_cut()
        page.run("document.querySelector('#pair').close()")
        page.wait("location.hash === ''")
        assert page.run("location.href") == f"{address}/?q=gato"
        assert page.errors == []


def test_back_returns_to_the_search_before_and_closes_what_was_opened(world):
    with serving(world) as address, open_page() as page:
        page.open(f"{address}/", f"{NUM_HITS} === 10")
        for text in ("gato", "perro", "perro"):
            search_page(page, text)
        page.run("document.querySelector('.hit a').click()")
        page.wait(IS_OPEN)
        page.run("document.querySelector('#next').click()")
        page.wait("!document.querySelector('#previous').disabled")
        page.run("history.back()")
        page.wait(f"!{IS_OPEN} && location.hash === ''")
        assert page.run(TYPED) == "perro"
        page.run("document.querySelector('.hit a').click()")
        page.wait(IS_OPEN)
        page.run("document.querySelector('#pair').close()")
        page.wait("location.hash === ''")
        page.run("history.back()")
        page.wait(f"{TYPED} === 'gato' && location.search === '?q=gato'")
        page.run("history.back()")
        page.wait(f"{TYPED} === '' && {NUM_HITS} === 10")
        page.run("history.forward()")
        page.wait(f"{TYPED} === 'gato' && {NUM_HITS} > 20")
        assert page.errors == []


def test_back_returns_to_a_search_by_picture_and_to_the_texts(world):
    shown = "document.querySelectorAll('#queries img').length"
    with serving(world) as address, open_page() as page:
        page.open(f"{address}/", f"{NUM_HITS} === 10")
        page.run(DROP % data_url(picture(3)))
        page.wait(f"{NUM_HITS} > 20 && {shown} === 1")
        page.run("document.querySelector('footer a').click()")
        page.run("[...document.querySelectorAll('#kinds button')].at(-1).click()")
        page.wait("location.search === '?of=texts' && document.querySelectorAll('.hit img').length === 0")
        page.run("history.back()")
        page.wait("location.search === '' && document.querySelectorAll('.hit img').length > 20")
        assert page.run(shown) == 1
        page.open(f"{address}/?q=gato&of=texts", f"{NUM_HITS} > 20")
        assert page.run("document.querySelectorAll('.hit img').length") == 0
        assert page.errors == []


def test_a_reload_keeps_the_query_as_text_and_an_empty_one_is_the_start(world):
    with serving(world) as address, open_page() as page:
        page.open(f"{address}/", f"{NUM_HITS} === 10")
        search_page(page, "gato")
        page.run("window.isOld = true")
        page.open(page.run("location.href"), f"!window.isOld && {NUM_HITS} > 20")
        assert page.run(TYPED) == "gato"
        assert page.run("document.querySelectorAll('#queries li').length") == 0
        page.open(f"{address}/?q=", f"{NUM_HITS} === 10")
        assert page.run("location.href") == f"{address}/"
        assert page.run("document.querySelector('#state').className") == "lead"
        assert page.errors == []


def test_captions_and_queries_are_text_and_never_markup(world, monkeypatch):
    evil = "<img src=x onerror=\"document.title='evil'\"><script>document.title='evil'</script>"
    caption = {"text": evil, "lang": "en", "lang_name": evil}
    monkeypatch.setattr(Service, "with_language", lambda self, texts: [caption] * len(texts))
    with serving(world) as address, open_page() as page:
        page.open(f"{address}/?q=%3Cscript%3Ex%3C/script%3E", "document.querySelectorAll('.hit').length > 20")
        assert page.run("document.querySelector('.hit .caption').textContent") == evil
        page.run("document.querySelector('.hit a').click()")
        page.wait("document.querySelector('#pair').open")
        assert page.run("document.title") == "Search"
        assert page.run("document.querySelectorAll('main script, #pair script, .hit img[src=x]').length") == 0


@pytest.mark.parametrize("num_before", range(-3, 3))
def test_an_escaped_quote_does_not_end_a_string_wherever_it_lies(num_before):
    """Bodies are scanned by blocks of 2^20 bytes: the backslash may be the last byte of one."""
    text = "x" * (2**20 + num_before) + '"' + "," * 20_000
    assert read_json(json.dumps([text]).encode(), Limits()) == [text]
