"""From Common Crawl to training: WAT -> Parquet -> match, balance, curate -> download -> tars, joined by key."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from plain_recipe import LISTS, make_text, run_stages, write_metadata
from small_world import picture
from stages import QUIET, context
from tars import as_json, wat_of, write_tar
from worldclip import curate, pool
from worldclip.config import load_recipe
from worldclip.contracts import layout
from worldclip.core.execute import Shard
from worldclip.plugins.crawl.urls import key_of_url
from worldclip.plugins.crawl.wat import build_wat
from worldclip.train.pairs import PairSource
from worldclip.train.pool_join import image_shards, join_images, read_places

NUM_IMAGES, LOST = 40, {3, 17, 22}  # images that could not be downloaded


def download(wat_pool: Path, tars: Path, samples_per_tar: int = 12) -> None:
    """Write tars as img2dataset --save_additional_columns '["uid","texts"]' does: renumbered, lost ones left out."""
    rows = [row for path in sorted(wat_pool.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    tars.mkdir()
    for start in range(0, len(rows), samples_per_tar):
        name = f"{start // samples_per_tar:05}"
        members = []
        for n, row in enumerate(rows[start : start + samples_per_tar]):
            number, stem = int(row["url"].rsplit("/", 1)[1].removesuffix(".jpg")), f"{name}{n:04}"
            if number in LOST:
                continue
            record = {"caption": row["text"], "url": row["url"], "key": stem, "status": "success"}
            record |= {"uid": row["uid"], "texts": row["texts"], "sha256": "0" * 64}
            members += [(f"{stem}.jpg", image_of(number)), (f"{stem}.json", as_json(record))]
            members.append((f"{stem}.txt", row["text"].encode()))
        write_tar(tars / f"{name}.tar", members)
        pq.write_table(pa.Table.from_pylist(rows[start : start + samples_per_tar]), tars / f"{name}.parquet")
        (tars / f"{name}_stats.json").write_text("{}")


def image_of(number: int) -> bytes:
    return picture("red", "cross", side=16 + number)


def matched_pairs(run: Path, shards: Sequence[Shard]) -> set[tuple[str, int, str]]:
    tables = [pq.read_table(layout.match_texts(run, shard.name)) for shard in shards]
    return {(row["key"], row["text_idx"], row["text"]) for table in tables for row in table.to_pylist()}


@pytest.mark.parametrize("policy", ["one", "all"])
def test_pairs_matched_before_the_download_train_with_the_downloaded_images(tmp_path: Path, policy: str) -> None:
    rng = random.Random(policy)
    links = [
        {"path": "IMG@/src", "url": f"/{n}.jpg", "alt": make_text(rng, "en"), "title": make_text(rng, "zh")}
        for n in range(NUM_IMAGES)
    ]
    halves = [tmp_path / f"{i}.warc.wat.gz" for i in range(2)]
    for i, path in enumerate(halves):
        path.write_bytes(wat_of(links[i::2]))
    build_wat(list(map(str, halves)), tmp_path / "wat_pool", num_shards=3, executor=QUIET)
    values = {
        "pool": {"path": str(tmp_path / "wat_pool"), "key": "uid", "texts": ["texts"]},
        "languages": {"codes": list(LISTS)},
        "balance": {"tail_fraction": 0.3},
        "curate": {"text_policy": policy},
        "train": {"pool": {"path": str(tmp_path / "tars"), "key": "json:uid"}},
    }
    recipe, run = load_recipe(values), tmp_path / "run"
    write_metadata(run, LISTS)
    before = run_stages(recipe, run)["curate"]["total"]
    assert 0 < before["pairs_out"] < before["pairs_in"]
    shards = pool.shards(context(recipe, run))
    kept = [row for shard in shards for row in curate.read_curated(run, shard).to_pylist()]

    download(tmp_path / "wat_pool", tmp_path / "tars")
    images = image_shards(recipe.train)
    assert images is not None
    join_images(context(recipe, run, QUIET), shards, images)
    number_of = {key_of_url(f"http://example.org/{n}.jpg"): n for n in range(NUM_IMAGES)}
    source, read = PairSource(run, shards, images, num_cached=4), []
    for position, shard in enumerate(shards):
        pairs = source.read_shard(position, epoch=0)
        assert set(pairs.keys.to_pylist()) == set(read_places(run, shard)["key"].to_pylist())
        for key, idx, text, file, offset, size in zip(
            pairs.keys.to_pylist(), pairs.text_idx, pairs.texts.to_pylist(), pairs.shard, pairs.offset, pairs.size,
            strict=True,
        ):  # fmt: skip
            assert pool.read_member(images[file].path, int(offset), int(size)) == image_of(number_of[key])
            read.append((key, int(idx), text))
    lost = [row for row in kept if number_of[row["key"]] in LOST]
    assert source.counts(0)[1] == len(lost) > 0
    assert read == [(row["key"], row["text_idx"], row["text"]) for row in kept if row not in lost]

    # Matching the tars themselves gives the same pairs, without those of lost images.
    values["pool"] = {"path": str(tmp_path / "tars"), "key": "json:uid", "texts": ["json:texts"]}
    write_metadata(tmp_path / "run2", LISTS)
    run_stages(load_recipe(values), tmp_path / "run2", stages="pool match")
    downloaded = {row for row in matched_pairs(run, shards) if number_of[row[0]] not in LOST}
    assert matched_pairs(tmp_path / "run2", images) == downloaded
