"""The plan of an epoch against its definition in words: orders, shares of ranks, online curation, counts of pairs."""

import dataclasses
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calls import before
from pages import blocks
from small_world import TEXTS, finish_curate, make_recipe, write_world
from stages import context
from trainings import make_loader, pairs_of, read, write_matched
from worldclip import pool
from worldclip.contracts import schemas
from worldclip.core import artifacts
from worldclip.core.coin import ORDER, uniform
from worldclip.core.settings import to_toml
from worldclip.curate import Curator, candidates
from worldclip.curate.stage import curate_work
from worldclip.train import pairs as pairs_of_shards
from worldclip.train import plan
from worldclip.train.distributed import ALONE, World
from worldclip.train.pairs import PAIRS, WITHOUT_IMAGE, EpochCounts, PairSource

# pure functions


def test_a_replacement_is_drawn_by_hash():
    assert plan.replacement(7, 3, 100, 1, 2) == math.floor(uniform("7", 3, 1, 2, ORDER) * 100)
    assert {0 <= plan.replacement(7, draw, 10, 0, 0) < 10 for draw in range(1, 50)} == {True}


def round_robin(streams):
    """Return the items of lists, taken in turns; exhausted lists leave the round."""
    waiting, items = [list(stream) for stream in streams], []
    while any(waiting):
        items += [stream.pop(0) for stream in waiting if stream]
    return items


@settings(deadline=None)
@given(st.lists(st.integers(0, 7), min_size=1, max_size=6).filter(any))
def test_streams_are_read_round_robin_until_they_are_exhausted(lengths):
    expected = round_robin([(stream, row) for row in range(length)] for stream, length in enumerate(lengths))
    stream, place = plan.locate_in_streams(np.arange(len(expected)), np.array(lengths))
    assert list(zip(stream.tolist(), place.tolist(), strict=True)) == expected


@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_ranks_share_a_batch_equally_and_mostly_read_their_own_streams(world_size):
    owner = np.array([0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 0, 1])
    shares = [plan.split_by_owner(owner, 6, rank, world_size) for rank in range(world_size)]
    assert sorted(np.concatenate(shares).tolist()) == list(range(12))
    assert {len(share) for share in shares} == {12 // world_size}
    owners_of_first = set(owner[shares[0]].tolist())
    assert owners_of_first == {1: {0, 1, 2, 3, 4, 5}, 2: {0, 1, 2}, 3: {0, 1}, 6: {0}}[world_size]


def test_neighbouring_ranges_of_a_file_are_merged():
    file, offset = np.array([1, 0, 0, 1, 0]), np.array([0, 100, 0, 500, 130])
    size = np.array([10, 20, 50, 10, 5])
    reads, read_of = plan.merge_ranges(file, offset, size, 60)
    assert reads.tolist() == [[0, 0, 135], [1, 0, 10], [1, 500, 510]]
    assert read_of.tolist() == [1, 0, 0, 2, 0]


def test_the_sampler_of_the_page_takes_languages_in_turns_at_any_step(tmp_path, monkeypatch):
    (code,) = (block for block in blocks("docs/5_train.md", "python") if "Windows" in block)
    names = {}
    exec(code, names)
    monkeypatch.setattr(plan, "Windows", names["LanguagesInTurns"])
    write_world(tmp_path / "run")
    for path in (tmp_path / "run/curate").glob("*.parquet"):  # 24 English texts, 6 German ones
        curated = artifacts.read_table(path, schemas.CURATED)
        rows = curated.to_pylist()
        kept = [row["lang"] == "en" or (row["lang"] == "de" and int(row["key"]) % 4 == 0) for row in rows]
        artifacts.write_table(path, curated.filter(pa.array(kept)), schemas.CURATED)
    pairs = read(make_loader(tmp_path / "run", global_batch_size=10), 6)
    assert [text_idx for _, text_idx in pairs] == [1, 0] * 30  # German, English
    assert pairs_of(make_loader(tmp_path / "run", global_batch_size=10).batch(4)) == pairs[40:50]


# online curation: each epoch is what the Curator keeps


@pytest.fixture(scope="module", params=["one", "all"])
def matched_run(request, tmp_path_factory):
    """Return (run folder, recipe): the small world with matched texts and two entries of probability 0.9 and 0.3."""
    run_dir = tmp_path_factory.mktemp(request.param) / "run"
    recipe = make_recipe(write_world(run_dir, without_image={7}))
    recipe = dataclasses.replace(recipe, curate=dataclasses.replace(recipe.curate, text_policy=request.param, seed=5))
    artifacts.write_text(run_dir / "recipe.toml", to_toml(recipe))
    for lang in TEXTS:
        artifacts.write_array(run_dir / "balance" / f"{lang}.npy", np.array([0.9, 0.3], np.float32))
    write_matched(run_dir, recipe, lambda key: int(key) % 2)
    finish_curate(run_dir, recipe.pool, recipe.curate)
    return run_dir, recipe


def online_loader(matched_run, **options):
    run_dir, recipe = matched_run
    return make_loader(run_dir, recipe, work=curate_work(context(recipe, run_dir)), **options)


def test_each_epoch_equals_what_the_curator_keeps(matched_run):
    loader, curator = online_loader(matched_run), Curator(matched_run[0], seed=5)
    keys = [f"{n:05}" for n in range(24)]
    expected = []
    for epoch in range(3):
        key_idx, text_idx = curator.keep(keys, epoch)
        kept = {(keys[k], int(t)) for k, t in zip(key_idx, text_idx, strict=True) if keys[k] != "00007"}
        expected.append(kept)
        assert loader.order.length(epoch) == len(kept)
    assert expected[0] != expected[1]
    pairs = read(loader, -(-sum(map(len, expected)) // 12))
    for kept in expected:
        epoch, pairs = pairs[: len(kept)], pairs[len(kept) :]
        assert set(epoch) == kept
        assert len(set(epoch)) == len(epoch)


def test_entry_probabilities_are_copied_and_read_again_after_an_error_of_the_disk(matched_run, monkeypatch):
    """Such an error under a memory map would end the process with SIGBUS."""
    expected = pairs_of(online_loader(matched_run).batch(0))
    failed, modes = set(), set()

    def fail_once(path, mmap_mode=None, **_):
        if path.match("balance/*.npy") and path not in failed:
            failed.add(path)
            raise OSError(5, "Input/output error")
        modes.add(mmap_mode)

    candidates._load_probs.cache_clear()
    before(monkeypatch.setattr, np, "load", fail_once)
    monkeypatch.setattr(pairs_of_shards, "FIRST_WAIT_S", 0.001)
    assert pairs_of(online_loader(matched_run).batch(0)) == expected
    assert {path.stem for path in failed} == set(TEXTS)
    assert modes == {None}


def test_a_batch_of_a_later_epoch_does_not_depend_on_the_first_step(matched_run):
    from_start = online_loader(matched_run)
    for step in range(8):
        batch = from_start.batch(step)
    ranks = [online_loader(matched_run, world=World(rank, 3), decode_threads=rank + 1) for rank in range(3)]
    assert [pair for rank in ranks for pair in pairs_of(rank.batch(7))] == pairs_of(batch)
    assert from_start.epochs_of(96) == pytest.approx(ranks[0].epochs_of(96))


def test_loop_and_loader_thread_find_the_same_epochs(matched_run, monkeypatch):
    """Both sum up the epochs' starts as far as they need them."""
    expected, loader = (online_loader(matched_run) for _ in range(2))
    before(monkeypatch.setattr, loader.order, "length", lambda epoch: time.sleep(0.01))
    positions = [np.array([n]) for n in (300, 500, 400, 450)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(loader._locate, positions))
    assert found == [expected._locate(n) for n in positions]


def test_an_epoch_of_pools_beyond_memory_is_counted_by_keys_alone(matched_run):
    run_dir, recipe = matched_run
    shards = pool.list_pool(context(recipe, run_dir))
    for work in (None, curate_work(context(recipe, run_dir))):
        for epoch in range(3):
            large, small = (PairSource(run_dir, shards, None, num_cached, work) for num_cached in (1, 10))
            assert np.array_equal(large.counts(epoch)[0], small.counts(epoch)[0])
            assert large.counts(epoch)[1] == small.counts(epoch)[1]


def test_windows_take_shards_and_their_pairs_in_the_order_of_the_hash(tmp_path):
    write_world(tmp_path / "run", num_shards=5, per_shard=3)
    loader = make_loader(tmp_path / "run", shuffle_shards=2)
    expected = []
    for epoch in range(2):
        order = sorted(range(5), key=lambda i: uniform(loader.shards[i].name, 0, 1, epoch, ORDER))
        for start in (0, 2, 4):
            shards = order[start : start + 2]
            window = [(f"{3 * shard + n:05}", i) for shard in shards for n in range(3) for i in range(3)]
            expected += sorted(window, key=lambda pair: uniform(*pair, 1, epoch, ORDER))
    assert read(loader, 8)[:90] == expected


# streams


@pytest.mark.parametrize("num_streams", [2, 64])  # of 5 shards
def test_streams_are_read_in_tar_order(tmp_path, num_streams):
    write_world(tmp_path / "run", num_shards=5, per_shard=3)
    loader = make_loader(tmp_path / "run", num_streams=num_streams)
    order = plan.shard_order([shard.name for shard in loader.shards], 1, 0)
    expected = round_robin(
        [(f"{3 * shard + n:05}", i) for shard in order[stream::num_streams] for n in range(3) for i in range(3)]
        for stream in range(num_streams)
    )
    pairs = read(loader, 4)
    assert pairs[:45] == expected
    assert pairs[45:] != expected[:3]  # the next epoch has an order of its own


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_ranks_share_the_batch_of_one_rank_equally_under_streams(tmp_path, world_size):
    run_dir = tmp_path / "run"
    write_world(run_dir, num_shards=5, per_shard=3, broken={4})
    alone = make_loader(run_dir, num_streams=4)
    ranks = [make_loader(run_dir, num_streams=4, world=World(rank, world_size)) for rank in range(world_size)]
    for step in (0, 3, 5):
        batches = [rank.batch(step) for rank in ranks]
        assert {len(batch.keys) for batch in batches} == {12 // world_size}
        assert sorted(pair for batch in batches for pair in pairs_of(batch)) == sorted(pairs_of(alone.batch(step)))


@pytest.mark.parametrize("num_streams", [0, 4])
def test_a_batch_that_is_skipped_is_not_trained_on(tmp_path, num_streams):
    write_world(tmp_path / "run")
    whole = make_loader(tmp_path / "run", num_streams=num_streams)
    stretches = ((12, 18), (18, 24), (36, 48))
    skipping = make_loader(tmp_path / "run", num_streams=num_streams, skip_samples=stretches)
    for step, step_of_whole in ((0, 0), (1, 2), (2, 4)):
        assert pairs_of(skipping.batch(step)) == pairs_of(whole.batch(step_of_whole))
    for num_seen, position in ((11, 11), (12, 24), (23, 35), (35, 59), (36, 60)):
        assert skipping.epochs_of(num_seen) == whole.epochs_of(position)


@pytest.mark.parametrize("num_streams", [0, 2])
def test_a_remote_pool_gives_the_images_of_a_local_one(tmp_path, num_streams):
    tars = write_world(tmp_path / "run", num_shards=3, per_shard=3)
    memory = fsspec.filesystem("memory")
    for tar in tars.glob("*.tar"):
        memory.pipe_file(f"/streams/{tar.name}", tar.read_bytes())
    loaders = [make_loader(tmp_path / "run", path, num_streams=num_streams) for path in (tars, "memory://streams")]
    local, remote = (loader.batch(1) for loader in loaders)
    memory.rm("/streams", recursive=True)
    assert pairs_of(local) == pairs_of(remote)
    np.testing.assert_array_equal(local.images.numpy(), remote.images.numpy())


# how many pairs an epoch has: the ranks count a share of the shards each, and find the numbers in the run's folder

NUM_SHARDS = 11


class Count:
    """Counts a shard, and notes (shard, epoch) and the thread of each call."""

    def __init__(self):
        self.calls, self.threads = [], set()

    def __call__(self, shard, epoch):
        self.calls.append((shard, epoch))
        self.threads.add(threading.get_ident())
        return 100 * epoch + shard, shard % 3


@pytest.mark.parametrize("num_ranks", [1, 2, 16])
def test_each_shard_is_counted_once_by_all_ranks_together(tmp_path, num_ranks):
    count = Count()
    ranks = [EpochCounts(tmp_path, count, NUM_SHARDS, World(rank, num_ranks)) for rank in range(num_ranks)]
    with ThreadPoolExecutor(num_ranks) as threads:
        found = list(threads.map(lambda counts: counts.of_epoch(3), ranks))
    for numbers in found:
        assert numbers[PAIRS].tolist() == [300 + shard for shard in range(NUM_SHARDS)]
        assert numbers[WITHOUT_IMAGE].tolist() == [shard % 3 for shard in range(NUM_SHARDS)]
    assert sorted(count.calls) == [(shard, 3) for shard in range(NUM_SHARDS)]
    assert [path.name for path in tmp_path.iterdir()] == ["000003.npy"]
    EpochCounts(tmp_path, count, NUM_SHARDS, World(1, 4)).of_epoch(3)
    assert len(count.calls) == NUM_SHARDS, "a restart reads the file, at any number of ranks"


@pytest.mark.parametrize(("before", "after"), [(2, 2), (2, 3), (3, 2), (4, 1)])
def test_a_share_from_before_a_kill_gives_the_same_numbers_at_another_number_of_ranks(tmp_path, before, after):
    killed = EpochCounts(tmp_path, Count(), NUM_SHARDS, World(before - 1, before))
    killed.count_ahead(0)
    while not list(tmp_path.glob("*.npy")):
        time.sleep(0.01)
    count = Count()
    first, *others = [EpochCounts(tmp_path, count, NUM_SHARDS, World(rank, after)) for rank in range(after)]
    for other in others:
        other.count_ahead(0)
    assert first.of_epoch(0)[PAIRS].tolist() == list(range(NUM_SHARDS))
    assert [path.name for path in tmp_path.iterdir()] == ["000000.npy"]
    if before == after:  # its share is not counted again
        assert sorted(count.calls) == [(shard, 0) for shard in range(0, NUM_SHARDS, 2)]


def test_an_epoch_is_counted_ahead_in_the_background_and_its_error_raised_where_it_is_needed(tmp_path):
    count = Count()
    counts = EpochCounts(tmp_path, count, NUM_SHARDS, ALONE)
    counts.count_ahead(1)
    counts.count_ahead(1)
    assert counts.of_epoch(1)[PAIRS, 4] == 104
    assert len(count.calls) == NUM_SHARDS
    assert threading.get_ident() not in count.threads

    def fail(shard, epoch):
        raise OSError("shard 0 is gone")

    counts = EpochCounts(tmp_path, fail, NUM_SHARDS, ALONE)
    counts.count_ahead(2)
    with pytest.raises(OSError, match="shard 0 is gone"):
        counts.of_epoch(2)
