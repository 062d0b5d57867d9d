"""The languages that a pool states (`pool.lang`) stand in for language identification."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from plain_recipe import make_recipe, run_stages, write_metadata
from pools import read_rows, write_lines
from tars import sample, write_tar
from worldclip.core.errors import BadShard, UserError

LISTS = {"de": ["tag", "gift"], "en": ["tag", "gift"], "zh": ["图"]}
# (texts, what the pool says of them, languages that must come out; None: no_language)
PAIRS = [
    (["a gift", "ein gift"], ["en", "de"], ["en", "de"]),
    (["a tag", "tag"], "deu_Latn", ["de", "de"]),
    (["图", "tag"], ["yue"], ["zh", None]),
    (["gift"], "nonsense", [None]),
    (["gift"], None, [None]),
    (["gift"], "xx", ["en"]),
    (["ein gift", "gift"], ["de-DE", "de_AT"], ["de", "de"]),
    (["gift", "tag"], ["DEU", "English"], ["de", "en"]),
]


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def found_languages(run) -> dict[tuple[str, int], tuple[str, float]]:
    rows = [row for path in (run / "match/texts").rglob("*.parquet") for row in pq.read_table(path).to_pylist()]
    return {(row["key"], row["text_idx"]): (row["lang"], row["lang_prob"]) for row in rows}


def expected(pairs: Iterable[int]) -> dict[tuple[str, int], tuple[str, float]]:
    langs = {(str(pair), text_idx): lang for pair in pairs for text_idx, lang in enumerate(PAIRS[pair][2])}
    return {place: (lang, 1.0) for place, lang in langs.items() if lang is not None}


def match(tmp_path, **pool):
    write_metadata(tmp_path / "run", LISTS)
    sections = {"languages": {"codes": list(LISTS)}, "match": {"merge_labels": {"xx": "en"}}}
    recipe = make_recipe(tmp_path / "pool", pool=pool, **sections)
    return run_stages(recipe, tmp_path / "run", stages="pool match")["match"]


def test_tars_state_languages_per_pair_or_per_text(tmp_path):
    members = []
    for pair, (texts, langs, _) in enumerate(PAIRS):
        members += sample(f"{pair}", None, {"texts": texts, "language": langs})
    write_tar(tmp_path / "pool/0.tar", members)
    report = match(tmp_path, lang="json:language")
    assert found_languages(tmp_path / "run") == expected(range(len(PAIRS)))
    assert sum(row.get("no_language", 0) for row in report["texts"].values()) == 3


def test_list_column_states_a_language_per_text(tmp_path):
    per_text = [pair for pair, (_, langs, _) in enumerate(PAIRS) if isinstance(langs, list)]
    rows = []
    for pair in per_text:
        texts, langs, _ = PAIRS[pair]
        rows.append({"id": str(pair), "texts": texts, "language": langs + [None] * (len(texts) - len(langs))})
    write_rows(tmp_path / "pool/0.parquet", rows)
    match(tmp_path, key="id", texts=["texts"], lang="language")
    assert found_languages(tmp_path / "run") == expected(per_text)


@pytest.mark.parametrize(("name", "write"), [("0.parquet", write_rows), ("0.jsonl", write_lines)])
def test_string_column_states_a_language_per_row(tmp_path, name, write):
    stated = {"1": "deu_Latn", "3": "nonsense", "4": None, "5": "xx"}
    write(tmp_path / "pool" / name, [{"id": key, "text": "gift", "language": lang} for key, lang in stated.items()])
    match(tmp_path, key="id", texts=["text"], lang="language")
    assert found_languages(tmp_path / "run") == {("1", 0): ("de", 1.0), ("5", 0): ("en", 1.0)}


def test_lists_of_another_length_fail_the_shard(tmp_path):
    write_rows(tmp_path / "0.parquet", [{"id": "0", "texts": ["gift", "tag"], "language": ["en"]}])
    with pytest.raises(BadShard, match=r"column language \(pool.lang\) must hold one label per row"):
        read_rows(tmp_path / "0.parquet", key="id", texts=("texts",), lang="language")


def test_missing_language_column_is_a_user_error(tmp_path):
    write_rows(tmp_path / "pool/0.parquet", [{"id": "0", "text": "gift", "language": "en"}])
    with pytest.raises(UserError, match=r"pool.lang: no column or field 'language_'; did you mean 'language'"):
        match(tmp_path, key="id", texts=["text"], lang="language_")
