"""Every command: without extras, with a TOML file that it does not read whole, and with a URL for a local path."""

import inspect
import json
import re
import shutil
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

import worldclip
from miniature import write_files
from programs import words_of
from toy import draw_shape, write_tar
from without_extras import Ended, run_without
from worldclip.cli import main
from worldclip.cli.command import WRITTEN
from worldclip.cli.overview import COMMANDS
from worldclip.core import artifacts
from worldclip.core.errors import UserError
from worldclip.core.job import Run
from worldclip.core.local_path import require_local, url_problem
from worldclip.core.preflight import EXTRAS
from worldclip.evaluate import engine
from worldclip.metadata.config import MetadataConfig
from worldclip.plugins.crawl.wat import build_wat
from worldclip.recipe import stage_names
from worldclip.tools.fetch_metadata import FetchConfig, fetch_metadata
from worlds import WordModel, word_dataset

REPOSITORY = Path(__file__).parents[2]
# R: a recipe, P: its pool, RUN: its finished run, C: a run curated without extras,
# E: embedded images, F: embedded texts, ONNX: an exported model, D: a folder of a dataset,
# S: results of an evaluation, O: a folder to write, which must not exist afterwards
NEEDS: list[tuple[str, str]] = [  # command, extras that it names
    ("run R --out O", "train"),
    ("pool R --out O --set pool.path=none --build emoji", "demo"),
    ("pool R --out O --set pool.path=none --build world", "world"),
    ("pool R --out O --path hf://datasets/owner/name", "hub"),
    ("metadata R --out O --set metadata.lists=none --sources wordfreq,cldr,wordnet --installed-wordnets", "metadata"),
    ("match R --out O --executor ray", "ray"),
    ("train R --out O", "train"),
    ("train R --out O --wandb a --lora-rank 4 --initial-weights owner/name", "train wandb lora"),
    ("evaluate R --out O --datasets d --folders.d folders:D --also linear_probe", "train"),
    ("evaluate RUN --out O --datasets d --folders.d folders:D", "train"),
    ("export R --out O --formats huggingface", "train"),
    ("export R --out O --formats onnx,open_clip", "train export"),
    ("export RUN --out O", "train"),
    ("init hf://datasets/owner/name --out O", "hub"),
    ("pool emoji --out O", "demo"),
    ("pool world --out O", "world"),
    ("pool check P --out O", "pool"),
    ("pool check P --out O --embedding_model=RUN", "pool train"),
    ("pool check P --out O --set duplicates=keep --set against.d=D", "pool"),
    ("pool dedup P --out O --executor ray", "ray"),
    ("publish C owner/name", "hub"),
    ("classify RUN x.png --labels a", "train"),
    ("classify ONNX x.png --labels a", "onnx"),
    ("consolidate RUN", "train"),
    ("explore C --out O", "pool"),
    ("embed RUN P --out O", "train"),
    ("embed RUN P --out O --of texts", "train"),
    ("embed ONNX P --out O", "onnx"),
    ("search E red", "train"),
    ("search F red", "train"),
    ("serve RUN E", "serve"),
]
WORKS: list[str] = [
    "run R --out C --until curate --workers 1",
    "pool C",
    "metadata C",
    "match C",
    "balance C",
    "curate C --write tars --workers 1",
    "init P --out x.toml",
    "status C",
    "pool dedup P --out copies --workers 1",
    "pool pack D --out packed",
    "publish C owner/name --dry-run",
    "estimate C",
    "inspect C --key 00001",
    "languages",
    "doctor",
    "doctor --json",
    "--version",
    "--help",
    "compare S S",
]
WITHOUT_TRIAL = {
    "fetch dataset": "needs the network; the standard library alone downloads",
    "fetch metadata": "needs the network; the standard library alone downloads",
    "pool wat": "reads WARC files by code of ours; tests/plugins/test_crawl.py",
}
DEVELOPERS = {"dev", "docs"}
IMPORTED_AS = {
    "open-clip-torch": "open_clip",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "scikit-learn": "sklearn",
}


def extras_of_project() -> dict[str, list[str]]:
    """Return extra -> the modules of its packages, from pyproject.toml."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {
        extra: [re.split(r"[<>=\[]", package, maxsplit=1)[0] for package in packages]
        for extra, packages in project["optional-dependencies"].items()
    }
    return {
        extra: [IMPORTED_AS.get(name, name.replace("-", "_")) for name in packages] for extra, packages in names.items()
    }


def write_stub_of_onnx(folder: Path) -> None:
    """Write the files by which an exported model is recognised."""
    (folder / "onnx").mkdir(parents=True)
    graphs = ("onnx/vision_model.onnx", "onnx/text_model.onnx")
    for name in (*graphs, "tokenizer.json", "preprocessor_config.json", "config.json"):
        (folder / name).write_text("{}", encoding="utf-8")


@pytest.fixture(scope="module")
def finished(toy_world, toy_run, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("without_extras")
    names = {name: folder / name for name in ("E", "F", "ONNX", "D", "S", "O", "C")}
    assert main(["embed", str(toy_run), str(toy_world.pool), "--out", str(names["E"])]) == 0
    assert main(["embed", str(toy_run), str(toy_world.pool), "--of", "texts", "--out", str(names["F"])]) == 0
    write_stub_of_onnx(names["ONNX"])
    for number, label in enumerate(("circle", "square")):
        image = names["D"] / label / "0.png"
        image.parent.mkdir(parents=True)
        image.write_bytes(draw_shape(number, [9, 9, 9], 0))
        image.with_suffix(".txt").write_text(label)
    names["S"].mkdir()
    dataset = word_dataset("words", ["red", "green", "blue"], ("en", "de"))
    engine.evaluate(WordModel(), {"model": "words"}, (dataset,), (), names["S"] / "results.jsonl")
    return names | {"R": toy_world.recipe, "P": toy_world.pool, "RUN": toy_run}


@pytest.fixture(scope="module")
def ended(finished) -> dict[str, tuple[Ended, bool]]:
    """Return how each command of both tables ends without extras, and whether it left its output."""
    commands = [*WORKS, *(command for command, _ in NEEDS)]
    hidden = {module for modules in EXTRAS.values() for module in modules}
    folder = finished["O"].parent
    ends = run_without(hidden, [words_of(command, finished) for command in commands], folder)
    return dict(zip(commands, ends, strict=True))


def test_commands_work_without_extras(ended):
    for command in WORKS:
        assert ended[command].code == 0, (command, ended[command].error)


def test_help_works_without_extras(tmp_path):
    hidden = {module for modules in EXTRAS.values() for module in modules}
    names = [*stage_names(), *COMMANDS.names()]
    ends = run_without(hidden, [[*name.split(), "--help"] for name in names], tmp_path)
    for name, (code, out, error) in zip(names, ends, strict=True):
        assert (code, error) == (0, ""), name
        assert out.startswith(f"usage: worldclip {name}")


@pytest.mark.parametrize(("command", "extras"), NEEDS, ids=[command for command, _ in NEEDS])
def test_command_names_the_extras_before_any_work(command, extras, ended, finished):
    code, _, error = ended[command]
    assert code == 2, error
    assert "Traceback" not in error
    named = re.findall(rf"pip install -e '{REPOSITORY}\[(\w+)\]'", error)
    assert set(named) == set(extras.split()), error
    assert not finished["O"].exists()


def test_modules_of_extras_are_those_of_the_project_and_of_the_page():
    modules = {
        extra: [name for name in names if name != "simplejpeg"]  # nothing needs it
        for extra, names in extras_of_project().items()
    }
    assert {extra: sorted(names) for extra, names in EXTRAS.items()} == {
        extra: sorted(names) for extra, names in modules.items() if extra not in DEVELOPERS
    }
    page = (REPOSITORY / "docs" / "install.md").read_text("utf-8")
    listed = re.findall(r"^pip install -e '\.\[(\w+)\]'", page, re.MULTILINE)
    assert sorted(listed) == sorted(modules)


def test_a_checkpoint_names_the_extra_where_safetensors_is_there_and_torch_is_not(finished, tmp_path):
    checkpoint = max((finished["RUN"] / "train").glob("step_*"))
    (ended,) = run_without(["torch"], [["classify", str(checkpoint), "x.png", "--labels", "a"]], tmp_path)
    assert ended.code == 2
    assert f"needs torch: pip install -e '{REPOSITORY}[train]'" in ended.error


# TOML files


# T: a recipe with a misspelt section, a rule of pool check and a good [pool]; P: a pool; ONNX: a model; O: a folder to
# write, which must not exist afterwards
READS_ALL = [  # as a recipe: names every unknown section
    "run T --out O",
    *(f"{stage} T --out O" for stage in stage_names()),
    "fetch metadata T",
    "pool check T --out O",
    "pool dedup T --out O",
    "embed ONNX T --out O",
]
TAKES_NONE = [  # names the file
    "init T --out O",
    "status T",
    "pool wat T --out O",
    "pool pack T --out O",
    "publish T owner/name",
    "classify T x.png --labels a",
    "consolidate T",
    "estimate T",
    "inspect T --key a",
    "inspect T --entry red",
    "explore T --out O",
    "compare T T",
    "embed T P --out O",
    "search T red",
    "serve T",
]
WITHOUT_FILES = {"pool emoji", "pool world", "languages", "fetch dataset", "doctor", "evaluate", "export"}
"""Commands whose arguments are no files, and any model's, which are stages too."""


@pytest.fixture
def places(toy_world, tmp_path, monkeypatch) -> dict[str, Path]:
    monkeypatch.chdir(tmp_path)
    write_stub_of_onnx(tmp_path / "ONNX")
    recipe = tmp_path / "T.toml"
    recipe.write_text(
        f'radius = 3\n[pool]\npath = "{toy_world.pool}"\n[balance]\ntail_fraction = 0.3\n[trian]\nlr = 1\n',
        encoding="utf-8",
    )
    return {"T": recipe, "P": toy_world.pool, "ONNX": tmp_path / "ONNX", "O": tmp_path / "O"}


@pytest.mark.parametrize("command", READS_ALL)
def test_unknown_sections_of_a_recipe_are_refused(command, places, capfd):
    assert main(words_of(command, places)) == 2
    error = capfd.readouterr().err
    assert "unknown section trian; did you mean train?" in error
    assert "unknown section radius;" in error
    assert not places["O"].exists()


@pytest.mark.parametrize("command", TAKES_NONE)
def test_recipe_in_place_of_another_input_is_refused_by_its_name(command, places, capfd):
    before = places["T"].read_bytes()
    code = main(words_of(command, places))
    error = capfd.readouterr().err
    assert code in (1, 2)
    assert "T.toml" in error
    assert "Traceback" not in error
    assert not re.search(r"run first: worldclip \w+ [^ ]*T\.toml", error), "that would not help"
    assert places["T"].read_bytes() == before


def tried(lines: Iterable[str]) -> set[str]:
    return {name for name in EVERY for line in lines if f"{line} ".startswith(f"{name} ")}


EVERY = {name.removesuffix(" MODEL") for name in COMMANDS.names()} | {*stage_names()}


def test_tables_have_every_command():
    assert EVERY - tried([*WORKS, *dict(NEEDS)]) == set(WITHOUT_TRIAL)
    assert EVERY - tried([*READS_ALL, *TAKES_NONE]) == WITHOUT_FILES - {*stage_names()}
    writing = {name for name in COMMANDS.names() if parameters_of(name) & set(WRITTEN)}
    assert writing | set(stage_names()) == {command for command, *_ in OUTPUTS}


def test_rules_of_a_check_in_a_file_of_their_own_are_applied(places, tmp_path, capfd):
    command = ["pool", "check", str(places["T"]), "--out", str(places["O"]), "--workers", "1", "--config"]
    assert main([*command, str(places["T"])]) == 2
    assert "unknown key balance" in capfd.readouterr().err
    places["T"].write_text(f'[pool]\npath = "{places["P"]}"\n[train]\nlr = 1.0\n', encoding="utf-8")
    folder = write_files(tmp_path / "rules", {"rules.toml": 'duplicates = "keep"\n[against]\nmine = "images"\n'})
    shutil.copytree(places["P"], folder / "images")  # relative paths of rules start at their file
    assert main([*command, str(folder / "rules.toml")]) == 0
    assert "duplicate" not in (places["O"] / "report.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", ["pool check T --out O --set duplicates=keep", "pool dedup T --out O"])
def test_relative_paths_start_at_the_file_of_the_pool(command, places, tmp_path, monkeypatch):
    """Also where the working directory has another pool of that name."""
    for folder, members in (("recipes", ["a", "b"]), ("elsewhere", ["c"])):
        write_tar(tmp_path / folder / "pool" / "0.tar", [(f"{name}.txt", b"a red circle") for name in members])
    places["T"] = tmp_path / "recipes" / "T.toml"
    places["T"].write_text('[pool]\npath = "pool"\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main([*words_of(command, places), "--workers", "1"]) == 0
    report = json.loads((places["O"] / "report.json").read_text(encoding="utf-8"))
    assert report.get("pairs", report.get("counts", {}).get("pairs_in")) == 2


# URLs


URL = "s3://bucket/run"
OTHER_ARGUMENTS = {
    **dict.fromkeys(("run", *stage_names()), "toy.toml"),
    **dict.fromkeys(("init", "pool check", "pool dedup", "pool pack"), "pool"),
    **dict.fromkeys(("pool emoji", "pool world"), ""),
    "explore": "run",
    **dict.fromkeys(("evaluate MODEL", "export MODEL"), "model"),
    "pool wat": "a.wat.gz",
    "embed": "model pool",
    "fetch dataset": "cifar10",
}
"""Of each command that writes to --out."""
OUTPUTS = [  # command, its arguments, what names the path
    *((command, f"{others} --out {URL}", "--out") for command, others in OTHER_ARGUMENTS.items()),
    ("search", URL, "FOLDER"),
]
OTHERS = [  # folders and files that are read, or written under another name
    ("status", URL, "RUN"),
    ("publish", f"{URL} owner/name", "RUN"),
    ("inspect", f"{URL} --key a", "RUN"),
    ("consolidate", URL, "CHECKPOINT"),
    ("run", f"toy.toml --from-run {URL}", "--from-run"),
    ("match", URL, "recipe"),
]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.toml").write_text('[pool]\npath = "pool"\n[balance]\ntail_fraction = 0.1\n')
    return tmp_path


def parameters_of(name: str) -> set[str]:
    return set(inspect.signature(COMMANDS.load(name).function).parameters)


@pytest.mark.parametrize(("command", "arguments", "setting"), [*OUTPUTS, *OTHERS])
def test_path_at_a_url_is_refused(command, arguments, setting, folder, capfd):
    before = sorted(folder.iterdir())
    assert main([*command.removesuffix(" MODEL").split(), *arguments.split()]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"worldclip: {setting} {URL}")
    assert "must be a local path, not a URL; work in a local folder" in line
    assert sorted(folder.iterdir()) == before


def test_calls_with_a_url_write_nothing(folder):
    calls: list[Callable[[Any], object]] = [
        lambda url: worldclip.run("toy.toml", out=url),
        lambda url: build_wat(["a.wat.gz"], url),
        lambda url: artifacts.write_json(Path(url) / "report.json", {}),
        lambda url: fetch_metadata(Run.of(folder, MetadataConfig(dumps=str(url))), FetchConfig()),
    ]
    before = sorted(folder.iterdir())
    for call in calls:
        for kind in (str, Path):
            with pytest.raises(UserError, match=r"s3:/+bucket/run.*must be a local path"):
                call(kind(URL))
    assert sorted(folder.iterdir()) == before


def test_local_paths_stay_and_urls_are_said_as_they_were_given():
    for path in ("run", "runs/a:b", "./a", "/tmp/run", "~/run", "C:\\run", "a b/c", "", ".", "../x", "12:30/run"):
        assert require_local(path, "--out") == Path(path)
    for url in ("s3://b/run", "gs://b", "hf://datasets/o/n", "https://x.org/a", "simplecache::s3://b/x"):
        for kind in (str, Path):
            assert f"--out {url}: must be" in (url_problem(kind(url), "--out") or "")
