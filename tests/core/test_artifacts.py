"""Files are written whole and read against their schema; Arrow's buffers; packed files."""

import bz2
import errno
import gzip
import io
import os
import platform
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from programs import output_of
from worldclip.contracts import schemas
from worldclip.core import arrow, artifacts, errors
from worldclip.core.arrow import byte_buffers, string_buffers
from worldclip.core.artifacts import remove, replace_folder, write_array, write_array_parts
from worldclip.core.errors import BadShard, UserError, is_no_memory, naming
from worldclip.core.job import lock_folder
from worldclip.core.unpack import CHUNK_BYTES, Truncated, as_file, unpack, unpack_bytes
from worldclip.kernels.compiled import compiled


def test_failed_write_names_and_keeps_the_old_file_and_leaves_no_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    artifacts.write_json(path, {"good": 1})

    def fail() -> None:
        with artifacts.whole_file(path) as aside:
            aside.write_text("half")
            raise PermissionError(errno.EACCES, "Permission denied", str(aside))

    with pytest.raises(PermissionError) as caught:
        fail()
    assert caught.value.filename == str(path)
    assert artifacts.read_json(path) == {"good": 1}
    assert [found.name for found in tmp_path.iterdir()] == ["a.json"]


def test_arrays_have_the_bytes_of_np_save(tmp_path: Path) -> None:
    path, expected = tmp_path / "x.npy", tmp_path / "numpy.npy"
    pairs = np.zeros(4, [("high", "<u8"), ("low", "<u8")])
    for array in (np.arange(5), np.zeros((0, 3), "<u4"), np.array(2.5), np.array([True]), pairs, np.arange(9)[::2]):
        write_array(path, array)
        np.save(expected, array)
        assert path.read_bytes() == expected.read_bytes()
    whole = np.arange(30, dtype=np.float32).reshape(10, 3)
    write_array_parts(path, whole.shape, whole.dtype, [whole[:4], whole[4:4], whole[4:]])
    np.save(expected, whole)
    assert path.read_bytes() == expected.read_bytes()
    write_array(path, whole.T)
    assert np.array_equal(np.load(path), whole.T)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="writes to /dev/full, which macOS lacks")
def test_errors_of_a_full_disk_name_the_file(tmp_path: Path) -> None:
    (tmp_path / f".x.npy.{platform.node()}.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        write_array(tmp_path / "x.npy", np.zeros(100_000))
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "x.npy"))
    assert not list(tmp_path.iterdir())
    wrapped = RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    for error in (wrapped, OSError(28, "Error writing bytes to file. Detail: [errno 28]"), OSError(30, "Read-only")):
        with pytest.raises(OSError, match=str(tmp_path)), naming(tmp_path):
            raise error
    with pytest.raises(ValueError, match="other"), naming(tmp_path):
        raise ValueError("other")


def test_table_of_another_or_a_newer_format_is_refused(tmp_path: Path) -> None:
    table = pa.table({"key": ["a"], "row": [0], "member": ["a.png"], "offset": [0], "size": [5]})
    path = tmp_path / "x.tar.parquet"
    artifacts.write_table(path, table, schemas.POOL_IMAGES)
    assert artifacts.read_table(path, schemas.POOL_IMAGES).schema.equals(schemas.POOL_IMAGES)
    with pytest.raises(BadShard, match="holds 'pool_images', expected 'curated'"):
        artifacts.read_table(path, schemas.CURATED)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(BadShard, match="not a readable Parquet file"):
        artifacts.read_table(path, schemas.POOL_IMAGES)
    metadata = {**schemas.CURATED.metadata, b"worldclip.version": b"99"}
    pq.write_table(schemas.CURATED.with_metadata(metadata).empty_table(), path)
    with pytest.raises(BadShard, match="newer worldclip"):
        artifacts.read_table(path, schemas.CURATED)
    states = {'{"format_version": 99}': "newer worldclip", '{"format_version": "b"}': "has format 'b'"}
    for content, said in {**states, "[1]": "is not a JSON object; remove it", "{": "is not JSON"}.items():
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(UserError, match=said):
            artifacts.read_manifest(tmp_path)


def test_categories_of_several_row_groups_share_one_dictionary(tmp_path: Path) -> None:
    """Arrow does not group by a column whose chunks have different dictionaries."""
    every_schema = [value for value in vars(schemas).values() if isinstance(value, pa.Schema)]
    assert schemas.REMOVED in every_schema
    for schema in every_schema:
        categories = [field.name for field in schema if pa.types.is_dictionary(field.type)]
        row = dict.fromkeys(schema.names)
        parts = [pa.Table.from_pylist([row | dict.fromkeys(categories, name)], schema) for name in "ab"]
        artifacts.write_tables(tmp_path / "parts.parquet", parts, schema)
        table = artifacts.read_table(tmp_path / "parts.parquet", schema)
        for name in categories:
            assert table.group_by(name).aggregate([([], "count_all")]).num_rows == 2
            assert all(chunk.dictionary.equals(table[name].chunk(0).dictionary) for chunk in table[name].chunks)


def test_tables_without_rows_leave_no_row_group(tmp_path: Path) -> None:
    full = pa.Table.from_pylist([{"key": "a"}], schemas.VALID_KEYS)
    empty = full.slice(0, 0)
    artifacts.write_tables(tmp_path / "parts.parquet", [empty, full, empty], schemas.VALID_KEYS)
    artifacts.write_table(tmp_path / "empty.parquet", empty, schemas.VALID_KEYS)
    assert pq.ParquetFile(tmp_path / "parts.parquet").num_row_groups == 1
    assert pq.ParquetFile(tmp_path / "empty.parquet").num_row_groups == 0
    assert artifacts.read_table(tmp_path / "empty.parquet", schemas.VALID_KEYS).equals(empty)


def test_digest_of_a_manifest_depends_on_config_inputs_and_digests_of_outputs(tmp_path: Path) -> None:
    assert artifacts.digest({"a": 1, "b": [2]}) == artifacts.digest({"b": [2], "a": 1})
    assert artifacts.digest({"a": 1}) != artifacts.digest({"a": "1"})
    one = artifacts.write_manifest(tmp_path / "a", config={"x": 1}, inputs={"y": 2}, counts={"n": 3})
    two = artifacts.write_manifest(tmp_path / "b", config={"x": 1}, inputs={"y": 2}, counts={"n": 4})
    config = artifacts.write_manifest(tmp_path / "c", config={"x": 2}, inputs={"y": 2}, counts={"n": 3})
    inputs = artifacts.write_manifest(tmp_path / "d", config={"x": 1}, inputs={"y": 3}, counts={"n": 3})
    assert one["digest"] == two["digest"] not in (config["digest"], inputs["digest"])
    same = {"config": {"x": 1}, "inputs": {"y": 2}, "counts": {}}
    of_outputs = {
        artifacts.write_manifest(tmp_path / "e", **same, digests={"list": value})["digest"] for value in ("a", "b")
    }
    assert len(of_outputs - {one["digest"]}) == 2
    with pytest.raises(UserError, match="run first: worldclip match"):
        artifacts.require_manifest(tmp_path, "match")


def test_fingerprint_depends_on_contents_or_on_the_time_to_the_nanosecond(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "shard.tar"
    path.write_bytes(b"abc")
    before = artifacts.fingerprint(path, tmp_path)
    path.write_bytes(b"abd")
    assert before["path"] == "shard.tar"
    assert artifacts.fingerprint(path, tmp_path) != before
    monkeypatch.setattr(artifacts, "HASHED_BELOW_BYTES", 3)
    times = []
    for nanoseconds in (5, 6):
        os.utime(path, ns=(10**18, 10**18 + nanoseconds * 1000))
        times.append(artifacts.fingerprint(path, tmp_path))
    assert times[0] != times[1]


def test_a_removed_folder_is_gone_at_once_even_if_the_removal_is_killed(tmp_path: Path, monkeypatch) -> None:
    for name in ("old", "new"):
        (tmp_path / name / "done").mkdir(parents=True)
        (tmp_path / name / "done" / f"{name}.json").touch()
    replace_folder(tmp_path / "new", tmp_path / "old")
    assert [path.name for path in tmp_path.rglob("*")] == ["old", "done", "new.json"]

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", die)
        with pytest.raises(KeyboardInterrupt):
            remove(tmp_path / "old")
    assert not (tmp_path / "old").exists()
    remove(tmp_path / "old")
    assert list(tmp_path.iterdir()) == []


@compiled
def make_array(size):
    return np.empty(size, np.uint8)


def test_each_library_says_that_memory_ran_out_and_no_other_error_does(tmp_path: Path, monkeypatch) -> None:
    allocators = [lambda size: np.empty(size, np.uint8), make_array, pa.allocate_buffer]
    for allocate in (*allocators, pytest.importorskip("torch").empty):
        with pytest.raises((MemoryError, RuntimeError)) as caught:
            allocate(2**60)
        assert is_no_memory(caught.value)
    folder = tmp_path / "out of memory"
    for error in (OSError(errno.ENOENT, "No such file", str(folder)), BadShard(f"{folder}: cut"), ValueError("cut")):
        assert not is_no_memory(error)

    def fail(path: Path) -> None:
        raise OSError("ZSTD: Allocation error : not enough memory")

    monkeypatch.setattr(pq, "ParquetFile", fail)
    with pytest.raises(OSError, match="memory"):
        artifacts.read_table(folder, schemas.CURATED)


def test_what_killed_processes_left_goes_with_the_next_lock(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "evaluate").mkdir(parents=True)
    (out / "check").mkdir()
    (out / "check" / ".lock").touch()  # another job's, which may be at work
    left = [out / ".run.json.host.1.tmp", out / "evaluate" / ".table.md.other-host.2.tmp", out / ".pool.host.4.removed"]
    (out / ".pages.10.0.0.5.tmp").mkdir()
    kept = [out / ".hidden", out / "a.host.1.tmp", out / "check" / ".report.json.host.3.tmp"]
    kept.append(out / ".pages.10.0.0.5.tmp" / ".lock")
    for path in [*left, *kept]:
        path.touch()
    retired = tmp_path / ".out.host.1.removed"
    (retired / "folder").mkdir(parents=True)
    with lock_folder(out):
        pass
    assert not any(path.exists() for path in [*left, retired])
    assert all(path.exists() for path in kept)


def test_only_a_checkout_of_worldclip_records_its_revision(tmp_path: Path, monkeypatch) -> None:
    git = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b.c"]
    output_of(["git", "init", "-q", tmp_path])
    output_of([*git, "commit", "-q", "--allow-empty", "--no-gpg-sign", "-m", "first"])
    monkeypatch.setattr(errors, "__file__", str(tmp_path / "src" / "worldclip" / "core" / "errors.py"))
    assert artifacts.describe_run()["git_revision"] is None, "installed in somebody's project"
    (tmp_path / "pyproject.toml").write_text('name = "worldclip"\n')
    revision = output_of([*git, "rev-parse", "HEAD"]).strip()
    assert artifacts.describe_run()["git_revision"] == revision
    output_of([*git, "add", "-N", "pyproject.toml"])
    assert artifacts.describe_run()["git_revision"] == f"{revision}-dirty"


def strings_of(data: np.ndarray, offsets: np.ndarray) -> list[bytes]:
    return [data[start:end].tobytes() for start, end in pairwise(offsets)]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.large_binary()])
def test_byte_buffers_of_every_type_and_slice(kind: pa.DataType) -> None:
    array = pa.array([b"x", "猫".encode(), b"", None, b"ab"], pa.binary()).cast(kind)
    data, offsets = byte_buffers(array.slice(1), fill_nulls=True)
    assert strings_of(data, offsets) == ["猫".encode(), b"", b"", b"ab"]
    assert (data.dtype, offsets.dtype) == (np.uint8, np.int64)
    assert not data.flags.writeable
    assert not offsets.flags.writeable
    assert byte_buffers(array.slice(5))[1].tolist() == [0]


def test_string_buffers_refuse_nulls_and_lone_surrogates() -> None:
    with pytest.raises(ValueError, match="1 of 2 keys are null"):
        string_buffers(pa.array(["a", None]))
    with pytest.raises(ValueError, match="surrogates"):
        string_buffers(["\ud800"])


def test_large_strings_are_narrowed_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow, "MAX_CHUNK_BYTES", 5)
    texts = ["aa", "bbb", None, "", "cccccccc", "d", "ü", None]
    column = pa.chunked_array([pa.array(texts, pa.large_string())[1:], pa.array([], pa.large_string())])
    narrow = arrow.narrow_strings(column)
    assert narrow.type == pa.string()
    assert narrow.to_pylist() == texts[1:]
    assert [len(chunk) for chunk in narrow.chunks] == [3, 1, 3]
    narrow.validate(full=True)


PACK: dict[str, Callable[[bytes], bytes]] = {"a.gz": gzip.compress, "a.bz2": bz2.compress}


SIZES = (0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 7)


def members(sizes: tuple[int, ...]) -> list[bytes]:
    """Return contents that compress well, so that a member ends in the middle of what was read."""
    return [bytes([97 + number]) * size for number, size in enumerate(sizes)]


@pytest.mark.parametrize("name", PACK)
@pytest.mark.parametrize("first", SIZES)
@pytest.mark.parametrize("second", SIZES)
def test_members_of_any_size_are_unpacked_one_after_the_other(name: str, first: int, second: int) -> None:
    contents = members((first, second, 5))
    packed = b"".join(map(PACK[name], contents))
    chunks = list(unpack(io.BytesIO(packed), name))
    assert max(map(len, chunks)) <= CHUNK_BYTES
    assert b"".join(chunks) == b"".join(contents)


def test_what_stands_between_behind_or_not_at_the_end_of_packed_members() -> None:
    one, two = members((2 * CHUNK_BYTES, 3 * CHUNK_BYTES))
    for name, pack in PACK.items():
        with pytest.raises(Truncated):
            unpack_bytes((pack(one) + pack(two))[:-9], name)
    padded = gzip.compress(one) + bytes(512) + gzip.compress(two) + bytes(512)
    assert unpack_bytes(padded, "a.gz") == one + two
    with pytest.raises(BadShard, match="damaged"):
        unpack_bytes(gzip.compress(b"a") + b"garbage", "a.gz")
    assert list(as_file(iter([b"ab\n", b"c", b"d\n", b"e"]))) == [b"ab\n", b"cd\n", b"e"]
