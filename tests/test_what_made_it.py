"""Whatever is kept says what made it: after any one thing was changed, the same commands leave what new folders get.

Everything that the commands leave is made, one thing that made it is changed, and the commands are called again.  A
training refuses in words, and goes on as they say; every folder then equals one that is made from nothing.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from killed import contents
from miniature import write_files
from toy import TOY_RGB, TOY_WORDS, build_toy_world, draw_shape
from worldclip.cli import main
from worldclip.contracts import layout
from worldclip.report import write_report

pytest.importorskip("torch")
COMMANDS = {
    "run": "run recipe.toml --out FOLDER/run --until evaluate",
    "results": "evaluate out/run --out FOLDER/results --datasets shapes --folders.shapes folders:shapes --device cpu",
    "embedded": "embed out/run pool --out FOLDER/embedded --of images texts --device cpu",
    "retokenized": "embed out/run pool --out FOLDER/retokenized --of texts --tokenizer tokenizer --device cpu",
    "checked": "pool check pool --out FOLDER/checked --workers 1",
    "explorer": "explore out/run --out FOLDER/explorer",
    "exported": "export out/run --out FOLDER/exported --formats huggingface",
}
# say when and how, are logs and caches by digest, or keep the records of other models and data too
VOLATILE = (
    *(".lock", "log.txt", "log.jsonl", "run.json", "listed_at.json", "report.html", "tensorboard", "state.json"),
    *("files.json", "features", "ranks", "results.jsonl"),
)
EVALUATE = """
[evaluate]
datasets = ["shapes"]
folders = { shapes = "folders:shapes" }
languages = ["en", "zh"]
"""
SMALL = {
    "samples_seen = 640": "samples_seen = 128",
    "checkpoint_every_samples = 320": "checkpoint_every_samples = 128",
    "image_size = 32": "image_size = 32\nvision_layers = 1\ntext_layers = 1",
    "[languages]": 'deny_keys = ["denied.txt"]\n[languages]',
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pool, lists, a dataset, a recipe, and in out/ what all commands leave of it."""
    folder = tmp_path_factory.mktemp("what_made_it") / "made"
    world = build_toy_world(folder)
    recipe = world.recipe.read_text().replace(str(folder), ".")
    for old, new in SMALL.items():
        recipe = recipe.replace(old, new)
    shapes = TOY_WORDS["en"][1].split()[:3]
    pictures = {f"{shape}/0.png": draw_shape(i, TOY_RGB[i], 0) for i, shape in enumerate(shapes)}
    names = '{"zh": {"classes": ["圆形", "方形", "三角形"]}}'
    write_files(folder, {"recipe.toml": recipe + EVALUATE, "denied.txt": "00074\n"})
    write_files(folder / "shapes", {**pictures, "languages.json": names})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in COMMANDS:
            assert main(COMMANDS[name].replace("FOLDER", "out").split()) == 0
            if name == "run":
                shutil.copytree("out/run/train/tokenizer", "tokenizer")
    shutil.copytree(folder, folder.with_name("backup"))
    return folder


def replace_in(path: str, old: str, new: str) -> Callable[[], None]:
    """Return what replaces a part of a file."""

    def change() -> None:
        content = Path(path).read_bytes()
        assert old.encode() in content
        Path(path).write_bytes(content.replace(old.encode(), new.encode()))

    return change


def draw_another_shape() -> None:
    Path("shapes/circle/0.png").write_bytes(draw_shape(4, TOY_RGB[0], 0))


def exchange_shards() -> None:
    for old, new in (("00000", "other"), ("00001", "00000"), ("other", "00001")):
        Path(f"pool/{old}.tar").rename(f"pool/{new}.tar")


def exchange_pieces() -> None:
    """Give the pieces of the tokenizer other ids."""
    path = Path("tokenizer/tokenizer.json")
    spec = json.loads(path.read_text("utf-8"))
    spec["model"]["vocab"][5:] = spec["model"]["vocab"][:4:-1]
    path.write_text(json.dumps(spec), "utf-8")


def grow_pool() -> None:
    shutil.copy("pool/00001.tar", "pool/00003.tar")


def leave_those_of_another_run() -> None:
    recipe = Path("recipe.toml")
    written = recipe.read_text()
    recipe.write_text(written.replace("lr = 1e-3", "lr = 1e-3\nseed = 7"))
    assert main(COMMANDS["run"].replace("FOLDER", "other").split()) == 0
    recipe.write_text(written)
    for name in COMMANDS:
        if name != "run":
            main(COMMANDS[name].replace("out/run", "other/run").replace("FOLDER", "out").split())


def interrupt_after_a_change() -> None:
    replace_in("lists/en.txt", "star\n", "star\nblue star\n")()
    for name in COMMANDS:
        for num_files in (2, 9):
            stop_after(name, num_files)


def stop_after(name: str, num_files: int) -> None:
    """Call a command, and send it Ctrl-C where it would finish a further file."""
    left = [num_files]
    replace = os.replace

    def replace_some(*arguments: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        replace(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", replace_some)
        main(COMMANDS[name].replace("FOLDER", "out").split())


CHANGES = {
    "those of another run": leave_those_of_another_run,
    "an interrupted call": interrupt_after_a_change,
    "a text of the pool": replace_in("pool/00001.tar", "a photo of a blue", "a photo of a lime"),
    "shards that change places": exchange_shards,
    "a further shard": grow_pool,
    "a list of entries": replace_in("lists/en.txt", "star\n", "star\nblue star\n"),
    "a list of keys": replace_in("denied.txt", "00074", "00001"),
    "a key of match": replace_in("recipe.toml", "[match]\n", '[match]\nisolate = "merged"\n'),
    "a key of balance": replace_in("recipe.toml", "tail_fraction = 0.3", "tail_fraction = 0.1"),
    "a key of curate": replace_in("recipe.toml", 'text_policy = "all"', 'text_policy = "one"'),
    "a key of train": replace_in("recipe.toml", "lr = 1e-3", "lr = 2e-3"),
    "a key of evaluate": replace_in("recipe.toml", "[evaluate]\n", "[evaluate]\nbatch_size = 7\n"),
    "a tokenizer": exchange_pieces,
    "a picture of the dataset": draw_another_shape,
    "a name of the dataset": replace_in("shapes/languages.json", "三角形", "星星"),
}


QUICK = ("those of another run", "an interrupted call", "a key of curate")


@pytest.mark.parametrize(
    "changed", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CHANGES]
)
def test_nothing_is_used_for_something_else(changed, made, monkeypatch, capfd):
    shutil.rmtree(made)
    shutil.copytree(made.with_name("backup"), made)
    monkeypatch.chdir(made)
    CHANGES[changed]()
    if said := call("run", "out", capfd):
        assert "(mv) and train anew" in said or "remove the checkpoints after the step" in said
        shutil.rmtree("out/run/train")
    for name in COMMANDS:
        said = call(name, "out", capfd)
        assert said.splitlines()[-1:] == call(name, "anew", capfd).splitlines()[-1:]
        if said:
            assert name == "retokenized"  # the model's vocabulary has another size
            assert "use the model's own tokenizer" in said
            continue
        after, anew = contents(Path("out", name), VOLATILE), contents(Path("anew", name), VOLATILE)
        assert [file for file in anew if anew[file] != after.get(file)] == ["train/report.json"] * (name == "run")


def test_results_of_an_older_training_are_nowhere_used_for_the_new_one(made, monkeypatch, capfd):
    shutil.rmtree(made)
    shutil.copytree(made.with_name("backup"), made)
    monkeypatch.chdir(made)
    shutil.copytree("out/run", "first")
    assert main(["run", "out/run", "--until", "train", "--set", "train.samples_seen=256"]) == 0
    step = layout.latest_checkpoint(Path("out/run"))
    said = "it is of train/step_000000004, not of the checkpoint that the run has now"
    is_outdated(said, capfd)
    shutil.rmtree(step)  # one that began anew, before its first checkpoint
    shutil.rmtree("out/run/train/step_000000004")
    Path("out/run/train/manifest.json").unlink()
    is_outdated(said, capfd)
    shutil.rmtree("out/run/train")  # a run without its weights: nothing says otherwise
    assert main(["compare", "first", "out/run"]) == 0


def is_outdated(said: str, capfd: pytest.CaptureFixture) -> None:
    """Assert that compare, status and the page say it of out/run."""
    capfd.readouterr()
    assert main(["compare", "first", "out/run"]) == 2
    assert f"run/evaluate is out of date: {said}; run first: worldclip evaluate " in capfd.readouterr().err
    assert main(["status", "out/run"]) == 0
    assert f"evaluate is out of date: {said}" in capfd.readouterr().out
    assert f"Left out: evaluate ({said})" in write_report(Path("out/run")).read_text()


def call(name: str, folder: str, capfd: pytest.CaptureFixture) -> str:
    """Call a command; return what it said if it refused, else nothing."""
    code = main(COMMANDS[name].replace("FOLDER", folder).split())
    said = capfd.readouterr().err
    assert "Traceback" not in said
    return said if code else ""
