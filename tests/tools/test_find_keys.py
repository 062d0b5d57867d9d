"""`status RUN --keys LIST`: the state of each key, and which files have it."""

import json
import shlex
from pathlib import Path

import pytest

from embedded_world import picture
from miniature import write_files
from pools import write_table
from stages import QUIET
from worldclip.cli import main
from worldclip.core.artifacts import write_manifest
from worldclip.tools.embed import embed
from worldclip.tools.find_keys import to_text
from worldclip.tools.status import status

TEXT = "a red apple"
RECIPE = """
[pool]
path = "{folder}/pool"
key = "uid"
[languages]
codes = ["en"]
[metadata]
lists = {{ en = "{folder}/en.txt" }}
[balance]
tail_fraction = 1.0
"""
KEYS = ["plain", "with a blank", 'quote " and \\', "ключ <b>"]


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    """A run of two tables, with an explorer next to it; the working directory is another one."""
    write_table(tmp_path / "pool/0.parquet", {"uid": [*KEYS[:2], "other", "more"], "text": [TEXT] * 4})
    write_table(tmp_path / "pool/1.parquet", {"uid": [*KEYS[2:], "plain", "last"], "text": [TEXT] * 4})
    recipe = RECIPE.format(folder=tmp_path)
    write_files(tmp_path, {"en.txt": "red\napple\n", "recipe.toml": recipe, "elsewhere/notes.txt": ""})
    monkeypatch.chdir(tmp_path / "elsewhere")
    run = tmp_path / "run"
    assert main(["run", str(tmp_path / "recipe.toml"), "--out", str(run), "--until", "curate"]) == 0
    assert main(["explore", str(run), "--out", str(tmp_path / "explorer")]) == 0
    write_table(tmp_path / "keys.parquet", {"key": [*KEYS, "never there"]})
    return run


def test_the_next_command_takes_the_keys_down_and_the_named_ones_clear_the_rest(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")  # a row is one line, however long the paths are
    command = ["status", str(run), "--keys", "../keys.parquet"]
    capsys.readouterr()
    assert main(command) == 0
    said = capsys.readouterr().out
    assert said.startswith("../keys.parquet, 5 keys: 4 in the pool, 1 unknown\n")
    row = f"plain in the pool 0.parquet, 1.parquet {run}/curate, {run}/report.html, {tmp_path}/explorer/data"
    assert row in " ".join(said.split())
    next_command = said.splitlines()[-1].removeprefix("next: worldclip ")
    assert main(shlex.split(next_command)) == 0
    found = status(run, keys=tmp_path / "keys.parquet")
    assert found["states"] == {"in the pool": 0, "in older files": 4, "unknown": 1, "gone": 0}
    explorer = str(tmp_path / "explorer/data")
    assert [found["keys"][key]["places"] for key in KEYS] == [[explorer]] * 4
    assert found["places"][explorer]["keys"] == 4
    assert main(shlex.split(found["places"][explorer]["command"].removeprefix("worldclip "))) == 0
    found = status(run, keys=tmp_path / "keys.parquet")
    assert (found["states"]["gone"], found["places"], found["next"]) == (4, {}, None)
    assert {Path(path).name: number for path, number in found["pool"].items()} == {"0.parquet": 2, "1.parquet": 3}


def test_rows_that_are_removed_from_the_pool_are_unknown_to_the_run_or_in_older_files(run, tmp_path):
    write_table(tmp_path / "pool/1.parquet", {"uid": ["last"], "text": [TEXT]})
    assert main(["run", str(run), "--until", "curate"]) == 0
    found = status(run, keys=tmp_path / "keys.parquet")
    assert [found["keys"][key]["state"] for key in KEYS] == ["in the pool"] * 2 + ["in older files"] * 2
    assert found["keys"]["plain"]["shards"] == ["0.parquet"]


def test_a_pool_that_was_not_read_to_the_end_is_named_with_the_command_that_reads_it(run, tmp_path, capsys):
    (run / "pool/manifest.json").unlink()
    words = ["status", str(run), "--keys", "../keys.parquet"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "has not been read to the end, so nobody knows which keys it has" in said
    assert main(shlex.split(said.partition("run first: worldclip ")[2])) == 0
    assert main(words) == 0


def test_a_list_that_names_shards_counts_by_its_keys_and_a_copy_stays_in_the_pool(run, tmp_path):
    copies = write_table(tmp_path / "copies.parquet", {"key": ["plain"], "shard": ["1.parquet"]})
    assert main(["run", str(run), "--set", f"pool.deny_keys={copies}", "--until", "curate"]) == 0
    assert status(run, keys=copies)["keys"]["plain"]["state"] == "in the pool"


def test_tables_pages_and_arrays_of_named_folders_are_searched_and_damaged_ones_are_named(run, tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    write_table(folders[0] / "x/vectors.parquet", {"key": ["plain"], "vector": [1.0]})
    write_table(folders[0] / "numbers.parquet", {"key": [7]})
    pages = {"page.html": "<code>ключ &lt;b&gt;</code>", "log.jsonl": '{"key": "quote \\" and \\\\"}\n'}
    pages |= {"pictures.json": '[["0.jpg", "with a blank", "a text"]]', "deep.json": "[" * 10**5}
    write_files(folders[1], {**pages, "cut.parquet": "PAR1", "code.js": 'split("\\\\d") + "\\d"', "keys.npy": "no"})
    found = status(run, keys=tmp_path / "keys.parquet", folders=folders)
    assert {Path(path).name: place["keys"] for path, place in found["places"].items()} == {
        "curate": 4, "report.html": 4, "data": 4, "a": 1, "b": 3,
    }  # fmt: skip
    assert sorted(Path(path).name for path in found["unread"]) == ["cut.parquet", "deep.json", "keys.npy"]


def test_a_number_in_a_page_or_among_entries_is_no_key(run, tmp_path):
    (tmp_path / "numbers.txt").write_text("4\nred\n0\n")
    assert status(run, keys=tmp_path / "numbers.txt")["states"]["unknown"] == 3


def test_folders_of_other_pools_are_left_out_and_other_runs_of_this_one_are_named(run, tmp_path):
    keys = tmp_path / "keys.parquet"
    for name, fields in (("theirs", {"job": "embed", "source": "x"}), ("notes", {"tool": "other"})):
        write_table(tmp_path / name / "images/0.parquet", {"key": ["never there"]})
        write_manifest(tmp_path / name, config={"of": ["images"]}, inputs={}, counts={}, **fields)
    assert main(["run", str(run), "--out", str(tmp_path / "second"), "--until", "pool"]) == 0
    found = status(run, keys=keys)
    assert found["keys"]["never there"]["state"] == "unknown"
    assert found["other_runs"] == [str(tmp_path / "second")]
    assert f"another run of this pool: worldclip status {tmp_path}/second --keys {keys}\n" in to_text(found)


def test_a_folder_embedded_from_curated_files_is_searched_and_its_command_names_them(run, tmp_path):
    source = str(run / "curate/parquet")
    write_table(tmp_path / "kept/texts/0.parquet", {"key": ["plain"]})
    write_table(tmp_path / "kept/pool/0.parquet", {"key": ["never there"]})  # of all pairs: not what embed made
    write_manifest(tmp_path / "kept", config={"columns": 3}, inputs={}, counts={}, job="embed", source=source)
    found = status(run, keys=tmp_path / "keys.parquet")
    assert str(tmp_path / "kept/texts") in found["keys"]["plain"]["places"]
    command = f"worldclip embed MODEL {source} --out {tmp_path / 'kept'} --of texts"
    assert found["places"][str(tmp_path / "kept/texts")]["command"] == command, "embed keeps the columns of the folder"
    assert found["keys"]["never there"]["state"] == "unknown"


def test_a_take_down_ends_for_a_folder_that_was_embedded_from_the_pool(world, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path, {"r.toml": f'[pool]\npath = "{tmp_path}/pool"\nkey = "uid"\n', "down.txt": "plain\n"})
    embed(world / "model", tmp_path / "r.toml", tmp_path / "embedded", executor=QUIET)
    assert main(["run", str(run), "--set", 'pool.deny_keys=["down.txt"]', "--until", "curate"]) == 0
    assert main(["explore", str(run), "--out", str(tmp_path / "explorer")]) == 0
    ((place, found),) = status(run, keys=tmp_path / "down.txt")["places"].items()
    assert place == str(tmp_path / "embedded/texts")
    command = found["command"].replace("MODEL", str(world / "model")).removeprefix("worldclip ")
    assert main(shlex.split(command)) == 0
    found = status(run, keys=tmp_path / "down.txt")
    assert (found["states"]["gone"], found["places"]) == (1, {})
    assert not (tmp_path / "embedded/pool").exists()


def test_damaged_neighbours_do_not_stop_the_search(run, tmp_path):
    write_files(tmp_path, {
        "newer/recipe.toml": "", "newer/run.json": '{"format_version": 99}', "broken/recipe.toml": "[",
        "odd/manifest.json": '{"tool": "explore", "inputs": [1]}', "list/manifest.json": "[]",
    })  # fmt: skip
    assert status(run, keys=tmp_path / "keys.parquet")["states"]["in the pool"] == 4


def test_an_explorer_in_the_run_is_found_and_an_empty_list_names_nothing(run, tmp_path, capsys):
    (tmp_path / "explorer").rename(run / "explorer")
    assert str(run / "explorer/data") in status(run, keys=tmp_path / "keys.parquet")["places"]
    (tmp_path / "empty.txt").write_text("")
    capsys.readouterr()
    assert main(["status", str(run), "--keys", str(tmp_path / "empty.txt")]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path}/empty.txt, 0 keys: none\n")


def test_long_lists_are_cut_in_text_and_whole_in_json(run, tmp_path, capsys):
    (tmp_path / "many.txt").write_text("\n".join([f"key-{n}" for n in range(30)] + ["plain"]), "utf-8")
    capsys.readouterr()
    assert main(["status", str(run), "--keys", str(tmp_path / "many.txt")]) == 0
    said = capsys.readouterr().out
    assert "and 11 more (--json lists all)" in said
    assert said.index("plain ") < said.index("key-0 ")
    assert main(["status", str(run), "--keys", str(tmp_path / "many.txt"), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["keys"]) == 31


def test_keys_of_a_folder_of_image_files_are_found_and_leave_it_with_their_files(world, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "1000")
    photos = write_files(tmp_path / "my photos", {f"sub/{i}.png": picture(i) for i in range(3)} | {"bad.png": b"none"})
    embed(world / "model", photos, tmp_path / "embedded", executor=QUIET)
    (photos / "sub/2.png").unlink()
    write_files(tmp_path, {"down.txt": "sub/0.png\nsub/2.png\nbad.png\nsub/9.png\n/etc/passwd\n"})
    command = ["status", "embedded", "--keys", "down.txt"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert said.startswith("down.txt, 5 keys: 2 embedded, 1 in the pool, 2 not here\n")
    assert "to take them down: delete the files, or name down.txt in pool.deny_keys of a recipe and embed that" in said
    found = status(Path("embedded"), keys=Path("down.txt"))
    assert {key: record["file"] for key, record in found["keys"].items() if record["file"]} == {
        name: f"{photos}/{name}" for name in ("sub/0.png", "bad.png")
    }
    for record in found["keys"].values():
        if record["file"]:
            Path(record["file"]).unlink()
    assert main(shlex.split(said.splitlines()[-1].removeprefix("next: worldclip "))) == 0
    found = status(Path("embedded"), keys=Path("down.txt"))
    assert (found["states"]["not here"], found["next"]) == (5, None)
    assert main([*command, "--folders", "."]) == 2


def test_keys_of_embedded_texts_leave_the_folder_by_its_recipe_or_run(world, run, tmp_path, monkeypatch):
    write_files(tmp_path, {"r.toml": f'[pool]\npath = "{tmp_path}/pool"\nkey = "uid"\n', "down.txt": "plain\n"})
    for pool, command in ((tmp_path / "r.toml", "embed"), (run, "status")):
        embed(world / "model", pool, tmp_path / f"of_{command}", executor=QUIET)
        found = status(tmp_path / f"of_{command}", keys=tmp_path / "down.txt")
        assert found["keys"] == {"plain": {"state": "embedded", "file": None}}
        assert found["remedy"].endswith(f"or name {tmp_path}/down.txt in pool.deny_keys of {pool}")
        assert found["next"].startswith(f"worldclip {command} ")
