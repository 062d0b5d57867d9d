"""A running server follows its folder: each request is answered from one version of it, and none fails."""

import contextlib
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from embedded_world import picture, write_other_weights
from miniature import write_files
from serving import post, serving
from stages import QUIET
from worldclip.export.embedded import open_embedded
from worldclip.plugins.server import collections
from worldclip.pool import picture_folder
from worldclip.tools.embed import embed


@pytest.fixture
def shop(world, tmp_path, monkeypatch) -> Path:
    """Return a folder with model, photos and embedded."""
    monkeypatch.setattr(picture_folder, "FILES_PER_GROUP", 5)
    (tmp_path / "model").symlink_to(world / "model")
    write_files(tmp_path / "photos", {f"{i:03}.png": picture(i) for i in range(24)})
    embed(tmp_path / "model", tmp_path / "photos", tmp_path / "embedded", executor=QUIET)
    return tmp_path


def change(shop: Path, day: int) -> None:
    """Remove three photographs and add two, and embed the folder again."""
    for path in sorted((shop / "photos").iterdir())[day % 5 :: 7][:3]:
        path.unlink()
    write_files(shop / "photos", {f"day_{day}_{i}.png": picture(1000 + 10 * day + i) for i in range(2)})
    embed(shop / "model", shop / "photos", shop / "embedded", executor=QUIET)


def keys_of(shop: Path) -> frozenset[str]:
    embedded = open_embedded(shop / "embedded")
    return frozenset(row["key"] for row in embedded.rows(np.arange(len(embedded))))


def ask(client: httpx.Client, number: int) -> tuple[frozenset[str], list[int]]:
    """Return the keys of all hits, and the status of one of their pictures and of the pair."""
    answer = client.post("/v1/search", json={"input": f"apple {number}", "top": 1000})
    assert answer.status_code == 200, answer.text
    hits = answer.json()["data"][0]["hits"]
    scores = [hit["score"] for hit in hits]
    assert scores == sorted(scores, reverse=True)
    hit = hits[number % len(hits)]
    statuses = [client.get(f"/{path}/{hit['id']}").status_code for path in ("pictures", "v1/pairs/images")]
    return frozenset(hit["key"] for hit in hits), statuses


@pytest.mark.parametrize(
    ("num_clients", "days", "seconds"), [(4, 3, 0), pytest.param(64, 10, 60, marks=pytest.mark.slow)]
)
def test_clients_see_one_version_each_while_the_folder_changes_daily(
    num_clients, days, seconds, shop, clip, monkeypatch
):
    monkeypatch.setattr(collections, "CHECK_SECONDS", 0.05)
    versions = {keys_of(shop)}
    is_over = threading.Event()
    seen: set[frozenset[str]] = set()
    statuses: set[int] = set()
    with serving(shop, clip) as address:

        def work(number: int) -> int:
            with httpx.Client(base_url=address, timeout=120) as client:
                count = 0
                while not is_over.is_set():
                    keys, codes = ask(client, number + count)
                    seen.add(keys)
                    statuses.update(codes)
                    count += 1
                return count

        with ThreadPoolExecutor(num_clients) as clients:
            counts = [clients.submit(work, number) for number in range(num_clients)]
            with contextlib.ExitStack() as stack:
                stack.callback(is_over.set)
                for day in range(days):
                    time.sleep(0.3 + seconds / days)
                    change(shop, day)
                    versions.add(keys_of(shop))
                time.sleep(1)
            assert sum(count.result() for count in counts) >= num_clients
    assert seen <= versions
    assert keys_of(shop) in seen
    assert statuses <= {200, 404}, "a picture that was removed after the search is 404"


def test_a_folder_that_shrinks_by_a_group_and_loses_its_kind_is_followed(shop, clip, monkeypatch, capfd):
    monkeypatch.setattr(collections, "CHECK_SECONDS", 0.0)
    with serving(shop, clip) as address:
        first = post(address, "search", {"input": "a", "top": 1}).json()["data"][0]["hits"][0]
        for path in sorted((shop / "photos").iterdir())[:20]:
            if path.name != first["key"]:
                path.unlink()
        embed(shop / "model", shop / "photos", shop / "embedded", executor=QUIET)
        hits = post(address, "search", {"input": "a", "top": 100}).json()["data"][0]["hits"]
        assert len(hits) == len(list((shop / "photos").iterdir()))
        assert (hits[0]["id"], hits[0]["key"]) == (first["id"], first["key"])
        health = httpx.get(f"{address}/healthz").json()
        assert (health["status"], health["embedded"]) == ("ok", {"images": len(hits)})
        assert "was embedded again: " in capfd.readouterr().err


def test_a_folder_of_another_model_is_not_followed_and_a_gone_one_said(shop, world, clip, tmp_path, monkeypatch):
    monkeypatch.setattr(collections, "CHECK_SECONDS", 0.0)
    other = shutil.copytree(world / "model", tmp_path / "other")
    write_other_weights(other)
    with serving(shop, clip) as address:
        embed(other, shop / "photos", shop / "embedded", executor=QUIET)
        answer = post(address, "search", {"input": "a"})
        assert answer.status_code == 503
        assert answer.json()["error"]["message"] == (
            "another model embedded the folder 'embedded'; restart the server with that one"
        )
        assert httpx.get(f"{address}/healthz").status_code == 503
        embed(shop / "model", shop / "photos", shop / "embedded", executor=QUIET)
        assert post(address, "search", {"input": "a"}).status_code == 200
        assert httpx.get(f"{address}/healthz").status_code == 200
        manifest = (shop / "embedded/manifest.json").read_text()
        (shop / "embedded/manifest.json").write_text("{")
        problem = "the folder 'embedded' was embedded again and cannot be opened; the server's log says why"
        assert httpx.get(f"{address}/healthz").json()["problems"] == [problem]
        (shop / "embedded/manifest.json").write_text(manifest)
        (shop / "embedded").rename(shop / "away")
        answer = post(address, "search", {"input": "a"})
        assert (answer.status_code, "'embedded' is gone" in answer.text) == (503, True)
        assert httpx.get(f"{address}/static/facts.json").json()["start"] == [], "the page opens"
        (shop / "away").rename(shop / "embedded")
        assert post(address, "search", {"input": "a"}).status_code == 200
