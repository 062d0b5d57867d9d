"""The command line: overview, help and flags of every command, and --set, which a flag of a stage equals."""

import contextlib
import dataclasses
import errno
import importlib
import inspect
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

import worldclip
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
from worldclip.config import Recipe, load_recipe
from worldclip.core.errors import UserError
from worldclip.core.job import Run
from worldclip.core.marks import Commas
from worldclip.core.settings import with_absolute_places
from worldclip.evaluate.config import EvaluateConfig
from worldclip.pool.config import PoolConfig
from worldclip.recipe import stage_names
from worldclip.train.config import TokenizerConfig


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


def test_every_module_of_commands_is_registered():
    """A command that is written but has no line in entry_points.txt would be lost."""
    registered = {(origin.module, origin.attribute) for origin in COMMANDS.origins().values()}
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
        (OSError(errno.ENOSPC, "No space left", "runs/a"), 1, "runs/a: No space left on device; free disk space"),
        (PermissionError(errno.EACCES, "Permission denied", "runs/a"), 1, "runs/a: Permission denied"),
        (RuntimeError("can't allocate memory\nframe #0"), 1, "memory ran out (can't allocate memory); use fewer "),
        (ImportError("faiss is needed here"), 2, "faiss is needed here"),
    ],
)
def test_errors_have_an_exit_code_and_a_remedy(error, code, message, monkeypatch, capfd):
    def fail(arguments: list[str]) -> int:
        raise error

    monkeypatch.setattr(cli, "_dispatch", fail)
    assert main(["run", "recipe.toml"]) == code
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"worldclip: {message}")


def take_lists(
    images: Sequence[str],
    *,
    out: str | Path = "",
    langs: Annotated[Sequence[str], Commas()] = (),
    labels: Sequence[str] = (),
    of: Sequence[Literal["images", "texts"]] = (),
    names: list[str] | None = None,
    is_loud: bool = False,
) -> dict[str, int]:
    """Take lists.

    images: images.
    out: a file.
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
        "a --names b": ["unknown flag '--names'"],
        "a --of sound": ["--of 'sound': must be one of"],
    }.items():
        try:
            lists_of(*words.split())
            named: list[str] = []
        except UserError as error:
            named = error.problems
        assert len(named) == len(problems)
        assert all(problem in text for problem, text in zip(problems, named, strict=True))


def test_described_parameters_of_a_function_become_flags(capsys):
    descriptions = {"images": "images.", "out": "a file.", "langs": "codes, over two lines.", "labels": "texts."}
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


@pytest.mark.parametrize(("stage", "following"), [("balance", []), ("curate", ["next: worldclip explore"])])
def test_ending_of_a_stage_names_time_folder_report_and_next_command(stage, following, toy_run):
    done, report, *others = stages._ending(toy_run, stage, 200.0)
    assert done.startswith("done in 3.3 min: ")
    assert done.endswith(f"; in {toy_run / stage}")
    assert report == f"report: {toy_run / 'report.html'}"
    assert [" ".join(line.split()[:3]) for line in others] == following


# --set and flags


# stage, keys of its section by --set, flags, all of it by --set
BOTH: list[tuple[str, str, str, str]] = [
    ("pool", "key=json:uid", "--format tar --path 2024", "key=json:uid format=tar path=2024"),
    ("metadata", "overrides.max_titles=3", "--overrides.max_unigrams 4", "overrides={max_titles=3,max_unigrams=4}"),
    (
        "match",
        "merge_labels.zsm=th",
        "--merge-labels.ms ar --fold-case --restrict-to-recipe-languages false",
        "merge_labels.zsm=th merge_labels.ms=ar fold_case=true restrict_to_recipe_languages=false",
    ),
    ("balance", "tail_fractions.en=0.5", "--tail-fractions.ar 0.4", "tail_fractions={en=0.5,ar=0.4}"),
    ("curate", "max_pairs.en=5", "--max-pairs.ar 3 --write tars", "max_pairs={en=5,ar=3} write=tars"),
    (
        "train",
        "samples_seen=64 tokenizer.vocab_size=300",
        "--warmup-samples 0 --tokenizer.lang-exponent 0.5 --dry-run",
        "samples_seen=64 tokenizer.vocab_size=300 warmup_samples=0 tokenizer.lang_exponent=0.5",
    ),
    (
        "evaluate",
        "datasets=a,b folders.a=captions:/a",
        "--folders.b captions:/b --batch-size 7",
        "datasets=a,b folders.a=captions:/a folders.b=captions:/b batch_size=7",
    ),
    ("export", "formats=onnx,huggingface", "--languages en ar", "formats=onnx,huggingface languages=en,ar"),
]


def by_set(stage: str, keys: str) -> str:
    return " ".join(f"--set {stage}.{key}" for key in keys.split())


@pytest.fixture
def recipe_of(toy_world, tmp_path, monkeypatch) -> Callable[[str], Recipe]:
    """Return a function that runs a command of a stage up to its work, and returns the recipe of that work."""
    seen: list[Recipe] = []

    def note(recipe: Recipe, run_dir: Path, *others: object, **options: object) -> Run:
        seen.append(recipe)
        return Run(dir=run_dir, sections={})

    monkeypatch.setattr(stages, "run_stages", note)

    def run(command: str) -> Recipe:
        stage, *words = command.split()
        assert main([stage, str(toy_world.recipe), "--out", str(tmp_path / "run"), *words]) == 0
        return seen.pop()

    return run


def test_table_has_every_stage():
    assert [stage for stage, *_ in BOTH] == [*stage_names()]


@pytest.mark.parametrize(("stage", "keys", "flags", "all_keys"), BOTH, ids=stage_names())
def test_flags_keep_what_set_says_in_both_orders(stage, keys, flags, all_keys, recipe_of, toy_world):
    expected = recipe_of(f"{stage} {by_set(stage, all_keys)}")
    assert expected != load_recipe(toy_world.recipe)
    for words in (f"{by_set(stage, keys)} {flags}", f"{flags} {by_set(stage, keys)}"):
        assert recipe_of(f"{stage} {words}") == expected


def test_the_last_value_of_a_key_wins(recipe_of):
    last = {"--set train.seed=1 --seed 2": 2, "--seed 2 --set=train.seed=1": 1, "--seed=3 --seed 4": 4}
    for words, seed in last.items():
        assert recipe_of(f"train {words}").train.seed == seed


def test_values_are_checked_after_both(recipe_of, toy_world, tmp_path, capfd):
    changed = recipe_of("balance --set balance.tail_fraction=none --set curate.seed=3 --english-threshold 3")
    assert (changed.balance.english_threshold, changed.balance.tail_fraction, changed.curate.seed) == (3, None, 3)
    command = ["balance", str(toy_world.recipe), "--out", str(tmp_path / "run")]
    assert main([*command, "--set", "balance.tail_fraction=none"]) == 2
    assert "balance.rule" in capfd.readouterr().err
    assert main([*command, "--set", "balance.min_threshold=-1", "--tail-fraction", "2"]) == 2
    assert capfd.readouterr().err.count("worldclip: balance.") == 2


def test_stages_run_with_both(toy_world, tmp_path):
    run_dir = tmp_path / "run"
    commands = [
        "run --set pool.key=member --set metadata.rules=reference --until metadata",
        "match --set match.restrict_to_recipe_languages=false --min-lang-prob 0.01",
        "balance --tail-fraction 0.2 --set balance.min_threshold=2",
        "curate --set curate.seed=3 --text-policy one",
        "train --global-batch-size 16 --warmup-samples 0 --set train.samples_seen=32 --set train.precision=fp32",
        "export --set export.onnx_precisions=fp32 --formats open_clip",
    ]
    source = toy_world.recipe
    for command in commands:
        stage, *words = command.split()
        assert main([stage, str(source), "--out", str(run_dir), "--workers", "1", *words]) == 0, command
        source = run_dir
    recipe = load_recipe(run_dir)
    assert (recipe.pool.key, recipe.metadata.rules) == ("member", "reference")
    assert (recipe.match.restrict_to_recipe_languages, recipe.match.min_lang_prob) == (False, 0.01)
    assert (recipe.balance.tail_fraction, recipe.curate.seed) == (0.2, 3)
    assert recipe.export.formats == ("huggingface",)  # flags of an export are no part of the run
    assert [path.name for path in (run_dir / "export").iterdir() if path.is_dir()] == ["open_clip"]
    assert [path.name for path in (run_dir / "train").glob("step_*")] == ["step_000000002"]  # 32 samples by 16


def test_relative_paths_become_absolute(toy_world, tmp_path, monkeypatch, capfd):
    shutil.copytree(toy_world.pool, tmp_path / "pairs")
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(toy_world.recipe)
    recipe = dataclasses.replace(recipe, pool=dataclasses.replace(recipe.pool, path="pairs"))
    assert worldclip.run(recipe, out="by_call", until="pool") == Path("by_call")
    for run, words in (("flag", ["--path", "pairs"]), ("set", ["--set", "pool.path=pairs"]), ("by_call", [])):
        assert main(["pool", str(toy_world.recipe if words else run), "--out", run, *words]) == 0
        assert load_recipe(tmp_path / run).pool.path == str(tmp_path / "pairs")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    capfd.readouterr()
    assert main(["pool", str(tmp_path / "flag")]) == 0
    assert "is finished and unchanged" in capfd.readouterr().err


def test_every_kind_of_path_becomes_absolute(tmp_path, monkeypatch):
    (tmp_path / "pairs").mkdir()
    monkeypatch.chdir(tmp_path)
    for config, key, expected in (
        (EvaluateConfig(folders={"a": "captions:b/c"}), "folders", {"a": f"captions:{tmp_path}/b/c"}),
        (EvaluateConfig(data="~/data"), "data", "~/data"),
        (PoolConfig(path="hf://datasets/a/b"), "path", "hf://datasets/a/b"),
        (PoolConfig(deny_keys=("pairs",)), "deny_keys", (f"{tmp_path}/pairs",)),
        (TokenizerConfig(path="pairs"), "path", f"{tmp_path}/pairs"),
        (TokenizerConfig(path="owner/name"), "path", "owner/name"),
    ):
        assert getattr(with_absolute_places(config), key) == expected
