"""The stage: order, rules, provenance, skip-if-done, failures and kills."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages import finish, run_stage
from worldclip import metadata
from worldclip.config import Recipe, load_recipe
from worldclip.core.errors import StageFailed, UserError
from worldclip.core.execute import LocalExecutor
from worldclip.match.matcher import matcher
from worldclip.metadata.config import MetadataConfig
from worldclip.metadata.entries import build_entries
from worldclip.metadata.entry_list import EntryList, is_punctuation
from worldclip.metadata.source import Inputs
from worldclip.recipe import run

QUIET = LocalExecutor(workers=1, quiet=True)


def files(folder: Path, **lists: Iterable[str]) -> dict[str, str]:
    folder.mkdir(parents=True, exist_ok=True)
    for lang, entries in lists.items():
        (folder / f"{lang}.txt").write_text("".join(f"{entry}\n" for entry in entries), encoding="utf-8")
    return {lang: str(folder / f"{lang}.txt") for lang in lists}


def recipe(lists: dict[str, str], **sections: Any) -> Recipe:
    values = {
        "pool": {"path": "."},
        "balance": {"tail_fraction": 0.1},
        "languages": {"codes": sorted(lists)},
        "metadata": {"sources": ["number", "list"], "lists": lists},
    }
    for section, keys in sections.items():
        values[section] = {**values.get(section, {}), **keys}
    return load_recipe(values)


def entries_of(run_dir: Path, lang: str) -> list[str]:
    return metadata.read_entries(run_dir, lang)["entry"].to_pylist()


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_sources_keep_config_order_and_first_of_equal_entries_stays(tmp_path: Path) -> None:
    (tmp_path / "wn.tab").write_text("# X\tswe\turl\tfree\n1-n\tswe:lemma\tkatt\n2-n\tswe:lemma\t7\n", encoding="utf-8")
    lists = files(tmp_path, sv=["katt\t5", "röd bil\t4", "den\t3"])
    config = MetadataConfig(
        sources=("list", "wordfreq", "wordnet", "number"),  # the order here says nothing
        wordnets={"sv": str(tmp_path / "wn.tab")},
        wordfreq_top=20,
        lists=lists,
    )
    table = build_entries(Inputs(lang="sv", config=config)).table().to_pydict()
    where = {
        entry: (source, score)
        for entry, source, score in zip(table["entry"], table["source"], table["score"], strict=True)
    }
    assert table["entry"][:100] == [str(number) for number in range(100)]
    assert where["7"] == ("number", None)
    assert where["katt"] == ("wordnet", None)
    assert where["den"][0] == "wordfreq"
    assert where["röd bil"] == ("list", 4.0)
    assert table["source"] == sorted(table["source"], key=["number", "wordnet", "wordfreq", "list"].index)
    assert table["entry_id"] == list(range(len(table["entry"])))


def test_rules_drop_and_count_candidates(tmp_path: Path) -> None:
    built = EntryList()
    candidates = ["cat", " cat ", "", "...", "—！", "x" * 257, "y" * 256, "\ud800", "$", "c'est", "🐈", "ก็"]
    built.add("list", ((entry, None) for entry in candidates), max_chars=256)
    assert list(built.entries) == ["cat", "y" * 256, "c'est", "🐈", "ก็"]
    dropped = {"empty": 1, "punctuation": 3, "too_long": 1, "not_text": 1, "duplicate": 1}
    assert built.rules["list"] == {"in": 12, **dropped, "kept": 5}


def test_wordnet_is_exempt_from_length_limit(tmp_path: Path) -> None:
    (tmp_path / "wn.tab").write_text(f"# X\tswe\turl\tfree\n1-n\tswe:lemma\t{'z' * 300}\n")
    config = MetadataConfig(sources=("wordnet",), wordnets={"sv": str(tmp_path / "wn.tab")})
    assert list(build_entries(Inputs(lang="sv", config=config)).entries) == ["z" * 300]


@settings(deadline=None)  # a busy machine stands still longer than this takes
@given(st.lists(st.tuples(st.sampled_from(["number", "wordnet", "list"]), st.lists(st.text(max_size=4), max_size=6))))
def test_every_candidate_is_kept_or_dropped_for_one_reason(batches: list[tuple[str, list[str]]]) -> None:
    built = EntryList()
    for source, candidates in batches:
        before = dict(built.rules.get(source, {}))
        num_kept = built.add(source, ((entry, None) for entry in candidates), max_chars=3)
        counts = {rule: count - before.get(rule, 0) for rule, count in built.rules[source].items()}
        assert counts["in"] == len(candidates) == sum(counts.values()) - counts["in"]
        assert num_kept == counts["kept"]
    assert len(built.entries) == len(built.table()) == len(built.scores)
    assert not any(is_punctuation(entry) for entry in built.entries)


def test_stage_writes_lists_matchers_report_and_manifest(tmp_path: Path) -> None:
    lists = files(tmp_path / "in", sw=["simba", "paka mweusi", "Simba"], th=["แมว", "หมา"])
    report = finish("metadata", recipe(lists), tmp_path, QUIET)
    assert entries_of(tmp_path, "sw")[100:] == ["simba", "paka mweusi", "Simba"]
    assert report["lists"]["sw"]["by_source"] == {"number": 100, "list": 3}
    matcher = metadata.load_matcher(tmp_path, "sw", "unicode")
    assert matcher.match("Simba na paka mweusi").tolist() == [101, 102]
    manifest = json.loads((tmp_path / "metadata/manifest.json").read_text())
    assert manifest["counts"] == {"sw": 103, "th": 102}
    assert manifest["sources"]["sw"][0]["file"] == "sw.txt"
    assert manifest["sources"]["sw"][0]["licence"] == "not stated in the file"
    assert json.loads((tmp_path / "metadata/report.json").read_text()) == report


def test_dead_entries_keep_their_id_and_are_counted(tmp_path: Path) -> None:
    lists = files(tmp_path / "in", sw=["caf\u00e9", "cafe\u0301", "Simba", "simba"])
    loaded = recipe(lists, metadata={"profiles": ["reference", "unicode_fold"]})
    report = finish("metadata", loaded, tmp_path, QUIET)
    assert report["lists"]["sw"]["dead"] == {"reference": 0, "unicode": 1, "unicode_fold": 2}
    assert len(entries_of(tmp_path, "sw")) == 104
    assert metadata.load_matcher(tmp_path, "sw", "unicode_fold").match("SIMBA").tolist() == [102]


def test_merged_list_takes_first_of_equal_entries_in_code_order(tmp_path: Path) -> None:
    lists = files(tmp_path / "in", en=["cat\t1", "sofa\t2"], de=["Katze\t3", "sofa\t4"])
    report = finish("metadata", recipe(lists, match={"isolate": "merged"}), tmp_path, QUIET)
    table = metadata.read_entries(tmp_path, "merged").to_pydict()
    assert table["entry"][100:] == ["Katze", "sofa", "cat"]
    assert table["score"][100:] == [3.0, 4.0, 1.0]
    assert table["entry_id"] == list(range(103))
    assert report["lists"]["merged"]["rules"]["list"] == {"in": 4, "kept": 3}
    assert metadata.load_matcher(tmp_path, "merged", "unicode").match("a cat, a sofa").tolist() == [101, 102]
    assert not (tmp_path / "metadata/en.matcher").exists()


def test_isolate_english_builds_english_list_for_all_texts(tmp_path: Path) -> None:
    lists = files(tmp_path / "in", en=["cat"], de=["Katze"])
    loaded = recipe(lists, match={"isolate": "english"}, languages={"codes": ["de"]})
    finish("metadata", loaded, tmp_path, QUIET)
    assert metadata.load_matcher(tmp_path, "en", "unicode").match("cat").tolist() == [100]
    assert not (tmp_path / "metadata/de.matcher").exists()


def problems_of(tmp_path: Path, **config: Any) -> list[str]:
    """Return the problems of a run over English, French, Swahili and Yoruba, which does no work."""
    values = {
        "pool": {"path": "."},
        "balance": {"tail_fraction": 0.1},
        "languages": {"codes": ["en", "fr", "sw", "yo"]},
    }
    with pytest.raises(UserError) as caught:
        finish("metadata", load_recipe({**values, "metadata": config}), tmp_path / "run", QUIET)
    assert not (tmp_path / "run/metadata").exists()
    return caught.value.problems


def test_languages_without_words_are_all_named_before_any_work(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, sources=["number", "wordfreq"])
    assert re.search(r"no source has words of sw, yo,.*metadata\.lists\.sw", problem)
    everything = ["wordnet", "unigram", "bigram", "title"]
    (problem,) = problems_of(tmp_path, allow_missing=everything)
    assert "no source has words of en, fr, sw, yo" in problem


def test_default_sources_are_those_of_the_paper_and_none_is_left_out_in_silence(tmp_path: Path) -> None:
    assert MetadataConfig().sources == ("number", "wordnet", "unigram", "bigram", "title", "list")
    wordnet, text, views = problems_of(tmp_path)
    assert 'metadata.sources has "wordnet", and there is no file for en, fr; run: python -m wn download' in wordnet
    assert "set metadata.installed_wordnets = true; or set metadata.wordnets.en = FILE" in wordnet
    assert 'To go on without: metadata.allow_missing = ["wordnet"]' in wordnet
    assert 'has "unigram" and "bigram", and there is no file for en, fr, sw, yo;' in text
    assert 'has "title", and there is no file for en, fr, sw, yo;' in views


def test_wordnets_of_some_languages_do_not_hide_the_missing_ones(tmp_path: Path) -> None:
    lists = files(tmp_path / "in", en=["cat"], fr=["chat"], sw=["simba"], yo=["ologbo"])
    (tmp_path / "wn.tab").write_text("# X\teng\turl\tfree\n1-n\teng:lemma\tdog\n")
    config = {"sources": ["wordnet", "list"], "lists": lists, "wordnets": {"en": str(tmp_path / "wn.tab")}}
    (problem,) = problems_of(tmp_path, **config)
    assert "there is no file for fr;" in problem
    loaded = recipe(lists, metadata={**config, "allow_missing": ["wordnet"]})
    report = finish("metadata", loaded, tmp_path / "run", QUIET)
    assert report["notes"][0] == "no wordnet of fr: no file, which metadata.allow_missing allows"
    assert entries_of(tmp_path / "run", "en") == ["dog", "cat"]


def test_wordnets_of_the_dumps_folder_are_used_unless_the_recipe_names_others(tmp_path: Path) -> None:
    for lang, code, names in (("fr", "fra", ("b", "a")), ("sw", "swh", ("c",))):
        for name in names:
            path = tmp_path / f"dumps/wordnets/{lang}/{name}.tab"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"# X\t{code}\turl\tfree\n1-n\t{code}:lemma\tin {name}\n")
    (tmp_path / "dumps/wordnets/fr/a.tab.part").write_text("not whole")
    (tmp_path / "own.tab").write_text("# X\tswh\turl\tfree\n1-n\tswh:lemma\tsimba\n")
    config = {"sources": ["wordnet"], "dumps": str(tmp_path / "dumps"), "wordnets": {"sw": str(tmp_path / "own.tab")}}
    finish(
        "metadata",
        recipe({}, metadata={"lists": {}, **config}, languages={"codes": ["fr", "sw"]}),
        tmp_path / "run",
        QUIET,
    )
    assert entries_of(tmp_path / "run", "fr") == ["in a", "in b"]
    assert entries_of(tmp_path / "run", "sw") == ["simba"]


@pytest.mark.parametrize("package", ["wordfreq", "wn"])
def test_missing_package_is_named_before_any_work(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wn.xml").write_text("<LexicalResource/>")
    sources = {"sources": ["wordfreq"]} if package == "wordfreq" else {"sources": ["wordnet"]}
    wordnets = {} if package == "wordfreq" else {"wordnets": {"sv": str(tmp_path / "wn.xml")}}
    loaded = recipe({}, metadata={"lists": {}, **sources, **wordnets}, languages={"codes": ["sv"]})
    for name in (package, f"{package}.lmf"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"metadata needs {package}: pip install 'worldclip\[metadata\]'"):
        run(loaded, tmp_path / "run", until="metadata", executor=QUIET)
    assert not (tmp_path / "run/metadata").exists()


def test_missing_files_are_config_problems(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        recipe({"sw": str(tmp_path / "absent.txt"), "xx": str(tmp_path / "absent.txt")}, languages={"codes": ["sw"]})
    assert len(caught.value.problems) == 3


def test_finished_stage_is_skipped_and_changed_file_rebuilds_only_its_language(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lists = files(tmp_path / "in", sw=["simba"], de=["Katze"])
    assert run_stage("metadata", recipe(lists), tmp_path, QUIET)
    assert not run_stage("metadata", recipe(lists), tmp_path, QUIET)
    before = (tmp_path / "metadata/de.parquet").stat().st_mtime_ns
    files(tmp_path / "in", sw=["simba", "paka"])
    assert run_stage("metadata", recipe(lists), tmp_path, QUIET)
    assert "its inputs changed: sw.txt" in capsys.readouterr().err
    assert (tmp_path / "metadata/de.parquet").stat().st_mtime_ns == before
    assert metadata.load_matcher(tmp_path, "sw", "unicode").match("paka").tolist() == [101]


def test_removed_languages_and_profiles_leave_no_files(tmp_path: Path) -> None:
    lists = files(tmp_path / "in", sw=["simba"], de=["Katze"])
    finish("metadata", recipe(lists, metadata={"profiles": ["reference"]}), tmp_path / "long", QUIET)
    finish("metadata", recipe({"sw": lists["sw"]}), tmp_path / "long", QUIET)
    finish("metadata", recipe({"sw": lists["sw"]}), tmp_path / "new", QUIET)
    assert snapshot(tmp_path / "long").keys() == snapshot(tmp_path / "new").keys()


def test_bad_file_fails_its_language_alone_and_second_run_retries_only_that(tmp_path: Path) -> None:
    lists = files(tmp_path / "in", sw=["simba"], de=["Katze\tmany"])
    with pytest.raises(StageFailed, match=r"de: .*line 1: score 'many' after the tab is not a number") as caught:
        finish("metadata", recipe(lists), tmp_path, QUIET)
    assert list(caught.value.failures) == ["de"]
    assert not (tmp_path / "metadata/manifest.json").exists()
    before = (tmp_path / "metadata/sw.parquet").stat().st_mtime_ns
    files(tmp_path / "in", de=["Katze"])
    finish("metadata", recipe(lists), tmp_path, QUIET)
    assert (tmp_path / "metadata/sw.parquet").stat().st_mtime_ns == before
    assert entries_of(tmp_path, "de")[100:] == ["Katze"]


def test_number_of_workers_does_not_change_bytes(tmp_path: Path) -> None:
    lists = files(tmp_path / "in", sw=["simba"], de=["Katze"], th=["แมว"])
    finish("metadata", recipe(lists), tmp_path / "one", QUIET)
    finish("metadata", recipe(lists), tmp_path / "two", LocalExecutor(workers=2, quiet=True))
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")


KILLED = """
import os, signal, sys
from pathlib import Path
from worldclip import metadata
from worldclip.config import load_recipe
from worldclip.core.job import Run
from worldclip.recipe import sections_of

at, run_dir, recipe = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
replace, count = os.replace, [0]

def replace_or_die(source, target):
    count[0] += 1
    if count[0] == at:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

os.replace = replace_or_die
metadata.build(Run(dir=run_dir, sections=sections_of(load_recipe(recipe))))
"""


def test_killed_stage_resumes_to_same_bytes(tmp_path: Path) -> None:
    from worldclip.core.settings import to_toml

    loaded = recipe(files(tmp_path / "in", sw=["simba", "paka"]))
    (tmp_path / "recipe.toml").write_text(to_toml(loaded))
    finish("metadata", loaded, tmp_path / "whole", QUIET)
    for at in (1, 2, 4, 6):
        run_dir = tmp_path / str(at)
        command = [sys.executable, "-c", KILLED, str(at), str(run_dir), str(tmp_path / "recipe.toml")]
        assert subprocess.run(command, env=os.environ, check=False).returncode == -9
        assert not (run_dir / "metadata/manifest.json").exists()
        finish("metadata", loaded, run_dir, QUIET)
        assert snapshot(run_dir) == snapshot(tmp_path / "whole")


def test_matcher_of_other_entries_is_refused(tmp_path: Path) -> None:
    lists = files(tmp_path / "in", sw=["simba"], de=["Katze"])
    finish("metadata", recipe(lists), tmp_path, QUIET)
    folder = tmp_path / "metadata"
    (folder / "sw.matcher").rename(folder / "swapped")
    (folder / "de.matcher").rename(folder / "sw.matcher")
    with pytest.raises(UserError, match="digest"):
        metadata.load_matcher(tmp_path, "sw", "unicode")
    with pytest.raises(UserError, match="no matcher 'reference' of list 'de'"):
        metadata.load_matcher(tmp_path, "de", "reference")
    with pytest.raises(UserError, match="no matcher 'unicode' of list 'yo'"):
        metadata.load_matcher(tmp_path, "yo", "unicode")


def test_removed_matchers_are_rebuilt_by_following_the_message(tmp_path: Path) -> None:
    loaded = recipe(files(tmp_path / "in", sw=["simba"]))
    finish("metadata", loaded, tmp_path, QUIET)
    whole = snapshot(tmp_path / "metadata")
    (tmp_path / "metadata/sw.matcher/unicode/table.npy").unlink()
    with pytest.raises(UserError, match="is not a finished matcher") as caught:
        metadata.load_matcher(tmp_path, "sw", "unicode")
    (removed,) = re.findall(r"remove (\S+), (\S+) and (\S+), then run: worldclip metadata", str(caught.value))
    for path in map(Path, removed):
        assert path.is_relative_to(tmp_path)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert run_stage("metadata", loaded, tmp_path, QUIET)
    assert snapshot(tmp_path / "metadata") == whole


def test_matchers_of_older_version_are_recompiled_without_rebuilding_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = recipe(files(tmp_path / "in", sw=["simba"]))
    with monkeypatch.context() as older:
        older.setattr(matcher, "FORMAT_VERSION", 1)
        finish("metadata", loaded, tmp_path, QUIET)
    before = (tmp_path / "metadata/sw.parquet").stat().st_mtime_ns
    with pytest.raises(UserError, match="has version 1, expected 3"):
        metadata.load_matcher(tmp_path, "sw", "unicode")
    assert run_stage("metadata", loaded, tmp_path, QUIET)
    assert f"matchers.format was 1, is {matcher.FORMAT_VERSION}" in capsys.readouterr().err
    assert metadata.load_matcher(tmp_path, "sw", "unicode").match("simba").tolist() == [100]
    assert (tmp_path / "metadata/sw.parquet").stat().st_mtime_ns == before


def test_missing_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run first: worldclip metadata"):
        metadata.read_entries(tmp_path, "sw")
    finish("metadata", recipe(files(tmp_path / "in", sw=["simba"])), tmp_path, QUIET)
    with pytest.raises(UserError, match="has no list 'yo'"):
        metadata.read_entries(tmp_path, "yo")
