"""The manifest names every source with its date, size, fingerprint and licence; killed counting goes on."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages import finish, run_stage
from worldclip import metadata
from worldclip.config import Recipe, load_recipe
from worldclip.core.errors import UserError
from worldclip.core.execute import LocalExecutor
from worldclip.core.settings import to_toml

QUIET = LocalExecutor(workers=1, quiet=True)
NAMESPACES = '{"query": {"namespaces": {"0": {"*": ""}, "6": {"*": "Picha", "canonical": "File"}}}}'


def recipe(*codes: str, **config: Any) -> Recipe:
    return load_recipe(
        {
            "pool": {"path": "."},
            "balance": {"tail_fraction": 0.1},
            "languages": {"codes": list(codes)},
            "metadata": config,
        }
    )


def write_corpus(path: Path, *texts: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": list(texts)}), path)
    return path


def sources_of(run_dir: Path, lang: str) -> dict[str, dict[str, Any]]:
    records = json.loads((run_dir / "metadata/manifest.json").read_text())["sources"][lang]
    return {record["source"]: record for record in records}


def test_changed_licence_updates_manifest_and_rebuilds_only_its_language(tmp_path: Path) -> None:
    for lang, word in (("sw", "simba"), ("yo", "kìnnìún")):
        (tmp_path / f"{lang}.txt").write_text(f"{word}\n", encoding="utf-8")
    config = {"sources": ["list"], "lists": {lang: str(tmp_path / f"{lang}.txt") for lang in ("sw", "yo")}}
    assert run_stage("metadata", recipe("sw", "yo", **config), tmp_path / "run", QUIET)
    before = (tmp_path / "run/metadata/yo.parquet").stat().st_mtime_ns
    assert sources_of(tmp_path / "run", "sw")["list"]["licence"] == "not stated in the file"
    licensed = recipe("sw", "yo", **config, licences={"sw": "CC BY 4.0"})
    assert run_stage("metadata", licensed, tmp_path / "run", QUIET)
    named = sources_of(tmp_path / "run", "sw")["list"]
    assert (named["file"], named["size"], named["licence"]) == ("sw.txt", 6, "CC BY 4.0")
    assert len(named["modified"]) == len("2024-01-01")
    assert len(named["sha256"]) == 64
    assert (tmp_path / "run/metadata/yo.parquet").stat().st_mtime_ns == before


def test_own_corpus_has_its_own_licence_and_siteinfo_is_a_source(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "sw/corpus.parquet", "simba ni mnyama")
    (tmp_path / "sw/x-siteinfo-namespaces.json").write_text(NAMESPACES)
    (tmp_path / "views").mkdir()
    (tmp_path / "views/pageviews-1.gz").write_bytes(gzip.compress(b"sw Paka 5 0\nsw Picha:Paka.jpg 9 0\n"))
    config = {
        "wikipedia": {"sw": str(corpus)},
        "pageviews": str(tmp_path / "views"),
        "overrides": {"title_top_fraction": 1},
    }
    loaded = recipe("sw", sources=["unigram", "title"], **config, text_licences={"sw": "CC0 1.0"})
    finish("metadata", loaded, tmp_path / "run", QUIET)
    named = sources_of(tmp_path / "run", "sw")
    assert (named["wikipedia"]["file"], named["wikipedia"]["licence"]) == ("corpus.parquet", "CC0 1.0")
    assert (named["siteinfo"]["file"], named["siteinfo"]["size"]) == ("x-siteinfo-namespaces.json", len(NAMESPACES))
    assert named["siteinfo"]["modified"] == named["wikipedia"]["modified"]
    assert named["title"]["page_view_files"] == 1
    manifest = json.loads((tmp_path / "run/metadata/manifest.json").read_text())
    assert [file["file"] for file in manifest["pageviews"]] == ["pageviews-1.gz"]
    assert manifest["rules"]["sw"]["title"]["kept"] == 1


def test_licence_without_its_file_is_config_problem() -> None:
    with pytest.raises(UserError) as caught:
        recipe("sw", licences={"sw": "CC0 1.0"}, text_licences={"sw": "CC0 1.0"})
    assert [problem.split(" = ")[0] for problem in caught.value.problems] == [
        "metadata.licences.sw",
        "metadata.text_licences.sw",
    ]


KILLED = """
import os, signal, sys
from pathlib import Path
from worldclip import metadata
from worldclip.config import load_recipe
from worldclip.core.job import Run
from worldclip.recipe import sections_of

replace = os.replace

def die_after_a_marker(source, target):
    replace(source, target)
    if "done/ngrams" in str(target):
        os.kill(os.getpid(), signal.SIGKILL)

os.replace = die_after_a_marker
metadata.build(Run(dir=Path(sys.argv[2]), sections=sections_of(load_recipe(sys.argv[1]))))
"""


def test_kill_between_two_dumps_keeps_counts_of_the_first(tmp_path: Path) -> None:
    for number in (1, 2):
        write_corpus(tmp_path / f"dumps/sw/{number}.parquet", *["simba ni mnyama mkubwa"] * number)
    loaded = recipe(
        "sw", sources=["unigram", "bigram"], dumps=str(tmp_path / "dumps"), overrides={"unigram_top_fraction": 1}
    )
    (tmp_path / "recipe.toml").write_text(to_toml(loaded))
    command = [sys.executable, "-c", KILLED, str(tmp_path / "recipe.toml"), str(tmp_path / "run")]
    assert subprocess.run(command, env=os.environ, check=False).returncode == -9
    first = {path: path.stat().st_mtime_ns for path in (tmp_path / "run/metadata/ngrams").rglob("*.npy")}
    assert {path.parts[-3] for path in first} == {"1.parquet"}
    finish("metadata", loaded, tmp_path / "run", QUIET)
    assert {path: path.stat().st_mtime_ns for path in first} == first
    table = metadata.read_entries(tmp_path / "run", "sw").to_pydict()
    assert dict(zip(table["entry"], table["score"], strict=True))["simba"] == 3.0
