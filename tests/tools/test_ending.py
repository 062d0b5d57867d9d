"""The last lines of a command say how long it took, what came out, where, and what to do next."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from worldclip.cli import main
from worldclip.cli.command import flags_of
from worldclip.cli.ending import NEXT_OF_COMMAND, command_ending, run_ending
from worldclip.cli.flags import REQUIRED
from worldclip.cli.overview import COMMANDS

NEXT = {"pool": None, "balance": None, "curate": "explore", "train": "embed", "evaluate": "embed", "export": "embed"}


@pytest.mark.parametrize("stage", NEXT)
def test_ending_names_time_counts_folder_and_next_command(stage, toy_run):
    done, report, *others = run_ending(toy_run, stage, 200.0)
    assert done.startswith("done in 3.3 min: ")
    assert done.endswith(f"; in {toy_run / stage}")
    assert report == f"report: {toy_run / 'report.html'}"
    command = NEXT[stage]
    assert [line.split()[:3] for line in others] == ([["next:", "worldclip", command]] if command else [])


def test_pages_of_the_working_directory_lie_beside_it(tmp_path, toy_run, monkeypatch):
    monkeypatch.chdir(toy_run)
    following = list(run_ending(Path(), "curate", 1.0))[-1]
    assert following == f"next: worldclip explore . --out {toy_run.resolve()}_explorer"


def test_unfinished_run_goes_on(own_run, capsys):
    for stage in ("curate", "train", "evaluate", "export"):
        shutil.rmtree(own_run / stage)
    assert main(["balance", str(own_run)]) == 0
    said = capsys.readouterr().err
    assert "4 lists, 600 matches; in" in said
    assert f"next: worldclip run {own_run}\n" in said


def test_check_of_a_pool_prints_the_line_to_paste(toy_world, tmp_path, capsys):
    out = tmp_path / "checked"
    assert main(["pool", "check", str(toy_world.pool), "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == f'valid_keys = "{out}/valid_keys.parquet"'
    *_, done, following = captured.err.splitlines()
    assert done.startswith("done in ")
    assert done.endswith(f"; in {out}")
    assert following.startswith("next: paste the line valid_keys = ...")


@pytest.mark.parametrize("is_set", [True, False])
@pytest.mark.parametrize("name", NEXT_OF_COMMAND)
def test_next_line_names_flags_of_the_command(name, is_set):
    flags = {flag.key: flag for flag in flags_of(COMMANDS.load(name), None)}
    given = {key: Path(f"a {key}") for key, flag in flags.items() if is_set or flag.default is REQUIRED}
    values = SimpleNamespace(**{key: given.get(key, flag.default) for key, flag in flags.items()})
    done, following = command_ending(name, values, 61.0)
    assert done.startswith("done in 61 s")
    assert following.startswith("next: ")
    assert not re.search(r"[{}]|\bNone\b", done + following)


@pytest.mark.parametrize("name", COMMANDS.names())
def test_each_command_that_writes_or_answers_has_an_ending(name):
    only_looks = {"status", "languages", "compare", "doctor", "estimate", "inspect", "serve"}
    has_own = {"run"}
    assert (name in NEXT_OF_COMMAND) == (name not in only_looks | has_own)


def test_draft_of_a_recipe_ends_with_time_file_and_next_command(toy_world, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["init", str(toy_world.pool)]) == 0
    name = f"{toy_world.pool.name}.toml"
    *_, done, following = capsys.readouterr().err.splitlines()
    assert re.fullmatch(rf"done in [\d.]+ s; in {name}", done)
    assert following == f"next: worldclip run {name} --until curate"


def test_publishing_ends_in_the_folder_of_the_run_whose_part_was_named(toy_run):
    flags = SimpleNamespace(run=toy_run / "curate", repository="me/pairs", dry_run=True)
    done, following = command_ending("publish", flags, 2.0)
    assert done == f"done in 2.0 s; in {toy_run}/publish"
    assert "--dry-run" in following
    flags.dry_run = False
    assert 'load_dataset("me/pairs")' in list(command_ending("publish", flags, 2.0))[1]
