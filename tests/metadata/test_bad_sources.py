"""Whatever is wrong with a source: a clear message, the other languages finish, a second call does only what failed."""

from __future__ import annotations

import errno
import gzip
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from entry_lists import build, recipe, words, write_lists, write_texts, written_at
from worldclip.core.errors import StageFailed
from worldclip.metadata import ngrams
from worldclip.metadata.ngrams import counter

TAB = "# Wordnet\tswh\tu\tl\n1-n\tswh:lemma\tsimba\n"
LMF = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<!DOCTYPE LexicalResource SYSTEM "http://globalwordnet.github.io/schemas/WN-LMF-1.0.dtd">\n'
    '<LexicalResource xmlns:dc="http://purl.org/dc/elements/1.1/"><Lexicon id="x" label="X" language="sw" email="a@b.c"'
    ' license="l" version="1"><LexicalEntry id="x-1"><Lemma writtenForm="simba" partOfSpeech="n"/><Sense id="x-s"'
    ' synset="x-2"/></LexicalEntry><Synset id="x-2" ili="" partOfSpeech="n"/></Lexicon></LexicalResource>\n'
)
# One per kind of file: (key of [metadata], name of the file, its bad bytes, its good bytes, what the message says).
# What else can be wrong with each kind, and a broken dump: test_wikipedia.py, test_wordnet_lmf.py, test_sources.py,
# test_titles.py, test_counting.py.
BAD = {
    "wordnet": ("wordnets", "x.tab.gz", gzip.compress(TAB.encode())[:-9], gzip.compress(TAB.encode()), "not be read"),
    "WN-LMF": ("wordnets", "x.xml", LMF.encode()[:-40], LMF.encode(), "not a whole WN-LMF file"),
    "list": ("lists", "x.txt", b"simba\n\xff\xfe\n", b"simba\n", "line 2: not UTF-8"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_source_fails_its_language_alone(case: str, tmp_path: Path) -> None:
    key, name, bad, good, message = BAD[case]
    if case == "WN-LMF":
        pytest.importorskip("wn")
    (tmp_path / name).write_bytes(bad)
    config = {"lists": write_lists(tmp_path, de=["Katze"])}
    config[key] = {**config.get(key, {}), "sw": str(tmp_path / name)}
    loaded = recipe(
        ["de", "sw"],
        sources=["wordnet", "list"],
        **config,
    )
    run_dir = tmp_path / "run"
    with pytest.raises(StageFailed, match=message) as caught:
        build(loaded, run_dir)
    assert list(caught.value.failures) == ["sw"]
    assert str(tmp_path / name) in caught.value.failures["sw"]
    assert not (run_dir / "metadata/manifest.json").exists()
    before = written_at(run_dir, "*.parquet")
    assert [path.stem for path in before] == ["de"]
    (tmp_path / name).write_bytes(good)
    build(loaded, run_dir)
    assert written_at(run_dir, "*.parquet").items() >= before.items()
    assert words(run_dir, "de") == ["Katze"]
    assert "simba" in words(run_dir, "sw")


def test_full_disk_while_writing_counts_stops_stage_and_keeps_finished_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk would fail every language alike, so that the stage ends at once, with what it was writing."""
    for wiki in ("de", "sw"):
        write_texts(tmp_path / "dumps" / wiki / "x.parquet", f"neno {wiki}")
    loaded = recipe(["de", "sw"], sources=["unigram"], dumps=str(tmp_path / "dumps"))
    write_run = counter.write_run

    def write_on_a_full_disk(path: Path, file: BinaryIO, *run: Any) -> ngrams.Run:
        with open("/dev/full", "wb") as full:
            return write_run(path, full if "sw" in path.parts else file, *run)

    monkeypatch.setattr(counter, "write_run", write_on_a_full_disk)
    with pytest.raises(OSError, match="No space left on device") as caught:
        build(loaded, tmp_path / "run")
    filename = str(tmp_path / "run/metadata/ngrams/sw/x.parquet.counts")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, filename)
    counted = written_at(tmp_path / "run", "ngrams/de/*")
    assert counted
    monkeypatch.undo()
    build(loaded, tmp_path / "run")
    assert written_at(tmp_path / "run", "ngrams/**/*").items() >= counted.items()
    assert words(tmp_path / "run", "sw") == ["neno"]
