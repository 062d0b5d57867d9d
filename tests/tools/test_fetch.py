"""`worldclip fetch` from a server that breaks off, refuses, stalls, or sends wrong data."""

import bz2
import errno
import gzip
import hashlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import entry_lists
from killed import contents
from miniature import write_files
from served import Server
from served import server as server  # a fixture
from stages import context
from tars import tar_of, zip_of
from worldclip.cli import main
from worldclip.config import Recipe
from worldclip.core import download
from worldclip.core.download import Broken, Client, Download
from worldclip.core.errors import StageFailed, UserError
from worldclip.evaluate.datasets import captions, webdataset
from worldclip.tools import fetch_dataset as of_datasets
from worldclip.tools.fetch_metadata import FetchConfig, fetch_metadata, plan_pageviews

TREE = "/huggingface.co/api/datasets/clip-benchmark/wds_cars/tree/main"
RESOLVE = "/huggingface.co/datasets/clip-benchmark/wds_cars/resolve/main/"
CAPTIONS = "/google.github.io/crossmodal-3600/web-data/captions.zip"
IMAGES = "/open-images-dataset.s3.amazonaws.com/crossmodal-3600/images.tgz"


def put_cars(server: Server) -> None:
    files = {
        "classnames.txt": b"a car\na van\n", "zeroshot_classification_templates.txt": b"{c}\n",
        "test/nshards.txt": b"1", "test/0.tar": tar_of({"s0.jpg": b"x", "s0.cls": b"0"}), ".gitattributes": b"",
        "README.md": b"", "train/nshards.txt": b"1", "train/0.tar": b"train",
    }  # fmt: skip
    tree = []
    for name, data in files.items():
        server.files[RESOLVE + name] = data
        item = {"type": "file", "path": name, "oid": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}
        if name.endswith(".tar"):
            item["lfs"] = {"oid": hashlib.sha256(data).hexdigest()}
        tree.append(item)
    server.files[TREE] = json.dumps([*tree, {"type": "directory", "path": "test"}]).encode()


def fetch_dataset(server: Server, name: str, out: Path, **options):
    return of_datasets.fetch_dataset(name, out, mirror=server.url, pause=lambda seconds: None, **options)


def test_hub_repository_is_fetched_once_from_where_a_killed_call_ended(server, tmp_path):
    put_cars(server)
    (tmp_path / "cars/test").mkdir(parents=True)
    (tmp_path / "cars/test/0.tar.part").write_bytes(server.files[RESOLVE + "test/0.tar"][:100])
    counts = fetch_dataset(server, "cars", tmp_path)
    assert (RESOLVE + "test/0.tar", "bytes=100-") in server.requests
    assert (counts["files"], counts["there_already"]) == (4, 0)
    assert webdataset.load("cars", tmp_path / "cars").tasks("en")[0].class_names == [["a car"], ["a van"]]
    assert not (tmp_path / "cars/train").exists()
    server.requests.clear()
    assert fetch_dataset(server, "cars", tmp_path) == {"files": 0, "bytes": 0, "there_already": 4}
    assert [path for path, _ in server.requests] == [TREE]
    assert fetch_dataset(server, "cars", tmp_path, with_train=True)["files"] == 2


def test_files_that_the_server_replaced_are_fetched_again_and_removed_ones_named(server, tmp_path, capsys):
    put_cars(server)
    fetch_dataset(server, "cars", tmp_path)
    tree = json.loads(server.files[TREE])
    for item in tree:
        if item["path"] in ("test/0.tar", "classnames.txt"):
            data = b"of another revision"
            server.files[RESOLVE + item["path"]] = data
            item["oid"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            if "lfs" in item:
                item["lfs"] = {"oid": hashlib.sha256(data).hexdigest()}
    server.files[TREE] = json.dumps(tree).encode()
    assert fetch_dataset(server, "cars", tmp_path)["files"] == 2
    assert (tmp_path / "cars/classnames.txt").read_bytes() == b"of another revision"
    server.files[TREE] = json.dumps([item for item in tree if item["path"] != "test/nshards.txt"]).encode()
    capsys.readouterr()
    fetch_dataset(server, "cars", tmp_path)
    assert "warning: cars: no longer published: test/nshards.txt; remove them" in capsys.readouterr().err


def test_a_file_that_was_not_fetched_is_not_replaced(server, tmp_path):
    put_cars(server)
    own = tmp_path / "cars/classnames.txt"
    write_files(tmp_path, {"cars/classnames.txt": "corrected by hand"})
    with pytest.raises(StageFailed, match=r"fetched.json does not say that it was fetched; move it away") as caught:
        fetch_dataset(server, "cars", tmp_path)
    assert list(caught.value.failures) == ["classnames.txt"]
    assert own.read_text() == "corrected by hand"
    own.unlink()
    assert fetch_dataset(server, "cars", tmp_path) == {"files": 1, "bytes": 12, "there_already": 3}


def test_a_file_without_a_checksum_is_fetched_again_from_another_address_but_not_from_a_mirror(
    server, tmp_path, monkeypatch
):
    base = "/raw.githubusercontent.com/multi30k/dataset/master/data/task1/"
    path = f"{base}image_splits/test_2016_flickr.txt"
    server.files |= {path: b"1.jpg\n", f"/mirror{path}": b"1.jpg\n", f"/other{path}": b"2.jpg\n"}
    rows = [row for row in of_datasets.read_csv("sources.csv") if row["path"] == "test_2016_flickr.txt"]
    monkeypatch.setattr(of_datasets, "read_csv", lambda name: rows)
    assert fetch_dataset(server, "multi30k", tmp_path)["files"] == 1
    monkeypatch.setattr(server, "url", f"{server.url}/mirror")
    assert fetch_dataset(server, "multi30k", tmp_path)["there_already"] == 1
    monkeypatch.undo()
    rows[0]["url"] = f"https://other{path}"
    monkeypatch.setattr(of_datasets, "read_csv", lambda name: rows)
    assert fetch_dataset(server, "multi30k", tmp_path)["files"] == 1
    assert (tmp_path / "multi30k" / rows[0]["path"]).read_bytes() == b"2.jpg\n"


@pytest.mark.parametrize("name", ["test/0.tar", "classnames.txt"])
def test_wrong_checksum_fails_only_that_file(server, tmp_path, name):
    put_cars(server)
    server.files[RESOLVE + name] = b"something else"
    with pytest.raises(StageFailed, match="the published one") as caught:
        fetch_dataset(server, "cars", tmp_path)
    assert list(caught.value.failures) == [name]
    assert not (tmp_path / "cars" / name).exists()
    put_cars(server)
    assert fetch_dataset(server, "cars", tmp_path)["there_already"] == 3


def test_archives_are_unpacked_into_the_layout_and_again_where_that_is_gone(server, tmp_path):
    line = json.dumps({"image/key": "0001", "en": {"caption": ["a cat"]}}).encode()
    server.files[CAPTIONS] = zip_of({"captions.jsonl": line})
    server.files[IMAGES] = tar_of({"./0001.jpg": b"cat"}, "w:gz")
    fetch_dataset(server, "xm3600", tmp_path)
    folder = tmp_path / "xm3600"
    assert captions.load("xm3600", folder).read_images(0, 1) == [b"cat"]
    record = json.loads((folder / "fetched.json").read_text())
    assert record["images.tgz"]["sha256"] == hashlib.sha256(server.files[IMAGES]).hexdigest()
    assert not list(folder.glob("*.part"))
    assert fetch_dataset(server, "xm3600", tmp_path)["there_already"] == 2
    shutil.rmtree(folder / "images")
    assert fetch_dataset(server, "xm3600", tmp_path)["files"] == 1
    (folder / "captions.jsonl").unlink()  # unpacked into the dataset's folder itself
    assert fetch_dataset(server, "xm3600", tmp_path)["files"] == 1
    assert (folder / "images/0001.jpg").read_bytes() == b"cat"
    assert (folder / "captions.jsonl").read_bytes() == line


def test_gz_is_one_file_and_members_outside_the_folder_are_refused(server, tmp_path):
    base = "/raw.githubusercontent.com/multi30k/dataset/master/data/task1/"
    server.files[base + "image_splits/test_2016_flickr.txt"] = b"1.jpg\n"
    for lang in ("en", "de", "fr", "cs"):
        server.files[f"{base}raw/test_2016_flickr.{lang}.gz"] = gzip.compress(lang.encode())
    fetch_dataset(server, "multi30k", tmp_path)
    assert (tmp_path / "multi30k/test_2016_flickr.de").read_text() == "de"
    server.files[CAPTIONS] = b"no zip"
    server.files[IMAGES] = tar_of({"../../evil.jpg": b"x"}, "w:gz")
    with pytest.raises(StageFailed) as caught:
        fetch_dataset(server, "xm3600", tmp_path)
    assert set(caught.value.failures) == {"captions.zip", "images.tgz"}
    assert not (tmp_path / "evil.jpg").exists()


def test_archives_that_are_cut_are_named_and_fetched_again(server, tmp_path):
    captions_zip = zip_of({"captions.jsonl": b"{}"})
    images = tar_of({"0001.jpg": bytes(range(256)) * 99}, "w:gz")
    server.files[CAPTIONS] = captions_zip
    server.files[IMAGES] = images[: len(images) // 2]
    with pytest.raises(StageFailed) as caught:
        fetch_dataset(server, "xm3600", tmp_path)
    assert set(caught.value.failures) == {"images.tgz"}
    server.files[IMAGES] = images
    assert fetch_dataset(server, "xm3600", tmp_path)["files"] == 1


@pytest.mark.parametrize("path", ["../evil.txt", "/tmp/evil.txt", "a/../../evil.txt", "a\0b"])
def test_listing_that_names_files_outside_of_the_folder_is_refused(server, tmp_path, path):
    put_cars(server)
    listing = json.loads(server.files[TREE])
    server.files[TREE] = json.dumps([*listing, {"type": "file", "path": path, "oid": "0" * 40}]).encode()
    with pytest.raises(StageFailed, match="is not a path below"):
        fetch_dataset(server, "cars", tmp_path / "data")
    assert not list(tmp_path.rglob("*evil*"))
    assert [name for name, _ in server.requests] == [TREE]


@pytest.mark.parametrize("listing", [b"", b'[{"path": 3}]', b'["x"]', b"[" * 100_000, b'[{"type": 1}]'])
def test_answer_that_is_no_listing_is_refused(server, tmp_path, listing):
    server.files[TREE] = listing
    with pytest.raises(StageFailed, match="is not a list of files"):
        fetch_dataset(server, "cars", tmp_path)


def test_only_the_web_is_fetched(tmp_path):
    (tmp_path / "secret.json").write_text("[]")
    client = Client(user_agent="test", pause=lambda seconds: None)
    for url in (f"file://{tmp_path}/secret.json", "ftp://127.0.0.1:9/x", "data:,x"):
        with pytest.raises(Broken, match="only http"):
            client.read_page(url)


def test_dataset_that_cannot_be_fetched_is_an_error(server, tmp_path):
    for name, kind, words in (
        ("hateful_memes", UserError, "no source that a program may fetch"),
        ("pets", StageFailed, "404"),
    ):
        with pytest.raises(kind, match=words):
            fetch_dataset(server, name, tmp_path)
    base = "/raw.githubusercontent.com/gregor-ge/Babel-ImageNet/main/data/"
    server.files |= dict.fromkeys([f"{base}babel_imagenet-298.json", f"{base}nllb_dist13b_prompts.json"], b"{}")
    with pytest.raises(StageFailed, match="SHA-256"):
        fetch_dataset(server, "babel_imagenet", tmp_path)


# Dumps and page views
DUMP = bz2.compress(b"<mediawiki></mediawiki>" + bytes(range(256)) * 5000)
VIEWS = gzip.compress(b"sw Paka 3 0\n" * 1000)
SITE = gzip.compress(b'{"query": {"namespaces": {}}}')
ARTICLES = "/swwiki/20240101/swwiki-20240101-pages-articles.xml.bz2"
HOUR = "/other/pageviews/2023/2023-12/pageviews-20231222-000000.gz"
DUMP_FILE = "sw/swwiki-20240101-pages-articles.xml.bz2"


def add_wiki(server: Server, database: str, names: dict[str, bytes]) -> None:
    lines = "".join(f"{hashlib.sha1(data).hexdigest()}  {name}\n" for name, data in names.items())
    for day in ("latest", "20240101"):
        server.files[f"/{database}/{day}/{database}-{day}-sha1sums.txt"] = lines.encode()
    server.files |= {f"/{database}/20240101/{name}": data for name, data in names.items()}


@pytest.fixture
def wikimedia(server) -> Server:
    """Wikimedia's server with Swahili's dump and two hours of page views."""
    server.retry_after = "7"
    files = {"pages-articles.xml.bz2": DUMP, "pages-articles-multistream.xml.bz2": b"x",
             "siteinfo-namespaces.json.gz": SITE}  # fmt: skip
    add_wiki(server, "swwiki", {f"swwiki-20240101-{name}": content for name, content in files.items()})
    for name in ("20231222-000000", "20231222-120000"):
        server.files[f"/other/pageviews/2023/2023-12/pageviews-{name}.gz"] = VIEWS
    return server


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


def test_files_of_recipe_are_downloaded_once_two_in_parallel(wikimedia, tmp_path):
    assert run(wikimedia, tmp_path, contact="a@b.c")["files"] == 4
    assert contents(tmp_path) == {
        "sw/swwiki-20240101-pages-articles.xml.bz2": DUMP,
        "sw/swwiki-20240101-siteinfo-namespaces.json.gz": SITE,
        "pageviews/pageviews-20231222-000000.gz": VIEWS,
        "pageviews/pageviews-20231222-120000.gz": VIEWS,
    }
    (agent,) = wikimedia.agents
    assert agent.startswith("worldclip/")
    assert "a@b.c" in agent
    assert max(wikimedia.at_once) <= 2
    (tmp_path / DUMP_FILE).unlink()
    assert run(wikimedia, tmp_path) == {"files": 1, "bytes": len(DUMP), "there_already": 3}
    assert run(wikimedia, tmp_path) == {"files": 0, "bytes": 0, "there_already": 4}
    assert wikimedia.count(ARTICLES) == 2


def test_page_views_of_another_fetch_are_refused_before_any_download(wikimedia, tmp_path):
    write_files(tmp_path, {"pageviews/pageviews-20231222-060000.gz": ""})
    with pytest.raises(UserError, match=r"holds 1 files of another date or other hours .*-20231222-060000\.gz"):
        run(wikimedia, tmp_path)
    assert wikimedia.count(ARTICLES) == 0
    (tmp_path / "pageviews/pageviews-20231222-060000.gz").unlink()
    assert run(wikimedia, tmp_path)["files"] == 4


def test_dump_in_parts_and_old_database_name(wikimedia, tmp_path):
    names = [
        "be_x_oldwiki-20240101-pages-articles1.xml-p1p9.bz2",
        "be_x_oldwiki-20240101-pages-articles2.xml-p10p99.bz2",
    ]
    add_wiki(wikimedia, "be_x_oldwiki", dict.fromkeys([*names, "be_x_oldwiki-20240101-pages-articles.xml.bz2"], DUMP))
    add_wiki(wikimedia, "bewiki", {"bewiki-20240101-pages-articles.xml.bz2": DUMP})
    run(wikimedia, tmp_path, codes=("be",), date="20240101")
    assert sorted(path.name for path in (tmp_path / "be_tarask").iterdir()) == names
    assert [path.name for path in (tmp_path / "be").iterdir()] == ["bewiki-20240101-pages-articles.xml.bz2"]


def test_names_of_sums_outside_of_the_folder_are_left_out(wikimedia, tmp_path):
    evil = "../../evil-siteinfo-namespaces.json.gz"
    add_wiki(wikimedia, "swwiki", {"swwiki-20240101-pages-articles.xml.bz2": DUMP, evil: SITE,
                                  "/tmp/swwiki-20240101-siteinfo-namespaces.json.gz": SITE})  # fmt: skip
    assert run(wikimedia, tmp_path / "a/b")["files"] == 3
    assert not list(tmp_path.glob("*evil*"))
    assert [path.name for path in (tmp_path / "a/b/sw").iterdir()] == ["swwiki-20240101-pages-articles.xml.bz2"]


def test_broken_connection_is_resumed(wikimedia, tmp_path):
    wikimedia.faults[ARTICLES] = ["break"] * 12  # more than MAX_TRIES, but each brings something
    assert set(pauses_of(wikimedia, tmp_path)) == {1.0}
    assert (tmp_path / DUMP_FILE).read_bytes() == DUMP
    assert len(set(wikimedia.starts)) > 6


def test_tries_are_counted_from_the_last_progress_on(wikimedia, tmp_path):
    wikimedia.faults[ARTICLES] = ["break", *["503"] * 4]
    assert pauses_of(wikimedia, tmp_path) == [1.0, 7.0, 7.0, 8.0, 16.0]  # the server asks for 7


@pytest.mark.parametrize(
    ("retry_after", "status", "pauses"),
    [
        ("7", "429", [7.0, 7.0, 7.0, 8.0, 16.0]),  # the own back-off where that is longer
        ("7", "503", [7.0, 7.0, 7.0, 8.0, 16.0]),
        *((invalid, "429", [1.0]) for invalid in ("soon", "", "-5", "²")),
    ],
)
def test_retry_after_is_obeyed(wikimedia, tmp_path, retry_after, status, pauses):
    wikimedia.retry_after = retry_after
    wikimedia.faults[ARTICLES] = [status] * len(pauses)
    assert pauses_of(wikimedia, tmp_path) == pauses


def test_retry_after_of_an_hour_fails_the_file(wikimedia, tmp_path):
    wikimedia.retry_after = "3600"
    wikimedia.faults[ARTICLES] = ["429"] * 9
    with pytest.raises(StageFailed, match=r"asks to wait 3,600 s"):
        run(wikimedia, tmp_path)
    assert wikimedia.count(ARTICLES) == 1


@pytest.mark.parametrize("faults", [["break", "break"], ["stall"], ["short"]], ids="-".join)
def test_file_that_did_not_come_whole_is_sent_again(wikimedia, tmp_path, monkeypatch, faults):
    """A server without ranges breaks off; a connection stalls; a length is wrong, which the checksum shows."""
    if faults == ["stall"]:
        monkeypatch.setattr(download, "TIMEOUT_S", 0.2)
    wikimedia.knows_ranges = False
    wikimedia.faults[ARTICLES] = list(faults)
    run(wikimedia, tmp_path)
    assert wikimedia.count(ARTICLES) == len(faults) + 1
    assert (tmp_path / DUMP_FILE).read_bytes() == DUMP


def test_busy_missing_and_wrong_files_are_named_and_the_others_fetched(wikimedia, tmp_path):
    wikimedia.faults[ARTICLES] = ["503"] * 99
    with pytest.raises(StageFailed, match="gave up after 6 tries without progress; last error: 503"):
        run(wikimedia, tmp_path)
    assert wikimedia.count(ARTICLES) == 6
    assert (tmp_path / "pageviews/pageviews-20231222-000000.gz").exists()
    wikimedia.faults[ARTICLES] = ["wrong"] * 9
    with pytest.raises(StageFailed, match=r"its SHA-1 is [0-9a-f]{40}, the published one"):
        run(wikimedia, tmp_path)
    assert wikimedia.count(ARTICLES) == 6 + download.MAX_COPIES
    assert not list((tmp_path / "sw").glob("*articles*"))
    wikimedia.faults.clear()
    with pytest.raises(StageFailed, match=r"yowiki: .* answers 404"):
        run(wikimedia, tmp_path, codes=("sw", "yo"))
    assert (tmp_path / DUMP_FILE).read_bytes() == DUMP


def test_page_views_that_are_missing_or_cut_fail(wikimedia, tmp_path):
    wikimedia.files[HOUR] = VIEWS[:-5]
    with pytest.raises(StageFailed, match="not a complete gzip file"):
        run(wikimedia, tmp_path)
    assert not list((tmp_path / "pageviews").glob("pageviews-20231222-000000*"))
    asked = wikimedia.count(HOUR)
    del wikimedia.files[HOUR]
    with pytest.raises(StageFailed, match=r"pageviews-20231222-000000\.gz: .* 404 Not Found"):
        run(wikimedia, tmp_path)
    assert wikimedia.count(HOUR) == asked + 1


@pytest.mark.parametrize("partial", [DUMP[:1000], DUMP, DUMP + b"more"], ids=["cut", "whole", "too long"])
def test_partial_file_of_killed_download_is_resumed_unless_it_is_too_long(wikimedia, tmp_path, partial):
    (tmp_path / "sw").mkdir()
    (tmp_path / f"{DUMP_FILE}.part").write_bytes(partial)
    run(wikimedia, tmp_path)
    assert (tmp_path / DUMP_FILE).read_bytes() == DUMP
    if partial in DUMP:
        assert partial == DUMP or len(partial) in wikimedia.starts
        assert wikimedia.count(ARTICLES) == 1


def test_page_view_days_are_ten_apart_and_hours_evenly_spread(tmp_path):
    names = [view.path.name for view in plan_pageviews(tmp_path, "20240115", FetchConfig(pageview_hours=3))]
    assert len(names) == 37 * 3
    assert names[:4] == [f"pageviews-{x}0000.gz" for x in ("20240105-00", "20240105-08", "20240105-16", "20231226-00")]
    (first, *_) = plan_pageviews(tmp_path, "20240115", FetchConfig())
    assert first.url == "https://dumps.wikimedia.org/other/pageviews/2024/2024-01/pageviews-20240105-000000.gz"


def test_only_files_that_the_recipe_needs_are_downloaded(wikimedia, tmp_path):
    corpus = tmp_path / "corpus.parquet"
    corpus.touch()
    articles, names = (f"swwiki-20240101-{name}" for name in ("pages-articles.xml.bz2", "siteinfo-namespaces.json.gz"))
    for sources, config, expected in (
        (["title"], {}, [names]),
        (["unigram"], {}, [articles]),
        (["unigram", "title"], {"wikipedia": {"sw": str(corpus)}}, [names]),
        (["wordfreq", "wordnet"], {}, []),
    ):
        folder = tmp_path / "_".join([*sources, *config])
        fetch(wikimedia, recipe(folder, "sw", sources=sources, **config), pageview_days=0)
        assert [path.name for path in folder.glob("sw/*")] == expected
    # A language with a whole list is skipped, unless it is named
    add_wiki(wikimedia, "yowiki", {"yowiki-20240101-pages-articles.xml.bz2": DUMP})
    lists = entry_lists.write_lists(tmp_path, sw=["simba"])
    loaded = recipe(tmp_path / "dumps", "sw", "yo", sources=["unigram"], lists=lists)
    for langs, wikis in (((), ["yo"]), (("sw",), ["sw", "yo"])):
        fetch(wikimedia, loaded, langs=langs)
        assert sorted(path.name for path in (tmp_path / "dumps").iterdir()) == wikis


def test_full_disk_stops_at_once_and_names_the_file(wikimedia, tmp_path):
    (tmp_path / "x.part").symlink_to("/dev/full")
    client = Client(user_agent="x", pause=lambda seconds: None)
    with pytest.raises(OSError, match="No space left") as caught:
        client.fetch(Download(url=wikimedia.url + ARTICLES, path=tmp_path / "x", sha1="0" * 40))
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "x"))
    assert wikimedia.count(ARTICLES) == 1


def test_interrupt_stops_running_and_waiting_downloads(wikimedia, tmp_path, monkeypatch):
    """Ctrl-C reaches the main thread, which is told of the files in their order; here the second one that comes in."""

    def interrupted(_: str, message: str) -> None:
        if "siteinfo" in message:
            raise KeyboardInterrupt

    wikimedia.faults = {place: ["503"] * 99 for place in wikimedia.files if "pageviews" in place}
    wikimedia.retry_after = "500"
    monkeypatch.setattr("worldclip.tools.fetch_metadata.say", interrupted)
    config = FetchConfig(base_url=wikimedia.url, pageview_days=1, pageview_hours=2)
    started_at = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        fetch_metadata(context(recipe(tmp_path), Path()), config)
    assert time.monotonic() - started_at < 60
    assert not list((tmp_path / "pageviews").glob("*.gz"))


def test_the_command_fetches_what_the_recipe_needs(wikimedia, tmp_path, capsys):
    path = tmp_path / "sw.toml"
    dumps = tmp_path / "dumps"
    path.write_text(f'[pool]\npath = "."\n[balance]\ntail_fraction = 0.1\n[metadata]\ndumps = "{dumps}"\n')
    flags = ["fetch", "metadata", str(path), "--langs", "sw", "--base-url", wikimedia.url, "--pageview-days", "0"]
    assert main(flags) == 0
    assert capsys.readouterr().out.startswith("2 files, ")
    assert main([*flags, "--date", "20230101"]) == 1
    assert main([*flags, "--pageview-hours", "25"]) == 2
    with pytest.raises(UserError, match=r"metadata\.dumps is not set"):
        fetch_metadata(context(entry_lists.recipe(["sw"]), Path()), FetchConfig())
