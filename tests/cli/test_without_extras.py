"""Every command in an installation without extras: it works, or names the extra before any work."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest

from programs import words_of
from toy import draw_shape
from without_extras import Ended, run_without
from worldclip.cli import main
from worldclip.cli.overview import COMMANDS
from worldclip.core.preflight import EXTRAS
from worldclip.evaluate import engine
from worldclip.recipe import stage_names
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
    ("evaluate RUN --out O --datasets d --folders.d folders:D --also linear_probe", "train"),
    ("export R --out O --formats huggingface", "train"),
    ("export R --out O --formats onnx,open_clip", "train export"),
    ("export RUN --out O", "train"),
    ("init hf://datasets/owner/name --out O", "hub"),
    ("pool emoji --out O", "demo"),
    ("pool world --out O", "world"),
    ("pool check P --out O", "pool"),
    ("pool check P --out O --workers 2", "pool"),
    ("pool check P --out O --shards 1/2", "pool"),
    ("pool check P --out O --set embedding_model=RUN", "pool train"),
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
UNTRIED = {
    "fetch cldr": "needs the network; the standard library alone downloads",
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
def places(toy_world, toy_run, tmp_path_factory) -> dict[str, Path]:
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
def ended(places) -> dict[str, tuple[Ended, bool]]:
    """Return how each command of both tables ends without extras, and whether it left its output."""
    commands = [*WORKS, *(command for command, _ in NEEDS)]
    hidden = {module for modules in EXTRAS.values() for module in modules}
    folder = places["O"].parent
    ends = run_without(hidden, [words_of(command, places) for command in commands], folder)
    return dict(zip(commands, ends, strict=True))


@pytest.mark.parametrize("command", WORKS)
def test_command_works_without_extras(command, ended):
    assert ended[command].code == 0, ended[command].error


def test_help_works_without_extras(tmp_path):
    hidden = {module for modules in EXTRAS.values() for module in modules}
    names = [*stage_names(), *COMMANDS.names()]
    ends = run_without(hidden, [[*name.split(), "--help"] for name in names], tmp_path)
    for name, (code, out, error) in zip(names, ends, strict=True):
        assert (code, error) == (0, ""), name
        assert out.startswith(f"usage: worldclip {name}")


@pytest.mark.parametrize(("command", "extras"), NEEDS, ids=[command for command, _ in NEEDS])
def test_command_names_the_extras_before_any_work(command, extras, ended):
    code, _, error = ended[command]
    assert code == 2, error
    assert "Traceback" not in error
    assert "repair" not in error
    named = re.findall(rf"pip install -e '{REPOSITORY}\[(\w+)\]'", error)
    assert set(named) == set(extras.split()), error


def test_no_command_that_lacks_an_extra_writes_anything(places, ended):
    assert not places["O"].exists()


def test_tables_have_every_command():
    commands = {name.removesuffix(" MODEL") for name in COMMANDS.names()} | {*stage_names()}
    tried = {name for name in commands for line in (*WORKS, *dict(NEEDS)) if f"{line} ".startswith(f"{name} ")}
    assert commands - tried == set(UNTRIED)


def test_modules_of_extras_are_those_of_the_project():
    expected = {
        extra: [name for name in modules if name != "simplejpeg"]  # nothing needs it
        for extra, modules in extras_of_project().items()
        if extra not in DEVELOPERS
    }
    assert {extra: sorted(modules) for extra, modules in EXTRAS.items()} == {
        extra: sorted(modules) for extra, modules in expected.items()
    }


def test_packages_of_extras_are_imported_by_these_names():
    known = importlib.metadata.packages_distributions()
    for package, module in IMPORTED_AS.items():
        assert package in {name.lower().replace("_", "-") for name in known[module]}


def test_install_page_lists_every_extra():
    listed = re.findall(
        r"^pip install -e '\.\[(\w+)\]'", (REPOSITORY / "docs" / "install.md").read_text("utf-8"), re.MULTILINE
    )
    assert set(listed) == set(extras_of_project())
    assert len(listed) == len(set(listed))


def test_a_checkpoint_names_the_extra_where_safetensors_is_there_and_torch_is_not(places, tmp_path):
    checkpoint = max((places["RUN"] / "train").glob("step_*"))
    (ended,) = run_without(["torch"], [["classify", str(checkpoint), "x.png", "--labels", "a"]], tmp_path)
    assert ended.code == 2
    assert f"needs torch: pip install -e '{REPOSITORY}[train]'" in ended.error
