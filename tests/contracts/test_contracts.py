"""Counts of entries by hand and their sums; markers and checkpoints."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from count_files import write_count_file
from killed import modified
from worldclip.contracts import entry_counts, layout
from worldclip.contracts.entry_counts import count_entries, effective_entries, sum_counts, sum_shards
from worldclip.core.execute import LocalExecutor


@pytest.mark.parametrize("entry_id", [3, 3_000_000])  # ids that are dense, and ids that are not
def test_entries_are_counted_per_list_and_sorted(entry_id):
    langs = pa.array(["sw", "en", "en", "sw"]).dictionary_encode()
    ids = pa.array([[0, entry_id], [entry_id], [0, entry_id], [entry_id]], pa.large_list(pa.int32()))
    table = count_entries(pa.table({"entries_lang": langs, "entry_ids": ids}))
    before = pa.table({"entries_lang": langs.take([0]), "entry_ids": ids.slice(0, 1)})
    more = pa.concat_tables([before, pa.table({"entries_lang": langs, "entry_ids": ids})]).unify_dictionaries()
    for part in (more.slice(1), more.combine_chunks().slice(1)):
        assert count_entries(part).equals(table)
    assert count_entries(more.slice(0, 0)).num_rows == 0
    assert table.to_pylist() == [
        {"entries_lang": "en", "entry_id": 0, "count": 1},
        {"entries_lang": "en", "entry_id": entry_id, "count": 2},
        {"entries_lang": "sw", "entry_id": 0, "count": 1},
        {"entries_lang": "sw", "entry_id": entry_id, "count": 2},
    ]


def test_more_texts_than_sixteen_bits_count_are_counted():
    ids = pa.array([[1]] * 70_000, pa.large_list(pa.int32()))
    table = count_entries(pa.table({"entries_lang": pa.array(["en"] * 70_000).dictionary_encode(), "entry_ids": ids}))
    assert table["count"].to_pylist() == [70_000]


def test_equally_frequent_entries_are_all_effective():
    assert effective_entries(np.array([7, 7, 0, 7, 7], np.uint64)) == 4.0
    assert 1 < effective_entries(np.array([100, 1], np.uint64)) < 2
    assert effective_entries(np.zeros(3, np.uint64)) == 0.0


@pytest.mark.parametrize("largest", [9, 2**31, 2**60])
def test_sums_by_groups_equal_sums_shard_by_shard(tmp_path, largest, monkeypatch):
    rng = np.random.default_rng(0)
    lists = {"en": 50, "none": 0, "sw": 20}
    paths = []
    for i in range(11):
        rows = [(n, int(e), int(rng.integers(1, largest))) for n in ("en", "sw") for e in rng.choice(20, 9, False)]
        paths.append(write_count_file(tmp_path / "counts" / f"{i:02}.tar.parquet", rows))
    monkeypatch.setattr(entry_counts, "GROUP_SIZE", 3)
    monkeypatch.setattr(entry_counts, "MAX_GROUPS", 4)

    def add(paths):
        names = [path.stem for path in paths]
        sums = sum_shards(lists, tmp_path / "counts", names, tmp_path / "sums", LocalExecutor(quiet=True))
        assert all(np.array_equal(sums[name], counts) for name, counts in sum_counts(lists, paths).items())
        return modified(tmp_path / "sums", "*.npy").items()

    groups = add(paths)
    assert add(paths) == groups
    assert len(groups) == 4
    more = add([*paths, write_count_file(tmp_path / "counts" / "99.tar.parquet", [("en", 1, 5)])])
    assert len(groups & more) == 3, "groups that did not change are not added again"
    add(paths[:2])
    assert not list((tmp_path / "sums").rglob("*.npy"))


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 7), st.integers(1, 9)), min_size=2, max_size=6))
def test_sums_by_groups_follow_every_file_that_is_added_or_written_again(tmp_path_factory, written):
    folder = tmp_path_factory.mktemp("groups")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entry_counts, "GROUP_SIZE", 2)
        for time_ns, (number, count) in enumerate(written):
            changed = write_count_file(folder / "counts" / f"{number}.tar.parquet", [("en", number, count)])
            os.utime(changed, ns=(time_ns, time_ns))
            paths = sorted((folder / "counts").iterdir())
            names = [path.stem for path in paths]
            sums = sum_shards({"en": 8}, folder / "counts", names, folder / "sums", LocalExecutor(quiet=True))
            assert sums["en"].tolist() == sum_counts({"en": 8}, paths)["en"].tolist()


# paths


def test_best_checkpoint_is_one_that_is_there(tmp_path: Path) -> None:
    for step in (20, 3):
        layout.step_folder(tmp_path / "train", step).mkdir(parents=True)
    assert [layout.step_of(path) for path in layout.checkpoints(tmp_path / "train")] == [3, 20]
    for best, expected in ((3, 3), (7, 20)):
        (tmp_path / "train" / "best.json").write_text(f'{{"step": {best}}}')
        assert layout.best_checkpoint(tmp_path) == layout.step_folder(tmp_path / "train", expected)
