"""The API answers OpenAI's and httpx's clients as worldclip itself does, within its limits."""

from __future__ import annotations

import asyncio
import base64
import os
import resource
import shutil
import signal
import socket
import threading

import httpx
import numpy as np
import openai
import pytest
import uvicorn
from PIL import Image

from embedded_world import BAD, key_of, picture, text_of
from pools import encode
from serving import address as address  # a fixture
from serving import data_url, post, service_and_app, serving
from small_models import TEXTS
from worldclip.core.errors import UserError
from worldclip.plugins.server import connections
from worldclip.plugins.server import service as of_service
from worldclip.plugins.server.connections import Server, listen
from worldclip.plugins.server.read_request import Limits, Picture
from worldclip.plugins.server.serve import LOCAL_NAMES, open_collections, serve
from worldclip.tools.search import search

NUM_CLIENTS = 200


@pytest.fixture(scope="module")
def client(address):
    return openai.OpenAI(base_url=f"{address}/v1", api_key="unused", max_retries=0)


def error_of(answer) -> str:
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error["message"]


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["float", "base64", None])
def test_openais_client_gets_the_embeddings_of_texts(form, client, clip):
    texts = [*TEXTS, TEXTS[0]]
    options = {} if form is None else {"encoding_format": form}
    answer = client.embeddings.create(model="model", input=texts, **options)
    rows = [row.embedding for row in answer.data]
    if form == "base64":
        rows = [np.frombuffer(base64.b64decode(row), "<f4") for row in rows]
    np.testing.assert_allclose(np.array(rows), clip.encode_text(texts), atol=1e-6)
    assert [row.index for row in answer.data] == list(range(len(texts)))
    assert answer.model == "model"
    assert answer.usage.prompt_tokens == len(clip.tokenizer.encode(texts).ids)


def test_texts_and_pictures_are_embedded_in_one_request(client, clip):
    url = data_url(picture(1))
    answer = client.embeddings.create(model="model", input=["a red apple", url, {"image": url}, {"text": "data:x"}])
    rows = np.array([row.embedding for row in answer.data])
    image = clip.encode_image([picture(1)])[0]
    np.testing.assert_allclose(rows[1], image, atol=1e-6)
    np.testing.assert_allclose(rows[2], image, atol=1e-6)
    np.testing.assert_allclose(rows[[0, 3]], clip.encode_text(["a red apple", "data:x"]), atol=1e-6)


def test_the_model_is_listed(client):
    assert [model.id for model in client.models.list()] == ["model"]


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


def test_search_gives_the_hits_of_worldclip_with_captions_and_their_language(address, world):
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
    assert set(best) == {"id", "score", "shard", "key", "text", "lang", "lang_name"}
    pair = httpx.get(f"{address}/v1/pairs/images/{best['id']}").json()
    assert (pair["key"], pair["shard"]) == (key_of(0, 3), "00000.tar")
    assert [text["text"] for text in pair["texts"]] == [text_of(0, 3)]
    shown = httpx.get(f"{address}/pictures/{best['id']}")
    assert shown.content == picture(3)
    assert shown.headers["content-type"] == "image/png"


def test_a_caption_has_its_language_where_that_is_clear(clip):
    service, _ = service_and_app(clip)
    captions = service.with_language(["a photograph of a red apple on the table", "красное яблоко на столе", "鹰", ""])
    assert [caption["lang_name"] for caption in captions] == ["English", "Russian", "", ""]
    service.close()


def test_combined_queries_are_one_search_for_their_mean(address, world, clip):
    queries = ["a red apple", data_url(picture(3))]
    data = post(address, "search", {"input": queries, "top": 4, "combine": True}).json()["data"]
    mean = (clip.encode_text(["a red apple"]) + clip.encode_image([picture(3)]))[0]
    embedded = open_collections(world / "embedded", clip, "model")["images"]
    scores = np.concatenate([part[:] for part in embedded.parts]) @ (mean / np.linalg.norm(mean))
    assert [hit["id"] for hit in data[0]["hits"]] == np.argsort(-scores)[:4].tolist()


def test_texts_are_searched_where_the_folder_holds_them(address):
    data = post(address, "search", {"input": text_of(1, 2), "of": "texts", "top": 1}).json()["data"]
    assert data[0]["hits"][0]["text"] == text_of(1, 2)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "problem"),
    [
        ("embeddings", {}, "input is missing"),
        ("embeddings", {"input": []}, "input is missing"),
        ("embeddings", {"input": [1, 2]}, "token ids"),
        ("embeddings", {"input": "x", "inputs": "y"}, "unknown parameter inputs"),
        ("embeddings", {"input": "x", "model": "gpt"}, "'gpt' is not served here"),
        ("embeddings", {"input": "x", "dimensions": 8}, "dimensions = 8"),
        ("embeddings", {"input": "x", "encoding_format": "hex"}, "float or base64"),
        ("embeddings", {"input": "\ud800"}, "lone surrogate"),
        ("embeddings", {"input": "x" * 20_001}, "20,001 characters"),
        ("embeddings", {"input": ["x"] * 2049}, "2,049 items"),
        ("embeddings", {"input": [data_url(b"")] * 65}, "more than 64 pictures"),
        ("embeddings", {"input": "data:image/png;base64,%%%"}, "not valid base64"),
        ("embeddings", {"input": "data:image/png,x"}, "not a data URL"),
        ("embeddings", {"input": {"image": "http://127.0.0.1/"}}, "--allow-urls is off"),
        ("embeddings", {"input": {"image": "/etc/passwd"}}, "--allow-urls is off"),
        ("embeddings", [1], "must be a JSON object"),
        ("classify", {"input": "x", "labels": ["a"]}, "must be pictures"),
        ("classify", {"input": data_url(picture(0)), "labels": []}, "labels must be a list"),
        ("classify", {"input": data_url(picture(0)), "labels": ["a"], "templates": ["b"]}, "has no {}"),
        ("classify", {"input": "x", "labels": ["a"] * 1000, "templates": ["{}"] * 3}, "3,000 sentences"),
        ("search", {"input": "x", "top": 0}, "top = 0"),
        ("search", {"input": ["x", " "]}, "query ' ' is blank; give words"),
        ("search", {"input": ["x"] * 60, "top": 200}, "more than 10,000 hits"),
        ("search", {"input": "x", "of": "sounds"}, "of = 'sounds'"),
        ("search", {"input": "x", "combine": 1}, "combine = 1"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_told_what_is_wrong(path, body, problem, address):
    answer = post(address, path, body)
    assert answer.status_code == (404 if "not served" in problem else 400)
    assert problem in error_of(answer)


def test_all_problems_of_a_request_are_named_at_once(address):
    message = error_of(post(address, "embeddings", {"input": ["good", data_url(b"no picture"), "\ud800", {"a": 1}]}))
    assert "input[0]" not in message
    assert "input[1]: is not a picture" in message
    assert all(f"input[{i}]" in message for i in (2, 3))


def test_other_bodies_paths_and_methods_are_errors_of_the_same_shape(address):
    for content, kind, status in (
        (b"{", "application/json", 400),
        (b"{}", "text/plain", 415),
        (b"[" * 100_000, "application/json", 400),
    ):
        answer = httpx.post(f"{address}/v1/embeddings", content=content, headers={"Content-Type": kind})
        assert answer.status_code == status
        assert error_of(answer)
    missing = ("/v1/nothing", "/v1/pairs/images/99999", "/pictures/99999", "/static/..%2fapp.py")
    for path, status in (*((path, 404) for path in missing), ("/pictures/1?px=x", 400)):
        answer = httpx.get(f"{address}{path}")
        assert (answer.status_code, bool(error_of(answer))) == (status, True), path
    assert error_of(httpx.get(f"{address}/v1/embeddings"))


def test_a_key_guards_everything_but_the_page_and_the_health(world, clip):
    with serving(world, clip, api_key="secret") as address:
        for path in ("/v1/models", "/metrics", "/pictures/0", "/v1/pairs/images/0"):
            assert httpx.get(f"{address}{path}").status_code == 401
            assert httpx.get(f"{address}{path}", headers={"Authorization": "Bearer secret"}).status_code == 200
        for path in ("/", "/healthz", "/static/search.js", "/static/page.css"):
            assert httpx.get(f"{address}{path}").status_code == 200
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


def test_bodies_and_pixels_beyond_the_limits_are_refused(world, clip):
    limits = Limits(body_bytes=50_000, pixels=1000)
    with serving(world, clip, limits) as address:
        assert post(address, "embeddings", {"input": "x" * 60_000}).status_code == 413
        chunks = iter([b'{"input": "', b"x" * 60_000, b'"}'])
        answer = httpx.post(f"{address}/v1/embeddings", content=chunks, headers={"Content-Type": "application/json"})
        assert answer.status_code == 413
        assert "60 x 40 pixels" in error_of(post(address, "embeddings", {"input": data_url(picture(0))}))


def test_a_full_memory_budget_is_429_with_retry_after(world, clip):
    with serving(world, clip, Limits(bytes_in_flight=5000)) as address:
        answer = post(address, "embeddings", {"input": "x" * 6000})
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
        retrying = openai.OpenAI(base_url=f"{address}/v1", api_key="unused", max_retries=0)
        with pytest.raises(openai.RateLimitError):
            retrying.embeddings.create(model="model", input="x" * 6000)
        assert post(address, "embeddings", {"input": ["x"] * 2}).status_code == 429  # its answer would be too large
        assert post(address, "embeddings", {"input": "x"}).status_code == 200


# --- many at once -----------------------------------------------------------------------------------------------------


def test_a_bad_picture_is_an_error_for_its_request_alone(address, clip):
    cut = picture(BAD)[:80]  # its header is whole: only the decoder finds out

    async def ask(client, content):
        return await client.post("/v1/embeddings", json={"input": data_url(content)})

    async def all_at_once():
        async with httpx.AsyncClient(base_url=address, timeout=60) as client:
            return await asyncio.gather(*(ask(client, cut if i % 3 == 0 else picture(i)) for i in range(12)))

    answers = asyncio.run(all_at_once())
    for i, answer in enumerate(answers):
        if i % 3 == 0:
            assert answer.status_code == 400
            assert "input[0]" in error_of(answer)
        else:
            np.testing.assert_allclose(
                answer.json()["data"][0]["embedding"], clip.encode_image([picture(i)])[0], atol=1e-5
            )


def large_picture(i: int, width: int, height: int) -> bytes:
    """Return a PNG of a few KB that decodes to much more."""
    return encode(Image.new("RGB", (width, height), (i % 256, 80, 200)), compress_level=1)


@pytest.mark.parametrize(
    ("width", "height"), [(80, 60), pytest.param(3000, 2000, marks=pytest.mark.slow)], ids=["small", "18 MB each"]
)
def test_200_concurrent_requests_are_right_share_batches_and_keep_memory_bounded(width, height, world, clip):
    pictures = [large_picture(i, width, height) for i in range(8)]
    urls = list(map(data_url, pictures))

    async def ask(client, i):
        return await client.post("/v1/embeddings", json={"input": [f"text {i}", urls[i % 8]]})

    async def all_at_once(address):
        limits = httpx.Limits(max_connections=NUM_CLIENTS)
        async with httpx.AsyncClient(base_url=address, timeout=240, limits=limits) as client:
            return await asyncio.gather(*(ask(client, i) for i in range(NUM_CLIENTS)))

    expected = clip.encode_text([f"text {i}" for i in range(NUM_CLIENTS)])
    images = clip.encode_image(pictures)
    with serving(world, clip) as address:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        answers = asyncio.run(all_at_once(address))
        grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        metrics = httpx.get(f"{address}/metrics").text
    for i, answer in enumerate(answers):
        rows = [row["embedding"] for row in answer.json()["data"]]
        np.testing.assert_allclose(rows, [expected[i], images[i % 8]], atol=1e-5)
    numbers = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
    assert float(numbers["worldclip_batch_items_sum"]) == 2 * NUM_CLIENTS
    assert float(numbers["worldclip_batch_items_count"]) < NUM_CLIENTS / 2
    assert float(numbers['worldclip_requests_total{path="/v1/embeddings",status="200"}']) == NUM_CLIENTS
    assert grown_mib < 900, "the large pictures would take 3,400 MiB if all were decoded at once"


def test_pictures_are_decoded_a_bounded_number_of_pixels_at_a_time():
    batches = []

    class Recorder:
        def encode_each(self, contents):
            batches.append(len(contents))
            return np.zeros((len(contents), 4), np.float32), {}

    pictures = [Picture(b"", 30_000_000)] * 4 + [Picture(b"", 120_000_000)] + [Picture(b"", 1)] * 65
    assert len(of_service.encode(Recorder(), pictures)) == 70
    assert batches == [3, 1, 1, 64, 1]


def hold(service):
    """Make the model wait; return the events that say it started, and that let it go on."""
    started, release = threading.Event(), threading.Event()
    work = service._encoding._work

    def held(items):
        started.set()
        release.wait()
        return work(items)

    service._encoding._work = held
    return started, release


def test_a_full_queue_is_429_with_retry_after_and_those_who_wait_are_answered(clip):
    service, app = service_and_app(clip, Limits(waiting=2))
    started, release = hold(service)

    async def ask_three():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:

            def ask(texts):
                return asyncio.create_task(client.post("/v1/embeddings", json={"input": texts}))

            first = ask(["a"])
            await asyncio.to_thread(started.wait)
            second = ask(["b", "c"])
            while service._encoding.num_waiting < 2:
                await asyncio.sleep(0.01)
            third = await ask(["d"])
            release.set()
            return await first, await second, third

    first, second, third = asyncio.run(ask_three())
    assert (first.status_code, second.status_code, third.status_code) == (200, 200, 429)
    assert int(third.headers["retry-after"]) >= 1
    assert "try again in" in error_of(third)
    service.close()


def test_a_failure_of_the_model_is_500_for_its_request_alone(clip):
    service, app = service_and_app(clip)
    work = service._encoding._work

    def failing(items):
        if "bad" in items:
            raise RuntimeError("out of memory")
        return work(items)

    service._encoding._work = failing

    async def ask_both():
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            posts = [client.post("/v1/embeddings", json={"input": text}) for text in ("good", "bad", "good")]
            return await asyncio.gather(*posts)

    answers = asyncio.run(ask_both())
    assert [answer.status_code for answer in answers] == [200, 500, 200]
    assert "out of memory" not in error_of(answers[1])
    service.close()


def test_sigterm_finishes_what_is_under_way(world, clip):
    service, app = service_and_app(clip)
    started, release = hold(service)
    server = Server(uvicorn.Config(app, port=0, log_level="warning"))
    answers = []

    def ask_then_stop():
        while not server.started:
            pass
        address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        asking = threading.Thread(target=lambda: answers.append(post(address, "embeddings", {"input": "a red apple"})))
        asking.start()
        started.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        while not server.should_exit:
            pass
        release.set()
        asking.join()

    other = threading.Thread(target=ask_then_stop)
    other.start()
    server.run()  # returns: the signal ends the server, not the process
    other.join()
    np.testing.assert_allclose(
        answers[0].json()["data"][0]["embedding"], clip.encode_text(["a red apple"])[0], atol=1e-6
    )


# --- connections ------------------------------------------------------------------------------------------------------


def test_accepted_connections_send_without_waiting_for_acknowledgements(world, monkeypatch):
    """Nagle's algorithm holds the body until the head is acknowledged, which a kept-alive client does after 40 ms."""
    listener, accept = listen("127.0.0.1", 0), socket.socket.accept
    accepted, options = [], []

    def record(listener):
        accepted.append(accept(listener))
        return accepted[-1]

    monkeypatch.setattr(connections, "listen", lambda host, port: listener)
    monkeypatch.setattr(socket.socket, "accept", record)

    def ask_then_stop():
        with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=60) as client:
            for _ in range(2):
                assert client.get("/healthz").status_code == 200
            options.extend(each.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for each, _ in accepted)
        os.kill(os.getpid(), signal.SIGTERM)

    client = threading.Thread(target=ask_then_stop)
    client.start()
    serve(str(world / "model"), port=0, device="cpu")
    client.join()
    assert len(options) == 1
    assert options[0] != 0


# --- starting ---------------------------------------------------------------------------------------------------------


def test_another_model_than_the_folders_is_refused(world, tmp_path):
    folder = shutil.copytree(world / "embedded", tmp_path / "embedded")
    np.save(folder / "probe.npy", -np.load(folder / "probe.npy"))
    with pytest.raises(UserError, match="is not the model that embedded"):
        serve(str(world / "model"), folder, port=0)


def test_a_port_in_use_is_an_error_before_the_model_is_loaded(address):
    port = int(address.rpartition(":")[2])
    with pytest.raises(UserError, match=f"--port {port}: cannot listen there"):
        serve("no model", port=port)
