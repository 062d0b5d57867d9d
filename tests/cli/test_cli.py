"""The command line: overview, help and flags of every command."""

import ast
import contextlib
import dataclasses
import errno
import importlib
import inspect
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from programs import python
from worldclip import cli
from worldclip.cli import main, stages
from worldclip.cli.command import (
    SHARED,
    Command,
    described_parameters,
    examples_text,
    parse_command,
    run_command,
)
from worldclip.cli.overview import ANY_MODEL, COMMANDS
from worldclip.cli.stages import run_stage
from worldclip.config import Recipe
from worldclip.core.errors import UserError
from worldclip.core.marks import Commas, File, Folder
from worldclip.recipe import stage_names


def test_overview_names_every_command_in_aligned_columns(capsys):
    assert main(["--help"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    parts = [re.split(r" {2,}", row.strip(), maxsplit=1) for row in rows]
    assert {name for name, _ in parts} == {*stage_names(), *COMMANDS.names(), "--version"}
    assert len({row.index(summary) for row, (_, summary) in zip(rows, parts, strict=True)}) == 1


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
    if stage == "train":
        for words in ("\ntrain options:\n", "\nmodel options:\n", "--model.preset", "--tokenizer.path PATH"):
            assert words in text


@pytest.mark.parametrize("command", COMMANDS.names())
def test_help_of_a_command_describes_every_flag(command, capsys):
    text = help_of(command, capsys)
    assert COMMANDS.summary(command) in " ".join(text.split())
    assert "--json" in text
    assert not re.search(r"\bSTR\b|\[\[|\{None", text)
    function = COMMANDS.load(command).function
    flags = {*inspect.signature(function).parameters} - {"executor", "pause", "config"}
    assert flags <= {*SHARED, "shards", *described_parameters(function)}


@pytest.mark.parametrize("command", COMMANDS.names())
def test_every_flag_of_a_command_is_passed_on(command):
    function = inspect.unwrap(COMMANDS.load(command).function)
    nodes = ast.walk(ast.parse(inspect.getsource(function)))
    read = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    assert {*inspect.signature(function).parameters} <= read


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


@pytest.mark.parametrize("value", [True, False])
def test_a_yes_or_no_of_the_recipe_takes_the_word(value):
    words = ["runs/x", "--fold-case", str(value).lower()]
    config = dataclasses.replace(Recipe().match, fold_case=not value)
    _, values = parse_command(Command(run_stage), "match", "", words, config=config, section="match", stage="match")
    assert values["overrides"] == [f"match.fold_case={words[-1]}"]


def test_workers_that_are_named_go_before_those_that_a_command_has(capsys):
    def count_workers(executor: Any = None) -> dict[str, Any]:
        """Count workers."""
        return {"workers": executor and executor.workers}

    command = Command(count_workers, lambda result, _: str(result["workers"]), has_own_workers=True)
    for words, said in (([], "None"), (["--workers", "3"], "3"), (["--executor", "local"], "None")):
        run_command(command, "x", "", words)
        assert capsys.readouterr().out.strip() == said


def test_every_module_of_commands_is_registered():
    """A command that is written but has no line in cli/commands.py would be lost."""
    registered = {(point.module, point.attr) for point in COMMANDS.points().values()}
    for module in {module for module, _ in registered}:
        names = vars(importlib.import_module(module)).items()
        items = {(module, name) for name, item in names if isinstance(item, Command)}
        assert items <= registered


def test_help_of_a_first_word_lists_its_commands(capsys):
    for first in ("fetch", "pool", "evaluate"):
        with contextlib.suppress(SystemExit):  # of a stage's help
            main([first, "--help"])
        lines = capsys.readouterr().out.splitlines()
        for command in (command for command in COMMANDS.names() if command.startswith(f"{first} ")):
            name = command.replace(" MODEL", " MODEL --out DIR")
            assert any(line.startswith(f"  {name} ") for line in lines)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted; rerun the same command to resume"),
        (OSError(errno.ENOSPC, "No space left", "runs/a"), 1, "runs/a: No space left on device; the disk at /"),
        (PermissionError(errno.EACCES, "Permission denied", "runs/a"), 1, "runs/a: Permission denied"),
        (RuntimeError("can't allocate memory\nframe #0"), 1, "memory ran out (can't allocate memory); use fewer "),
        (ImportError("faiss is needed here"), 2, "faiss is needed here"),
    ],
)
def test_errors_have_an_exit_code_and_a_remedy(error, code, message, monkeypatch, capfd):
    def fail() -> None:
        raise error

    monkeypatch.setattr("worldclip.tools.doctor.describe", fail)
    assert main(["--version"]) == code
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"worldclip: {message}")


def take_lists(
    images: Sequence[str],
    *,
    out: Annotated[str | Path | None, Folder()] = None,
    page: Annotated[str | None, File()] = None,
    langs: Annotated[Sequence[str], Commas()] = (),
    labels: Sequence[str] = (),
    of: Sequence[Literal["images", "texts"]] = (),
    order: Callable[[str], int] = len,
    is_loud: bool = False,
) -> dict[str, int]:
    """Take lists.

    images: images.
    out: file and folder.
    langs: codes,
    over two lines.
    labels: texts.
    of: choices.
    is_loud: shout.

    Raises nothing: never.
    """
    return {"images": len(images)}


TAKE_LISTS = Command(take_lists, lambda result, flags: f"{result['images']}{'!' if flags.is_loud else ''}")


def lists_of(*words: str) -> dict[str, Any]:
    """Return what take_lists is called with."""
    return parse_command(TAKE_LISTS, "x", "", words)[1]


def test_lists_of_names_take_commas_or_spaces_and_other_lists_keep_their_commas():
    for words in (["en,de"], ["en", "de"], ["en,", "de"], ["en,de,"]):
        assert lists_of("a,b.png", "--langs", *words, "--is-loud")["langs"] == ("en", "de")
    assert lists_of("a.png", "--of", "images,texts")["of"] == ("images", "texts")
    values = lists_of("--langs=en,de", "a,b.png", "--labels", "red, round", "blue")
    assert (values["images"], values["labels"]) == (("a,b.png",), ("red, round", "blue"))


def test_query_after_a_flag_with_one_value_keeps_its_comma():
    for words in (["--out", "x", "red, round"], ["red, round", "--out", "x"]):
        assert lists_of(*words)["images"] == ("red, round",)


def test_all_wrong_flags_are_named_at_once():
    for words, problems in {
        "a --langs": [],
        "a --is_loud": [],
        "a --lngs=en --is-loud=3": ["unknown flag '--lngs=en'; did you mean --langs?", "--is-loud takes no value"],
        "a --order b": ["unknown flag '--order'"],
        "a --of sound": ["--of 'sound': must be one of"],
    }.items():
        try:
            lists_of(*words.split())
            named: list[str] = []
        except UserError as error:
            named = error.problems
        assert len(named) == len(problems)
        assert all(problem in text for problem, text in zip(problems, named, strict=True))


def test_marks_say_file_or_folder_whatever_the_words_are(tmp_path, capsys):
    """`--page` has no description at all."""
    with pytest.raises(SystemExit):
        parse_command(TAKE_LISTS, "x", "", ["--help"])
    shown = capsys.readouterr().out
    assert "  --out DIR               File and folder.\n" in shown
    assert "  --page FILE" in shown
    (tmp_path / "a.txt").touch()
    for flag, place, problem in (
        ("--out", tmp_path / "a.txt", "is a file; give the folder to write"),
        ("--page", tmp_path, "is a folder; give the file to write"),
        ("--out", "s3://bucket/a", "must be a local path, not a URL"),
        ("--page", "s3://bucket/a", "must be a local path, not a URL"),
    ):
        with pytest.raises(UserError, match=problem):
            lists_of(flag, str(place))


def test_lines_of_a_docstring_describe_flags(capsys):
    descriptions = {
        "images": "images.",
        "out": "file and folder.",
        "langs": "codes, over two lines.",
        "labels": "texts.",
    }
    assert described_parameters(take_lists) == descriptions | {"of": "choices.", "is_loud": "shout."}
    for words, printed in ((["a", "b", "--is-loud"], "2!\n"), (["a", "--json"], '{"images": 1}\n')):
        assert run_command(TAKE_LISTS, "x", "Take lists", words) == 0
        assert capsys.readouterr().out == printed


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


@pytest.mark.parametrize(
    ("stage", "following"),
    [
        ("balance", []),
        ("curate", ["next: worldclip explore"]),
        ("train", ["next: worldclip evaluate"]),
        ("evaluate", ["next: worldclip embed"]),
    ],
)
def test_ending_of_a_stage_names_time_folder_report_and_next_command(stage, following, toy_run, capfd):
    stages.results(toy_run, [stage], time.perf_counter() - 200.0)
    done, report, *others = capfd.readouterr().err.splitlines()
    assert done.startswith("done in 3.3 min: ")
    assert done.endswith(f"; in {toy_run / stage}")
    assert report == f"report: {toy_run / 'report.html'}"
    assert [" ".join(line.split()[:3]) for line in others] == following


@pytest.mark.parametrize("stage", ["balance", "curate", "train", "evaluate"])
def test_next_command_of_a_folder_with_a_blank_is_one_that_a_shell_reads(stage, tmp_path, capfd):
    folder = tmp_path / "my run's"
    stages.results(folder, [stage], time.perf_counter())
    (line,) = (line for line in capfd.readouterr().err.splitlines() if line.startswith("next: "))
    assert str(folder) in shlex.split(line)


@pytest.mark.parametrize("out", [["--out", "DIR"], ["--out=DIR"]])
def test_a_run_with_another_out_is_taken_for_a_model(tmp_path, out):
    """`evaluate RUN` writes into the run, `evaluate RUN --out DIR` does not."""
    (tmp_path / "recipe.toml").touch()
    assert cli._names_model([str(tmp_path), *(word.replace("DIR", str(tmp_path / "other")) for word in out)])
    assert not cli._names_model([str(tmp_path)])
