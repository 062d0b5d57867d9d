from __future__ import annotations

import errno
import os
import platform
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from programs import output_of, python
from worldclip.contracts import schemas
from worldclip.core import artifacts
from worldclip.core.artifacts import remove, replace_folder, write_array, write_array_parts
from worldclip.core.errors import BadShard, UserError, is_no_memory, naming
from worldclip.core.job import RunLock
from worldclip.kernels.compiled import compiled


def test_failed_write_names_and_keeps_the_old_file_and_leaves_no_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    artifacts.write_json(path, {"good": 1})

    def fails(aside: Path) -> None:
        aside.write_text("half")
        raise PermissionError(errno.EACCES, "Permission denied", str(aside))

    with pytest.raises(PermissionError) as caught:
        artifacts.write_artifact(path, fails)
    assert caught.value.filename == str(path)
    assert artifacts.read_json(path) == {"good": 1}
    assert [found.name for found in tmp_path.iterdir()] == ["a.json"]


def test_arrays_have_the_bytes_of_np_save(tmp_path: Path) -> None:
    pairs = np.zeros(4, [("high", "<u8"), ("low", "<u8")])
    for array in (np.arange(5), np.zeros((0, 3), "<u4"), np.array(2.5), np.array([True]), pairs, np.arange(9)[::2]):
        write_array(tmp_path / "x.npy", array)
        np.save(tmp_path / "numpy.npy", array)
        assert (tmp_path / "x.npy").read_bytes() == (tmp_path / "numpy.npy").read_bytes()
    write_array(tmp_path / "x.npy", np.arange(12.0).reshape(3, 4).T)
    assert np.array_equal(np.load(tmp_path / "x.npy"), np.arange(12.0).reshape(3, 4).T)


def test_an_array_of_parts_is_the_file_of_the_whole(tmp_path: Path) -> None:
    array = np.arange(30, dtype=np.float32).reshape(10, 3)
    write_array(tmp_path / "whole.npy", array)
    write_array_parts(tmp_path / "parts.npy", array.shape, array.dtype, [array[:4], array[4:4], array[4:]])
    assert (tmp_path / "parts.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_full_disk_error_names_the_file(tmp_path: Path) -> None:
    (tmp_path / f".x.npy.{platform.node()}.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        write_array(tmp_path / "x.npy", np.zeros(100_000))
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "x.npy"))
    assert not list(tmp_path.iterdir())


def test_table_of_another_format_is_refused(tmp_path: Path) -> None:
    table = pa.table({"key": ["a"], "member": ["a.png"], "offset": [0], "size": [5]})
    path = tmp_path / "x.tar.parquet"
    artifacts.write_table(path, table, schemas.POOL_INDEX)
    assert artifacts.read_table(path, schemas.POOL_INDEX).schema.equals(schemas.POOL_INDEX)
    with pytest.raises(BadShard, match="holds 'pool_index', expected 'curated'"):
        artifacts.read_table(path, schemas.CURATED)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(BadShard, match="not a readable Parquet file"):
        artifacts.read_table(path, schemas.POOL_INDEX)


def test_newer_format_is_refused(tmp_path: Path) -> None:
    metadata = {**schemas.CURATED.metadata, b"worldclip.version": b"99"}
    empty = schemas.CURATED.with_metadata(metadata).empty_table()
    pq.write_table(empty, tmp_path / "new.parquet")
    with pytest.raises(BadShard, match="newer worldclip"):
        artifacts.read_table(tmp_path / "new.parquet", schemas.CURATED)
    artifacts.write_json(tmp_path / "manifest.json", {"format_version": 99})
    with pytest.raises(UserError, match="newer worldclip"):
        artifacts.read_manifest(tmp_path)


def test_match_texts_store_ids_as_flat_arrays_and_only_values_that_repeat_in_a_dictionary(tmp_path: Path) -> None:
    path = tmp_path / "texts.parquet"
    rows = {"key": ["a", "b"], "text_idx": [0, 1], "place": [0, 0], "text": ["x", "y"], "lang": ["en", "th"]}
    rows |= {"lang_prob": [1.0, 0.5], "entries_lang": ["en", "th"], "entry_ids": [[1, 5], [7]]}
    artifacts.write_table(path, pa.table(rows), schemas.MATCH_TEXTS)
    column = artifacts.read_table(path, schemas.MATCH_TEXTS)["entry_ids"].combine_chunks()
    assert column.type == pa.large_list(pa.int32())
    assert column.values.to_pylist() == [1, 5, 7]
    group = pq.read_metadata(path).row_group(0)
    columns_of = {chunk.path_in_schema: chunk for chunk in map(group.column, range(group.num_columns))}
    with_dictionary = {name for name, chunk in columns_of.items() if chunk.has_dictionary_page}
    assert with_dictionary == {"text_idx", "place", "lang", "entries_lang"}
    assert "BYTE_STREAM_SPLIT" in columns_of["entry_ids.list.element"].encodings


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


def test_digest_depends_on_every_value_but_not_on_key_order() -> None:
    assert artifacts.digest({"a": 1, "b": [2]}) == artifacts.digest({"b": [2], "a": 1})
    assert artifacts.digest({"a": 1}) != artifacts.digest({"a": "1"})


def test_fingerprint_depends_on_contents(tmp_path: Path) -> None:
    path = tmp_path / "shard.tar"
    path.write_bytes(b"abc")
    before = artifacts.fingerprint(path, tmp_path)
    path.write_bytes(b"abd")
    assert before["path"] == "shard.tar"
    assert artifacts.fingerprint(path, tmp_path) != before


def test_manifest_digest_depends_only_on_config_and_inputs(tmp_path: Path) -> None:
    one = artifacts.write_manifest(tmp_path / "a", config={"x": 1}, inputs={"y": 2}, counts={"n": 3})
    two = artifacts.write_manifest(tmp_path / "b", config={"x": 1}, inputs={"y": 2}, counts={"n": 4})
    other = artifacts.write_manifest(tmp_path / "c", config={"x": 2}, inputs={"y": 2}, counts={"n": 3})
    assert one["digest"] == two["digest"] != other["digest"]
    with pytest.raises(UserError, match="run first: worldclip match"):
        artifacts.require_manifest(tmp_path, "match")


def test_a_removed_folder_is_gone_at_once_even_if_the_removal_is_killed(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "parts" / "done").mkdir(parents=True)
    (tmp_path / "parts" / "done" / "a.json").touch()

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", die)
        with pytest.raises(KeyboardInterrupt):
            remove(tmp_path / "parts")
    assert not (tmp_path / "parts").exists()
    remove(tmp_path / "parts")
    assert list(tmp_path.iterdir()) == []
    remove(tmp_path / "never" / "there")


def test_a_replaced_folder_holds_the_new_files_alone(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    replace_folder(tmp_path / "new", tmp_path / "old")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["old", "old/new"]


def test_errors_of_a_full_disk_are_one_error_that_names_the_file(tmp_path: Path) -> None:
    class SafetensorError(Exception):
        pass

    wrapped = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    for error in (wrapped, OSError(28, "Error writing bytes to file. Detail: [errno 28]"), OSError(30, "Read-only")):
        with pytest.raises(OSError, match=str(tmp_path)) as caught, naming(tmp_path):
            raise error
        assert caught.value.errno in (28, 30)
    with pytest.raises(ValueError, match="other"), naming(tmp_path):
        raise ValueError("other")


@compiled
def make_array(size):
    return np.empty(size, np.uint8)


@pytest.mark.parametrize(
    "allocate",
    [
        lambda size: np.empty(size, np.uint8),
        lambda size: make_array(size),
        lambda size: pa.allocate_buffer(size),
        lambda size: pytest.importorskip("torch").empty(size),
    ],
    ids=["numpy", "numba", "arrow", "torch"],
)
def test_each_library_says_that_memory_ran_out(allocate) -> None:
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        allocate(2**60)
    assert is_no_memory(caught.value)


def test_other_errors_do_not_say_that_memory_ran_out(tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "out of memory"
    for error in (OSError(errno.ENOENT, "No such file", str(folder)), BadShard(f"{folder}: cut"), ValueError("cut")):
        assert not is_no_memory(error)
    for error in (
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        OSError("ZSTD: Allocation error : not enough memory"),
    ):

        def fail(path: Path, error: OSError = error) -> None:
            raise error

        monkeypatch.setattr(pq, "ParquetFile", fail)
        with pytest.raises(OSError, match="memory"):
            artifacts.read_table(folder, schemas.CURATED)


def test_what_killed_processes_left_goes_with_the_next_lock(tmp_path: Path) -> None:
    host, out = platform.node(), tmp_path / "out"
    dead = python("-c", "import os; print(os.getpid())").strip()
    (out / "evaluate").mkdir(parents=True)
    left = [out / f".run.json.{host}.{dead}.tmp", out / "evaluate" / f".table.md.{host}.{dead}.tmp"]
    kept = [out / f".a.{host}.{os.getpid()}.tmp", out / f".a.elsewhere-{host}x.{dead}.tmp", out / ".hidden"]
    for path in [*left, *kept]:
        path.touch()
    retired = tmp_path / f".out.{host}.{dead}.removed"
    (retired / "folder").mkdir(parents=True)
    with RunLock(out):
        pass
    assert not any(path.exists() for path in [*left, retired])
    assert all(path.exists() for path in kept)


@pytest.mark.parametrize(
    ("package", "is_recorded"),
    [
        (".venv/lib/python3/site-packages/worldclip", False),  # installed in somebody's project
        ("unpacked/src/worldclip", False),  # an archive of the source, without .git, in somebody's project
        ("src/worldclip", True),
    ],
)
def test_only_a_checkout_of_worldclip_records_its_revision(package: str, is_recorded: bool, tmp_path: Path) -> None:
    repository = Path(__file__).parents[2]
    place = tmp_path / package
    shutil.copytree(repository / "src" / "worldclip", place, ignore=shutil.ignore_patterns("__pycache__", "plugins"))
    if place.parent.name == "src":
        shutil.copy(repository / "pyproject.toml", place.parents[1])
    git = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b.c"]
    output_of(["git", "init", "-q", tmp_path])
    output_of([*git, "commit", "-q", "--allow-empty", "--no-gpg-sign", "-m", "first"])
    head = output_of([*git, "rev-parse", "HEAD"]).strip()

    code = "from worldclip.core.artifacts import describe_run; print(describe_run()['git_revision'])"
    recorded = python("-c", code, PYTHONPATH=str(place.parent)).strip()
    assert recorded == (head if is_recorded else "None")
