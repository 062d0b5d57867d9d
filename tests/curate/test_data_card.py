from __future__ import annotations

import pyarrow as pa

from plain_recipe import keys_of, make_run, make_shards
from toy import markdown_rows
from worldclip.contracts import schemas
from worldclip.core import artifacts

SHARDS = make_shards(seed=2)


def test_data_card_states_counts_settings_and_digests(tmp_path):
    valid = tmp_path / "check" / "valid_keys.parquet"
    artifacts.write_table(valid, pa.table({"key": keys_of(SHARDS)}), schemas.VALID_KEYS)
    run = make_run(tmp_path, SHARDS, pool={"valid_keys": str(valid)}, curate={"text_policy": "all"})
    report = artifacts.read_json(run / "curate" / "report.json")
    card = (run / "curate" / "DATA_CARD.md").read_text(encoding="utf-8")
    assert f"{report['total']['pairs_out']:,} of {report['total']['pairs_in']:,} image-text pairs" in card
    rows = {row[:3] for row in markdown_rows(card)}
    for lang, row in report["languages"].items():
        assert (lang, f"{row['pairs_in']:,}", f"{row['pairs_out']:,}") in rows
    assert 'text_policy = "all"' in card
    assert 'valid_keys = "valid_keys.parquet"' in card, "the card is published: no folder of this machine"
    assert artifacts.require_manifest(run, "balance")["digest"] in card
