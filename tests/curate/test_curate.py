"""The stages match, balance and curate together against plain Python."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from killed import contents
from plain_recipe import BAD_JSON, LISTS, keys_of, make_recipe, make_run, make_shards, plain_run, run_stages, write_pool
from pools import read_tar, write_table
from stages import context, run_stage
from tars import as_json, write_tar
from worldclip import curate, pool
from worldclip.contracts.reasons import Reason
from worldclip.core import artifacts
from worldclip.core.errors import UserError
from worldclip.core.execute import LocalExecutor
from worldclip.curate.accounting import COLUMNS
from worldclip.curate.config import CurateConfig

SHARDS = make_shards(seed=2)
TEXT = "the old green tree on the mountain by the water"
HOUSE = "the old red house on the mountain by the sea"
KEEP_ALL = {"balance": {"tail_fraction": 1.0}}


@pytest.fixture(scope="module")
def pool_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    write_pool(folder, SHARDS)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """TMP/run; tests with another pool have it in TMP/pool."""
    return tmp_path / "run"


def read_kept(run: Path, name: str) -> list[tuple]:
    table = curate.read_curated(run, name)
    columns = ("key", "text_idx", "text", "lang", "keep_prob")
    return list(zip(*(table.column(column).to_pylist() for column in columns), strict=True))


@pytest.mark.parametrize("policy", ["one", "all"])
@pytest.mark.parametrize("languages", [{}, {"exclude": ["zh"]}, {"include": ["en", "th"], "seed": 7}])
def test_match_balance_curate_agree_with_plain_python(pool_folder, run, policy, languages):
    recipe = make_recipe(pool_folder, curate={"text_policy": policy, **languages})
    expected = plain_run(SHARDS, recipe)
    reports = run_stages(recipe, run)
    lists = artifacts.read_json(run / "balance" / "thresholds.json")["lists"]
    assert {name: row["threshold"] for name, row in lists.items()} == expected.thresholds
    for name, rows in expected.kept.items():
        assert read_kept(run, name) == rows
    check_report(reports["curate"], expected.report)
    total = reports["curate"]["total"]
    assert 0 < total["pairs_out"] < total["pairs_in"]
    assert total["sampled_out"] > 0


def check_report(report: dict, expected: dict) -> None:
    """Every column of every language, and that they add up."""
    for lang, row in report["languages"].items():
        assert list(row) == list(COLUMNS)
        assert row["pairs_in"] == sum(row[reason.column] for reason in Reason)
        for column, value in row.items():
            assert value == pytest.approx(expected[lang].get(column, 0), abs=1e-9), (lang, column)
    assert set(report["languages"]) == {lang for lang, row in expected.items() if row["pairs_in"]}


@pytest.mark.parametrize("policy", ["one", "all"])
def test_denied_and_invalid_keys_are_never_kept(pool_folder, run, tmp_path, policy):
    matched = plain_run(SHARDS, make_recipe(pool_folder)).matched
    keys = sorted({row[0] for rows in matched.values() for row in rows})
    valid, denied = keys[: len(keys) * 2 // 3], keys[5:15]
    lists = {
        "valid_keys": str(write_table(tmp_path / "valid.parquet", {"key": valid})),
        "deny_keys": [str(write_table(tmp_path / "denied.parquet", {"key": denied}))],
    }
    recipe = make_recipe(pool_folder, pool=lists, curate={"text_policy": policy, "exclude": ["ar"]})
    expected = plain_run(SHARDS, recipe, valid=set(valid), denied=denied)
    reports = run_stages(recipe, run)
    kept = [row for name in expected.kept for row in read_kept(run, name)]
    assert kept == [row for rows in expected.kept.values() for row in rows]
    assert not {row[0] for row in kept} & set(denied)
    check_report(reports["curate"], expected.report)
    assert reports["curate"]["total"]["not_valid"] > 0
    assert reports["curate"]["total"]["excluded"] > 0


ADVERSARIAL = [
    [],
    [("a", BAD_JSON)],
    [("a", [])],
    [("a", [None, "", " "]), ("b", [None])],
    [("a", ["the cat sat on the mountain by the water", None]), ("a", ["the dog sat on the mountain by the sea"])],
    [("a", BAD_JSON), ("a", ["the old house by the sea in the mountain"]), ("a", [])],
    [("a", ["старая фотография большого красного дома", "照片里的红色房子和山水在一起"])],
    [("a", ["unmatched words everywhere without any listed thing", "รูปแมวใหญ่ในบ้านสีแดงที่ภูเขา"])],
    [("a", ["照片里的红色房子和山水在一起", "unmatched words everywhere without any listed thing"])],
    [("z", [TEXT])],
]


@pytest.mark.parametrize("policy", ["one", "all"])
def test_reasons_add_up_on_adversarial_shards(tmp_path, policy):
    shards = {f"{i}/0.tar": samples for i, samples in enumerate(ADVERSARIAL)}
    curating = {"text_policy": policy, "exclude": ["zh"]}
    run = make_run(tmp_path, shards, curate=curating)
    expected = plain_run(shards, make_recipe(tmp_path / "pool", curate=curating))
    check_report(artifacts.read_json(run / "curate" / "report.json"), expected.report)
    assert [read_kept(run, name) for name in shards] == [expected.kept[name] for name in shards]


def test_workers_and_the_order_of_work_change_no_byte(pool_folder, tmp_path_factory):
    recipe = make_recipe(pool_folder)
    results = []
    for workers in (1, 2, 4):
        run = tmp_path_factory.mktemp(f"workers{workers}")
        run_stages(recipe, run, Shuffled(workers=1, quiet=True, seed=workers), stages="pool match balance")
        run_stages(recipe, run, LocalExecutor(workers=workers, quiet=True), stages="curate")
        results.append(contents(run, ["manifest.json", "recipe.toml"]))
    assert results[0] == results[1] == results[2]


class Shuffled(LocalExecutor):
    """Works on shards in another order; reports come back in theirs, as every executor promises."""

    def __init__(self, *, seed: int, **options) -> None:
        super().__init__(**options)
        self.seed = seed

    def map(self, fn, shards, **options):
        order = random.Random(self.seed).sample(range(len(shards)), len(shards))
        reports = super().map(fn, [shards[i] for i in order], **options)
        return [report for _, report in sorted(zip(order, reports, strict=True), key=lambda item: item[0])]


def test_hex_keys_give_datacomps_list_which_serves_as_valid_keys(tmp_path, run):
    names = [hashlib.md5(str(i).encode(), usedforsecurity=False).hexdigest() for i in range(40)]
    shards = {"0.tar": names[:25], "1.tar": names[20:]}  # five keys are in both
    write_pool(
        tmp_path / "pool",
        {shard: [(name, [HOUSE, f"{HOUSE} water"]) for name in keys] for shard, keys in shards.items()},
    )
    report = run_stages(make_recipe(tmp_path / "pool", curate={"text_policy": "all"}), run)["curate"]
    kept = sorted({row[0] for shard in shards for row in read_kept(run, shard)})
    listed = np.load(run / "curate" / "keys.npy")
    assert listed.dtype == np.dtype("u8,u8")
    assert listed.tolist() == [(int(key[:16], 16), int(key[16:], 16)) for key in kept]
    assert report["num_keys_in_list"] == len(kept) > 0

    valid = (run / "curate" / "keys.npy").rename(tmp_path / "keys.npy")
    recipe = make_recipe(tmp_path / "pool", pool={"valid_keys": str(valid)}, curate={"text_policy": "all"})
    assert run_stages(recipe, run)["curate"]["total"]["not_valid"] > 0
    unlisted = {"text_policy": "all", "write_keys": False}
    assert run_stages(make_recipe(tmp_path / "pool", curate=unlisted), run)["curate"]["num_keys_in_list"] is None
    assert not (run / "curate" / "keys.npy").exists()


def test_unknown_language_is_a_user_error(pool_folder, run):
    recipe = make_recipe(pool_folder, curate={"include": ["en", "fr"], "exclude": ["xx"], "max_pairs": {"fr": 3}})
    with pytest.raises(UserError) as raised:
        run_stages(recipe, run)
    expected = ["curate.include: 'fr'", "curate.exclude: 'xx'", "curate.max_pairs: 'fr'"]
    assert [problem.split(" is not a language of this run")[0] for problem in raised.value.problems] == expected


def test_a_curation_stays_where_the_next_would_exclude_every_language(pool_folder, run):
    run_stages(make_recipe(pool_folder), run)
    before = contents(run / "curate")
    with pytest.raises(UserError, match=r"curate\.exclude: no language of this run remains \(.*en.*\)"):
        run_stage("curate", make_recipe(pool_folder, curate={"exclude": list(LISTS)}), run)
    assert contents(run / "curate") == before


def test_tars_are_not_written_into_a_pool_of_tars(tmp_path):
    write_pool(tmp_path / "pool", make_shards(seed=1))
    recipe = make_recipe(tmp_path / "pool", curate={"write": "tars"})
    with pytest.raises(UserError, match=r"run is in the pool's folder .* \.tar files .* choose a folder outside"):
        run_stages(recipe, tmp_path / "pool/run")


def test_invalid_config_lists_all_problems():
    problems = CurateConfig(seed=-1, include=("en", "zh"), exclude=("zh",), samples_per_tar=0).problems()
    assert len(problems) == 3
    assert "curate.seed = -1: must be between 0 and" in problems[0]
    assert "zh is in curate.exclude, too" in problems[2]


@pytest.mark.parametrize("policy", ["one", "all"])
def test_kept_samples_as_tars_hold_the_pools_bytes_and_make_a_pool_again(pool_folder, tmp_path_factory, policy):
    results = []
    for workers in (1, 2) if policy == "one" else (1,):
        run = tmp_path_factory.mktemp(f"tars{workers}")
        options = {"text_policy": policy, "write": "tars", "samples_per_tar": 7}
        report = run_stages(make_recipe(pool_folder, curate=options), run, LocalExecutor(workers=workers, quiet=True))
        results.append(contents(run / "curate" / "tars", [".work", "README.md"]))
    assert results[0] == results[-1]
    kept: dict[str, list[str]] = {}
    for name in sorted(SHARDS):
        for key, _, text, *_ in read_kept(run, name):
            kept.setdefault(key, []).append(text)
    assert report["curate"]["tars"] == {"samples": len(kept), "no_image": 0, "cut_image": 0}
    assert len(results[0]) == -(-len(kept) // 7)

    recipe = make_recipe(run / "curate" / "tars", pool={"key": "json:key", "texts": ["json:texts"]})
    found: dict[str, list[str]] = {}
    numbers = []
    for shard in pool.shards(context(recipe, run)):
        texts = pool.read_texts(shard, recipe.pool)
        for key, text in zip(texts.key.to_pylist(), texts.text.to_pylist(), strict=True):
            found.setdefault(key, []).append(text)
        members = read_tar(Path(shard.path))
        for name in (name for name in members if name.endswith(".json")):
            record = json.loads(members[name])
            numbers.append(int(name.removesuffix(".json")))
            assert members[name.replace(".json", ".jpg")] == b"image of " + Path(record["key"]).name.encode()
            assert members[name.replace(".json", ".txt")].decode() == record["texts"][0]
    assert found == kept
    assert numbers == list(range(len(kept)))


def test_kept_key_without_an_image_is_counted(tmp_path, run):
    record = as_json({"texts": [TEXT]})
    write_tar(tmp_path / "pool/0.tar", [("a.json", record), ("a.jpg", b"A"), ("b.json", record)])
    report = run_stages(make_recipe(tmp_path / "pool", curate={"write": "tars"}, **KEEP_ALL), run)["curate"]
    assert report["tars"] == {"samples": 1, "no_image": 1, "cut_image": 0}
    run_stages(make_recipe(tmp_path / "pool", **KEEP_ALL), run, stages="curate")
    assert not (run / "curate" / "tars").exists()


def test_curated_tars_keep_the_fields_of_the_pool_but_no_dropped_text(tmp_path, run):
    others = {"url": "http://x/a.jpg", "sha256": "ab", "width": 3, "alt": "\ud800"}
    record = {**others, "caption": "", "texts": [TEXT, "zzz"]}
    write_tar(tmp_path / "pool/0.tar", {"a.json": as_json(record), "a.jpg": b"A"})
    run_stages(make_recipe(tmp_path / "pool", curate={"write": "tars"}, **KEEP_ALL), run)
    written = json.loads(read_tar(run / "curate/tars/000000.tar")["000000000.json"])
    assert written == {**others, "key": "a", "texts": [TEXT], "text_idx": [0], "lang": ["en"]}


@pytest.mark.parametrize("least", [0, 10])
def test_curated_rows_of_a_parquet_pool_keep_all_columns(tmp_path, run, least):
    rows = [{"uid": f"{i:03}", "url": f"http://x/{i}", "text": TEXT if i % 3 else "zzz", "n": i} for i in range(30)]
    rows.append({**rows[1], "n": 99})  # a repeated key: the first is the pair
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    write_table(tmp_path / "pool/part.parquet", columns, row_group_size=7)
    pool_config = {"key": "uid", "texts": ["text"]}
    if least:  # rows that pool.where leaves out shift none of the others
        pool_config["where"] = [["n", ">=", least]]
    sections = {"pool": pool_config, **KEEP_ALL}
    report = run_stages(make_recipe(tmp_path / "pool", curate={"write": "parquet"}, **sections), run)["curate"]
    written = pq.read_table(run / "curate/parquet/part.parquet")
    assert written.column_names == [*columns, "kept_text", "kept_texts", "kept_text_idx", "kept_lang"]
    first = {row["uid"]: row for row in reversed(rows) if row["n"] >= least}
    expected = [row for row in rows if row in first.values() and row["text"] == TEXT]
    assert written.select(list(columns)).to_pylist() == expected
    assert report["parquet"] == {"rows": len(expected)} == {"rows": report["total"]["pairs_out"]}
    assert set(written["kept_text"].to_pylist()) == {TEXT}
    assert written["kept_texts"].to_pylist()[0] == [TEXT]
    run_stages(make_recipe(tmp_path / "pool", **sections), run, stages="curate")
    assert not (run / "curate" / "parquet").exists()


def test_rows_of_a_pool_of_tars_are_refused(pool_folder, run):
    with pytest.raises(UserError, match=r'curate\.write = "parquet": .*\.tar is no Parquet file'):
        run_stages(make_recipe(pool_folder, curate={"write": "parquet"}), run)


@pytest.mark.parametrize("write", ["tars", "list"])
def test_pool_folder_named_as_an_output_loses_no_list(tmp_path, run, write):
    for folder in ("tars", "sums", "windows"):
        write_pool(tmp_path / "pool", {f"{folder}/0.tar": [("a", [TEXT])]})
    recipe = make_recipe(tmp_path / "pool", curate={"write": write, "max_pairs": 3}, **KEEP_ALL)
    if write == "tars":
        with pytest.raises(UserError, match=r"list of the shard tars/0\.tar stands as well; rename the pool's folder"):
            run_stages(recipe, run)
        return
    report = run_stages(recipe, run)["curate"]
    lists = [path for path in (run / "curate").rglob("*.tar.parquet") if ".work" not in path.parts]
    assert sum(pq.read_metadata(path).num_rows for path in lists) == report["total"]["pairs_out"] > 0
    assert len(lists) == 3


def test_deny_list_that_leaves_nothing_leaves_no_tar(tmp_path, run):
    options = {"curate": {"write": "tars"}, **KEEP_ALL}
    make_run(tmp_path, {"0.tar": [("a", [TEXT])]}, **options)
    assert (run / "curate/tars/000000.tar").exists()
    denied = write_table(tmp_path / "deny.parquet", {"key": ["a"]})
    with pytest.raises(UserError, match="0 of 1 images kept"):
        run_stages(make_recipe(tmp_path / "pool", pool={"deny_keys": [str(denied)]}, **options), run)
    assert not list((run / "curate").glob("tars*"))
    assert not list((run / "curate").glob("keys*"))


NOTHING = [("a.jpg", b"A"), ("b.jpg", b"B"), ("c.jpg", b"C"), ("c.txt", b"caf\xe9")]


@pytest.mark.parametrize(
    ("members", "curating", "problem"),
    [
        (
            NOTHING,
            {},
            r"^0 of 3 texts matched; 2 without text; 1 unreadable; c: its \.txt is not .*; set pool\.texts to",
        ),
        ([("a.txt", b"unmatched words")], {}, r"0 of 1 texts matched; 1 without a match; compare the texts with"),
        ([("a.txt", TEXT.encode())], {"exclude": ["en"]}, r"0 of 1 images kept; 1 excluded; see curate\.include"),
    ],
)
def test_run_that_keeps_nothing_names_the_largest_reason(tmp_path, run, capsys, members, curating, problem):
    write_tar(tmp_path / "pool/0.tar", members)
    with pytest.raises(UserError, match=problem):
        run_stages(make_recipe(tmp_path / "pool", curate=curating), run)
    assert ("1 of 1 texts matched" in capsys.readouterr().err) is bool(curating)


# online


@pytest.mark.parametrize(("policy", "seed"), [("one", 0), ("all", 0), ("one", 7)])
def test_the_curator_keeps_the_offline_list_in_epoch_0_and_draws_anew_later(pool_folder, run, policy, seed):
    recipe = make_recipe(pool_folder, curate={"text_policy": policy, "exclude": ["ar"], "seed": seed})
    run_stages(recipe, run)
    curator = curate.Curator(run)
    asked = [*keys_of(SHARDS), "unknown", ""]
    random.Random(0).shuffle(asked)
    offline = sorted((row[0], row[1]) for name in SHARDS for row in read_kept(run, name))
    key_idx, text_idx = curator.keep(asked)
    assert key_idx.dtype == np.int64
    assert text_idx.dtype == np.int32
    assert sorted((asked[i], int(t)) for i, t in zip(key_idx, text_idx, strict=True)) == offline
    assert list(zip(key_idx, text_idx, strict=True)) == sorted(zip(key_idx, text_idx, strict=True))
    if policy == "one":
        assert len(set(key_idx)) == len(key_idx)
    later = curator.keep(asked, epoch=1)
    assert [part.tolist() for part in later] != [key_idx.tolist(), text_idx.tolist()]
    assert [part.tolist() for part in curator.keep(pa.array(asked), epoch=1)] == [part.tolist() for part in later]


def test_over_many_epochs_the_curator_keeps_what_is_expected(pool_folder, run):
    recipe = make_recipe(pool_folder, curate={"text_policy": "one"})
    expected = run_stages(recipe, run)["curate"]["total"]["expected_pairs"]
    curator = curate.Curator(run, seed=3)
    kept = [len(curator.keep(keys_of(SHARDS), epoch)[0]) for epoch in range(200)]
    assert abs(np.mean(kept) - expected) < 4 * np.std(kept) / np.sqrt(len(kept))


def test_the_curator_needs_a_balanced_run(pool_folder, run):
    run_stages(make_recipe(pool_folder), run, stages="pool match")
    with pytest.raises(UserError, match="balance is not finished"):
        curate.Curator(run)


def test_curate_before_match_names_the_stage_to_run_first(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, balance={"tail_fraction": 0.1})
    with pytest.raises(UserError, match=rf"{tmp_path}/match is not finished; run first: worldclip match {tmp_path}"):
        run_stage("curate", recipe, tmp_path)
