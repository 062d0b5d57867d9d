"""Similarity of texts to their images: thresholds by language equal a plain sort, and only what must is done again."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import worldclip
from embedded_world import B32, picture
from killed import modified
from pools import check_pool, pair, write_table
from small_models import save_hugging_face
from stages import QUIET
from tars import write_tar
from worldclip.check import check, load_config, scan_shards
from worldclip.check import similarity as of_similarity
from worldclip.core.errors import UserError
from worldclip.core.execute import LocalExecutor
from worldclip.pool.config import PoolConfig

SHARDS, PER_SHARD = 2, 10
BROKEN = "00000_3"
ENGLISH = ("the old man walks his dog along the river", "two children are playing football in the garden")
JAPANESE = ("公園で犬と遊んでいる子供たち", "駅の前に赤い自転車があります")
NO_RULES: Mapping[str, Any] = {}
GREEK = "ένα κόκκινο ποδήλατο μπροστά από το σπίτι"


def texts_of(shard: int, i: int) -> list[str]:
    if (shard, i) == (1, 9):
        return [GREEK]
    texts = [f"{ENGLISH[i % 2]} {i}"]
    return texts if i % 3 == 0 else [*texts, f"{JAPANESE[i % 2]}{i}{shard}"]


def write_shards(folder: Path, **fields: Callable[[int, int], Any]) -> None:
    """Write FOLDER/pool: a sample per picture, one of which is cut, with texts and more fields."""
    for shard in range(SHARDS):
        members = []
        for i in range(PER_SHARD):
            key, image = f"{shard:05}_{i}", picture(100 * shard + i)
            more = {name: value(shard, i) for name, value in fields.items()}
            members += pair(key, image[:80] if key == BROKEN else image, *texts_of(shard, i), **more)
        write_tar(folder / "pool" / f"{shard:05}.tar", members)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model, and two tars with one or two texts per picture, one of which is cut."""
    root = tmp_path_factory.mktemp("similar")
    save_hugging_face(B32, root / "model")
    write_shards(root)
    return root


def rules_of(world: Path, **rule: Any) -> dict[str, Any]:
    return {"duplicates": "keep", "similarity": {"model": str(world / "model"), "min_texts": 5, **rule}}


def run(world: Path, out: Path, more: Mapping[str, Any] = NO_RULES, **rule: Any) -> dict[str, Any]:
    """Check the pool with a rule of similarity, and with more rules."""
    return check_pool(world, out=out, **rules_of(world, **rule), **more)


def rows_of(out: Path, name: str) -> list[dict[str, Any]]:
    return pq.read_table(out / f"{name}.parquet").to_pylist()


def measured(out: Path) -> list[dict[str, Any]]:
    return [row for shard in range(SHARDS) for row in rows_of(out / "similarity", f"{shard:05}.tar")]


def low_texts(out: Path) -> set[tuple[str, int]]:
    return {(row["key"], row["text_idx"]) for row in rows_of(out, "removed_texts")}


def plain_thresholds(rows: list[dict[str, Any]], percentile: float, min_texts: int) -> dict[str, float]:
    """Return the thresholds by sorting each language's similarities."""
    rows = [row for row in rows if row["similarity"] is not None]
    everything = sorted(row["similarity"] for row in rows)
    thresholds = {}
    for lang in {row["lang"] for row in rows}:
        own = sorted(row["similarity"] for row in rows if row["lang"] == lang)
        values = own if len(own) >= min_texts else everything
        thresholds[lang] = values[min(math.floor(percentile * len(values) / 100), len(values) - 1)]
    return thresholds


def test_similarity_is_the_cosine_of_the_models_embeddings(world: Path, tmp_path: Path) -> None:
    report = run(world, tmp_path, threshold=-1)
    clip = worldclip.load(world / "model", device="cpu")
    rows = measured(tmp_path)
    assert len(rows) == sum(len(texts_of(shard, i)) for shard in range(SHARDS) for i in range(PER_SHARD))
    for row in rows:
        shard, i = map(int, row["key"].split("_"))
        if row["key"] == BROKEN:
            assert row["similarity"] is None
            continue
        text = texts_of(shard, i)[row["text_idx"]]
        expected = clip.encode_image([picture(100 * shard + i)])[0] @ clip.encode_text([text])[0]
        assert row["similarity"] == pytest.approx(expected, abs=1e-4)
        assert row["similarity"] == np.float32(round(float(row["similarity"]), 4))
        assert row["lang"] == ("el" if text == GREEK else "en" if row["text_idx"] == 0 else "ja")
    assert report["similarity"]["unmeasured"] == 1
    assert report["counts"]["removed"] == {"undecodable": 1}, "a bad image loses its own pair only"


@pytest.mark.parametrize("percentile", [0, 30, 62.5, 100])
def test_percentile_by_language_equals_a_plain_sort(world: Path, tmp_path: Path, percentile: float) -> None:
    report = run(world, tmp_path, percentile=percentile)
    rows = measured(tmp_path)
    thresholds = plain_thresholds(rows, percentile, min_texts=5)
    low = {
        (row["key"], row["text_idx"])
        for row in rows
        if row["similarity"] is not None and row["similarity"] < thresholds[row["lang"]]
    }
    assert low_texts(tmp_path) == low
    assert len(low) > 0 or percentile == 0
    every_text = {row["key"]: {(r["key"], r["text_idx"]) for r in rows if r["key"] == row["key"]} for row in rows}
    removed = {row["key"] for row in rows_of(tmp_path, "removed") if row["rule"] == "low_similarity"}
    assert removed == {key for key, texts in every_text.items() if texts <= low}, "a pair goes with its last text"
    summary = report["similarity"]
    assert summary["pool_wide"] == ["el"]
    for lang, row in summary["by_language"].items():
        assert np.float32(row["threshold"]) == np.float32(thresholds[lang])
        assert row["below"] == sum(r["lang"] == lang and (r["key"], r["text_idx"]) in low for r in rows)
        assert row["deciles"] == sorted(row["deciles"])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<h2>Similarity</h2>" in page
    assert "threshold of the whole pool: el." in page


def test_absolute_threshold_is_the_same_in_all_languages(world: Path, tmp_path: Path) -> None:
    run(world, tmp_path, percentile=50)
    values = sorted(row["similarity"] for row in measured(tmp_path) if row["similarity"] is not None)
    middle = float(np.median(values))
    report = run(world, tmp_path, threshold=middle)
    assert len(low_texts(tmp_path)) == sum(value < middle for value in values)
    assert {row["threshold"] for row in report["similarity"]["by_language"].values()} == {middle}
    assert report["similarity"]["pool_wide"] == []


def test_low_texts_leave_written_tars_and_their_pair_stays(world: Path, tmp_path: Path) -> None:
    report = run(world, tmp_path, {"write": "tars"}, percentile=50)
    valid = {row["key"] for row in rows_of(tmp_path, "valid_keys")}
    low_of_valid = {(key, text_idx) for key, text_idx in low_texts(tmp_path) if key in valid}
    assert low_of_valid, "some pair has a text above its threshold and one below"
    num_texts = sum(row["key"] in valid for row in measured(tmp_path))
    assert report["counts"]["written"]["texts"] == num_texts - len(low_of_valid)


def test_rules_of_texts_come_first_and_move_no_threshold(world: Path, tmp_path: Path) -> None:
    alone = run(world, tmp_path, percentile=60)["similarity"]
    low = low_texts(tmp_path)
    assert run(world, tmp_path, {"texts": {"languages": ["ja"]}}, percentile=60)["similarity"] == alone
    lang_of = {(row["key"], row["text_idx"]): row["lang"] for row in measured(tmp_path)}
    rules = {(row["key"], row["text_idx"]): row["rule"] for row in rows_of(tmp_path, "removed_texts")}
    not_japanese = {text for text, lang in lang_of.items() if lang != "ja"}
    assert rules == {**dict.fromkeys(low, "low_similarity"), **dict.fromkeys(not_japanese, "language")}


@pytest.mark.slow
def test_bytes_do_not_depend_on_the_number_of_workers(world: Path, tmp_path: Path) -> None:
    run(world, tmp_path / "one", percentile=30)
    pool, config = PoolConfig(path=str(world / "pool")), load_config(rules_of(world, percentile=30))
    check(pool, tmp_path / "two", config, executor=LocalExecutor(workers=2, quiet=True))
    expect_same_bytes(tmp_path / "one", tmp_path / "two")


def test_slices_measured_apart_give_the_same_bytes(world: Path, tmp_path: Path) -> None:
    run(world, tmp_path / "one", percentile=30)
    pool, config = PoolConfig(path=str(world / "pool")), load_config(rules_of(world, percentile=30))
    for part in (slice(1, None, 2), slice(0, None, 2)):
        scan_shards(pool, tmp_path / "slices", part, config, executor=QUIET)
    before = modified(tmp_path / "slices/similarity")
    run(world, tmp_path / "slices", percentile=30)
    assert modified(tmp_path / "slices/similarity") == before
    expect_same_bytes(tmp_path / "one", tmp_path / "slices")


def expect_same_bytes(one: Path, other: Path) -> None:
    files = [path.relative_to(one) for path in one.rglob("*.parquet")]
    assert {f"similarity/{shard:05}.tar.parquet" for shard in range(SHARDS)} < {str(file) for file in files}
    for file in [*files, Path("report.json")]:
        assert (one / file).read_bytes() == (other / file).read_bytes(), file


def test_changed_threshold_embeds_nothing_and_changed_model_embeds_all(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(world / "pool", tmp_path / "pool")
    shutil.copytree(world / "model", tmp_path / "model")
    done: list[str] = []
    plain = of_similarity._measure_shard
    monkeypatch.setattr(
        of_similarity, "_measure_shard", lambda shard, **keys: done.append(shard.name) or plain(shard, **keys)
    )
    run(tmp_path, tmp_path / "out", percentile=30)
    assert len(done) == SHARDS
    before = low_texts(tmp_path / "out")
    run(tmp_path, tmp_path / "out", percentile=60)
    assert len(done) == SHARDS
    assert low_texts(tmp_path / "out") > before
    (tmp_path / "pool" / "00001.tar").unlink()
    run(tmp_path, tmp_path / "out", percentile=60)
    assert len(done) == SHARDS, "the threshold of the remaining shard is another, its embeddings are not"
    left = rows_of(tmp_path / "out" / "similarity", "00000.tar")
    assert not (tmp_path / "out" / "similarity" / "00001.tar.parquet").exists()
    thresholds = plain_thresholds(left, 60, min_texts=5)
    low = {(row["key"], row["text_idx"]) for row in left if (row["similarity"] or 9) < thresholds[row["lang"]]}
    assert low_texts(tmp_path / "out") == low
    (tmp_path / "model" / "config.json").write_text((tmp_path / "model" / "config.json").read_text() + " ")
    run(tmp_path, tmp_path / "out", percentile=60)
    assert done[SHARDS:] == ["00000.tar"]


def test_mistakes_are_reported_at_once_before_any_work(world: Path, tmp_path: Path) -> None:
    config = {
        "similarity": {"model": str(tmp_path / "none"), "percentile": 30, "threshold": 0.3},
        "texts": {"deny_phrases": [str(tmp_path / "list")]},
    }
    with pytest.raises(UserError) as raised:
        check(PoolConfig(path=str(world / "pool")), tmp_path / "out", load_config(config))
    said = str(raised.value)
    assert "similarity.model" in said
    assert "exactly one of percentile and threshold" in said
    for rule, message in (
        ({"percentile": 30}, "must be set for percentile and threshold"),
        ({"model": "a/b"}, "exactly one"),
        ({"model": "a/b", "percentile": 101}, "between 0 and 100"),
        ({"model": "a/b", "threshold": 3}, "between -1 and 1"),
    ):
        with pytest.raises(UserError, match=message):
            load_config({"similarity": rule})
    config["similarity"].pop("threshold")
    with pytest.raises(UserError) as raised:
        check(PoolConfig(path=str(world / "pool")), tmp_path / "out", load_config(config))
    assert any("similarity.model" in problem and "does not exist" in problem for problem in raised.value.problems)
    assert any("texts.deny_phrases names" in problem for problem in raised.value.problems)
    assert not (tmp_path / "out").exists()


def test_pool_without_images_is_refused(world: Path, tmp_path: Path) -> None:
    write_table(tmp_path / "pool" / "0.parquet", {"uid": ["a"], "text": ["a red cat"]})
    with pytest.raises(UserError, match=r"similarity\.model with 0\.parquet: it holds no images"):
        check_pool(tmp_path, pool={"key": "uid"}, **rules_of(world, percentile=30))


def test_parquet_with_images_inside_gives_the_similarities_of_tars(world: Path, tmp_path: Path) -> None:
    run(world, tmp_path / "tars", percentile=30)
    samples = [(shard, i) for shard in range(SHARDS) for i in range(PER_SHARD) if f"{shard:05}_{i}" != BROKEN]
    columns = {
        "key": [f"{shard:05}_{i}" for shard, i in samples],
        "image": pa.array([picture(100 * shard + i) for shard, i in samples], pa.binary()),
        "text": [texts_of(shard, i)[0] for shard, i in samples],
    }
    write_table(tmp_path / "pool" / "0.parquet", columns)
    check_pool(tmp_path, pool={"key": "key"}, **rules_of(world, percentile=30))
    of_tars = {row["key"]: row["similarity"] for row in measured(tmp_path / "tars") if row["text_idx"] == 0}
    of_table = {row["key"]: row["similarity"] for row in rows_of(tmp_path / "out" / "similarity", "0.parquet")}
    assert of_table == pytest.approx({key: of_tars[key] for key in of_table}, abs=1.5e-4)


def test_languages_are_those_that_the_pool_states(world: Path, tmp_path: Path) -> None:
    def stated(shard: int, i: int) -> list[str | None]:
        return [("de", "swh_Latn", None)[(i + place) % 3] for place in range(len(texts_of(shard, i)))]

    write_shards(tmp_path, said=stated)
    pool = {"lang": "json:said"}
    report = check_pool(tmp_path, pool=pool, **rules_of(world, percentile=30))
    codes = {"de": "de", "swh_Latn": "sw", None: "und"}
    rows = measured(tmp_path / "out")
    for row in rows:
        assert row["lang"] == codes[stated(*map(int, row["key"].split("_")))[row["text_idx"]]]
    thresholds = {lang: item["threshold"] for lang, item in report["similarity"]["by_language"].items()}
    assert thresholds == pytest.approx(plain_thresholds(rows, 30, 5))
    # the rules of texts, without a model
    texts = {"languages": ["de"], "drop_pair_when": "all"}
    check_pool(tmp_path, out=tmp_path / "rules", pool=pool, duplicates="keep", texts=texts)
    others = {(row["key"], row["text_idx"]) for row in rows if row["lang"] != "de"}
    assert low_texts(tmp_path / "rules") == others
