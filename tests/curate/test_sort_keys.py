"""The kept keys in one sorted list, by groups and ranges: the same bytes as one sort of them all."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pytest

from kept_keys import hex_keys, write_curated
from killed import modified
from plain_recipe import make_recipe, make_run, run_stages
from worldclip.contracts import layout
from worldclip.core import keys
from worldclip.core.execute import LocalExecutor, group_starts
from worldclip.curate import sort_keys
from worldclip.curate.sort_keys import write_keys

GROUP_KEYS, RANGE_KEYS = 40, 30


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several groups and ranges for few keys."""
    monkeypatch.setattr(sort_keys, "GROUP_KEYS", GROUP_KEYS)
    monkeypatch.setattr(sort_keys, "RANGE_KEYS", RANGE_KEYS)


def plain_list(names: list[str]) -> bytes:
    pairs = sorted({(int(name[:16], 16), int(name[16:], 16)) for name in names})
    file = io.BytesIO()
    np.save(file, np.array(pairs, keys.HEX_PAIR))
    return file.getvalue()


@pytest.mark.parametrize("kind", ["random", "low", "one"])
def test_groups_and_ranges_give_the_bytes_of_one_sort(tmp_path, kind, monkeypatch) -> None:
    names = hex_keys(kind, 300)
    shards, num_kept = write_curated(tmp_path, names, 9)
    sizes = []
    sort = keys.sort_pairs
    monkeypatch.setattr(keys, "sort_pairs", lambda pairs: sizes.append(len(pairs)) or sort(pairs))
    paths, number = write_keys(tmp_path, shards, num_kept, LocalExecutor(quiet=True))
    assert paths == [tmp_path / "curate" / "keys.npy"] == layout.curated_keys(tmp_path)
    assert paths[0].read_bytes() == plain_list(names)
    assert number == len(set(names))
    assert not layout.key_work(tmp_path).exists()
    if kind != "one":  # a single key is in one range
        sample = max(sizes)  # every key, where ranges are this small; it is sorted between groups and ranges
        largest = max(GROUP_KEYS, *num_kept)
        assert sorted(sizes)[-2] <= largest < sample


def test_many_keys_are_several_files_which_make_the_one_list(tmp_path, monkeypatch) -> None:
    names = hex_keys("random", 300)
    shards, num_kept = write_curated(tmp_path, names, 9)
    executor = LocalExecutor(workers=2, quiet=True)
    write_keys(tmp_path, shards, num_kept, executor)
    with monkeypatch.context() as patch:
        patch.setattr(sort_keys, "FILE_KEYS", 100)
        paths, number = write_keys(tmp_path, shards, num_kept, executor)
    assert len(paths) > 2
    assert paths == layout.curated_keys(tmp_path), "the single file of before is gone"
    parts = [np.load(path) for path in paths]
    assert max(map(len, parts)) <= 100
    assert number == sum(map(len, parts))
    file = io.BytesIO()
    np.save(file, np.concatenate(parts))
    assert file.getvalue() == plain_list(names)
    write_keys(tmp_path, shards, num_kept, executor)
    assert [path.name for path in layout.curated_keys(tmp_path)] == ["keys.npy"]


@pytest.mark.parametrize("stopped_at", ["sort keys", "merge keys", "keys"])
def test_a_sort_that_stops_is_resumed(tmp_path, stopped_at) -> None:
    names = hex_keys("random", 200)
    shards, num_kept = write_curated(tmp_path, names, 6)
    with pytest.raises(KeyboardInterrupt):
        write_keys(tmp_path, shards, num_kept, Stopping(label=stopped_at, quiet=True))
    counting = Stopping(label="", quiet=True)
    (path,), _ = write_keys(tmp_path, shards, num_kept, counting)
    assert path.read_bytes() == plain_list(names)
    assert ("sort keys" in counting.worked) == (stopped_at == "sort keys")


class Stopping(LocalExecutor):
    """Stops after half of the units of the map with this label; notes the labels of maps that had work."""

    def __init__(self, *, label: str, **options) -> None:
        super().__init__(**options)
        self.label, self.now, self.worked = label, "", set()

    def map(self, fn, shards, *, label, **options):
        self.now = label
        return super().map(fn, shards, label=label, **options)

    def _run(self, work, todo):
        self.worked.add(self.now)
        for i, outcome in enumerate(super()._run(work, todo)):
            if self.now == self.label and i >= len(todo) // 2:
                raise KeyboardInterrupt
            yield outcome


def test_a_key_that_is_no_hex_leaves_no_list(tmp_path) -> None:
    names = hex_keys("random", 100)
    shards, num_kept = write_curated(tmp_path, names, 5)
    write_keys(tmp_path, shards, num_kept, LocalExecutor(quiet=True))
    shards, num_kept = write_curated(tmp_path, [*names, "not hex"], 5)
    assert write_keys(tmp_path, shards, num_kept, LocalExecutor(quiet=True)) == ([], None)
    assert layout.curated_keys(tmp_path) == []
    assert not layout.key_work(tmp_path).exists()


def test_groups_hold_at_most_so_many_pairs_and_files() -> None:
    assert group_starts([5, 5, 5, 50, 1, 0, 0], 10).tolist() == [0, 2, 3, 4, 7]
    assert group_starts([1] * 7, 10, 3).tolist() == [0, 3, 6, 7]
    assert group_starts([], 10).tolist() == [0, 0]


def test_the_list_is_left_out_if_the_recipe_says_so(tmp_path) -> None:
    text = "the old red house on the mountain by the sea"
    run = make_run(tmp_path, {f"{i}.tar": [(name, [text])] for i, name in enumerate(hex_keys("random", 3)[:3])})
    assert len(np.load(run / "curate" / "keys.npy")) == 3
    kept = modified(run / "curate", "*.tar.parquet")
    report = run_stages(make_recipe(tmp_path / "pool", curate={"write_keys": False}), run)["curate"]
    assert report["num_keys_in_list"] is None
    assert layout.curated_keys(run) == []
    assert kept == modified(run / "curate", "*.tar.parquet")


def test_the_sizes_of_ranges_follow_the_sample() -> None:
    pairs = keys.hex_pairs(pa.array(hex_keys("low", 1000), pa.large_string()))[0]
    samples = keys.sort_pairs(pairs)[::10]
    assert len(sort_keys._bounds(samples, 25)) == 3
