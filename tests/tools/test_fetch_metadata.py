"""Downloads from a server that breaks off, refuses, stalls, or sends wrong data."""

from __future__ import annotations

import bz2
import errno
import gzip
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import entry_lists
from killed import contents
from served import Server
from served import server as plain_server  # noqa: F401  a fixture
from stages import context
from worldclip.config import Recipe
from worldclip.core import download
from worldclip.core.download import Download
from worldclip.core.errors import StageFailed, UserError
from worldclip.tools.fetch_metadata import FetchConfig, fetch_metadata, plan_pageviews

DUMP = bz2.compress(b"<mediawiki></mediawiki>" + bytes(range(256)) * 5000)
VIEWS = gzip.compress(b"sw Paka 3 0\n" * 1000)
SITE = gzip.compress(b'{"query": {"namespaces": {}}}')


def add_wiki(server: Server, database: str, names: dict[str, bytes]) -> None:
    lines = "".join(f"{hashlib.sha1(data).hexdigest()}  {name}\n" for name, data in names.items())
    for day in ("latest", "20240101"):
        server.files[f"/{database}/{day}/{database}-{day}-sha1sums.txt"] = lines.encode()
    server.files |= {f"/{database}/20240101/{name}": data for name, data in names.items()}


@pytest.fixture
def server(plain_server) -> Server:  # noqa: F811
    """Wikimedia's server with Swahili's dump and two hours of page views."""
    plain_server.retry_after = "7"
    files = {"pages-articles.xml.bz2": DUMP, "pages-articles-multistream.xml.bz2": b"x",
             "siteinfo-namespaces.json.gz": SITE}  # fmt: skip
    add_wiki(plain_server, "swwiki", {f"swwiki-20240101-{name}": content for name, content in files.items()})
    for name in ("20231222-000000", "20231222-120000"):
        plain_server.files[f"/other/pageviews/2023/2023-12/pageviews-{name}.gz"] = VIEWS
    return plain_server


ARTICLES = "/swwiki/20240101/swwiki-20240101-pages-articles.xml.bz2"
HOUR = "/other/pageviews/2023/2023-12/pageviews-20231222-000000.gz"
DUMP_FILE = "sw/swwiki-20240101-pages-articles.xml.bz2"


def recipe(folder: Path, *codes: str, **config: Any) -> Recipe:
    return entry_lists.recipe(codes or ["sw"], dumps=str(folder), **config)


def fetch(
    server: Server, loaded: Recipe, pause: Callable[[float], object] = lambda seconds: None, **values: Any
) -> dict[str, int]:
    return fetch_metadata(context(loaded, Path()), FetchConfig(base_url=server.url, **values), pause=pause)


def run(server: Server, folder: Path, codes: tuple[str, ...] = ("sw",), **values: Any) -> dict[str, int]:
    """Fetch what a recipe needs, with two hours of page views."""
    return fetch(server, recipe(folder, *codes), pageview_days=1, pageview_hours=2, **values)


def pauses_of(server: Server, folder: Path) -> list[float]:
    """Return the pauses of a run, in seconds."""
    pauses: list[float] = []
    run(server, folder, pause=pauses.append)
    return pauses


def test_files_of_recipe_are_downloaded_once(server, tmp_path):
    assert run(server, tmp_path, contact="a@b.c")["files"] == 4
    assert contents(tmp_path) == {
        "sw/swwiki-20240101-pages-articles.xml.bz2": DUMP,
        "sw/swwiki-20240101-siteinfo-namespaces.json.gz": SITE,
        "pageviews/pageviews-20231222-000000.gz": VIEWS,
        "pageviews/pageviews-20231222-120000.gz": VIEWS,
    }
    (agent,) = server.agents
    assert agent.startswith("worldclip/")
    assert "a@b.c" in agent
    before = server.count(ARTICLES)
    assert run(server, tmp_path) == {"files": 0, "bytes": 0, "there_already": 4}
    assert server.count(ARTICLES) == before == 1


def test_dump_in_parts_and_old_database_name(server, tmp_path):
    names = [
        "be_x_oldwiki-20240101-pages-articles1.xml-p1p9.bz2",
        "be_x_oldwiki-20240101-pages-articles2.xml-p10p99.bz2",
    ]
    add_wiki(server, "be_x_oldwiki", dict.fromkeys([*names, "be_x_oldwiki-20240101-pages-articles.xml.bz2"], DUMP))
    add_wiki(server, "bewiki", {"bewiki-20240101-pages-articles.xml.bz2": DUMP})
    run(server, tmp_path, codes=("be",), date="20240101")
    assert sorted(path.name for path in (tmp_path / "be_tarask").iterdir()) == names
    assert [path.name for path in (tmp_path / "be").iterdir()] == ["bewiki-20240101-pages-articles.xml.bz2"]


def test_names_of_sums_outside_of_the_folder_are_left_out(server, tmp_path):
    evil = "../../evil-siteinfo-namespaces.json.gz"
    add_wiki(server, "swwiki", {"swwiki-20240101-pages-articles.xml.bz2": DUMP, evil: SITE,
                               "/tmp/swwiki-20240101-siteinfo-namespaces.json.gz": SITE})  # fmt: skip
    assert run(server, tmp_path / "a/b")["files"] == 3
    assert not list(tmp_path.glob("*evil*"))
    assert [path.name for path in (tmp_path / "a/b/sw").iterdir()] == ["swwiki-20240101-pages-articles.xml.bz2"]


def test_broken_connection_is_resumed(server, tmp_path):
    server.faults[ARTICLES] = ["break"] * 12  # more than MAX_TRIES, but each brings something
    assert set(pauses_of(server, tmp_path)) == {1.0}
    assert (tmp_path / DUMP_FILE).read_bytes() == DUMP
    assert len(set(server.starts)) > 6


@pytest.mark.parametrize("code", ["429", "503"])
def test_retry_after_seconds_is_obeyed(server, tmp_path, code):
    server.faults[ARTICLES] = [code] * 5
    # Retry-After, or the own back-off where that is longer
    assert pauses_of(server, tmp_path) == [7.0, 7.0, 7.0, 8.0, 16.0]


@pytest.mark.parametrize("answer", ["soon", "", "-5", "²"])
def test_invalid_retry_after_falls_back_to_default_backoff(server, tmp_path, answer):
    server.retry_after = answer
    server.faults[ARTICLES] = ["429"]
    assert pauses_of(server, tmp_path) == [1.0]


def test_retry_after_of_an_hour_fails_the_file(server, tmp_path):
    server.retry_after = "3600"
    server.faults[ARTICLES] = ["429"] * 9
    with pytest.raises(StageFailed, match=r"429 .* asks to wait 3,600 s; try again then\n"):
        run(server, tmp_path)
    assert server.count(ARTICLES) == 1


@pytest.mark.parametrize("faults", [["break", "break"], ["stall"], ["short"]], ids="-".join)
def test_file_that_did_not_come_whole_is_sent_again(server, tmp_path, monkeypatch, faults):
    """A server without ranges breaks off; a connection stalls; a length is wrong, which the checksum shows."""
    if faults == ["stall"]:
        monkeypatch.setattr(download, "TIMEOUT_S", 0.2)
    server.knows_ranges = False
    server.faults[ARTICLES] = list(faults)
    run(server, tmp_path)
    assert server.count(ARTICLES) == len(faults) + 1
    assert (tmp_path / DUMP_FILE).read_bytes() == DUMP


def test_no_more_than_two_files_are_downloaded_in_parallel(server, tmp_path):
    assert run(server, tmp_path)["files"] == 4
    assert max(server.at_once) <= 2


def test_busy_server_is_given_up_after_max_tries(server, tmp_path):
    server.faults[ARTICLES] = ["503"] * 99
    with pytest.raises(StageFailed, match="gave up after 6 tries without progress; last error: 503"):
        run(server, tmp_path)
    assert server.count(ARTICLES) == 6
    assert (tmp_path / "pageviews" / "pageviews-20231222-000000.gz").exists(), "the others are fetched"


def test_missing_file_is_named_and_not_retried(server, tmp_path):
    del server.files[HOUR]
    with pytest.raises(StageFailed, match=r"pageviews-20231222-000000\.gz: .* 404 Not Found"):
        run(server, tmp_path)
    assert server.count(HOUR) == 1
    with pytest.raises(StageFailed, match=r"yowiki: .*yowiki-latest-sha1sums\.txt: the server answers 404"):
        run(server, tmp_path, codes=("sw", "yo"))


def test_wrong_checksum_is_refused(server, tmp_path):
    server.faults[ARTICLES] = ["wrong"] * 9
    with pytest.raises(StageFailed, match=r"its SHA-1 is [0-9a-f]{40}, the published one"):
        run(server, tmp_path)
    assert server.count(ARTICLES) == download.MAX_COPIES
    assert not list((tmp_path / "sw").glob("*articles*"))
    server.faults.clear()
    run(server, tmp_path)
    assert (tmp_path / DUMP_FILE).read_bytes() == DUMP


def test_page_views_are_checked_by_decompression(server, tmp_path):
    server.files[HOUR] = VIEWS[:-5]
    with pytest.raises(StageFailed, match="not a complete gzip file"):
        run(server, tmp_path)
    assert not list((tmp_path / "pageviews").glob("pageviews-20231222-000000*"))


@pytest.mark.parametrize("partial", [DUMP[:1000], DUMP, DUMP + b"more"], ids=["cut", "whole", "too long"])
def test_partial_file_of_killed_download_is_resumed_unless_it_is_too_long(server, tmp_path, partial):
    (tmp_path / "sw").mkdir()
    (tmp_path / f"{DUMP_FILE}.part").write_bytes(partial)
    run(server, tmp_path)
    assert (tmp_path / DUMP_FILE).read_bytes() == DUMP
    if partial in DUMP:
        assert partial == DUMP or len(partial) in server.starts
        assert server.count(ARTICLES) == 1


def test_page_view_days_are_ten_apart_and_hours_evenly_spread(tmp_path):
    names = [view.path.name for view in plan_pageviews(tmp_path, "20240115", FetchConfig(pageview_hours=3))]
    assert len(names) == 37 * 3
    assert names[:4] == [f"pageviews-{x}0000.gz" for x in ("20240105-00", "20240105-08", "20240105-16", "20231226-00")]
    (first, *_) = plan_pageviews(tmp_path, "20240115", FetchConfig())
    assert first.url == "https://dumps.wikimedia.org/other/pageviews/2024/2024-01/pageviews-20240105-000000.gz"


def test_invalid_options_are_reported_together(tmp_path):
    config = FetchConfig(langs=("xx",), date="yesterday", base_url="ftp://x", pageview_hours=25)
    with pytest.raises(UserError) as caught:
        fetch_metadata(context(recipe(Path()), Path()), config)
    assert all(flag in str(caught.value) for flag in ("--langs", "--date", "--base-url", "--pageview-hours"))
    with pytest.raises(UserError, match=r"metadata\.dumps is not set"):
        fetch_metadata(context(entry_lists.recipe(["sw"]), Path()), FetchConfig())


def test_only_files_that_the_recipe_needs_are_downloaded(server, tmp_path):
    corpus = tmp_path / "corpus.parquet"
    corpus.touch()
    for sources, config, names in (
        (["title"], {}, ["swwiki-20240101-siteinfo-namespaces.json.gz"]),
        (["unigram"], {}, ["swwiki-20240101-pages-articles.xml.bz2"]),
        (["unigram", "title"], {"wikipedia": {"sw": str(corpus)}}, ["swwiki-20240101-siteinfo-namespaces.json.gz"]),
        (["wordfreq", "wordnet"], {}, []),
    ):
        folder = tmp_path / "_".join([*sources, *config])
        fetch(server, recipe(folder, "sw", sources=sources, **config), pageview_days=0)
        assert [path.name for path in folder.glob("sw/*")] == names


def test_languages_with_a_whole_list_are_skipped_unless_named(server, tmp_path):
    add_wiki(server, "yowiki", {"yowiki-20240101-pages-articles.xml.bz2": DUMP})
    lists = entry_lists.write_lists(tmp_path, sw=["simba"])
    loaded = recipe(tmp_path / "dumps", "sw", "yo", sources=["unigram"], lists=lists)
    for langs, wikis in (((), ["yo"]), (("sw",), ["sw", "yo"])):
        fetch(server, loaded, langs=langs)
        assert sorted(path.name for path in (tmp_path / "dumps").iterdir()) == wikis


def test_full_disk_stops_at_once_and_names_the_file(server, tmp_path):
    (tmp_path / "x.part").symlink_to("/dev/full")
    client = download.Client(user_agent="x", pause=lambda seconds: None)
    with pytest.raises(OSError, match="No space left") as caught:
        client.fetch(Download(url=server.url + ARTICLES, path=tmp_path / "x", sha1="0" * 40))
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "x"))
    assert server.count(ARTICLES) == 1


def test_interrupt_stops_running_and_waiting_downloads(server, tmp_path, monkeypatch):
    """Ctrl-C reaches the main thread, which is told of the files in their order; here the second one that comes in."""

    def interrupted(_: str, message: str) -> None:
        if "siteinfo" in message:
            raise KeyboardInterrupt

    server.faults = {place: ["503"] * 99 for place in server.files if "pageviews" in place}
    server.retry_after = "500"
    monkeypatch.setattr("worldclip.tools.fetch_metadata.say", interrupted)
    config = FetchConfig(base_url=server.url, pageview_days=1, pageview_hours=2)
    started_at = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        fetch_metadata(context(recipe(tmp_path), Path()), config)
    assert time.monotonic() - started_at < 60
    assert not list((tmp_path / "pageviews").glob("*.gz"))


def test_fetch_command(server, tmp_path, capsys):
    from worldclip.cli import main

    (tmp_path / "sw.toml").write_text(
        f'[pool]\npath = "."\n[balance]\ntail_fraction = 0.1\n[metadata]\ndumps = "{tmp_path / "dumps"}"\n'
    )
    flags = ["--langs", "sw", "--base-url", server.url, "--pageview-days", "0"]
    assert main(["fetch", "metadata", str(tmp_path / "sw.toml"), *flags]) == 0
    assert capsys.readouterr().out.startswith("2 files, ")
    assert main(["fetch", "metadata", str(tmp_path / "sw.toml"), *flags, "--date", "20230101"]) == 1
    assert main(["fetch", "metadata", str(tmp_path / "sw.toml"), "--langs", "sw,xx"]) == 2
