"""Keys that are taken down after a run was made: nothing of them is in what the same commands leave then.

Allowed are the files that hold every pair of the pool: RUN/pool, RUN/match/texts and dropped, the join of train.pool,
and in the folder of a check the hashes and the list of what it removed.
"""

import base64
import gzip
import io
import re
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from miniature import write_files
from pools import write_table
from tars import as_json, write_tar
from toy import TOY_WORDS, encode_png
from worldclip import curate
from worldclip.check import CheckConfig, check
from worldclip.cli import main
from worldclip.contracts import layout
from worldclip.core import artifacts
from worldclip.core.errors import UserError
from worldclip.export.embedded import open_kinds
from worldclip.plugins.browser import web_folder
from worldclip.plugins.publish.publish import publish
from worldclip.pool.stage import open_pool
from worldclip.tools import find_keys
from worldclip.tools.embed import embed
from worldclip.tools.estimate import estimate
from worldclip.tools.search import search

pytest.importorskip("torch")
TAKEN = ("takendown-3", "takendown-11", "takendown-17")
UNMATCHED = "takendown-11"
WORD = b"zqxvword"  # in the texts of these keys only
PINK = np.array([255, 0, 255], np.uint8)  # in their images only
ALLOWED = (
    "run/pool/",
    "run/metadata/",
    "run/match/texts/",
    "run/match/dropped/",
    "run/match/done/",
    "run/match/report.json",
    "run/train/join/images/",
    "check/pool/",
    "check/images/",
    "check/removed.parquet",
)
RECIPE = """
[pool]
path = "{folder}/pool"
{pool}
[languages]
codes = ["en"]
[metadata]
lists = {{ en = "{folder}/en.txt" }}
[balance]
tail_fraction = 1.0
[curate]
text_policy = "{policy}"
write = "{write}"
write_dropped = true
[train]
samples_seen = 64
global_batch_size = 16
warmup_samples = 16
device = "cpu"
{train}
[train.model]
preset = "tiny"
image_size = 32
vision_layers = 1
text_layers = 1
[train.tokenizer]
vocab_size = 120
"""


@dataclass(frozen=True)
class Case:
    """A pool, and how keys leave it."""

    is_tar: bool
    change: str
    """A key of [pool] that is set after the run was made."""
    train: str = ""
    policy: str = "all"


def name_of(number: int) -> str:
    name = f"takendown-{number}"
    return name if name in TAKEN else f"key-{number}"


def write_world(folder: Path, case: Case) -> None:
    """Write 40 pairs in two shards, the key lists, and the recipe."""
    colours, shapes = (part.split() for part in TOY_WORDS["en"])
    others = [key for key in map(name_of, range(40)) if key not in TAKEN]
    lists = {"en": [*colours, *shapes, "photo"], "denied": TAKEN, "valid": others}
    write_files(folder, {f"{name}.txt": "\n".join(lines) for name, lines in lists.items()})
    write_table(
        folder / "by_shard.parquet", {"key": [*TAKEN], "shard": [f"0.{'tar' if case.is_tar else 'parquet'}"] * 3}
    )
    for shard in range(2):
        rows = []
        for number in range(20 * shard, 20 * shard + 20):
            key = name_of(number)
            text = f"a photo of a {colours[number % 5]} {shapes[number % 4]} number {number}"
            pixels = np.random.default_rng(number).integers(0, 120, (32, 32, 3), dtype=np.uint8)
            image = encode_png(pixels)
            if key in TAKEN:
                text = f"{'this is the name' if key == UNMATCHED else text} {WORD.decode()}"
                image = encode_png(np.broadcast_to(PINK, (32, 32, 3)))
            rows.append({"key": key, "text": text, "is_safe": key not in TAKEN, "image": image})
        if case.is_tar:
            members = []
            for row in rows:
                record = as_json({"text": row["text"], "is_safe": row["is_safe"]})
                members += [(f"{row['key']}.png", row["image"]), (f"{row['key']}.json", record)]
            write_tar(folder / "pool" / f"{shard}.tar", members)
        else:
            columns = {name: [row[name] for row in rows] for name in rows[0]}
            write_table(folder / "pool" / f"{shard}.parquet", columns)
    options = "" if case.is_tar else 'key = "key"'
    write = "tars" if case.is_tar else "parquet"
    train = case.train.format(folder=folder)
    text = RECIPE.format(folder=folder, pool=options, policy=case.policy, write=write, train=train)
    (folder / "recipe.toml").write_text(text, "utf-8")


def do_all(folder: Path, model: Path, case: Case, *changes: str) -> None:
    """Run every command that writes what it read of the pool."""
    run = str(folder / "run")
    flags = [flag for change in changes for flag in ("--set", change)]
    recipe = [str(folder / "recipe.toml"), "--out", run]
    assert main(["run", *recipe, "--until", "curate", *flags]) == 0
    if changes or case.train:
        artifacts.remove(folder / "run/train")  # checkpoints of another list are refused
        assert main(["run", *recipe, "--until", "train", *flags]) == 0
    assert main(["explore", run, "--out", str(folder / "explorer")]) == 0
    check(open_pool(run), folder / "check", CheckConfig())
    embed(model, run, folder / "embedded", of=("images", "texts"), device="cpu")
    for data in ("list", "tars", "parquet") if case.is_tar else ("list",):
        publish.function(Path(run), "owner/name", data=data, dry_run=True)
        artifacts.remove(folder / "published" / data)
        shutil.copytree(layout.published(Path(run)), folder / "published" / data)
    web = folder / "web"
    artifacts.remove(web)
    web.mkdir()
    kinds = open_kinds(folder / "embedded")
    web_folder._write_pictures(web, kinds["images"], "fp32")
    web_folder._write_names(web, kinds["texts"], "fp32")


def pieces_of(path: Path) -> Iterator[bytes]:
    """Yield what a file holds, unpacked."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    if path.suffix == ".parquet":
        rows = pq.read_table(path).to_pylist()
        yield repr(rows).encode()
        for row in rows:
            values = [value.get("bytes") if isinstance(value, dict) else value for value in row.values()]
            yield from (value for value in values if isinstance(value, bytes))
        return
    yield content
    if path.suffix == ".tar":
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                yield member.name.encode()
                yield file.read() if file else b""
    for encoded in re.findall(rb"data:image/\w+;base64,([A-Za-z0-9+/=]+)", content):
        yield base64.b64decode(encoded)


def holds_taken(piece: bytes) -> bool:
    """Return whether a piece has a key or a text that was taken down, or is the image of one."""
    if b"takendown" in piece or WORD in piece:
        return True
    if not piece.startswith((b"\x89PNG", b"\xff\xd8", b"RIFF")):
        return False
    pixels = np.asarray(Image.open(io.BytesIO(piece)).convert("RGB"), np.int64)
    return bool((np.abs(pixels - PINK).sum(axis=-1) < 60).mean() > 0.2)


def files_with_taken(folder: Path) -> list[str]:
    """Return the files below a folder that hold something of a key that was taken down."""
    return [
        path.relative_to(folder).as_posix()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and any(map(holds_taken, pieces_of(path)))
    ]


def find_asked_keys(folder: Path) -> dict:
    """Return where the taken keys stand, and one that no pool has."""
    asked = folder / "asked.txt"
    asked.write_text("\n".join([*TAKEN, "never-there"]), "utf-8")
    return find_keys.find_keys(folder / "run", asked, [folder / "web", folder / "published"])


COMMANDS = ("run/curate/", "check/", "embedded/", "web/", "explorer/", "published/list/")
PLACES = (
    "run/curate", "run/report.html", "run/publish", "check/report.html", "check/valid_keys.parquet",
    "embedded/images", "embedded/texts", "explorer/data", "web", "published",
)  # fmt: skip
JOIN = '[train.pool]\npath = "{folder}/pool"'
CASES = {
    "denied": Case(True, 'pool.deny_keys=["{folder}/denied.txt"]'),
    "denied by shard": Case(False, 'pool.deny_keys=["{folder}/by_shard.parquet"]'),
    "not valid": Case(True, 'pool.valid_keys="{folder}/valid.txt"', policy="one"),
    "where": Case(True, 'pool.where=[["is_safe", "=", true]]'),
    "denied, train.pool": Case(True, 'pool.deny_keys=["{folder}/denied.txt"]', JOIN),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_keys_that_are_taken_down_leave_the_files_of_every_command(case, tmp_path, hugging_face):
    write_world(tmp_path, case)
    do_all(tmp_path, hugging_face, case)
    before = files_with_taken(tmp_path)
    found = find_asked_keys(tmp_path)
    assert found["states"] == {"in the pool": 3, "in older files": 0, "unknown": 1, "gone": 0}
    places = {Path(path).relative_to(tmp_path).as_posix() for path in found["places"]}
    assert places == {*PLACES, *(["run/train/join/places"] if case.train else [])}
    writers = [*COMMANDS, *(["run/train/join/places/"] if case.train else [])]
    assert [name for name in writers if not any(file.startswith(name) for file in before)] == []
    counted = sum(row["count"] for row in _counts(tmp_path / "run"))
    do_all(tmp_path, hugging_face, case, case.change.format(folder=tmp_path))
    inputs = ("pool/", "denied.txt", "by_shard.parquet", "asked.txt")
    after = [file for file in files_with_taken(tmp_path) if not file.startswith((*ALLOWED, *inputs))]
    assert after == []
    found = find_asked_keys(tmp_path)
    num_gone = 0 if case.change.startswith("pool.where") else 3
    assert found["states"] == {"in the pool": 0, "in older files": 0, "unknown": 4 - num_gone, "gone": num_gone}
    assert (found["places"], found["unread"], found["next"]) == ({}, {}, None)
    assert counted - sum(row["count"] for row in _counts(tmp_path / "run")) == 6  # photo, a colour, a shape of two
    assert not len(curate.Curator(tmp_path / "run").keep(list(TAKEN), 1)[0])
    total = estimate(tmp_path / "run")["candidates"][0]["total"]
    assert (total["pairs_matched"], total["expected_pairs"]) == (37, 37)
    for of in ("images", "texts"):
        hits = search(tmp_path / "embedded", [WORD.decode()], of=of, top=99, device="cpu", model=hugging_face)[0][
            "hits"
        ]
        assert len(hits) == 37
        assert not {hit["key"] for hit in hits} & {*TAKEN}


def _counts(run: Path) -> list[dict]:
    return [row for path in (run / "match/counts").glob("*.parquet") for row in pq.read_table(path).to_pylist()]


def test_readers_refuse_what_was_made_under_a_shorter_list(tmp_path, hugging_face, capfd, monkeypatch):
    """The list grows in place, and no stage runs again."""
    monkeypatch.setattr(web_folder, "problems", list)  # transformers.js need not be there
    case = CASES["denied"]
    write_world(tmp_path, case)
    (tmp_path / "denied.txt").write_text("key-1\n", "utf-8")
    run, embedded = tmp_path / "run", tmp_path / "embedded"
    change = case.change.format(folder=tmp_path)
    assert main(["run", str(tmp_path / "recipe.toml"), "--out", str(run), "--until", "curate", "--set", change]) == 0
    embed(hugging_face, run, embedded, of=("images", "texts"), device="cpu")
    (tmp_path / "denied.txt").write_text("\n".join(["key-1", *TAKEN]), "utf-8")
    capfd.readouterr()
    for command in (
        ["estimate", str(run)],
        ["explore", str(run), "--out", str(tmp_path / "explorer")],
        ["publish", str(run), "owner/name", "--dry-run"],
        ["embed", str(hugging_face), str(run), "--out", str(tmp_path / "other")],
        ["search", str(embedded), "red"],
        ["serve", str(hugging_face), str(embedded)],
        ["export", str(hugging_face), "--formats", "web", "--embedded", str(embedded), "--out", str(tmp_path / "page")],
        ["train", str(run)],
        ["train", str(run), "--dry-run"],
    ):
        assert main(command) == 2, command
        assert "is out of date: " in capfd.readouterr().err, command
    with pytest.raises(UserError, match="is out of date"):
        curate.Curator(run)
    assert main(["pool", "check", str(run), "--out", str(tmp_path / "check")]) == 0
    assert not {*TAKEN} & {*pq.read_table(tmp_path / "check/valid_keys.parquet")["key"].to_pylist()}
