"""The coin against the published vectors and a plain XXH64; tables of keys, hex keys, and lists of keys."""

import random
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from worldclip import curate
from worldclip.core import coin, keys, sorted_keys, spill
from worldclip.core.sorted_keys import SortedKeys, hash_pairs, write_sorted

MASK = 2**64 - 1


def plain_uniform(key: str, *values: int) -> float:
    h = xxhash.xxh64_intdigest(key.encode())
    for value in values:
        h = (h + value + 0x9E3779B97F4A7C15) & MASK
        h = (h ^ h >> 30) * 0xBF58476D1CE4E5B9 & MASK
        h = (h ^ h >> 27) * 0x94D049BB133111EB & MASK
        h ^= h >> 31
    return (h >> 11) * 2**-53


def test_published_vectors():
    vectors = {
        ("000000000", 0, 0, 0, 0): 0.1945941320636071,
        ("000000000", 0, 0, 0, 1): 0.4030198837369374,
        ("red apple", 3, 42, 7, 0): 0.8684517442360835,
        ("", 0, 0, 1, 3): 0.9604962770114444,
    }
    for (key, *rest), expected in vectors.items():
        assert curate.uniform(key, *rest) == expected
        assert curate.uniform([key], *rest).tolist() == [expected]


def test_xxh64_agrees_with_the_package_for_lengths_0_to_100():
    keys = [("aé漢🌍" * 30).encode()[:n].decode("utf-8", "ignore") + "x" * (n % 4) for n in range(101)]
    keys += ["k" * n for n in range(101)]
    assert coin.hash_keys(keys).tolist() == [xxhash.xxh64_intdigest(key.encode()) for key in keys]


# numbers from 0 up and the largest seed of 64 bits
NUMBERS = st.integers(0, 2**31 - 1)


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(max_size=80), NUMBERS), max_size=8), st.integers(0, MASK), NUMBERS, st.integers(0, 3))
def test_uniform_agrees_with_a_plain_implementation(pairs, seed, epoch, stream):
    keys, text_idx = [key for key, _ in pairs], [idx for _, idx in pairs]
    expected = [plain_uniform(key, idx, seed, epoch, stream) for key, idx in pairs]
    assert curate.uniform(keys, text_idx, seed, epoch, stream).tolist() == expected


def test_every_kind_of_array_gives_the_same_numbers():
    keys = ["a", "", "ключ", "鍵", "b" * 40]
    expected = curate.uniform(keys, 2, 5, 1).tolist()
    string, large = pa.array(keys, pa.string()), pa.array(keys, pa.large_string())
    kinds = [
        np.array(keys),
        np.array(keys, object),
        string,
        large,
        pa.chunked_array([string.slice(0, 2), string.slice(2)]),
        pa.chunked_array([large]),
        string.dictionary_encode(),
    ]
    for kind in kinds:
        assert curate.uniform(kind, 2, 5, 1).tolist() == expected
    assert curate.uniform(large.slice(1, 3), np.array([2, 2, 2], np.int32), 5, 1).tolist() == expected[1:4]
    assert curate.uniform([], 0, 0, 0).shape == (0,)
    assert curate.uniform(pa.chunked_array([], pa.string()), 0, 0, 0).shape == (0,)


def test_sample_of_a_union_is_the_sample_of_the_samples():
    records = [{"key": f"key {i % 50}", "text_idx": i // 50} for i in range(200)]
    parts = [coin.sample_records(records[start : start + 30], 10) for start in range(0, 200, 30)]
    whole = coin.sample_records(records, 10)
    assert coin.sample_records([record for part in parts for record in part], 10) == whole
    numbers = [coin.uniform(record["key"], record["text_idx"], 0, 0, coin.ORDER) for record in records]
    assert whole == [records[i] for i in sorted(range(200), key=numbers.__getitem__)[:10]]
    assert coin.sample_records([], 10) == []


# keys


def test_key_table_finds_every_key_and_no_other():
    some = [f"key {i}" for i in range(1000)] + ["", "äöü"]
    table = keys.KeyTable([*some, "key 3", ""])
    assert table.num_repeated == 2
    assert table.find(some[::-1]).tolist() == list(range(len(some)))[::-1]
    assert table.find(["key", "key 1000", "key 3 "]).tolist() == [-1, -1, -1]
    assert keys.KeyTable([]).find(["a"]).tolist() == [-1]


def test_hex_keys_are_datacomps_pairs():
    names = ["00112233445566778899aabbccddeeff", "ffffffffffffffff0000000000000001", "short", "A" * 32, "g" * 32]
    names += [f"{names[0]}\n", f"{names[0][:-1]}é", f"{names[0]}0"]
    pairs, is_hex = keys.hex_pairs(pa.chunked_array([names[:1], names[1:]]))
    assert is_hex.tolist() == [True, True, *[False] * 6]
    expected = [(int(name[:16], 16), int(name[16:], 16)) for name in names[:2]]
    assert [tuple(pair) for pair in pairs.tolist()] == expected
    assert keys.hex_pairs(pa.chunked_array([], pa.string()))[0].shape == (0, 2)
    assert keys.hex_strings(pairs.view("u8,u8").reshape(-1)).to_pylist() == names[:2]
    halves = np.random.default_rng(0).integers(2**64 - 9, 2**64, (99, 2), np.uint64, endpoint=False)  # many equal ones
    kept = keys.sort_pairs(halves)
    assert (kept.dtype, kept.tolist()) == (np.dtype("u8,u8"), sorted(set(map(tuple, halves.tolist()))))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists are sorted in several batches."""
    monkeypatch.setattr(keys, "BATCH_KEYS", 64)


def batches(names: list[str], size: int) -> list[pa.Array]:
    return [pa.array(names[start : start + size], pa.large_string()) for start in range(0, len(names), size)]


@pytest.mark.parametrize("num_keys", [0, 1, 64, 65, 5000])
def test_the_answers_are_those_of_a_set_and_the_file_is_sorted(tmp_path: Path, num_keys: int, monkeypatch) -> None:
    monkeypatch.setattr(sorted_keys, "BATCH_ROWS", 2048)  # the smallest batch of DuckDB
    rng = random.Random(0)
    names = [f"{rng.choice(['a', 'é', ''])}{rng.getrandbits(60)}" for _ in range(num_keys)]
    write_sorted(tmp_path / "keys.npy", batches([*names, *names[:5]], 64))
    assert [path.name for path in tmp_path.iterdir()] == ["keys.npy"]
    table = SortedKeys(tmp_path / "keys.npy")
    asked = [*(f"b{rng.getrandbits(60)}" for _ in range(300)), *names]
    rng.shuffle(asked)
    listed = set(names)
    assert table.contains(pa.array(asked)).tolist() == [name in listed for name in asked]
    assert len(table.contains(pa.array([], pa.string()))) == 0
    first, second = hash_pairs([*names, *names[:5]])
    order = np.lexsort((second, first))
    assert np.array_equal(np.load(tmp_path / "keys.npy"), np.stack([first[order], second[order]]))


def test_keys_with_one_first_hash_are_told_apart_by_the_second(tmp_path: Path, monkeypatch) -> None:
    def quotient_or_rest(names: pa.Array, seed: int) -> np.ndarray:
        return np.array([divmod(int(name), 4)[seed] for name in names.to_pylist()], np.uint64)

    monkeypatch.setattr(sorted_keys, "hash_keys", quotient_or_rest)
    names = pa.array([str(n) for n in range(400)])
    write_sorted(tmp_path / "keys.npy", [names.filter(pa.array([n % 4 != 3 for n in range(400)]))])
    assert SortedKeys(tmp_path / "keys.npy").contains(names).tolist() == [n % 4 != 3 for n in range(400)]


def test_hex_keys_of_a_numpy_file_and_of_a_table_are_one_set(small, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pairs = keys.sort_pairs(rng.integers(0, 2**63, (300, 2), np.uint64))
    np.save(tmp_path / "a.npy", pairs)
    names = keys.hex_strings(pairs).to_pylist()
    pq.write_table(pa.table({"key": [*names[::-1], None]}), tmp_path / "b.parquet", row_group_size=50)
    found = []
    for name in ("a.npy", "b.parquet"):
        lists = keys.key_lists(str(tmp_path / name), [], tmp_path / "sorted")
        assert keys.is_valid(pa.array([*names, "other"]), lists, "0.tar").tolist() == [True] * 300 + [False]
        assert lists[0].num_keys == 300
        found.append(np.load(lists[0].sorted_as))
    assert np.array_equal(*found)


def test_a_list_with_shards_names_keys_of_these_shards_only(small, tmp_path: Path) -> None:
    rows = [(f"{n % 3}.tar", f"key {n}") for n in range(200)] + [("0.tar", None), (None, "key 0"), ("", "key 1")]
    shard, key = (pa.array(column, pa.string()) for column in zip(*rows, strict=True))
    for name, column in (("a", shard), ("b", shard.dictionary_encode()), ("c", shard.cast(pa.large_string()))):
        pq.write_table(pa.table({"shard": column, "key": key}), tmp_path / f"{name}.parquet", row_group_size=50)
        lists = keys.key_lists(None, [str(tmp_path / f"{name}.parquet")], tmp_path / "sorted")
        names = [f"key {n}" for n in range(201)]
        for number, pool_keys in ((0, pa.array(names)), (1, pa.chunked_array([names], pa.large_string()))):
            expected = [n == 200 or n % 3 != number for n in range(201)]
            assert keys.is_valid(pool_keys, lists, f"{number}.tar").tolist() == expected
        assert keys.is_valid(pa.array(names), lists, "3.tar").all()
        assert keys.is_valid(pa.array([".tarkey 0", ".tar\0key 0"]), lists, "0").all()


def test_a_list_as_a_person_writes_it(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\ufeffa\r\n\n b;c \n#1", "utf-8", newline="")
    lists = keys.key_lists(None, [str(tmp_path / "a.txt")], tmp_path / "sorted")
    pool_keys = pa.array(["a", "b", "b;c", "#1", "u", "key", "url", ""])
    assert keys.is_valid(pool_keys, lists, "0.tar").tolist() == [False, True, False, False, True, True, True, True]


def test_query_of_the_docs_makes_a_list_of_addresses_and_hosts(tmp_path: Path, monkeypatch) -> None:
    duckdb = pytest.importorskip("duckdb", reason="needs the extra dev (duckdb)")
    page = (Path(__file__).parents[2] / "docs" / "pool.md").read_text("utf-8")
    query = page.partition("```sql\n")[2].partition("```")[0]
    monkeypatch.chdir(tmp_path)
    urls = ["https://a.example.org/1", "http://site.net/2", "http://notexample.org/3", "http://example.org:80/4", "x"]
    Path("my_pool").mkdir()
    pq.write_table(pa.table({"uid": list("abcde"), "url": urls}), "my_pool/0.parquet")
    Path("urls.txt").write_text("http://site.net/2\n")
    Path("hosts.txt").write_text("example.org\n")
    duckdb.sql(query)
    lists = keys.key_lists(None, ["takedown.parquet"], tmp_path / "sorted")
    assert keys.is_valid(pa.array(list("abcde")), lists, "0.parquet").tolist() == [False, False, True, False, True]


def test_calls_at_once_sort_a_list_once(small, tmp_path: Path, monkeypatch) -> None:
    pq.write_table(pa.table({"key": [str(number) for number in range(5000)]}), tmp_path / "list.parquet")
    lists = keys.key_lists(None, [str(tmp_path / "list.parquet")], tmp_path / "sorted")
    written = []
    monkeypatch.setattr(keys, "write_sorted", lambda path, *rest: written.append(path) or write_sorted(path, *rest))
    calls = [threading.Thread(target=keys.sort_list, args=lists) for _ in range(4)]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    assert written == [lists[0].sorted_as]


def test_a_database_has_bounds_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "spilled"
    folder.mkdir()
    (folder / "of a killed process").touch()
    with spill.open_database(folder) as database:
        assert list(folder.iterdir()) == []
        sql = "SELECT current_setting('memory_limit'), current_setting('temp_directory')"
        assert database.sql(sql).fetchall() == [("572.2 MiB", str(folder))]
    assert not folder.exists()
