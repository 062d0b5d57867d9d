"""Online curation in the loader equals the Curator's; streams follow the plan at any world size."""

from __future__ import annotations

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor

import fsspec
import numpy as np
import pytest

from calls import before
from small_world import TEXTS, finish_curate, make_recipe, write_world
from stages import context
from trainings import make_loader, pairs_of, read, write_matched
from worldclip import pool
from worldclip.core import artifacts
from worldclip.core.settings import to_toml
from worldclip.curate import Curator, candidates
from worldclip.curate.stage import curate_work
from worldclip.train import plan, retries
from worldclip.train.distributed import World
from worldclip.train.pairs import PairSource


@pytest.fixture(scope="module", params=["one", "all"])
def matched_run(request, tmp_path_factory):
    """Return (run folder, recipe): the small world with matched texts and two entries of probability 0.9 and 0.3."""
    run_dir = tmp_path_factory.mktemp(request.param) / "run"
    tars = write_world(run_dir, without_image={7})
    recipe = make_recipe(tars)
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
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.001)
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


@pytest.mark.parametrize("num_streams", [2, 64])  # of 5 shards
def test_streams_are_read_round_robin_in_tar_order(tmp_path, num_streams):
    write_world(tmp_path / "run", num_shards=5, per_shard=3)
    loader = make_loader(tmp_path / "run", num_streams=num_streams)
    order = plan.shard_order([shard.name for shard in loader.shards], 1, 0)
    streams = [
        [(f"{3 * shard + n:05}", i) for shard in order[stream::num_streams] for n in range(3) for i in range(3)]
        for stream in range(num_streams)
    ]
    expected = []
    while any(streams):
        expected += [stream.pop(0) for stream in streams if stream]
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


def test_a_remote_pool_gives_the_images_of_a_local_one(tmp_path):
    run_dir = tmp_path / "run"
    tars = write_world(run_dir, num_shards=3, per_shard=3)
    memory = fsspec.filesystem("memory")
    for tar in tars.glob("*.tar"):
        memory.pipe_file(f"/streams/{tar.name}", tar.read_bytes())
    try:
        for num_streams in (0, 2):
            local, remote = (
                make_loader(run_dir, path, num_streams=num_streams).batch(1) for path in (tars, "memory://streams")
            )
            assert pairs_of(local) == pairs_of(remote)
            np.testing.assert_array_equal(local.images.numpy(), remote.images.numpy())
    finally:
        memory.rm("/streams", recursive=True)


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
    shards = pool.shards(context(recipe, run_dir))
    for work in (None, curate_work(context(recipe, run_dir))):
        for epoch in range(3):
            large, small = (PairSource(run_dir, shards, None, num_cached, work) for num_cached in (1, 10))
            assert np.array_equal(large.counts(epoch)[0], small.counts(epoch)[0])
            assert large.counts(epoch)[1] == small.counts(epoch)[1]
