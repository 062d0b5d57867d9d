"""What `fetch dataset` brings from the authors' addresses, with what it leaves to a person, is what evaluate reads."""

from __future__ import annotations

import csv
import gzip
import io
import urllib.parse
import zipfile
from pathlib import Path

import pytest

from served import Server, server
from tars import tar_of
from upstream import files_of, is_image, write_miniature
from worldclip.cli import main
from worldclip.evaluate import catalog, datasets
from worldclip.evaluate.config import EvaluateConfig
from worldclip.tools import fetch_dataset as fetch

__all__ = ["server"]  # a fixture
with open(Path(catalog.__file__).with_name("sources.csv"), encoding="utf-8", newline="") as table:
    SOURCES = list(csv.DictReader(table))

ANY_CAPTIONS = b"one\ntwo\n"


def packed(name: str, files: dict[str, bytes]) -> bytes:
    """An archive by the ending of its name."""
    if name.endswith(".zip"):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for path, data in files.items():
                archive.writestr(path, data)
        return buffer.getvalue()
    if name.endswith(".gz"):
        return gzip.compress(files.get(name.removesuffix(".gz"), ANY_CAPTIONS))
    return tar_of(files, "w:gz" if name.endswith(".tgz") else "w")


def serve(server: Server, name: str) -> None:
    """The miniature's files at the addresses of sources.csv; captions in further languages are all alike."""
    files = {path: text.encode() for path, text in files_of(name).items() if isinstance(text, str)}
    rows = [row for row in SOURCES if row["dataset"] == name]
    plain = {row["path"] for row in rows if not row["unpack"]}
    other_language = next((files[path] for path in files if path.endswith(".jsonl")), ANY_CAPTIONS)
    for row in rows:
        if row["unpack"] == "":
            contents = files.get(row["path"], other_language)
        elif row["unpack"] == ".":
            contents = packed(
                row["path"], {path: data for path, data in files.items() if path not in plain and not is_image(path)}
            )
        else:
            below = {
                path.partition("/")[2]: data for path, data in files.items() if path.startswith(f"{row['unpack']}/")
            }
            contents = packed(row["path"], below)
        url = urllib.parse.urlsplit(row["url"])
        server.files[f"/{url.netloc}{url.path}"] = contents


def test_command_names_what_must_be_fetched_by_hand(server, tmp_path, capsys):
    serve(server, "multi30k")
    assert main(["fetch", "dataset", "multi30k", "--out", str(tmp_path), "--mirror", server.url]) == 0
    output = capsys.readouterr()
    assert "multi30k: 5 files" in output.out
    assert "to fetch by hand: images/: Flickr30k's, sent on request" in output.err


@pytest.mark.parametrize(
    "name", [name for name in dict.fromkeys(row["dataset"] for row in SOURCES) if name != "babel_imagenet"]
)
def test_fetched_files_load(name, server, tmp_path):
    serve(server, name)
    counts = fetch.fetch_dataset(name, tmp_path, mirror=server.url, pause=lambda seconds: None)
    assert counts["files"] == len([row for row in SOURCES if row["dataset"] == name])
    if datasets.CATALOG[name].by_hand.startswith("images/"):
        for path, word in files_of(name).items():
            if is_image(path):
                (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / name / path).write_text(word)
    config = EvaluateConfig(datasets=(name,), data=str(tmp_path))
    dataset = datasets.load(name, config, tmp_path)
    write_miniature(name, tmp_path / "whole")
    whole = datasets.load(name, EvaluateConfig(datasets=(name,), data=str(tmp_path / "whole")), tmp_path)
    assert dataset.image_keys == whole.image_keys
    assert dataset.read_images(0, 2) == whole.read_images(0, 2)
    assert set(dataset.languages) >= set(whole.languages)
    if datasets.CATALOG[name].layout == "lines":  # a file of sources.csv for each language, and none mean the same
        assert len(dataset.languages) == int(datasets.CATALOG[name].languages)
