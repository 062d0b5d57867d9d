from __future__ import annotations

import pyarrow as pa

from plain_recipe import keys_of, make_recipe, make_run, make_shards
from toy import markdown_rows
from worldclip.contracts import schemas
from worldclip.core import artifacts
from worldclip.core.settings import to_toml
from worldclip.curate.data_card import data_card

SHARDS = make_shards(seed=2)


def test_data_card_states_counts_settings_and_digests(tmp_path):
    run = make_run(tmp_path, SHARDS, curate={"text_policy": "all"})
    report = artifacts.read_json(run / "curate" / "report.json")
    card = (run / "curate" / "DATA_CARD.md").read_text(encoding="utf-8")
    assert f"{report['total']['pairs_out']:,} of {report['total']['pairs_in']:,} image-text pairs" in card
    rows = {row[:3] for row in markdown_rows(card)}
    for lang, row in report["languages"].items():
        assert (lang, f"{row['pairs_in']:,}", f"{row['pairs_out']:,}") in rows
    assert "`curate.text_policy`: all" in card
    assert artifacts.require_manifest(run, "balance")["digest"] in card


def test_data_card_says_what_decided_the_language_and_which_models_saw_images(tmp_path):
    path = tmp_path / "check" / "valid_keys.parquet"
    artifacts.write_table(path, pa.table({"key": keys_of(SHARDS)}), schemas.VALID_KEYS)
    run = make_run(tmp_path, SHARDS, pool={"valid_keys": str(path)})
    assert "its making is not recorded" in (run / "curate" / "DATA_CARD.md").read_text(encoding="utf-8")
    config = {"check": {"embedding_model": "/models/clip"}}
    artifacts.write_manifest(path.parent, config=config, inputs={}, counts={})
    removed = {"near_duplicate": 12, "against:mine": 3}
    artifacts.write_json(path.parent / "report.json", {"counts": {"removed": removed}})
    card = data_card(run, artifacts.read_json(run / "curate" / "report.json"))
    assert "pairs removed by rule: near_duplicate 12, against:mine 3" in card
    assert "a model looked at the images (`clip`)" in card
    assert "The language-identification model `lid176` chose each text's language" in card
    assert "`pool.valid_keys` = `valid_keys.parquet`" in card, "the card is published: no folder of this machine"
    recipe = make_recipe(tmp_path / "pool", pool={"lang": "json:lang_truth"})
    artifacts.write_text(run / "recipe.toml", to_toml(recipe))
    card = data_card(run, artifacts.read_json(run / "curate" / "report.json"))
    assert "the one that the pool states in `json:lang_truth`" in card
