from __future__ import annotations

import contextlib
import dataclasses
import errno
import importlib
import inspect
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

import worldclip
from programs import python
from worldclip import cli
from worldclip.cli import main
from worldclip.cli.command import (
    SHARED,
    Command,
    described_parameters,
    examples_text,
    parse_command,
    run_command,
)
from worldclip.cli.ending import run_ending
from worldclip.cli.overview import ANY_MODEL, COMMANDS, RARE, sections
from worldclip.cli.stages import run_stage
from worldclip.config import Recipe
from worldclip.core.errors import UserError
from worldclip.core.marks import Commas
from worldclip.recipe import stage_names
from worldclip.train.config import TrainConfig


def test_overview_names_every_command_in_aligned_columns(capsys):
    assert main(["--help", "--all"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    parts = [re.split(r" {2,}", row.strip(), maxsplit=1) for row in rows]
    assert {name for name, _ in parts} == {*stage_names(), *COMMANDS.names(), "--version"}
    assert len({row.index(summary) for row, (_, summary) in zip(rows, parts, strict=True)}) == 1


def test_rare_commands_are_listed_under_all_only(capsys):
    assert {*RARE} <= {*COMMANDS.names()}
    for arguments in ([], ["--help"]):
        assert main(arguments) == 0
        text = capsys.readouterr().out
        assert "worldclip --help --all lists rare commands" in text
        assert not [line for line in text.splitlines() if line.strip().startswith(("consolidate ", "pool wat "))]


def test_overview_imports_nothing_heavy():
    code = "import sys; from worldclip.cli import main; main(['--help']); print(*sys.modules)"
    heavy = {"numpy", "numba", "pyarrow", "torch", "transformers", "argparse", "rich", "fsspec"}
    assert not heavy & set(python("-c", code).splitlines()[-1].split())


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit_:
        main([*command.split(), "--help"])
    assert exit_.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("stage", stage_names())
def test_help_of_a_stage_has_the_flags_of_its_config(stage, capsys):
    text = help_of(stage, capsys)
    assert "--workers" in text
    assert not re.search(r"\bSTR\b|\{None|TEXT TEXT|\[TEXT", text)
    for field in dataclasses.fields(getattr(Recipe(), stage)):
        assert f"--{field.name.replace('_', '-')}" in text


@pytest.mark.parametrize("command", COMMANDS.names())
def test_help_of_a_command_describes_every_flag(command, capsys):
    text = help_of(command, capsys)
    assert COMMANDS.summary(command) in " ".join(text.split())
    assert "--json" in text
    assert not re.search(r"\bSTR\b|\[\[|\{None", text)
    function = COMMANDS.load(command).function
    flags = {*inspect.signature(function).parameters} - {"executor", "pause", "config"}
    assert flags <= {*SHARED, "shards", *described_parameters(function)}


def examples_of(item: object) -> list[list[str]]:
    lines = examples_text(item).strip().splitlines()[1:]
    return [shlex.split(line) for line in lines]


@pytest.mark.parametrize("name", COMMANDS.names())
def test_examples_of_a_command_parse(name, monkeypatch):
    monkeypatch.setattr("worldclip.cli.command.load_config", lambda cls, *_: cls())  # folders of examples are not there
    command = COMMANDS.load(name)
    assert isinstance(command, Command)
    words = name.removesuffix(ANY_MODEL).split()
    examples = examples_of(command.function)
    assert len(examples) == 2, inspect.getdoc(command.function)
    for example in examples:
        assert example[: len(words) + 1] == ["worldclip", *words]
        parse_command(command, " ".join(words), "", example[len(words) + 1 :])


@pytest.mark.parametrize("stage", stage_names())
def test_examples_of_a_stage_parse(stage):
    config = getattr(Recipe(), stage)
    examples = examples_of(type(config))
    assert len(examples) == 2
    for example in examples:
        assert example[:2] == ["worldclip", stage]
        parse_command(Command(run_stage), stage, "", example[2:], config=config, section=stage, stage=stage)


def test_help_of_train_has_a_group_per_table(capsys):
    nested = {
        field.name for field in dataclasses.fields(TrainConfig()) if dataclasses.is_dataclass(field.default_factory)
    }
    text = help_of("train", capsys)
    for group in ("options", *(f"{name} options" for name in ("train", *nested))):
        assert f"\n{group}:\n" in text
    for flag in ("--model.preset", "--initial-weights PATH", "--tokenizer.path PATH"):
        assert flag in text
    assert "(default: none)" not in text  # descriptions say what an unset key means


def test_every_module_of_commands_is_registered():
    """A command that is written but has no line in entry_points.txt would be lost."""
    registered = {(origin.module, origin.attribute) for origin in COMMANDS.origins().values()}
    for module in {module for module, _ in registered}:
        names = vars(importlib.import_module(module)).items()
        items = {(module, name) for name, item in names if isinstance(item, Command)}
        assert items <= registered


def test_commands_of_plug_ins_are_the_last_section():
    *ours, last = sections().items()
    assert last[0] == "Plug-ins"
    assert all(COMMANDS.origins()[name].module.startswith("worldclip.plugins.") for name in last[1])
    assert {name for _, names in ours for name in names} == {*stage_names(), *COMMANDS.names()} - {*last[1]}


def test_version_has_versions_extras_and_device(capsys):
    assert main(["--version", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["versions"]["worldclip"] == worldclip.__version__
    assert set(record["extras"]) >= {"metadata", "demo", "train"}


def test_module_runs_as_a_program():
    assert python("-m", "worldclip", "--help").startswith("usage: worldclip")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted; rerun the same command to resume"),
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/a"),
            1,
            "runs/a: No space left on device; free disk space, then rerun the same command to resume",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "runs/a"), 1, "runs/a: Permission denied"),
        (
            RuntimeError("can't allocate memory: you tried to allocate 8 bytes\nframe #0"),
            1,
            "memory ran out (can't allocate memory: you tried to allocate 8 bytes); use fewer workers or smaller "
            "batches, then rerun the same command to resume",
        ),
        (ImportError("faiss is needed here"), 2, "faiss is needed here"),
    ],
)
def test_errors_have_an_exit_code_and_a_remedy(error, code, message, monkeypatch, capfd):
    def fail(arguments: list[str]) -> int:
        raise error

    monkeypatch.setattr(cli, "_dispatch", fail)
    assert main(["run", "recipe.toml"]) == code
    assert capfd.readouterr().err == f"worldclip: {message}\n"


def take_lists(
    images: Sequence[str],
    *,
    langs: Annotated[Sequence[str], Commas()] = (),
    labels: Sequence[str] = (),
    of: Sequence[Literal["images", "texts"]] = (),
    is_loud: bool = False,
) -> None:
    """Take lists.

    images: images.
    langs: codes.
    labels: texts.
    of: choices.
    is_loud: shout.
    """


def lists_of(*words: str) -> dict[str, Any]:
    """Return what take_lists is called with."""
    return parse_command(Command(take_lists, lambda result, flags: ""), "x", "", words)[1]


@pytest.mark.parametrize("words", [["en,de"], ["en", "de"], ["en,", "de"], ["en,de,"]])
def test_lists_of_names_take_commas_or_spaces(words):
    assert lists_of("--langs", *words, "--is-loud")["langs"] == ("en", "de")
    assert lists_of("--of", "images,texts")["of"] == ("images", "texts")
    assert lists_of("--langs=en,de", "a,b.png")["images"] == ("a,b.png",)


def test_lists_of_texts_and_paths_keep_their_commas():
    values = lists_of("a,b.png", "--labels", "red, round", "blue")
    assert values["images"] == ("a,b.png",)
    assert values["labels"] == ("red, round", "blue")


def test_query_after_a_flag_with_one_value_keeps_its_comma():
    def find(folder: str, texts: Sequence[str] = (), *, of: str | None = None) -> tuple[Any, str]:
        """Find texts.

        folder: a folder.
        texts: texts.
        of: kind.
        """
        return None, ""

    for words in (["x", "--of", "images", "red, round"], ["--of", "images", "x", "red, round"]):
        flags, _ = parse_command(Command(find, positional=("texts",)), "search", "", words)
        assert (flags.folder, flags.texts) == ("x", ("red, round",))


@pytest.mark.parametrize(
    ("words", "problems"),
    [
        ("--langs", []),
        ("--is_loud", []),
        ("--is-loud=3", ["--is-loud takes no value"]),
        ("--lngs en a.png", ["unknown flag '--lngs'; did you mean --langs?"]),
        ("--lngs=en --is-loud=3", ["unknown flag '--lngs=en'", "--is-loud takes no value"]),
        ("--of sound", ["--of 'sound': must be one of"]),
    ],
)
def test_all_wrong_flags_are_named_at_once(words, problems):
    try:
        lists_of(*words.split())
        named: list[str] = []
    except UserError as error:
        named = error.problems
    assert len(named) == len(problems)
    assert all(problem in text for problem, text in zip(problems, named, strict=True))


@pytest.mark.parametrize("first", ["fetch", "tokenizer", "pool", "evaluate"])
def test_help_of_a_first_word_lists_its_commands(first, capsys):
    with contextlib.suppress(SystemExit):  # of a stage's help
        main([first, "--help"])
    lines = capsys.readouterr().out.splitlines()
    for command in (command for command in COMMANDS.names() if command.startswith(f"{first} ")):
        name = command.replace(" MODEL", " MODEL --out DIR")
        assert any(line.startswith(f"  {name} ") for line in lines)


def test_described_parameters_of_a_function_become_flags(capsys):
    def double(
        number: int, out: str | Path, *, names: list[str] | None = None, is_loud: bool = False
    ) -> dict[str, int]:
        """Double a number.

        number: a number,
        over two lines.
        out: a file.
        is_loud: shout.

        Raises nothing: never.
        """
        assert isinstance(out, str)
        return {"result": number * 2}

    descriptions = {"number": "a number, over two lines.", "out": "a file.", "is_loud": "shout."}
    assert described_parameters(double) == descriptions
    command = Command(double, lambda result, flags: f"{result['result']}{'!' if flags.is_loud else ''}")
    assert run_command(command, "double", "Double a number", ["3", "--out", "x", "--is-loud"]) == 0
    assert capsys.readouterr().out == "6!\n"
    assert run_command(command, "double", "Double a number", ["3", "--out", "x", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"result": 6}
    with pytest.raises(UserError, match="unknown flag '--names'"):
        run_command(command, "double", "Double a number", ["3", "--out", "x", "--names", "a"])


def test_closed_output_ends_a_command_without_a_message():
    command = [sys.executable, "-m", "worldclip", "train", "--help"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    _, said = process.communicate()
    assert (process.returncode, said) == (1, b"")


def test_windows_is_refused_with_a_remedy():
    # what the import needs of the standard library is there before: shutil would look for modules of Windows
    code = "import sys, importlib.metadata; sys.platform = 'win32'; import worldclip"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: worldclip runs on Linux and macOS, not on Windows; install it in WSL" in done.stderr


@pytest.mark.parametrize(("stage", "following"), [("balance", []), ("curate", ["next: worldclip explore"])])
def test_ending_of_a_stage_names_time_folder_report_and_next_command(stage, following, toy_run):
    done, report, *others = run_ending(toy_run, stage, 200.0)
    assert done.startswith("done in 3.3 min: ")
    assert done.endswith(f"; in {toy_run / stage}")
    assert report == f"report: {toy_run / 'report.html'}"
    assert [" ".join(line.split()[:3]) for line in others] == following
