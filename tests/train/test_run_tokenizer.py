"""The tokenizer of a run: texts balanced by language, a folder that is never overwritten."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pyarrow as pa
import pytest

from worldclip.config import load_recipe
from worldclip.contracts import schemas
from worldclip.core import artifacts
from worldclip.core.settings import to_toml
from worldclip.model.config import TokenizerConfig
from worldclip.train.config import TrainConfig
from worldclip.train.tokenizer import MAX_REPEATS, repeats_by_language, run_tokenizer, training_texts

COUNTS = {"en": 4_000, "de": 400, "sw": 40}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """Return the folder of a run of one shard that has finished curate."""
    run = tmp_path_factory.mktemp("tokenized") / "run"
    rows = [
        (f"{lang}{n:05}", 0, f"{lang} picture number {n} of a house", lang, 1.0)
        for lang, count in COUNTS.items()
        for n in range(count)
    ]
    columns = dict(zip(("key", "text_idx", "text", "lang", "keep_prob"), zip(*sorted(rows), strict=True), strict=True))
    table = pa.table({name: list(values) for name, values in columns.items()})
    artifacts.write_table(run / "curate" / "0.tar.parquet", table, schemas.CURATED)
    artifacts.write_table(
        run / "match" / "texts" / "0.tar.parquet", schemas.MATCH_TEXTS.empty_table(), schemas.MATCH_TEXTS
    )
    artifacts.write_manifest(run / "curate", config={}, inputs={}, counts={})
    recipe = load_recipe({"pool": {"path": "pool"}, "balance": {"tail_fraction": 0.1}})
    artifacts.write_text(run / "recipe.toml", to_toml(recipe))
    return run


def by_language(texts):
    return Counter(text.split()[0] for text in texts)


def test_lang_exponent_decides_how_often_a_language_is_used(run_dir):
    as_curated = list(training_texts(run_dir, ["0.tar"], lang_exponent=1.0))
    assert by_language(as_curated) == COUNTS
    balanced = by_language(training_texts(run_dir, ["0.tar"], lang_exponent=0.3))
    for lang, repeats in repeats_by_language(COUNTS, 0.3).items():
        assert balanced[lang] == pytest.approx(COUNTS[lang] * repeats, rel=0.1)
    assert balanced["en"] < COUNTS["en"]
    assert balanced["sw"] == MAX_REPEATS * COUNTS["sw"]
    equal = repeats_by_language(COUNTS, 0.0)
    assert equal["en"] * COUNTS["en"] == pytest.approx(equal["de"] * COUNTS["de"])


def test_shares_follow_the_exponent_and_the_total_is_kept():
    counts = {"en": 1_000_000, "de": 300_000, "sw": 100_000}
    repeats = repeats_by_language(counts, 0.3, max_texts=700_000)
    used = {lang: counts[lang] * repeats[lang] for lang in counts}
    assert sum(used.values()) == pytest.approx(700_000)
    assert used["en"] / used["sw"] == pytest.approx(10**0.3)


def test_texts_are_the_same_each_time_and_limited_in_number(run_dir):
    first, second = (list(training_texts(run_dir, ["0.tar"], 0.3, max_texts=500)) for _ in range(2))
    assert first == second
    assert len(first) == pytest.approx(500, rel=0.15)


def test_the_tokenizer_of_a_run_is_made_once(run_dir):
    config = TrainConfig(tokenizer=TokenizerConfig(vocab_size=60))
    first = run_tokenizer(config, run_dir, ["0.tar"])
    written = {path.name: path.read_bytes() for path in (run_dir / "train" / "tokenizer").iterdir()}
    second = run_tokenizer(replace(config, tokenizer=TokenizerConfig(vocab_size=40)), run_dir, ["0.tar"])
    assert first.vocab_size == second.vocab_size <= 60
    assert {path.name: path.read_bytes() for path in (run_dir / "train" / "tokenizer").iterdir()} == written
