"""Bad pairs and bad shards in every format, through the stages: nothing is lost, and all is counted."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from plain_recipe import LISTS, make_recipe, run_stages, write_metadata
from pools import write_lines, write_table
from stages import QUIET, context
from tars import sample, write_tar
from worldclip import pool
from worldclip.cli import main
from worldclip.contracts import schemas
from worldclip.core import artifacts
from worldclip.core.errors import StageFailed
from worldclip.core.settings import to_toml
from worldclip.report import write_report
from worldclip.tools.dedup import dedup
from worldclip.tools.explain_text import key_to_text
from worldclip.tools.inspect_run import inspect_key

GOOD = "the old red house on the mountain by the sea"
SURROGATE = b"\xed\xa0\xbd"  # half of a pair, as UTF-8 must not hold it
LONG = (GOOD + " ") * 220_000  # 10 MB

# (key or None, text as bytes or None, what becomes of it)
ROWS: list[tuple[str | None, bytes | None, str]] = [
    ("good", GOOD.encode(), "matched"),
    ("nul", f"the old\0 red house {GOOD}\0".encode(), "matched"),
    ("only nul", b"\0\0 ", "no_text"),
    ("long", LONG.encode(), "matched"),
    ("surrogate", GOOD.encode() + SURROGATE, "bad_pair"),
    ("empty", b"", "no_text"),
    ("null", None, "no_text"),
    (None, GOOD.encode(), "bad_pair"),
    ("good", GOOD.encode(), "duplicate"),
    ("no match", b"unmatched words everywhere without any listed thing", "no_match"),
]


RECORDS = [
    {"uid": key, "text": None if text is None else text.decode("utf-8", "surrogatepass")} for key, text, _ in ROWS
]


def as_parquet(folder: Path) -> Path:
    texts = pa.array([text for _, text, _ in ROWS], pa.binary()).view(pa.string())  # not checked, as careless writers
    return write_table(folder / "0.parquet", {"uid": [key for key, *_ in ROWS], "text": texts})


def as_lines(folder: Path) -> Path:
    return write_lines(folder / "0.jsonl", RECORDS)


def as_packed_lines(folder: Path) -> Path:
    plain = as_lines(folder)
    content = plain.read_bytes()
    half = len(content) // 2
    plain.write_bytes(gzip.compress(content[:half]) + gzip.compress(content[half:]))  # two members
    return plain.rename(folder / "0.jsonl.gz")


def as_tar(folder: Path) -> Path:
    members = [member for number, record in enumerate(RECORDS) for member in sample(f"{number:05}", None, record)]
    return write_tar(folder / "0.tar", members)


WRITERS: list[Callable[[Path], Path]] = [as_parquet, as_lines, as_packed_lines, as_tar]


def recipe_of(folder: Path | str, write: Callable | None = None):
    prefix = "json:" if write is as_tar else ""
    columns = {"key": f"{prefix}uid", "texts": [f"{prefix}text"]}
    return make_recipe(folder, pool=columns, balance={"tail_fraction": 1.0})


@pytest.mark.parametrize("write", WRITERS)
def test_bad_pairs_of_every_format_drop_alone_and_are_counted(tmp_path, write):
    write(tmp_path / "pool")
    write_metadata(tmp_path / "run", LISTS)
    recipe = recipe_of(tmp_path / "pool", write)
    report = run_stages(recipe, tmp_path / "run")
    found: Counter[str] = Counter()
    for row in report["match"]["texts"].values():
        found.update(row)
    assert found == Counter(what for *_, what in ROWS)
    total = report["curate"]["total"]
    assert total["pairs_in"] == len(ROWS)
    assert total["pairs_out"] == 3
    reasons = sorted(sample["reason"] for sample in report["match"]["bad"])
    assert len(reasons) == 2
    assert any("uid is N" in reason or "uid is null" in reason for reason in reasons)
    shard = pool.shards(context(recipe, tmp_path / "run"))[0]
    kept = artifacts.read_table(tmp_path / "run/curate" / f"{shard.name}.parquet", schemas.CURATED).to_pylist()
    assert [row["text"] for row in kept] == [ROWS[0][1].decode(), ROWS[1][1].decode(), LONG]
    counts = dedup(recipe.pool, tmp_path / "dedup", executor=QUIET)
    assert (counts["no_identity"], counts["repeated_in_shard"]) == (1, 1)


def test_unreadable_pairs_are_named_with_the_reason_and_the_remedy(tmp_path, capsys):
    text = "the cat sat on the mountain by the water"
    write_tar(tmp_path / "pool/0.tar", [*sample("a", text), ("b.txt", "caf\xe9".encode("latin-1")), ("c.json", b"[]")])
    write_metadata(tmp_path / "run", LISTS)
    report = run_stages(make_recipe(tmp_path / "pool"), tmp_path / "run")["match"]
    assert report["texts"]["und"]["bad_pair"] == 2
    not_utf8, remedy = "its .txt is not UTF-8", "texts must be UTF-8 (convert Latin-1)"
    said = capsys.readouterr().err
    assert not_utf8 in said
    assert remedy in said
    write_report(tmp_path / "run")
    page = (tmp_path / "run/report.html").read_text("utf-8")
    assert f"{not_utf8}</td>" in page
    assert remedy in page
    assert f"b in 0.tar: dropped: unreadable, {not_utf8}; {remedy}" in key_to_text(inspect_key(tmp_path / "run", "b"))


@pytest.mark.parametrize("write", WRITERS)
def test_a_cut_shard_of_every_format_fails_alone_and_alone_is_tried_again(tmp_path, write, capfd):
    path = write(tmp_path / "pool")
    good = path.with_name(path.name.replace("0.", "1.", 1))
    good.write_bytes(path.read_bytes())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if write is not as_lines else b'{"other": 1}\n' * 3)
    write_metadata(tmp_path / "run", LISTS)
    recipe = recipe_of(tmp_path / "pool", write)
    if write is as_lines:  # lines of another schema are bad pairs of their own
        report = run_stages(recipe, tmp_path / "run", stages="pool match")["match"]
        assert report["texts"]["und"]["bad_pair"] == 3 + 2
        return
    (tmp_path / "run/recipe.toml").write_text(to_toml(recipe), encoding="utf-8")
    assert main(["run", str(tmp_path / "run"), "--until", "pool", "--workers", "1"]) == 1
    said = capfd.readouterr().err
    assert all(words in said for words in ("1 shard(s) failed", path.name, "only they are tried again"))
    with pytest.raises(StageFailed) as failed:
        run_stages(recipe, tmp_path / "run", stages="pool")
    assert list(failed.value.failures) == [path.name]
    assert not (tmp_path / "run/pool/manifest.json").exists()
    done = tmp_path / "run/pool/index" / f"{good.name}.parquet"
    stamp = done.stat().st_mtime_ns
    path.write_bytes(whole)
    run_stages(recipe, tmp_path / "run", stages="pool")
    assert done.stat().st_mtime_ns == stamp
