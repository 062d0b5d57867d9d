"""`worldclip pool pack`: image files of every usual arrangement become tars that a recipe reads."""

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from killed import modified
from miniature import write_files
from pools import texts_of
from stages import QUIET
from toy import encode_png
from worldclip import pool
from worldclip.cli import main
from worldclip.core.errors import UserError
from worldclip.plugins.pack_files import REASONS, pack_files, read_pairs
from worldclip.pool.config import PoolConfig
from worldclip.tools.draft_recipe import draft


def picture(number: int) -> bytes:
    return encode_png(np.full((8, 8, 3), number * 20, np.uint8))


def write_images(folder: Path, *names: str) -> None:
    write_files(folder, {name: picture(number) for number, name in enumerate(names)})


TEXTS = {"1.png": "a dog", "2.png": "苹果", "b/3.png": "a cat"}


def conversation(file: str, text: str) -> dict[str, Any]:
    turns = [("human", "<image>\nWhat is it?"), ("gpt", text), ("human", "Sure?"), ("gpt", "Yes.")]
    return {"image": file, "conversations": [{"from": speaker, "value": value} for speaker, value in turns]}


IMAGES = [{"id": number, "file_name": file} for number, file in enumerate(TEXTS)]
ANNOTATIONS = [{"id": 7, "image_id": number, "caption": text} for number, text in enumerate(TEXTS.values())]
ARRANGEMENTS = {  # files next to the folder of the images, or in it; captions.json is named on the command line
    "files of img2dataset": {
        f"photos/{file.removesuffix('png')}{suffix}": content
        for file, text in TEXTS.items()
        for suffix, content in (("txt", text), ("json", '{"url": "http://a"}'))
    },
    "imagefolder, JSONL": {
        "photos/metadata.jsonl": "\n".join(
            json.dumps({"file_name": file, "text": text}) for file, text in TEXTS.items()
        )
    },
    "imagefolder, CSV": {"photos/metadata.csv": "\n".join(["file_name,caption", *map(",".join, TEXTS.items())])},
    "CSV of a spreadsheet": {"photos/metadata.csv": "\n".join(["file_name;text", *map(";".join, TEXTS.items())])},
    "COCO": {"captions.json": json.dumps({"images": IMAGES, "annotations": ANNOTATIONS})},
    "LLaVA": {"captions.json": json.dumps([conversation(*item) for item in TEXTS.items()])},
}


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_every_arrangement_gives_the_same_texts_and_a_pool_that_init_reads(name, tmp_path):
    write_images(tmp_path / "photos", *TEXTS)
    write_files(tmp_path, ARRANGEMENTS[name])
    captions = tmp_path / "captions.json" if "captions.json" in ARRANGEMENTS[name] else None
    out = tmp_path / "tars"
    report = pack_files(tmp_path / "photos", out, captions, samples_per_tar=2, executor=QUIET)
    assert (report["pairs"], report["texts"], {report[name] for name in REASONS}) == (3, 3, {0})
    config = PoolConfig(path=str(out))
    texts = [texts_of(shard, config) for shard in pool.list_shards(config)]
    assert [text for read in texts for text in read.text.to_pylist()] == [*TEXTS.values()]
    assert [key for read in texts for key in read.key.to_pylist()] == [f"{number:09}" for number in range(3)]
    assert len(pool.read_shard(pool.list_shards(config)[0], config).images) == 2
    assert draft(str(out))["has_images"]


def write_captions(folder: Path, *rows: object) -> Path:
    path = folder / "captions.json"
    path.write_text(json.dumps(rows))
    return path


def test_several_texts_of_an_image_are_kept_for_all_in_the_json(tmp_path):
    write_images(tmp_path / "photos", "a.png", "b.png")
    rows = [{"file_name": "./b.png", "text": "", "caption": "four"}, {"file_name": "a.png", "captions": ["one", "", 3]}]
    rows += [{"file_name": file, "captions": [text]} for file, text in (("./a.png", "two"), (".//a.png", "three"))]
    out = tmp_path / "tars"
    pack_files(tmp_path / "photos", out, write_captions(tmp_path, *rows), samples_per_tar=1, executor=QUIET)
    members = []
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as tar:
            members += [(member.name, json.load(tar.extractfile(member))) for member in tar if "json" in member.name]
    texts = {"a.png": ["one", "two", "three"], "b.png": ["four"]}
    expected = [{"file": file, "texts": of_file} for file, of_file in texts.items()]
    assert members == [(f"{number:09}.json", record) for number, record in enumerate(expected)]


def test_names_and_captions_that_are_not_usable_are_counted_by_reason(tmp_path):
    write_images(tmp_path / "photos", "a.png", "b.png")
    (tmp_path / "secret.png").write_bytes(picture(9))
    files: dict[object, str] = {
        "a.png": "a dog",
        "../secret.png": "out of the folder",
        str(tmp_path / "secret.png"): "absolute",
        7: "no name",
        "captions.json": "not an image",
        "gone.png": "no such file",
        "b.png": "  ",
    }
    rows = [{"file_name": file, "text": text} for file, text in [*files.items(), ("b.png", "\ud800")]]
    pairs, counts = read_pairs(tmp_path / "photos", write_captions(tmp_path, *rows))
    assert [pair.file for pair in pairs] == ["a.png"]
    reasons = {"no_image": 1, "no_text": 1, "not_unicode": 1, "unsafe_name": 3, "not_an_image": 1}
    assert counts == {"bad_record": 0, **reasons}


COCO = {
    "images": [{"id": 1, "file_name": "a.png"}, {"id": 2}],
    "annotations": [{"image_id": 1, "caption": "a dog"}, {"image_id": 1}],
}
LLAVA = [{"image": "a.png", "conversations": [{"from": "gpt", "value": "a dog"}]}, {"conversations": ["a"]}, 7]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c.csv", "file_name,text\na.png,a dog\na.png,a dog, a cat\na.png\n"),
        ("coco.json", json.dumps(COCO)),
        ("llava.json", json.dumps(LLAVA)),
    ],
)
def test_records_of_another_form_are_counted_and_the_others_packed(name, content, tmp_path):
    write_images(tmp_path / "photos", "a.png")
    (tmp_path / name).write_text(content)
    pairs, counts = read_pairs(tmp_path / "photos", tmp_path / name)
    assert [(pair.file, pair.texts) for pair in pairs] == [("a.png", ("a dog",))]
    assert counts["bad_record"] == 2


def test_a_file_whose_name_is_not_utf_8_is_left_out(tmp_path):
    folder = tmp_path / "photos"
    write_images(folder, "1.png", "2.png")
    write_files(folder, {"1.txt": "a dog", "2.txt": "a cat"})
    for suffix in (".png", ".txt"):
        (folder / f"2{suffix}").rename(folder / f"\udcff{suffix}")
    report = pack_files(folder, tmp_path / "out", executor=QUIET)
    assert (report["pairs"], report["not_unicode"]) == (1, 1)


def test_a_file_without_captions_is_named_with_what_is_read(tmp_path):
    write_images(tmp_path / "photos", "a.png")
    captions = tmp_path / "captions.json"
    for content, problem in (
        ("[1, 2]", "captions are .txt files"),
        ('{"a": 1}', "holds no captions that are known"),
        ('{"images": [{}], "annotations": []}', "holds no captions that are known"),
        ('{"images": 1, "annotations": []}', "TypeError"),
        ("[" * 100_000, "RecursionError"),
    ):
        captions.write_text(content)
        with pytest.raises(UserError, match=problem):
            pack_files(tmp_path / "photos", tmp_path / "tars", captions, executor=QUIET)
    with pytest.raises(UserError, match=r"gives no pair \(no_text 1\)"):
        pack_files(tmp_path / "photos", tmp_path / "tars", executor=QUIET)
    assert not (tmp_path / "tars").exists()


def test_a_second_call_writes_only_what_changed_and_files_that_are_no_images_are_named(tmp_path, monkeypatch, capsys):
    write_images(tmp_path / "photos", *TEXTS, "d.HEIC")
    names = {**{file.replace("png", "txt"): text for file, text in TEXTS.items()}, "d.txt": "x", "b.mov": "", ".DS": ""}
    write_files(tmp_path / "photos", names)
    out = tmp_path / "tars"

    def pack(samples_per_tar: int, folder: Path = tmp_path / "photos") -> dict[str, bytes]:
        words = ["pool", "pack", str(folder), "--out", str(out)]
        assert main([*words, "--samples-per-tar", str(samples_per_tar)]) == 0
        return {path.name: path.read_bytes() for path in out.glob("*.tar")}

    before = pack(1)
    said = capsys.readouterr()
    assert "left out 1 .mov\n" in said.err
    assert "4 pairs" in said.out
    times = modified(out, "*.tar")
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        assert pack(1, Path("photos")) == before
    assert modified(out, "*.tar") == times
    in_pairs = pack(2)
    assert in_pairs.keys() == {"000000.tar", "000001.tar"}
    shutil.rmtree(out)
    assert pack(2) == in_pairs
    for file in ("1.png", "1.txt"):
        other = b"x" * (tmp_path / "photos" / file).stat().st_size
        write_files(tmp_path / "photos", {file: other})
        assert other in pack(1)["000000.tar"]
