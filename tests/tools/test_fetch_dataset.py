"""`worldclip fetch dataset` against a local server: hub and addresses, ranges, checksums, archives."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil

import pytest

from served import Server, server
from tars import tar_of, zip_of
from worldclip.cli import main
from worldclip.core.download import Broken, Client
from worldclip.core.errors import StageFailed, UserError
from worldclip.evaluate.datasets import captions, webdataset
from worldclip.tools import fetch_dataset as fetch

TREE = "/huggingface.co/api/datasets/clip-benchmark/wds_cars/tree/main"
RESOLVE = "/huggingface.co/datasets/clip-benchmark/wds_cars/resolve/main/"
__all__ = ["server"]  # a fixture


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


def run(server: Server, name: str, out, **options):
    return fetch.fetch_dataset(name, out, mirror=server.url, pause=lambda seconds: None, **options)


def test_hub_repository_loads_and_is_fetched_once(server, tmp_path):
    put_cars(server)
    counts = run(server, "cars", tmp_path)
    assert (counts["files"], counts["there_already"]) == (4, 0)
    assert webdataset.load("cars", tmp_path / "cars").tasks("en")[0].class_names == [["a car"], ["a van"]]
    assert not (tmp_path / "cars/train").exists()
    server.requests.clear()
    assert run(server, "cars", tmp_path) == {"files": 0, "bytes": 0, "there_already": 4}
    assert [path for path, _ in server.requests] == [TREE]
    assert run(server, "cars", tmp_path, with_train=True)["files"] == 2


def test_partial_file_of_an_earlier_call_is_continued(server, tmp_path):
    put_cars(server)
    (tmp_path / "cars/test").mkdir(parents=True)
    (tmp_path / "cars/test/0.tar.part").write_bytes(server.files[RESOLVE + "test/0.tar"][:100])
    run(server, "cars", tmp_path)
    assert (RESOLVE + "test/0.tar", "bytes=100-") in server.requests


@pytest.mark.parametrize("name", ["test/0.tar", "classnames.txt"])
def test_wrong_checksum_fails_only_that_file(server, tmp_path, name):
    put_cars(server)
    server.files[RESOLVE + name] = b"something else"
    with pytest.raises(StageFailed, match=name) as caught:
        run(server, "cars", tmp_path)
    assert list(caught.value.failures) == [name]
    assert "the published one" in str(caught.value)
    assert not (tmp_path / "cars" / name).exists()
    put_cars(server)
    assert run(server, "cars", tmp_path) == {
        "files": 1, "bytes": len(server.files[RESOLVE + name]), "there_already": 3,
    }  # fmt: skip


def test_archives_are_unpacked_into_the_layout(server, tmp_path):
    line = json.dumps({"image/key": "0001", "en": {"caption": ["a cat"]}}).encode()
    server.files["/google.github.io/crossmodal-3600/web-data/captions.zip"] = zip_of({"captions.jsonl": line})
    images = "/open-images-dataset.s3.amazonaws.com/crossmodal-3600/images.tgz"
    server.files[images] = tar_of({"./0001.jpg": b"cat"}, "w:gz")
    run(server, "xm3600", tmp_path)
    dataset = captions.load("xm3600", tmp_path / "xm3600")
    assert dataset.read_images(0, 1) == [b"cat"]
    record = json.loads((tmp_path / "xm3600/fetched.json").read_text())
    assert record["images.tgz"]["sha256"] == hashlib.sha256(server.files[images]).hexdigest()
    assert not list((tmp_path / "xm3600").glob("*.part"))
    assert run(server, "xm3600", tmp_path)["there_already"] == 2
    shutil.rmtree(tmp_path / "xm3600/images")
    assert run(server, "xm3600", tmp_path)["files"] == 1
    assert (tmp_path / "xm3600/images/0001.jpg").read_bytes() == b"cat"
    (tmp_path / "xm3600/captions.jsonl").unlink()  # unpacked into the dataset's folder itself
    assert run(server, "xm3600", tmp_path)["files"] == 1
    assert (tmp_path / "xm3600/captions.jsonl").read_bytes() == line


def test_gz_is_one_file_and_members_outside_the_folder_are_refused(server, tmp_path):
    base = "/raw.githubusercontent.com/multi30k/dataset/master/data/task1/"
    server.files[base + "image_splits/test_2016_flickr.txt"] = b"1.jpg\n"
    for lang in ("en", "de", "fr", "cs"):
        server.files[f"{base}raw/test_2016_flickr.{lang}.gz"] = gzip.compress(lang.encode())
    run(server, "multi30k", tmp_path)
    assert (tmp_path / "multi30k/test_2016_flickr.de").read_text() == "de"
    server.files["/google.github.io/crossmodal-3600/web-data/captions.zip"] = b"no zip"
    images = "/open-images-dataset.s3.amazonaws.com/crossmodal-3600/images.tgz"
    server.files[images] = tar_of({"../../evil.jpg": b"x"}, "w:gz")
    with pytest.raises(StageFailed) as caught:
        run(server, "xm3600", tmp_path)
    assert set(caught.value.failures) == {"captions.zip", "images.tgz"}
    assert not (tmp_path / "evil.jpg").exists()


@pytest.mark.parametrize("path", ["../evil.txt", "/tmp/evil.txt", "a/../../evil.txt", "a\0b"])
def test_listing_that_names_files_outside_of_the_folder_is_refused(server, tmp_path, path):
    put_cars(server)
    listing = json.loads(server.files[TREE])
    server.files[TREE] = json.dumps([*listing, {"type": "file", "path": path, "oid": "0" * 40}]).encode()
    with pytest.raises(StageFailed, match="is not a path below"):
        run(server, "cars", tmp_path / "data")
    assert not list(tmp_path.rglob("*evil*"))
    assert [name for name, _ in server.requests] == [TREE]


@pytest.mark.parametrize("listing", [b"", b"nul", b"{}", b'[{"path": 3}]', b'["x"]', b"[" * 100_000, b'[{"type": 1}]'])
def test_answer_that_is_no_listing_is_refused(server, tmp_path, listing):
    server.files[TREE] = listing
    if listing == b"{}":
        assert run(server, "cars", tmp_path)["files"] == 0
        return
    with pytest.raises(StageFailed, match="is not a list of files"):
        run(server, "cars", tmp_path)


def test_only_the_web_is_fetched(tmp_path):
    (tmp_path / "secret.json").write_text("[]")
    client = Client(user_agent="test", pause=lambda seconds: None)
    for url in (f"file://{tmp_path}/secret.json", "ftp://127.0.0.1:9/x", "data:,x"):
        with pytest.raises(Broken, match="only http:// and https:// are fetched"):
            client.read(url)


def test_babel_imagenet_labels_have_a_checksum(server, tmp_path):
    base = "/raw.githubusercontent.com/gregor-ge/Babel-ImageNet/main/data/"
    for name in ("babel_imagenet-298.json", "nllb_dist13b_prompts.json"):
        server.files[base + name] = b"{}"
    with pytest.raises(StageFailed, match="SHA-256"):
        run(server, "babel_imagenet", tmp_path)


def test_dataset_that_cannot_be_fetched_is_an_error(server, tmp_path):
    with pytest.raises(UserError, match="unknown dataset 'carz'; the catalog has"):
        run(server, "carz", tmp_path)
    with pytest.raises(UserError, match="hateful_memes has no source that a program may fetch from"):
        run(server, "hateful_memes", tmp_path)
    with pytest.raises(StageFailed, match="404"):
        run(server, "pets", tmp_path)


def test_folder_or_show_is_asked_for(capsys):
    assert main(["fetch", "dataset", "cars"]) == 2
    assert "--out is not set" in capsys.readouterr().err
