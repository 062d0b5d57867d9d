"""Whatever is wrong with a source: a clear message, the other languages finish, a second call does only what failed."""

from __future__ import annotations

import bz2
import errno
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages import finish
from worldclip import metadata
from worldclip.config import Recipe, load_recipe
from worldclip.core.errors import StageFailed
from worldclip.core.execute import LocalExecutor
from worldclip.metadata import ngrams

QUIET = LocalExecutor(workers=1, quiet=True)
XML = (
    '<mediawiki><siteinfo><namespaces><namespace key="0"/></namespaces></siteinfo><page><title>Simba</title><ns>0</ns>'
    "<revision><text>simba ni mnyama mkubwa</text></revision></page></mediawiki>"
)
BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
EXTERNAL = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
CIRRUS = '{"index": {}}\n{"title": "Simba", "text": "simba ni mnyama mkubwa", "namespace": 0}\n'
TAB = "# Wordnet\tswh\tu\tl\n1-n\tswh:lemma\tsimba\n"
LMF = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<!DOCTYPE LexicalResource SYSTEM "http://globalwordnet.github.io/schemas/WN-LMF-1.0.dtd">\n'
    '<LexicalResource xmlns:dc="http://purl.org/dc/elements/1.1/"><Lexicon id="x" label="X" language="sw" email="a@b.c"'
    ' license="l" version="1"><LexicalEntry id="x-1"><Lemma writtenForm="simba" partOfSpeech="n"/><Sense id="x-s"'
    ' synset="x-2"/></LexicalEntry><Synset id="x-2" ili="" partOfSpeech="n"/></Lexicon></LexicalResource>\n'
)
LMF_WITH_ENTITIES = LMF.replace('.dtd">', '.dtd" [<!ENTITY a "x">]>')


def parquet(column: str, values: list[Any]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({column: values}), sink)
    return sink.getvalue().to_pybytes()


# What is wrong: (kind of source, name of the file, its bad bytes, its good bytes, what the message says).
BAD: dict[str, tuple[str, str, bytes, bytes, str]] = {
    "truncated bz2": ("wikipedia", "x.xml.bz2", bz2.compress(XML.encode())[:-9], bz2.compress(XML.encode()), "ends in"),
    "truncated gz": (
        "wikipedia", "x.json.gz", gzip.compress(CIRRUS.encode())[:-9], gzip.compress(CIRRUS.encode()), "ends in",
    ),
    "broken XML": ("wikipedia", "x.xml", XML.replace("</title>", "</titel>").encode(), XML.encode(), "broken XML"),
    "billion laughs": ("wikipedia", "x.xml", (BOMB + XML).encode(), XML.encode(), "document type or entities"),
    "external entity": ("wikipedia", "x.xml", (EXTERNAL + XML).encode(), XML.encode(), "document type or entities"),
    "broken JSON": ("wikipedia", "x.json", b'{"title": "x', CIRRUS.encode(), "line 1: invalid JSON"),
    "wrong columns": (
        "wikipedia", "x.parquet", parquet("body", ["x"]), parquet("text", ["simba ni"]), "no string column `text`",
    ),
    "no words": ("wikipedia", "x.parquet", parquet("text", ["..."]), parquet("text", ["simba"]), "no entry of sw from"),
    "wordnet without lemmas": ("wordnets", "x.tab", b"# X\tswh\tu\tl\n", TAB.encode(), "no lemma line"),
    "wordnet of another language": (
        "wordnets", "x.tab", TAB.replace("swh", "dan").encode(), TAB.encode(), r"WordNet of da .*not of sw",
    ),
    "truncated wordnet": (
        "wordnets", "x.tab.gz", gzip.compress(TAB.encode())[:-9], gzip.compress(TAB.encode()), "cannot be read",
    ),
    "truncated WN-LMF": ("wordnets", "x.xml", LMF.encode()[:-40], LMF.encode(), "not a whole WN-LMF file"),
    "WN-LMF with entities": ("wordnets", "x.xml", LMF_WITH_ENTITIES.encode(), LMF.encode(), "XML entities"),
    "list that is not UTF-8": ("lists", "x.txt", b"simba\n\xff\xfe\n", b"simba\n", "line 2: not UTF-8"),
    "score that is no number": ("lists", "x.txt", b"simba\tmany\n", b"simba\t1\n", "line 1: score 'many'"),
    "score that is not a number": ("lists", "x.txt", b"simba\tnan\n", b"simba\t1\n", "line 1: score 'nan'"),
    "JSON list of numbers": ("lists", "x.json", b"[1]", b'["simba"]', "not a JSON array of strings"),
}  # fmt: skip


def recipe(folder: Path, kind: str, path: Path, **more: Any) -> Recipe:
    """Swahili from the bad source alone, German from a list and from dumps, where the source is a dump."""
    config: dict[str, Any] = {
        "sources": ["wordnet", "unigram", "bigram", "title", "list"],
        "allow_missing": ["unigram", "bigram", "title"],
        "lists": {"de": str(folder / "de.txt")},
        "overrides": {"unigram_top_fraction": 1, "title_top_fraction": 1},
        **more,
    }
    config[kind] = {**config.get(kind, {}), "sw": str(path)}
    return load_recipe(
        {
            "pool": {"path": "."},
            "balance": {"tail_fraction": 0.1},
            "languages": {"codes": ["de", "sw"]},
            "metadata": config,
        }
    )


def check(folder: Path, loaded: Recipe, message: str, repair: Callable[[], object]) -> list[str]:
    """Fails for Swahili alone with the message; after the repair only Swahili is built.  Returns its entries."""
    run_dir = folder / "run"
    with pytest.raises(StageFailed, match=message) as caught:
        finish("metadata", loaded, run_dir, QUIET)
    assert list(caught.value.failures) == ["sw"]
    assert not (run_dir / "metadata/manifest.json").exists()
    assert not (run_dir / "metadata/sw.parquet").exists()
    before = (run_dir / "metadata/de.parquet").stat().st_mtime_ns
    repair()
    finish("metadata", loaded, run_dir, QUIET)
    assert (run_dir / "metadata/de.parquet").stat().st_mtime_ns == before
    assert metadata.read_entries(run_dir, "de")["entry"].to_pylist() == ["Katze"]
    return metadata.read_entries(run_dir, "sw")["entry"].to_pylist()


@pytest.mark.parametrize("case", BAD)
def test_bad_source_fails_its_language_alone(case: str, tmp_path: Path) -> None:
    kind, name, bad, good, message = BAD[case]
    if "LMF" in case:
        pytest.importorskip("wn")
    (tmp_path / "de.txt").write_text("Katze\n")
    (tmp_path / name).write_bytes(bad)
    loaded = recipe(tmp_path, kind, tmp_path / name)
    entries = check(tmp_path, loaded, message, lambda: (tmp_path / name).write_bytes(good))
    assert "simba" in entries


def test_bad_page_view_lines_are_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    lines = [b"sw Simba 5 0", b"sw Paka", b"sw Paka 4 0", b"sw Paka%FF 9 0", b"sw Duma many 0", b"sw a b 4 0", b"\xff"]
    (tmp_path / "views").mkdir()
    (tmp_path / "views/pageviews-1.gz").write_bytes(gzip.compress(b"\n".join(lines) + b"\n"))
    (tmp_path / "de.txt").write_text("Katze\n")
    (tmp_path / "x.parquet").write_bytes(parquet("text", ["simba"]))
    loaded = recipe(tmp_path, "wikipedia", tmp_path / "x.parquet", pageviews=str(tmp_path / "views"))
    finish("metadata", loaded, tmp_path / "run", QUIET)
    assert metadata.read_entries(tmp_path / "run", "sw")["entry"].to_pylist() == ["simba", "Simba", "Paka"]
    done = (tmp_path / "run/metadata/done/views/pageviews-1.gz.json").read_text()
    assert '"fields": 3' in done
    assert '"views": 1' in done
    assert '"title": 1' in done


def test_full_disk_while_writing_counts_stops_stage_and_keeps_finished_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk would fail every language alike, so that the stage ends at once, with what it was writing."""
    for wiki in ("de", "sw"):
        (tmp_path / "dumps" / wiki).mkdir(parents=True)
        (tmp_path / "dumps" / wiki / "x.parquet").write_bytes(parquet("text", [f"neno {wiki}"]))
    loaded = load_recipe(
        {
            "pool": {"path": "."},
            "balance": {"tail_fraction": 0.1},
            "languages": {"codes": ["de", "sw"]},
            "metadata": {"sources": ["unigram"], "dumps": str(tmp_path / "dumps")},
        }
    )
    open_writer = ngrams.BigramWriter.__init__

    def open_on_a_full_disk(self: ngrams.BigramWriter, run: Path) -> None:
        open_writer(self, run)
        if "sw" in run.parts:
            self.file = open("/dev/full", "wb")  # noqa: SIM115  closed by the writer

    monkeypatch.setattr(ngrams.BigramWriter, "__init__", open_on_a_full_disk)
    with pytest.raises(OSError, match="No space left on device") as caught:
        finish("metadata", loaded, tmp_path / "run", QUIET)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "/dev/full")
    counted = {path: path.stat().st_mtime_ns for path in (tmp_path / "run/metadata/ngrams/de").rglob("*.npy")}
    assert counted
    monkeypatch.undo()
    finish("metadata", loaded, tmp_path / "run", QUIET)
    assert {path: path.stat().st_mtime_ns for path in counted} == counted
    assert metadata.read_entries(tmp_path / "run", "sw")["entry"].to_pylist() == ["neno"]
