"""The server among many clients and behind a proxy: turns, clients that hang up, keys, the access log, counters."""

import contextlib
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter

import httpx
import pytest

from chromium import open_page
from pages import REPOSITORY
from serving import HEAD, HeldWork, connect, hold_model, post, service_and_app, serving, serving_app
from serving import address as address  # a fixture
from worldclip.cli import command, main
from worldclip.core.errors import UserError
from worldclip.plugins.server.batches import CLIENT, Busy, SharedBatches
from worldclip.plugins.server.collections import Collections
from worldclip.plugins.server.guard import MAX_LOGGED_CHARS
from worldclip.plugins.server.serve import KEY_FILE_VARIABLE, KEY_VARIABLE, read_key, serve


def submit(batches, client, items):
    token = CLIENT.set(client)
    try:
        return batches.submit(items)
    finally:
        CLIENT.reset(token)


def start_and_wait(batches, work):
    """Let a first batch run, so that all later requests wait."""
    first = submit(batches, "first", [0])
    assert work.started.wait(60)
    return first


QUEUES = {  # items of a batch, whether requests are divided, and the client and size of each request that waits
    "small ones beside a large one": (64, True, [("large", 400)] + [("small", 1)] * 64),
    "small ones fill a batch": (64, True, [("one", 2)] * 49),
    "large ones take turns by client": (60, True, [("many", 100)] * 3 + [("one", 60)]),
    "at and above the share of a small one": (16, True, [("a", 4), ("b", 5), ("c", 3), ("d", 6)]),
    "whole requests": (4, False, [("a", 1), ("a", 2), ("b", 9), ("a", 1)]),
}


@pytest.mark.parametrize("name", QUEUES)
def test_requests_that_wait_share_batches_in_turns_and_in_their_order(name, snapshot):
    max_batch, divides, requests = QUEUES[name]
    work = HeldWork()
    batches = SharedBatches(work, max_batch=max_batch, max_waiting=10_000, divides=divides)
    start_and_wait(batches, work)
    items = [[1000 * number + i for i in range(size)] for number, (_, size) in enumerate(requests, 1)]
    futures = [submit(batches, client, of_request) for (client, _), of_request in zip(requests, items, strict=True)]
    work.release.set()
    assert [future.result(60) for future in futures] == [[2 * item for item in of_request] for of_request in items]
    worked = list(itertools.chain(*work.batches[1:]))
    assert sorted(worked, key=lambda item: item // 1000) == list(itertools.chain(*items))
    names = [client if size <= 2 else f"{client}{number}" for number, (client, size) in enumerate(requests, 1)]
    sizes = [Counter(names[item // 1000 - 1] for item in batch) for batch in work.batches[1:]]
    assert [", ".join(f"{name} {size}" for name, size in sorted(of_batch.items())) for of_batch in sizes] == snapshot


def test_a_full_queue_refuses_more_of_a_client_and_takes_another_client():
    work = HeldWork()
    batches = SharedBatches(work, max_batch=4, max_waiting=8)
    start_and_wait(batches, work)
    greedy = submit(batches, "greedy", [1] * 8)
    with pytest.raises(Busy):
        submit(batches, "greedy", [1])
    other = submit(batches, "other", [2])
    work.release.set()
    assert (other.result(60), greedy.result(60)) == ([4], [2] * 8)


def test_the_rest_of_a_cancelled_request_is_not_computed():
    work = HeldWork()
    batches = SharedBatches(work, max_batch=4, max_waiting=100)
    large = submit(batches, "a", [1] * 40)
    assert work.started.wait(60)
    waiting = submit(batches, "b", [2])
    assert (large.cancel(), waiting.cancel()) == (True, True)
    work.release.set()
    assert submit(batches, "c", [3]).result(60) == [6]
    assert work.batches == [[1] * 4, [3]]
    assert batches.num_waiting == 0


class Panic(BaseException):
    """A panic of a library in Rust."""


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [(ValueError("no number"), ValueError, "no number"), (Panic("no index"), RuntimeError, "Panic: no index")],
)
def test_an_error_ends_its_request_and_no_other_of_the_batch(error, kind, message):
    work = HeldWork()

    def fail(items):
        doubled = work([0 if item is error else item for item in items])
        if error in items:
            raise error
        return doubled

    batches = SharedBatches(fail, max_batch=4, max_waiting=100)
    start_and_wait(batches, work)
    good, bad, also_good = (submit(batches, "a", [item]) for item in (1, error, 3))
    large = submit(batches, "b", [1, 1, 1, error, *[7] * 40])
    work.release.set()
    for failed in (bad, large):
        with pytest.raises(kind, match=message):
            failed.result(60)
    assert (good.result(60), also_good.result(60)) == ([2], [6])
    assert submit(batches, "c", [5] * 9).result(60) == [10] * 9
    assert list(itertools.chain(*work.batches)).count(7) <= 3, "the rest is not computed"


@contextlib.contextmanager
def hanging_up(address, head, body):
    """Send a request, and hang up at the end of the block."""
    with connect(address, head.encode() + body):
        yield


def wait_for(address, line):
    """Wait until the counters have a line; return them."""
    for _ in range(1000):
        counters = httpx.get(f"{address}/metrics").text
        if line in counters:
            return counters
        time.sleep(0.01)
    raise AssertionError(f"no {line!r} in:\n{counters}")


def test_a_client_that_hangs_up_in_its_body_is_no_error_of_the_server(world, clip, capfd):
    with serving(world, clip, has_folder=False) as address:
        with hanging_up(address, f"{HEAD}Content-Length: 100\r\n\r\n", b'{"input": '):
            time.sleep(0.1)
        counters = wait_for(address, 'worldclip_requests_total{path="/v1/embeddings",status="499"} 1.0')
    assert 'status="500"' not in counters
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert "ClientDisconnect" not in said


def test_requests_of_clients_that_hung_up_are_not_computed(world, clip, monkeypatch, capfd):
    work = hold_model(monkeypatch)
    with serving(world, clip, has_folder=False) as address, contextlib.ExitStack() as stack:
        body = json.dumps({"input": "first"}).encode()
        stack.enter_context(hanging_up(address, f"{HEAD}Content-Length: {len(body)}\r\n\r\n", body))
        assert work.started.wait(60)
        body = json.dumps({"input": [f"text {i}" for i in range(400)]}).encode()
        with hanging_up(address, f"{HEAD}Content-Length: {len(body)}\r\n\r\n", body):
            wait_for(address, "worldclip_waiting_items 400.0")
        wait_for(address, 'worldclip_requests_total{path="/v1/embeddings",status="499"} 1.0')
        work.release.set()
        assert post(address, "embeddings", {"input": "last"}).status_code == 200
    assert work.batches == [["first"], ["last"]]
    assert "Traceback" not in capfd.readouterr().err


def test_pictures_that_nobody_waits_for_are_not_decoded(world, clip, monkeypatch):
    started, release, shown = threading.Event(), threading.Event(), []

    def read(self, *arguments):
        shown.append(arguments)
        started.set()
        assert release.wait(60)
        return b"", "image/png"

    monkeypatch.setattr("worldclip.plugins.server.app._Api._read_picture", read)
    monkeypatch.setattr("worldclip.plugins.server.app.usable_cores", lambda: 1)
    with serving(world, clip) as address:
        hit = post(address, "search", {"input": "a", "top": 1}).json()["data"][0]["hits"][0]["id"]
        head = f"GET /pictures/{hit} HTTP/1.1\r\nHost: localhost\r\n\r\n"
        with hanging_up(address, head, b""):
            assert started.wait(60)
            with hanging_up(address, head, b""):
                time.sleep(0.2)
            time.sleep(0.2)
            release.set()
        assert httpx.get(f"{address}/pictures/{hit}").status_code == 200
    assert len(shown) == 2


BAD_KEYS = {
    "": "is empty",
    " key": "begins or ends with a blank",
    "key \n": "begins or ends with a blank or a line break",
    "one\ntwo": "line break",
    "Schlüssel": "not ASCII",
    "a\tb": "control character",
}


@pytest.mark.parametrize("key", BAD_KEYS, ids=repr)
@pytest.mark.parametrize("source", ["--api-key", KEY_VARIABLE, KEY_FILE_VARIABLE])
def test_a_key_that_no_request_can_match_is_refused_at_the_start(source, key, tmp_path, monkeypatch):
    flag = None
    if source == "--api-key":
        flag = key
    elif source == KEY_VARIABLE:
        monkeypatch.setenv(source, key)
    else:
        (tmp_path / "key").write_text(key, encoding="utf-8")
        monkeypatch.setenv(source, str(tmp_path / "key"))
    with pytest.raises(UserError, match=BAD_KEYS[key]) as caught:
        serve("no model", port=0, api_key=flag)  # before the model is loaded
    assert source in str(caught.value)
    assert "Schlüssel" not in str(caught.value)


def test_a_file_of_a_key_may_end_with_a_line_break_and_only_one_variable_is_set(tmp_path, monkeypatch):
    (tmp_path / "key").write_bytes(b"secret key\r\n")
    monkeypatch.setenv(KEY_FILE_VARIABLE, str(tmp_path / "key"))
    assert read_key(None) == "secret key"
    assert read_key("flag") == "flag"
    monkeypatch.setenv(KEY_VARIABLE, "other")
    with pytest.raises(UserError, match="both set; unset one"):
        read_key(None)
    monkeypatch.delenv(KEY_VARIABLE)
    monkeypatch.setenv(KEY_FILE_VARIABLE, str(tmp_path / "missing"))
    with pytest.raises(UserError, match=r"missing'.*cannot be read"):
        read_key(None)


def test_the_access_log_has_a_line_per_request_without_texts_and_keys(world, clip, tmp_path):
    with open(tmp_path / "log", "w") as log, serving(world, clip, api_key="secret", access_log=log) as address:
        key = {"Authorization": "Bearer secret"}
        httpx.get(f"{address}/?q=private")
        answer = httpx.post(f"{address}/v1/search", json={"input": "private"}, headers=key)
        proxied = {**key, "X-Forwarded-For": "192.0.2.7"}
        httpx.get(f"{address}/{'x' * 1000}\u2028", headers=proxied)
        httpx.get(f"{address}/v1/models", headers={"Authorization": "Bearer secrets"})
    text = (tmp_path / "log").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    assert "private" not in text
    assert "secret" not in text
    assert [set(line) for line in lines] == [{"time", "client", "method", "path", "status", "seconds", "bytes"}] * 4
    assert [line["status"] for line in lines] == [200, 200, 404, 401]
    assert [line["client"] for line in lines] == ["127.0.0.1", "127.0.0.1", "192.0.2.7", "127.0.0.1"]
    assert (lines[1]["method"], lines[1]["path"], lines[1]["bytes"]) == ("POST", "/v1/search", len(answer.content))
    assert len(lines[2]["path"]) == MAX_LOGGED_CHARS
    assert lines[1]["time"].endswith("+00:00")


def test_the_reader_of_the_access_log_may_end(world, clip):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as log, serving(world, clip, has_folder=False, access_log=log) as address:
        for _ in range(2):
            assert httpx.get(f"{address}/healthz").status_code == 200
        with contextlib.suppress(BrokenPipeError):
            log.close()


def test_counters_have_the_size_of_the_embedded_folder_and_its_date(world, clip):
    with serving(world, clip) as address:
        counters = httpx.get(f"{address}/metrics").text
        sizes = httpx.get(f"{address}/static/facts.json").json()["counts"]
    written = (world / "embedded/manifest.json").stat().st_mtime
    for of, size in sizes.items():
        assert f'worldclip_embedded_rows{{of="{of}"}} {size:.1f}' in counters
    (line,) = [line for line in counters.splitlines() if line.startswith("worldclip_embedded_timestamp_seconds")]
    assert float(line.split()[1]) == written


def test_the_image_of_the_server_starts_it_and_checks_its_health(address, monkeypatch):
    dockerfile = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
    check = json.loads(re.search(r"^HEALTHCHECK .*\n +CMD (.+)$", dockerfile, re.MULTILINE)[1])
    entry = json.loads(re.search(r"^ENTRYPOINT (.+serve.+)$", dockerfile, re.MULTILINE)[1])
    assert entry[:2] == ["worldclip", "serve"]
    port = entry[entry.index("--port") + 1]
    assert f":{port}/healthz" in check[2]
    code = check[2].replace(f":{port}", f":{address.rpartition(':')[2]}")
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    closed = check[2].replace(f":{port}", ":1")
    assert subprocess.run([sys.executable, "-c", closed], stderr=subprocess.DEVNULL).returncode == 1
    flags = []

    def parse(*arguments, **options):
        flags.append(command.parse_command(*arguments, **options)[1])
        return 0

    monkeypatch.setattr(command, "run_command", parse)
    assert main([*entry[1:], "--access-log", "model", "embedded"]) == 0
    assert (flags[0]["host"], flags[0]["model"], str(flags[0]["embedded"])) == ("0.0.0.0", "model", "embedded")


def below(prefix, app):
    """Return an application that answers below a prefix, which it strips as a proxy does."""

    async def answer(scope, receive, send):
        if scope["type"] == "http":
            assert scope["path"].startswith(f"{prefix}/")
            path = scope["path"].removeprefix(prefix)
            scope = scope | {"path": path, "raw_path": path.encode()}
        await app(scope, receive, send)

    return answer


def test_the_page_works_behind_a_proxy_that_strips_a_prefix(world, clip):
    _, app = service_and_app(clip, collections=Collections(world / "embedded", clip, "model"))
    with serving_app(below("/photos", app)) as address, open_page() as page:
        page.open(f"{address}/photos/?q=a+red+apple", "document.querySelectorAll('.hit img').length > 20")
        page.wait("document.querySelector('.hit img').naturalWidth > 0")
        assert page.run("location.pathname") == "/photos/"
        page.run("document.querySelector('.hit a').click()")
        page.wait("document.querySelector('#pair').open && document.querySelector('#pair img').naturalWidth > 0")
        assert page.errors == []
        assert all(url.startswith((f"{address}/photos/", "data:", "blob:")) for url in page.requests)
