"""Explanations agree with what the stages wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from plain_recipe import LISTS, make_run, make_shards
from worldclip import curate
from worldclip.cli import main
from worldclip.core.errors import UserError
from worldclip.tools.explain_text import entry_to_text, key_to_text
from worldclip.tools.inspect_run import inspect_entry, inspect_key

SHARDS = make_shards(seed=5, num_shards=2, num_samples=25)


@pytest.fixture(scope="module", params=["one", "all"])
def run(request, tmp_path_factory) -> Path:
    curate = {"text_policy": request.param, "exclude": ["ar"]}
    return make_run(tmp_path_factory.mktemp("inspected"), SHARDS, curate=curate)


def test_every_key_is_explained_as_it_was_decided(run):
    kept = {}
    reasons: set[str] = set()
    for name, samples in SHARDS.items():
        table = curate.read_curated(run, name)
        for row in table.to_pylist():
            kept[(row["key"], row["text_idx"])] = row
        for stem, _ in samples:
            found = inspect_key(run, f"{Path(name).parent}/{stem}")
            assert found["shard"] == name
            for text in found["texts"]:
                reasons.add(text["reason"])
                row = kept.get((found["key"], text["text_idx"])) if text["reason"] != "duplicate" else None
                assert (row is not None) == (text["reason"] == "kept")
                if row is not None:
                    assert text["keep_prob"] == row["keep_prob"]
                    assert text["coin"] < text["keep_prob"]
                    assert text["lang"] == row["lang"]
            assert found["kept"] == any(text["reason"] == "kept" for text in found["texts"])
    assert {"duplicate", "no_text", "no_language", "excluded", "kept", "sampled_out"} <= reasons
    assert kept


def test_a_key_of_two_shards_is_explained_by_the_one_that_keeps_it(tmp_path):
    texts = [f"a text with {LISTS['en'][0]} in it"]
    shards = {"x/0.tar": [("twice", ["unmatched words"]), ("other", texts)], "x/1.tar": [("twice", texts)]}
    found = inspect_key(make_run(tmp_path, shards, balance={"english_threshold": 100}), "x/twice")
    assert (found["shard"], found["kept"]) == ("x/1.tar", True)


def test_a_matched_text_shows_its_entries_with_their_worth(run):
    row = next(iter(curate.read_curated(run, min(SHARDS)).to_pylist()))
    text = next(t for t in inspect_key(run, row["key"])["texts"] if t["text_idx"] == row["text_idx"])
    product = 1.0
    for entry in text["entries"]:
        assert entry["entry"] in text["text"]
        product *= 1 - entry["prob"]
    assert text["keep_prob"] == 1 - product


def test_explanations_as_text(run):
    name = min(SHARDS)
    row = next(iter(curate.read_curated(run, name).to_pylist()))
    text = key_to_text(inspect_key(run, row["key"]))
    assert text.startswith(f"{row['key']} in {name}: kept")
    assert f"probability {row['keep_prob']:.4f}, coin 0." in text
    assert "matches, " in text
    entry = entry_to_text(inspect_entry(run, LISTS["en"][0], "en"))
    assert f"{LISTS['en'][0]!r} of en (entry 0, list): " in entry


def test_an_entry_is_shown_with_its_count_place_and_texts(run):
    counts = np.load(run / "balance" / "counts" / "en.npy")
    top = int(np.argmax(counts))
    found = inspect_entry(run, LISTS["en"][top], "en")
    assert found["matches"] == counts.max()
    assert found["rank"] == 1
    assert found["is_head"]
    assert found["prob"] == pytest.approx(found["threshold"] / found["matches"])
    assert 0 < len(found["samples"]) <= 10
    assert all(f" {found['entry']} " in f" {sample['text']} " for sample in found["samples"])
    assert found == inspect_entry(run, LISTS["en"][top], "en")


def test_unknown_entry_or_list_suggests_similar_names(run):
    with pytest.raises(UserError, match="did you mean 'green'"):
        inspect_entry(run, "gren", "en")
    with pytest.raises(UserError, match="not a list of this run; its lists are ar, en, th, zh"):
        inspect_entry(run, "red", "fr")


def test_a_key_or_an_entry_is_asked_for(run, capsys):
    for flags in ([], ["--key", "a", "--entry", "b"]):
        assert main(["inspect", str(run), *flags]) == 2
        assert "give --key or --entry" in capsys.readouterr().err
    assert main(["inspect", str(run), "--entry", LISTS["en"][0]]) == 0
    assert "of en (entry 0, list)" in capsys.readouterr().out
