"""Mistakes that people make: the exit code and the words of each, no traceback, nothing written, nothing taken back."""

import importlib.metadata
import os
import re
import shutil
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

import worldclip
from killed import contents
from miniature import write_files
from pools import parquet_of
from programs import words_of
from stages import QUIET
from toy import draw_shape
from without_extras import run_without, write_stub_of_onnx
from worldclip.cli import main
from worldclip.cli.overview import COMMANDS
from worldclip.config import load_recipe
from worldclip.core import errors, preflight
from worldclip.core.artifacts import write_json, write_manifest
from worldclip.core.errors import CLONE_URL, UserError, install_hint
from worldclip.core.job import RunLock
from worldclip.core.local_path import require_local
from worldclip.core.preflight import EXTRAS
from worldclip.evaluate import engine
from worldclip.plugins.browser import web_folder
from worldclip.plugins.crawl.wat import build_wat
from worldclip.pool.files import check_own
from worldclip.recipe import run, stage_names
from worldclip.train import stage
from worlds import WordModel, word_dataset

REPOSITORY = Path(__file__).parents[1]
VOLATILE = (".lock", "log.txt", "run.json", "report.html")  # say when and how, not what

# command | exit code | what it must say; & separates several.  R: a good recipe, T: its finished run, U: another one,
# P: its pool, X: a recipe with a misspelt section, B: a folder of files that no command reads, N: a path that does not
# exist, O: a folder to write
MISTAKES = """
mtach R --workers 2                                | 2 | unknown command mtach; did you mean match?
xyzzy                                              | 2 | worldclip --help lists all commands
fetch                                              | 2 | known: fetch metadata, fetch dataset
pool chek P                                        | 2 | did you mean pool check?
match                                              | 2 | RECIPE is missing
evaluate N                                         | 2 | --out DIR is missing
train --lr 1                                       | 2 | comes first
compare N                                          | 2 | two or more
status N extra                                     | 2 | unknown argument 'extra'
inspect N --jsn                                    | 2 | did you mean --json?
explore N --out                                    | 2 | --out has no value
run R --tail-fraction 0.1                          | 2 | key of the recipe: --set balance.tail_fraction=NUMBER
train R --pool N                                   | 2 | did you mean --pool.key?
train R --learning-rate 1                          | 2 | did you mean --lr?
run R --set balance.tail_fraction 0.2              | 2 | must be KEY=VALUE, without blanks
run R --set lr=1                                   | 2 | section.key=value
run R --set trian.lr=1                             | 2 | did you mean train?
run R --set pool.path.deeper=1                     | 2 | path is a value, not a section
run R --quiet --verbose                            | 2 | exclude each other
run R --until evaluat                              | 2 | unknown stage
run T --from evaluate --until train                | 2 | --from evaluate comes after --until train
run X --out O                                      | 2 | unknown section trian; did you mean train? & section radius
pool check X --out O                               | 2 | unknown section trian; did you mean train? & section radius
embed T X --out O                                  | 2 | unknown section trian; did you mean train? & section radius
fetch metadata X                                   | 2 | unknown section trian; did you mean train? & section radius
pool check P --out O --config X                    | 2 | unknown key pool & unknown key balance

match R --workers two                              | 2 | --workers 'two': must be a whole number
match R --workers 0                                | 2 | must be at least 1
match R --executor spark                           | 2 | use local
match R --shards 5                                 | 2 | must be I/N
match R --shards 4/3                               | 2 | must be I/N
match R --shards 0/3                               | 2 | must be I/N
match R --profile latin                            | 2 | must be one of "reference", "unicode"
match R --min-lang-prob 2                          | 2 | match.min_lang_prob = 2
match R --merge-labels ms                          | 2 | must be a table
balance R --tail-fraction 2                        | 2 | balance.tail_fraction
train R --lr -1                                    | 2 | train.lr
train R --device tpu                               | 2 | must be one of "auto", "cpu"
train R --freeze eyes                              | 2 | each one of "vision", "text"
train R --model.preset huge                        | 2 | train.model.preset = "huge"
export R --formats hf                              | 2 | did you mean huggingface?
export R --formats onnx,zip                        | 2 | each one of "huggingface", "open_clip", "onnx", "web"
export R --formats                                 | 2 | must not be empty
run R --set languages.codes=DE,zh-CN               | 2 | did you mean "de"?
run R --set languages.codes=deu                    | 2 | did you mean "de"?
run R --set languages.codes=jp                     | 2 | did you mean "ja"?
run R --set pool.broken_shards=ignore              | 2 | must be one of "stop", "skip"
run R --set languages.codes=en;sw                  | 2 | unknown language "en;sw"
run R --set languages.add=kea                      | 2 | must be a table of
run R --set pool.build=emoji                       | 2 | exactly one of path and build
run R --set pool.parts.cldr=N                      | 2 | needs pool.build
metadata R --sources number --wordnets.fr omw-fr:1.4 | 2 | metadata.sources lacks "wordnet"
evaluate R --suite everything                      | 2 | must be one of imagenet
evaluate R --datasets imagnet                      | 2 | did you mean "imagenet1k"?
evaluate R --out O                                 | 2 | no dataset to evaluate; set evaluate.datasets
pool check P --out O --set radiu=6                 | 2 | did you mean radius?
pool emoji --out O --image-px 0                    | 2 | must be at least 8
fetch metadata R --date yesterday                  | 2 | YYYYMMDD
fetch dataset imagenet --out O                     | 2 | unknown dataset & did you mean imagenet1k?
pool world --out B/captions.csv                    | 2 | is a file; give the folder to write
embed N P --out O --of sounds                      | 2 | must be one of
embed T P --out O --device tpu                     | 2 | device = 'tpu'
embed T P --out O --precision int8                 | 2 | precision = 'int8'
publish T noslash --dry-run                        | 2 | a repository of the hub is owner/name
serve T --port 99999                               | 2 | cannot listen there

run N                                              | 2 | does not exist
run emoj                                           | 2 | is no recipe of worldclip; did you mean emoji?
run emojis.toml                                    | 2 | did you mean emoji?
run B/broke.toml                                   | 2 | did you mean B/broken.toml?
run B                                              | 2 | holds no recipe.toml
run P                                              | 2 | for a folder of pairs: worldclip init
run B/broken.toml                                  | 2 | is not valid TOML
run B/deep.toml                                    | 2 | is not valid TOML
run B/latin1.toml                                  | 2 | is not valid TOML
pool B/empty.toml                                  | 2 | exactly one of path and build
init N                                             | 2 | no such folder or file
init B/caption.csv                                 | 2 | did you mean B/captions.csv?
run B/brokn.toml                                   | 2 | did you mean B/broken.toml?
classify B/captions.tsv B/picture.png --labels a   | 2 | did you mean B/captions.csv?
init X                                             | 2 | X
status X                                           | 2 | X
status B                                           | 2 | B
inspect B --key a                                  | 2 | B
report N                                           | 2 | did you mean export?
compare N B                                        | 2 | N does not exist
embed N P --out O                                  | 2 | N does not exist
embed T B/empty --out O                            | 2 | holds no tar and no image
embed T B/picture.png --out O                      | 2 | only .png files in it; give its folder
embed T B/table.parquet --out O --of images        | 2 | only texts; give tars
embed T B/table.parquet --out O --key urn          | 2 | pool.key: no column or field 'urn'
consolidate P                                      | 2 | give RUN/train/step_... or a run
search B word                                      | 2 | B
estimate N                                         | 2 | N
explore R --out O                                  | 2 | is a file; give the folder of a run
explore T --out P                                  | 2 | holds no explorer; choose an empty directory
publish N owner/name --dry-run                     | 2 | whose stage curate is finished
classify N B/picture.png --labels a                | 2 | N does not exist; give a run, a model's folder
classify T P --labels a                            | 2 | is a directory; name the image files in it
compare T T                                        | 2 | evaluate all on the same datasets
pool dedup B/empty --out O                         | 2 | B/empty
pool dedup B/table.parquet --out O --key uuid      | 2 | pool.key: no column or field 'uuid'; did you mean 'uid'
pool dedup B/table.parquet --out O --key member    | 2 | set it to the column of the key: uid
pool dedup P --out B                               | 2 | is not empty and was not written by worldclip
pool check N --out O                               | 2 | N
pool check P --out O --set against.x=B/table.parquet | 2 | has no column of images
pool check P --out O --set radius=99               | 2 | radius = 99
pool check P --out O --set against.x=N             | 2 | against.x is ' & which does not exist
pool check P --out O --set against_datasets=cifar11 | 2 | did you mean cifar10
pool check P --out O --set against_datasets=cifar10 --set data=B | 2 | not below data =
pool check P --out O --set against_datasets=cifar10 --set against.cifar10=P | 2 | both name 'cifar10'
pool wat N --out O                                 | 2 | N
pool pack B/photos --out O --captions B/captions.csv | 2 | the column or field is one of file_name

run R --out P                                      | 2 | holds files of pairs such as 00000.tar
embed T P --out T                                  | 2 | is a run, whose files would be removed
embed T P --out P/embedded                         | 2 | lies in the pool
run R --out B/cut_table                            | 2 | holds files of pairs such as a.parquet
run R --out B/picture.png/run                      | 2 | cannot be written
pool R --out B/picture.png                         | 2 | is a file; give the folder to write
match R --out O --shards 1/2                       | 2 | run first: worldclip pool
curate R --out O                                   | 2 | O/match is not finished; run first: worldclip match O
curate R --out O --set curate.max_pairs=10 --shards 1/2 | 2 | caps are decided over all shards
pool R --out O --path N                            | 2 | no such folder or file
pool R --out O --path B/compressed                 | 2 | unpack them to .tar
pool R --out O --path B/table.parquet --key id     | 2 | did you mean 'uid'?
pool R --out O --texts json:caption                | 2 | there is: texts, lang_truth
init P --lang language                             | 2 | there is: texts, lang_truth
metadata R --out O --lists.en N                    | 2 | no such file
run R --out O --until match --set pool.valid_keys=N | 2 | which is not a file; give a .txt
run R --out O --until match --set pool.deny_keys=B/captions.csv | 2 | is a CSV (duckdb -c & give a .txt with one key
run R --out O --until match --set pool.deny_keys=B/latin1.txt | 2 | can't decode byte & give a .txt with one key

run R --out s3://bucket/run                        | 2 | --out s3://bucket/run: must be a local path, not a URL
pool dedup P --out s3://bucket/run                 | 2 | --out s3://bucket/run: must be a local path, not a URL
status s3://bucket/run                             | 2 | RUN s3://bucket/run: must be a local path, not a URL
run R --from-run s3://bucket/run                   | 2 | --from-run s3://bucket/run: must be a local path
search s3://bucket/run word                        | 2 | FOLDER s3://bucket/run: must be a local path

pool T --image-field photo                         | 2 | pool.image_field
match T --merge-labels.nn no                       | 2 | its languages are ar, en, th, zh
curate T --set balance.tail_fraction=0.2           | 2 | balance is finished with it: give the key to worldclip run
train T --set balance.tail_fraction=0.2            | 2 | balance is finished with it: give the key to worldclip run
export T --set balance.tail_fraction=0.2           | 2 | balance is finished with it: give the key to worldclip run
balance T --tail-fractions.sv 0.1                  | 2 | has no list sv; its lists are ar, en, th, zh
balance T --english-threshold 5                    | 2 | set exactly one of english_threshold
curate T --exclude sw                              | 2 | curate.exclude
curate T --max-pairs 0                             | 2 | to drop a language, add it to curate.exclude
curate T --write parquet                           | 2 | is no Parquet file; set "list"
train T --lr 0.5                                   | 2 | train.lr was 0.001, is 0.5
evaluate T --folders.toy pool:P --datasets toy --languages sw | 2 | evaluate.languages: no text in sw
evaluate T --folders.x folders:N --datasets x      | 2 | N is not a folder
export T --out B/captions.csv                      | 2 | is a file; give the folder to write
export T --languages xx                            | 2 | export.languages
inspect T --entry nothing                          | 2 | is not in list en; spell it as the list does
run T --until curate --set curate.exclude=xx       | 2 | curate.exclude
run T --until train --set curate.seed=7 --set train.beta2=0.5 | 2 | which are never overwritten
run U --from metadata --set metadata.lists.en=N    | 2 | N
run U --from match --set match.merge_labels.en=zz  | 2 | match.merge_labels.en
run U --from balance --set balance.tail_fractions.zz=0.5 | 2 | zz
run U --from train                                  | 2 | has checkpoints & move them first: mv U/train U/train.1
run U --from evaluate --set evaluate.datasets=nope | 2 | nope

pool R --out O --path B/cut                        | 1 | 0.tar: cut off in the header & only they are tried again
pool R --out O --path B/cut_table --key uid        | 1 | a.parquet: not a Parquet file, or damaged
pool R --out O --path B/no_rows --key uid          | 1 | a.csv: is empty
metadata R --out O --lists.en B/latin1.txt         | 1 | latin1.txt, line 1: not UTF-8
pool wat B/captions.csv --out O                    | 1 | captions.csv: not a WARC file, or damaged
"""
BROKEN = {
    "broken.toml": "[pool\npath=",
    "deep.toml": f"[pool]\npath = {'[' * 2000}",
    "empty.toml": "",
    "cut/0.tar": "not a tar",
    "empty/.hidden": "",
    "photos/IMG_1465.jpg": "",
    "compressed/a.tar.gz": "",
    "captions.csv": "file,text\nIMG_1465.jpg,a red circle\n",
    "cut_table/a.parquet": "PAR1xxxxPAR1",
    "no_rows/a.csv": "",
    "latin1.toml": "[pool]\npath = 'Müll'".encode("latin-1"),
    "latin1.txt": "Müll".encode("latin-1"),
    "picture.png": b"\x89PNG\r\n\x1a\n\xff",
    "table.parquet": parquet_of({"uid": ["a"], "text": ["red"]}),
}


def rows_of(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split(" | ")] for line in table.splitlines() if line]


@pytest.fixture(scope="module")
def lasting(toy_world, toy_run, tmp_path_factory) -> dict[str, Path]:
    """The places that commands must leave as they are."""
    folder = tmp_path_factory.mktemp("mistakes")
    for name in ("run", "restarted"):
        shutil.copytree(toy_run, folder / name, ignore=shutil.ignore_patterns(".lock"))
    section = "[trian]\nlr = 1\n"
    recipe = f'radius = 3\n[pool]\npath = "{toy_world.pool}"\n[balance]\ntail_fraction = 0.3\n{section}'
    (folder / "typo.toml").write_text(recipe)
    places = {"T": folder / "run", "U": folder / "restarted", "X": folder / "typo.toml"}
    return {**places, "R": toy_world.recipe, "P": toy_world.pool, "B": write_files(folder / "broken", BROKEN)}


@pytest.mark.parametrize(("command", "code", "said"), rows_of(MISTAKES))
def test_mistake(command, code, said, lasting, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    places = {**lasting, "N": tmp_path / "N", "O": tmp_path / "O"}
    words = words_of(command, places)
    kept = places["T"]
    if " U " in command:  # what is refused late takes the markers of the stages after it
        stage = words[words.index("--from") + 1]
        words += ["--until", stage]
        kept = places["U"] / stage
    before = contents(kept, VOLATILE)
    assert main(words) == int(code)
    error = capfd.readouterr().err
    assert "worldclip: " in error
    assert "Traceback" not in error
    assert [part for part in said.split(" & ") if " ".join(words_of(part, places)) not in error] == []
    assert contents(kept, VOLATILE) == before
    assert code == "1" or not (tmp_path / "O" / "recipe.toml").exists()


BEFORE_THE_MODEL = """
classify T N.png --labels a                        | N.png: does not exist
classify T https://a/b.png --labels a              | is a URL
classify T B/picture.png --labels a --templates b  | template 'b' has no {} for the label
serve T P --port 0                                 | holds no embeddings
search N word --images N.png                       | N.png: does not exist
embed T N --out O                                  | no such folder or file
embed T P --out B                                  | choose an empty directory
export T --out O --formats web --embedded P        | holds no embeddings
export T --out O --languages xx                    | unknown language code 'xx'
export T --out O --languages en --corpus N.txt     | N.txt does not exist
evaluate T --out O --folders.toy pool:P --datasets toy --languages sw | no text in sw
"""


@pytest.mark.parametrize(("command", "said"), rows_of(BEFORE_THE_MODEL))
def test_what_costs_nothing_is_checked_before_the_model(command, said, lasting, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("worldclip.model.load.find", lambda *_: pytest.fail("the model is loaded"))
    monkeypatch.setattr(web_folder, "problems", lambda: iter(()))
    places = {
        **lasting,
        "N": tmp_path / "N",
        "N.png": tmp_path / "N.png",
        "N.txt": tmp_path / "N.txt",
        "O": tmp_path / "O",
    }
    assert main(words_of(command, places)) == 2
    assert " ".join(words_of(said, places)) in capfd.readouterr().err


def test_local_paths_are_no_urls(toy_world):
    for path in ("runs/a:b", "~/run", "C:\\run", "12:30/run", ""):
        assert require_local(path, "--out") == Path(path)
    for call in (
        lambda: worldclip.run(toy_world.recipe, out="s3://bucket/run"),
        lambda: build_wat(["a.wat.gz"], Path("s3://bucket/run")),
        lambda: write_json(Path("s3://bucket/run/report.json"), {}),
    ):
        with pytest.raises(UserError, match=r"s3://bucket/run.*must be a local path"):
            call()


# --- a refusal takes nothing back -------------------------------------------------------------------------------------


def test_training_on_other_pairs_is_refused_before_its_result_is_taken_back(own_run, capfd):
    assert main(["curate", str(own_run), "--seed", "5"]) == 0
    before = contents(own_run, VOLATILE)
    assert main(["train", str(own_run)]) == 2
    assert "input.curate" in capfd.readouterr().err
    assert contents(own_run, VOLATILE) == before


@pytest.mark.parametrize("stage", ["curate", "train"])
def test_a_restart_of_a_training_is_refused_before_anything_is_taken_back(own_run, stage, capfd):
    before = contents(own_run, VOLATILE)
    assert main(["run", str(own_run), "--from", stage, "--until", "train", "--set", "train.lr=0.5"]) == 2
    assert f"move them first: mv {own_run}/train {own_run}/train.1" in capfd.readouterr().err
    assert contents(own_run, VOLATILE) == before


def test_a_missing_package_is_named_before_a_finished_stage_is_taken_back(own_run, monkeypatch, capfd):
    before = contents(own_run / "export")
    monkeypatch.setattr(preflight, "is_installed", lambda module: module != "torch")
    assert main(["run", str(own_run), "--from", "export"]) == 2
    assert "export needs torch" in capfd.readouterr().err
    assert contents(own_run / "export") == before


# --- before the first stage -------------------------------------------------------------------------------------------


def test_a_run_that_trains_says_so_before_torch_is_loaded(toy_world, tmp_path, monkeypatch, capfd):
    said = []
    monkeypatch.setattr(stage, "device_problems", lambda *_: said.append(capfd.readouterr().err) or ["no device"])
    assert main(["run", str(toy_world.recipe), "--out", str(tmp_path / "run")]) == 2
    assert "640 samples on device auto; loads torch" in said[0]


def problems_of(recipe: Path, run_dir: Path, *overrides: str, until: str | None = None) -> list[str]:
    with pytest.raises(UserError) as caught:
        run(load_recipe(recipe, overrides), run_dir, until=until, executor=QUIET)
    return caught.value.problems


def test_all_stages_are_asked_before_the_first_one_runs(toy_world, tmp_path, monkeypatch):
    for package in ("open_clip", "peft", "wandb"):
        monkeypatch.setitem(sys.modules, package, None)
    problems = problems_of(
        toy_world.recipe,
        tmp_path / "run",
        'pool.texts=["caption"]',
        "train.device=cuda",
        "train.wandb=mine",
        "train.initial_weights=owner/name",
        "train.lora_rank=4",
        "train.evaluate_every_samples=64",
        'evaluate.datasets=["emoji_base", "photos"]',
        'evaluate.folders.photos="captions:/nowhere"',
        'export.formats=["huggingface", "open_clip"]',
    )
    expected = (
        "pool.texts: no column or field 'caption'",
        f"train.lora_rank needs peft: {install_hint('lora')}",
        f"train.wandb needs wandb: {install_hint('wandb')}",
        "train.device = 'cuda': not available",
        'evaluate.datasets names "emoji_base"',
        "dataset photos: evaluate.folders.photos",
        f"export to open_clip needs open_clip: {install_hint('export')}",
    )
    assert len(problems) == len(expected)
    for problem, start in zip(problems, expected, strict=True):
        assert problem.startswith(start)
    assert not (tmp_path / "run").exists()


def test_stages_that_do_not_run_need_nothing(toy_world, tmp_path, monkeypatch):
    changed = load_recipe(toy_world.recipe, ["train.device=cuda", 'evaluate.datasets=["emoji_base"]'])
    run(changed, tmp_path / "run", until="metadata", executor=QUIET)
    monkeypatch.setitem(sys.modules, "wordfreq", None)
    run(changed, tmp_path / "run", until="metadata", executor=QUIET)


def test_disk_too_small_for_the_kept_checkpoints_is_named_with_both_sizes(toy_world, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20))
    (problem,) = problems_of(toy_world.recipe, tmp_path / "run", until="train")
    assert problem.startswith(f"{tmp_path / 'run/train'}: ")
    assert "checkpoints need 0." in problem
    assert "0.0 GiB are free" in problem
    english = {"english_samples_seen": 12_800, "english_batch_size": 128, "english_fraction": 0.44}  # 2.3 times as many
    scale = [f"train.scale.{key}={value}" for key, value in english.items()]
    overrides = (*scale, "train.warmup_samples=128", "train.keep_last=3", "train.keep_every_samples=1280")
    (problem,) = problems_of(toy_world.recipe, tmp_path / "run", *overrides, until="train")
    assert f"{3 + 1 + 23} checkpoints need" in problem


def test_an_extra_is_installed_from_the_checkout_where_there_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    assert install_hint("train") == "pip install -e '.[train]'"
    monkeypatch.chdir(tmp_path)
    assert install_hint("train") == f"pip install -e '{REPOSITORY}[train]'"
    monkeypatch.setattr(errors, "__file__", str(tmp_path / "lib/python3/site-packages/worldclip/core/errors.py"))
    assert install_hint("train") == f"pip install 'worldclip[train] @ git+{CLONE_URL}'"


# --- folders of others ------------------------------------------------------------------------------------------------

LEFT = {
    "check": ("pool", "images", "against"),
    "dedup": ("pool", "duplicates.parquet"),
    "embed": ("pool", "probe.npy", "images"),
    "evaluate": ("features", "ranks", "slice_1_of_2.jsonl"),
    "export": ("huggingface", "onnx"),
    "pool emoji": ("train", "tone", "done"),
    "pool pack": ("000000.tar", "done"),
    "pool world": ("train", "flags", "done"),
    "wat": ("parts", "done"),
}
"""What an interrupted call of each tool that removes files of its folder leaves there."""


def entries_of_tools() -> dict[str, tuple[str, ...]]:
    """Return tool -> the entries that it passes to check_own."""
    entries = {}
    for path in (REPOSITORY / "src").rglob("*.py"):
        for name, expression in re.findall(r'check_own\(\w+, "(.+?)", (\(.+\))\)\n', path.read_text("utf-8")):
            module = ".".join(path.relative_to(REPOSITORY / "src").with_suffix("").parts)
            entries[name] = eval(expression, vars(importlib.import_module(module)))
    return entries


@pytest.mark.parametrize("is_finished", [False, True])
@pytest.mark.parametrize("is_held", [False, True])
def test_folder_of_another_tool_is_refused(is_held, is_finished, tmp_path):
    entries = entries_of_tools()
    assert entries.keys() == LEFT.keys()
    for writer, names in LEFT.items():
        out = tmp_path / writer
        write_files(out, {f"{name}/part" if "." not in name else name: "work of hours" for name in names})
        lock = RunLock(out)
        lock.__enter__()
        if not is_held:
            lock.__exit__()
        if is_finished:
            write_manifest(out, config={}, inputs={}, counts={}, job=writer)
        check_own(out, writer, entries[writer])
        for other in {*LEFT} - {writer}:
            if not is_finished and (writer, other) == ("pool emoji", "pool world"):
                continue  # both have these sets, and are drawn again in minutes
            problem = f"was written by {writer}, not by" if is_finished else "holds '.+', which"
            with pytest.raises(UserError, match=f"{problem} {other}"):
                check_own(out, other, entries[other])
        lock._file.close()


def test_unfinished_folder_with_a_file_of_the_user_is_refused(tmp_path):
    with RunLock(tmp_path):
        check_own(tmp_path, "embed", ("images",))  # nothing would be lost
        write_files(tmp_path, {"images/0.npy": "", ".0.npy.host.1.tmp": "", "report.html": "", "thesis.txt": ""})
        with pytest.raises(UserError, match=r"holds 'thesis\.txt', which embed does not write; choose an empty"):
            check_own(tmp_path, "embed", ("images",))


@pytest.mark.parametrize("command", ["run recipe.toml --out .", "pool recipe.toml --out .", "run ."])
def test_pool_next_to_its_recipe_is_not_taken_for_a_stage(command, toy_world, tmp_path, monkeypatch, capfd):
    """The stage pool would remove the tars: they are not among its outputs."""
    shutil.copytree(toy_world.pool, tmp_path / "pool")
    shutil.copy(toy_world.recipe, tmp_path / "recipe.toml")
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    assert main(command.split()) == 2
    assert "is no run and holds a folder 'pool', whose files the stage pool would remove" in capfd.readouterr().err
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "command",
    [
        "run {}.toml --out out --until pool",
        "pool check {} --out out",
        "pool dedup {} --out out",
        "embed {model} {} --out out",
    ],
)
def test_finished_folder_of_another_pool_is_refused(command, world, tmp_path, monkeypatch, capfd):
    """A pool that grew or was moved is the same one."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(world / "pool", "a")
    Path("b").mkdir()
    shutil.move("a/00002.tar", "b")
    for name in ("a", "b", "moved"):
        Path(f"{name}.toml").write_text(f'[pool]\npath = "{name}"\nkey = "member"\n[balance]\ntail_fraction = 0.1\n')

    def call(name: str, *more: str) -> int:
        return main([*command.format(name, model=world / "model").split(), *more])

    assert call("a") == 0
    shutil.copy("a/00000.tar", "a/00001b.tar")
    assert call("a") == 0
    before = contents(tmp_path / "out")
    capfd.readouterr()
    assert call("b") == 2
    said = capfd.readouterr().err
    assert f"was made from {tmp_path}/a, not from {tmp_path}/b; choose another --out" in said
    assert contents(tmp_path / "out") == before
    if "--from pool" in said:
        assert call("b", "--from", "pool") == 0
        return
    Path("a").rename("moved")
    assert call("moved") == 0


# --- names that are not UTF-8 -----------------------------------------------------------------------------------------


@pytest.mark.skipif(os.uname().sysname == "Darwin", reason="the file system takes UTF-8 only")
def test_names_that_are_not_utf8_are_shown_escaped_or_refused(toy_run, tmp_path, capfd):
    name = os.fsdecode(b"run\xff\xe9")
    run = shutil.copytree(toy_run, tmp_path / name, ignore=shutil.ignore_patterns(".lock"))
    places = {"RUN": run, "T": toy_run, "OUT": tmp_path / "out", "NEW": tmp_path / f"new{name}"}
    for command, codes in {
        "status RUN": {0, 2},
        "inspect RUN --key 00000": {0, 2},
        "run RUN --until curate": {0, 2},
        "estimate RUN": {0, 2},
        "publish RUN a/b --dry-run": {0, 2},
        "explore RUN --out OUT": {0, 2},
        "explore T --out NEW": {2},
        "run T/recipe.toml --out NEW": {2},
    }.items():
        code = main(words_of(command, places))
        shown = capfd.readouterr()
        assert code in codes, command
        assert "Traceback" not in shown.err
        assert name not in shown.err + shown.out
        if code == 2:
            assert "UTF-8" in shown.err or "udcff" in shown.err
    assert not places["NEW"].exists()


# --- an installation without extras -----------------------------------------------------------------------------------

# command | extras that it names.  R: a recipe, P: its pool, RUN: its finished run, C: a run curated without extras, E:
# embedded images, ONNX: an exported model, D: a folder of a dataset, S: results of an evaluation, O: a folder to write
NEEDS = """
run R --out O                                                                      | train
pool R --out O --set pool.path=none --build emoji                                  | demo
pool R --out O --set pool.path=none --build world                                  | world
pool R --out O --path hf://datasets/owner/name                                     | hub
metadata R --out O --set metadata.lists=none --sources wordfreq,cldr,wordnet --installed-wordnets | metadata
match R --out O --executor ray                                                     | ray
train R --out O                                                                    | train
train R --out O --wandb a --lora-rank 4 --initial-weights owner/name               | train wandb lora
evaluate R --out O --datasets d --folders.d folders:D --also linear_probe          | train
evaluate RUN --out O --datasets d --folders.d folders:D                            | train
export R --out O --formats onnx,open_clip                                          | train export
export RUN --out O                                                                 | train
init hf://datasets/owner/name --out O                                              | hub
pool emoji --out O                                                                 | demo
pool world --out O                                                                 | world
pool check P --out O                                                               | pool
pool check P --out O --set duplicates=keep --set embedding_model=RUN                | pool train
pool check P --out O --set duplicates=keep --set against.d=D                       | pool
pool dedup P --out O --executor ray                                                | ray
publish C owner/name                                                               | hub
classify RUN D/circle/0.png --labels a                                              | train
classify ONNX D/circle/0.png --labels a                                             | onnx
consolidate RUN                                                                    | train
explore C --out O                                                                  | pool
embed RUN P --out O                                                                | train
embed ONNX P --out O                                                               | onnx
search E red                                                                       | train
serve RUN E                                                                        | serve
"""
WORKS = """
run R --out C --until curate --workers 1
pool C
curate C --write tars --workers 1
init P --out x.toml
status C
pool dedup P --out copies --workers 1
pool pack D --out packed
publish C owner/name --dry-run
estimate C
inspect C --key 00001
languages
doctor --json
--version
compare S S
"""
HIDDEN = {module for modules in EXTRAS.values() for module in modules}
IMPORTED_AS = {"open-clip-torch": "open_clip", "pillow": "PIL", "pyyaml": "yaml", "scikit-learn": "sklearn"}


def test_commands_without_extras_work_or_name_them_before_any_work(toy_world, toy_run, tmp_path):
    names = {name: tmp_path / name for name in ("E", "ONNX", "D", "S", "O", "C")}
    assert main(["embed", str(toy_run), str(toy_world.pool), "--out", str(names["E"])]) == 0
    write_stub_of_onnx(names["ONNX"])
    image = draw_shape(0, [9, 9, 9], 0)
    for label in ("circle", "square"):
        write_files(names["D"] / label, {"0.png": image, "0.txt": label})
    names["S"].mkdir()
    dataset = word_dataset("words", ["red", "green", "blue"], ("en", "de"))
    engine.evaluate(
        WordModel(), {"model": "words", "model_digest": "words"}, (dataset,), (), names["S"] / "results.jsonl"
    )
    places = names | {"R": toy_world.recipe, "P": toy_world.pool, "RUN": toy_run}
    works, needs = WORKS.split("\n")[1:-1], rows_of(NEEDS)
    commands = [*works, *(command for command, _ in needs)]
    ends = run_without(HIDDEN, [words_of(command, places) for command in commands], tmp_path)
    ended = dict(zip(commands, ends, strict=True))
    for command in works:
        assert ended[command].code == 0, (command, ended[command].error)
    for command, extras in needs:
        code, _, error = ended[command]
        assert (code, "Traceback" in error) == (2, False), (command, error)
        named = re.findall(rf"pip install -e '{REPOSITORY}\[(\w+)\]'", error)
        assert set(named) == set(extras.split()), (command, error)
    assert not places["O"].exists()


def test_help_works_without_extras(tmp_path):
    names = [*stage_names(), *COMMANDS.names()]
    ends = run_without(HIDDEN, [[*name.split(), "--help"] for name in names], tmp_path)
    for name, (code, out, error) in zip(names, ends, strict=True):
        assert (code, error) == (0, ""), name
        assert out.startswith(f"usage: worldclip {name}")


def test_a_checkpoint_names_the_extra_where_safetensors_is_there_and_torch_is_not(toy_run, tmp_path):
    checkpoint = max((toy_run / "train").glob("step_*"))
    (tmp_path / "x.png").touch()
    command = ["classify", str(checkpoint), str(tmp_path / "x.png"), "--labels", "a"]
    (ended,) = run_without(["torch"], [command], tmp_path)
    assert ended.code == 2
    assert f"needs torch: pip install -e '{REPOSITORY}[train]'" in ended.error


def test_extras_are_those_of_the_project_and_of_the_page():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras: dict[str, list[str]] = {}
    for extra, packages in project["optional-dependencies"].items():
        names = [re.split(r"[<>=\[]", package, maxsplit=1)[0] for package in packages]
        extras[extra] = sorted(IMPORTED_AS.get(name, name.replace("-", "_")) for name in names)
    page = (REPOSITORY / "docs" / "install.md").read_text("utf-8")
    assert sorted(re.findall(r"^pip install -e '\.\[(\w+)\]'", page, re.MULTILINE)) == sorted(extras)
    for modules in extras.values():
        if "simplejpeg" in modules:  # nothing needs it
            modules.remove("simplejpeg")
    assert {name: sorted(modules) for name, modules in EXTRAS.items()} == {
        name: modules for name, modules in extras.items() if name not in ("all", "dev", "docs")
    }
    known = importlib.metadata.packages_distributions()
    for package, module in IMPORTED_AS.items():
        assert package in {name.lower().replace("_", "-") for name in known[module]}
