"""Mistakes that people make: the exit code and the words of each, no traceback, nothing written, nothing taken back."""

import importlib.metadata
import os
import re
import shutil
import sys
import tomllib
from contextlib import ExitStack
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
from worldclip.core.job import lock_folder
from worldclip.core.local_path import require_local
from worldclip.core.preflight import EXTRAS
from worldclip.evaluate import engine
from worldclip.plugins.browser import web_folder
from worldclip.plugins.crawl.wat import build_wat
from worldclip.pool.files import check_own
from worldclip.recipe import run, stage_names
from worldclip.train import before_start
from worlds import WordModel, word_dataset

REPOSITORY = Path(__file__).parents[1]
VOLATILE = (".lock", "log.txt", "run.json", "report.html")  # say when and how, not what

# command | exit code | what it must say; & separates several.  RUN is the finished run of RECIPE, whose pool is POOL;
# TYPO: a recipe with a misspelt section; FILES: a folder of files that no command reads; OUT: a folder to write
MISTAKES = """
mtach RECIPE --workers 2                           | 2 | unknown command mtach; did you mean match?
xyzzy                                              | 2 | worldclip --help lists all commands
fetch                                              | 2 | known: fetch metadata, fetch dataset
fetch metdata                                      | 2 | did you mean fetch metadata?
pool chek POOL                                     | 2 | did you mean pool check?
int POOL                                           | 2 | unknown command int; did you mean init?
int pool                                           | 2 | unknown command int; did you mean init?
match                                              | 2 | is missing: Recipe (.toml), name of one
evaluate MISSING                                   | 2 | --out DIR is missing
train --lr 1                                       | 2 | comes first
compare MISSING                                    | 2 | two or more
status MISSING extra                               | 2 | unknown argument 'extra'
inspect MISSING --jsn                              | 2 | did you mean --json?
explore MISSING --out                              | 2 | --out has no value
run RECIPE --tail-fraction 0.1                     | 2 | key of the recipe: --set balance.tail_fraction=NUMBER
train RECIPE --pool MISSING                        | 2 | did you mean --pool.key?
train RECIPE --learning-rate 1                     | 2 | did you mean --lr?
run RECIPE --set balance.tail_fraction 0.2         | 2 | must be KEY=VALUE, without blanks
run RECIPE --set lr=1                              | 2 | section.key=value
run RECIPE --set trian.lr=1                        | 2 | did you mean train?
run RECIPE --set pool.path.deeper=1                | 2 | path is a value, not a section
run RECIPE --quiet --verbose                       | 2 | exclude each other
run RECIPE --until evaluat                         | 2 | unknown stage
run RUN --from evaluate --until train              | 2 | --from evaluate comes after --until train
run TYPO --out OUT                                 | 2 | unknown section trian; did you mean train? & section radius
pool check TYPO --out OUT                          | 2 | unknown section trian; did you mean train? & section radius
embed RUN TYPO --out OUT                           | 2 | unknown section trian; did you mean train? & section radius
fetch metadata TYPO                                | 2 | unknown section trian; did you mean train? & section radius
pool check POOL --out OUT --config TYPO            | 2 | unknown key pool & unknown key balance

match RECIPE --workers two                         | 2 | --workers 'two': must be a whole number
match RECIPE --workers 0                           | 2 | must be at least 1
match RECIPE --executor spark                      | 2 | use local
match RECIPE --shards 5                            | 2 | must be I/N
match RECIPE --shards 4/3                          | 2 | must be I/N
match RECIPE --shards 0/3                          | 2 | must be I/N
match RECIPE --profile latin                       | 2 | must be one of "reference", "unicode"
match RECIPE --min-lang-prob 2                     | 2 | match.min_lang_prob = 2
match RECIPE --merge-labels ms                     | 2 | must be a table
balance RECIPE --tail-fraction 2                   | 2 | balance.tail_fraction
train RECIPE --lr -1                               | 2 | train.lr
train RECIPE --device tpu                          | 2 | must be one of "auto", "cpu"
train RECIPE --freeze eyes                         | 2 | each one of "vision", "text"
train RECIPE --model.preset huge                   | 2 | train.model.preset = "huge"
export RECIPE --formats hf                         | 2 | did you mean huggingface?
export RECIPE --formats onnx,zip                   | 2 | each one of "huggingface", "open_clip", "onnx", "web"
export RECIPE --formats                            | 2 | must not be empty
run RECIPE --set languages.codes=DE,zh-CN          | 2 | did you mean "de"?
run RECIPE --set languages.codes=deu               | 2 | did you mean "de"?
run RECIPE --set languages.codes=jp                | 2 | did you mean "ja"?
run RECIPE --set pool.broken_shards=ignore         | 2 | must be one of "stop", "skip"
run RECIPE --set languages.codes=en;sw             | 2 | unknown language "en;sw"
run RECIPE --set languages.add=kea                 | 2 | must be a table of
run RECIPE --set pool.build=emoji                  | 2 | exactly one of path and build
run RECIPE --set pool.parts.cldr=MISSING           | 2 | needs pool.build
metadata RECIPE --sources number --wordnets.fr omw-fr:1.4 | 2 | metadata.sources lacks "wordnet"
evaluate RECIPE --suite everything                 | 2 | must be one of imagenet
evaluate RECIPE --datasets imagnet                 | 2 | did you mean "imagenet1k"?
evaluate RECIPE --out OUT                          | 2 | no dataset to evaluate; set evaluate.datasets
pool check POOL --out OUT --set radiu=6            | 2 | did you mean radius?
pool RECIPE --out OUT --set pool.path=none --build emoji --shards 1/2 | 2 | build the pool first
pool emoji --out OUT --image-px 0                  | 2 | must be at least 8
fetch metadata RECIPE --date yesterday             | 2 | YYYYMMDD
fetch dataset cars                                 | 2 | --out is not set
fetch dataset imagenet --out OUT                   | 2 | unknown dataset & did you mean imagenet1k?
pool world --out FILES/captions.csv                | 2 | is a file; give the folder to write
embed MISSING POOL --out OUT --of sounds           | 2 | must be one of
embed RUN POOL --out OUT --device tpu              | 2 | device = 'tpu'
embed RUN POOL --out OUT --precision int8          | 2 | precision = 'int8'
publish RUN noslash --dry-run                      | 2 | a repository of the hub is owner/name
serve RUN --port 99999                             | 2 | cannot listen there

run MISSING                                        | 2 | does not exist
run emoj                                           | 2 | is no recipe of worldclip; did you mean emoji?
run emojis.toml                                    | 2 | did you mean emoji?
run FILES/broke.toml                               | 2 | did you mean FILES/broken.toml?
run FILES                                          | 2 | holds no recipe.toml
run POOL                                           | 2 | for a folder of pairs: worldclip init
run FILES/broken.toml                              | 2 | is not valid TOML
run FILES/deep.toml                                | 2 | is not valid TOML
run FILES/latin1.toml                              | 2 | is not valid TOML
pool FILES/empty.toml                              | 2 | exactly one of path and build
init MISSING                                       | 2 | MISSING: no such folder; name the folder of your pictures
init FILES/caption.csv                             | 2 | did you mean FILES/captions.csv?
run FILES/brokn.toml                               | 2 | did you mean FILES/broken.toml?
classify FILES/captions.tsv FILES/picture.png --labels a | 2 | did you mean FILES/captions.csv?
init TYPO                                          | 2 | TYPO
status TYPO                                        | 2 | TYPO
status FILES                                       | 2 | FILES
inspect FILES --key a                              | 2 | FILES
report MISSING                                     | 2 | did you mean export?
compare MISSING FILES                              | 2 | MISSING does not exist
embed MISSING POOL --out OUT                       | 2 | MISSING does not exist
embed RUN FILES/photo --out OUT                    | 2 | FILES/photo: no such folder; did you mean FILES/photos?
embed runs/emoji POOL --out OUT                    | 2 | runs/emoji: no such folder here
embed RUN FILES/two words --out OUT                | 2 | FILES/two words has blanks; write it in quotes
embed RUN FILES/empty --out OUT                    | 2 | holds no tar and no image
embed RUN FILES/picture.png --out OUT              | 2 | only .png files in it; give its folder
embed RUN FILES/table.parquet --out OUT --of images | 2 | only texts; give tars
embed RUN FILES/table.parquet --out OUT --key urn  | 2 | pool.key: no column or field 'urn'
consolidate POOL                                   | 2 | /train/step_... or a run
search FILES word                                  | 2 | FILES
estimate MISSING                                   | 2 | MISSING
estimate RUN --threshold=0 --tail-fraction=-inf    | 2 | english_threshold = 0 & tail_fraction = -Infinity: must
inspect RUN --key a --entry b                      | 2 | give --key or --entry
status RUN --keys MISSING                          | 2 | which is not a file; give a .txt with one key per line
status RUN --keys FILES/keys.txt --folders MISSING | 2 | MISSING: no such folder; name what worldclip wrote
status RUN --folders FILES                         | 2 | --folders is a flag of --keys
status --keys FILES/keys.txt                       | 2 | --keys needs a run
explore RECIPE --out OUT                           | 2 | is a file; give the folder of a run
explore RUN --out .                                | 2 | name a folder in the working directory
explore RUN --out POOL                             | 2 | holds no explorer; choose an empty directory
publish MISSING owner/name --dry-run               | 2 | whose stage curate is finished
classify MISSING FILES/picture.png --labels a      | 2 | MISSING does not exist; give a run, a model's folder
classify RUN POOL --labels a                       | 2 | is a directory; name the image files in it
compare RUN RUN                                    | 2 | evaluate all on the same datasets
compare RUN RUN RUN --curation                     | 2 | compared in pairs; give two runs
pool dedup FILES/empty --out OUT                   | 2 | FILES/empty
pool dedup FILES/table.parquet --out OUT --key uuid | 2 | pool.key: no column or field 'uuid'; did you mean 'uid'
pool dedup FILES/table.parquet --out OUT --key member | 2 | set it to the column of the key: uid
pool dedup POOL --out FILES                        | 2 | is not empty and was not written by worldclip
pool check MISSING --out OUT                       | 2 | MISSING: no such folder
pool check POOL --out OUT --set against.x=FILES/table.parquet | 2 | has no column of images
pool check POOL --out OUT --set radius=99          | 2 | radius = 99
pool check POOL --out OUT --set against.x=MISSING  | 2 | against.x is ' & which does not exist
pool check POOL --out OUT --set against_datasets=cifar11 | 2 | did you mean cifar10
pool check POOL --out OUT --set against_datasets=cifar10 --set data=FILES | 2 | not below data =
pool check POOL --out OUT --set against_datasets=cifar10 --set against.cifar10=POOL | 2 | both name 'cifar10'
pool wat MISSING --out OUT                         | 2 | MISSING
pool pack FILES/photos --out OUT --captions FILES/captions.csv | 2 | the column or field is one of file_name

run RECIPE --out POOL                              | 2 | holds files of pairs such as 00000.tar
embed RUN POOL --out RUN                           | 2 | is a run, whose files would be removed
embed RUN POOL --out POOL/embedded                 | 2 | lies in the pool
run RECIPE --out FILES/cut_table                   | 2 | holds files of pairs such as a.parquet
run RECIPE --out FILES/picture.png/run             | 2 | cannot be written
pool RECIPE --out FILES/picture.png                | 2 | is a file; give the folder to write
match RECIPE --out OUT --shards 1/2                | 2 | run first: worldclip pool
curate RECIPE --out OUT                            | 2 | OUT/match is not finished; run first: worldclip match OUT
curate RECIPE --out OUT --set curate.max_pairs=10 --shards 1/2 | 2 | caps are decided over all shards
pool RECIPE --out OUT --path MISSING               | 2 | no such folder or file
pool RECIPE --out OUT --path FILES/compressed      | 2 | unpack them to .tar
pool RECIPE --out OUT --path FILES/table.parquet --key id | 2 | did you mean 'uid'?
pool RECIPE --out OUT --texts json:caption         | 2 | there is: texts, lang_truth
init POOL --lang language                          | 2 | there is: texts, lang_truth
metadata RECIPE --out OUT --lists.en MISSING       | 2 | no such file
run RECIPE --out OUT --until match --set pool.valid_keys=MISSING | 2 | which is not a file; give a .txt
run RECIPE --out OUT --until match --set pool.deny_keys=FILES/captions.csv | 2 | is a CSV (duckdb -c & give a .txt
run RECIPE --out OUT --until match --set pool.deny_keys=FILES/latin1.txt | 2 | can't decode byte & give a .txt

run RECIPE --out s3://bucket/run                   | 2 | --out s3://bucket/run: must be a local path, not a URL
pool dedup POOL --out s3://bucket/run              | 2 | --out s3://bucket/run: must be a local path, not a URL
status s3://bucket/run                             | 2 | s3://bucket/run: must be a local path, not a URL
run RECIPE --from-run s3://bucket/run              | 2 | --from-run s3://bucket/run: must be a local path
search s3://bucket/run word                        | 2 | FOLDER s3://bucket/run: must be a local path

pool RUN --image-field photo                       | 2 | pool.image_field
match RUN --merge-labels.nn no                     | 2 | its languages are ar, en, th, zh
curate RUN --set balance.tail_fraction=0.2         | 2 | balance is finished with it: give the key to worldclip run
train RUN --set balance.tail_fraction=0.2          | 2 | balance is finished with it: give the key to worldclip run
export RUN --set balance.tail_fraction=0.2         | 2 | balance is finished with it: give the key to worldclip run
balance RUN --tail-fractions.sv 0.1                | 2 | has no list sv; its lists are ar, en, th, zh
balance RUN --english-threshold 5                  | 2 | set exactly one of english_threshold
curate RUN --exclude sw                            | 2 | curate.exclude
curate RUN --max-pairs 0                           | 2 | to drop a language, add it to curate.exclude
curate RUN --write parquet                         | 2 | is no Parquet file; set "list"
train RUN --lr 0.5                                 | 2 | train.lr was 0.001, is 0.5
evaluate RUN --folders.toy pool:POOL --datasets toy --languages sw | 2 | evaluate.languages: no text in sw
evaluate RUN --folders.x folders:MISSING --datasets x | 2 | MISSING is not a folder
evaluate RUN --folders.toy pool:POOL --datasets toy --out FILES | 2 | is not empty and was not written by worldclip
export RUN --out FILES/captions.csv                | 2 | is a file; give the folder to write
export RUN --languages xx                          | 2 | export.languages
inspect RUN --entry nothing                        | 2 | is not in list en; spell it as the list does
run RUN --until curate --set curate.exclude=xx     | 2 | curate.exclude
run RUN --until train --set curate.seed=7 --set train.beta2=0.5 | 2 | which are never overwritten
run OTHER_RUN --from metadata --set metadata.lists.en=MISSING | 2 | MISSING
run OTHER_RUN --from match --set match.merge_labels.en=zz | 2 | match.merge_labels.en
run OTHER_RUN --from balance --set balance.tail_fractions.zz=0.5 | 2 | zz
run OTHER_RUN --from train                         | 2 | has checkpoints & first: mv OTHER_RUN/train OTHER_RUN/train.1
run OTHER_RUN --from evaluate --set evaluate.datasets=nope | 2 | nope

pool RECIPE --out OUT --path FILES/cut             | 1 | 0.tar: cut off in the header & only they are tried again
pool RECIPE --out OUT --path FILES/cut_table --key uid | 1 | a.parquet: not a Parquet file, or damaged
pool RECIPE --out OUT --path FILES/no_rows --key uid | 1 | a.csv: is empty
metadata RECIPE --out OUT --lists.en FILES/latin1.txt | 1 | latin1.txt, line 1: not UTF-8
pool wat FILES/captions.csv --out OUT              | 1 | captions.csv: not a WARC file, or damaged
"""
BROKEN = {
    "broken.toml": "[pool\npath=",
    "deep.toml": f"[pool]\npath = {'[' * 2000}",
    "empty.toml": "",
    "cut/0.tar": "not a tar",
    "empty/.hidden": "",
    "photos/IMG_1465.jpg": "",
    "two words/0.jpg": "",
    "compressed/a.tar.gz": "",
    "captions.csv": "file,text\nIMG_1465.jpg,a red circle\n",
    "cut_table/a.parquet": "PAR1xxxxPAR1",
    "no_rows/a.csv": "",
    "latin1.toml": "[pool]\npath = 'Müll'".encode("latin-1"),
    "keys.txt": "a",
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
    places = {"RUN": folder / "run", "OTHER_RUN": folder / "restarted", "TYPO": folder / "typo.toml"}
    places |= {"RECIPE": toy_world.recipe, "POOL": toy_world.pool}
    return {**places, "FILES": write_files(folder / "broken", BROKEN)}


@pytest.mark.parametrize(("command", "code", "said"), rows_of(MISTAKES))
def test_mistake(command, code, said, lasting, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    places = {**lasting, "MISSING": tmp_path / "MISSING", "OUT": tmp_path / "OUT"}
    words = words_of(command, places)
    kept = places["RUN"]
    if " OTHER_RUN " in command:  # what is refused late takes the markers of the stages after it
        stage = words[words.index("--from") + 1]
        words += ["--until", stage]
        kept = places["OTHER_RUN"] / stage
    before = contents(kept, VOLATILE)
    assert main(words) == int(code)
    error = capfd.readouterr().err
    assert "worldclip: " in error
    assert "Traceback" not in error
    assert [part for part in said.split(" & ") if " ".join(words_of(part, places)) not in error] == []
    assert contents(kept, VOLATILE) == before
    assert code == "1" or not (places["OUT"] / "recipe.toml").exists()


BEFORE_THE_MODEL = """
classify RUN MISSING.png --labels a                | MISSING.png: does not exist
classify RUN https://a/b.png --labels a            | is a URL
classify RUN FILES/picture.png --labels a --templates b | template 'b' has no {} for the label
serve RUN POOL --port 0                            | holds no embeddings
search MISSING word --images MISSING.png           | MISSING.png: does not exist
embed RUN MISSING --out OUT                        | MISSING: no such folder
embed RUN POOL --out FILES                         | choose an empty directory
export RUN --out OUT --formats web --embedded POOL | holds no embeddings
export RUN --out OUT --languages xx                | unknown language code 'xx'
export RUN --out OUT --languages en --corpus MISSING.txt | MISSING.txt does not exist
evaluate RUN --out OUT --folders.toy pool:POOL --datasets toy --languages sw | no text in sw
"""


@pytest.mark.parametrize(("command", "said"), rows_of(BEFORE_THE_MODEL))
def test_what_costs_nothing_is_checked_before_the_model(command, said, lasting, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("worldclip.model.load.find", lambda *_: pytest.fail("the model is loaded"))
    monkeypatch.setattr(web_folder, "problems", lambda: iter(()))
    places = lasting | {name: tmp_path / name for name in ("MISSING", "MISSING.png", "MISSING.txt", "OUT")}
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
    monkeypatch.setattr(
        before_start, "device_problems", lambda *_: said.append(capfd.readouterr().err) or ["no device"]
    )
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
        with ExitStack() as locks:
            locks.enter_context(lock_folder(out))
            if not is_held:
                locks.close()
            if is_finished:
                write_manifest(out, config={}, inputs={}, counts={}, job=writer)
            check_own(out, writer, entries[writer])
            for other in {*LEFT} - {writer}:
                if not is_finished and (writer, other) == ("pool emoji", "pool world"):
                    continue  # both have these sets, and are drawn again in minutes
                problem = f"was written by {writer}, not by" if is_finished else "holds '.+', which"
                with pytest.raises(UserError, match=f"{problem} {other}"):
                    check_own(out, other, entries[other])


def test_unfinished_folder_with_a_file_of_the_user_is_refused(tmp_path):
    with lock_folder(tmp_path):
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
    places = {"RUN": run, "OTHER_RUN": toy_run, "OUT": tmp_path / "out", "NEW": tmp_path / f"new{name}"}
    for command, codes in {
        "status RUN": {0, 2},
        "inspect RUN --key 00000": {0, 2},
        "run RUN --until curate": {0, 2},
        "estimate RUN": {0, 2},
        "publish RUN a/b --dry-run": {0, 2},
        "explore RUN --out OUT": {0, 2},
        "explore OTHER_RUN --out NEW": {2},
        "run OTHER_RUN/recipe.toml --out NEW": {2},
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

# command | extras that it names.  RUN is the finished run of RECIPE, whose pool is POOL; CURATED: a run that is curated
# without extras; EMBEDDED: its images; ONNX: an exported model; RESULTS: of an evaluation; OUT: a folder to write
NEEDS = """
run RECIPE --out OUT                                         | train
pool RECIPE --out OUT --set pool.path=none --build emoji     | demo
pool RECIPE --out OUT --set pool.path=none --build world     | world
pool RECIPE --out OUT --path hf://datasets/owner/name        | hub
metadata RECIPE --out OUT --set metadata.lists=none --sources wordfreq,cldr,wordnet --installed-wordnets | metadata
match RECIPE --out OUT --executor ray                        | ray
train RECIPE --out OUT                                       | train
train RECIPE --out OUT --wandb a --lora-rank 4 --initial-weights owner/name | train wandb lora
evaluate RECIPE --out OUT --datasets d --folders.d folders:PICTURES --also linear_probe | train
evaluate RUN --out OUT --datasets d --folders.d folders:PICTURES | train
export RECIPE --out OUT --formats onnx,open_clip             | train export
export RUN --out OUT                                         | train
init hf://datasets/owner/name --out OUT                      | hub
pool emoji --out OUT                                         | demo
pool world --out OUT                                         | world
pool check POOL --out OUT                                    | pool
pool check POOL --out OUT --set duplicates=keep --set embedding_model=RUN | pool train
pool check POOL --out OUT --set duplicates=keep --set against.d=PICTURES | pool
pool dedup POOL --out OUT --executor ray                     | ray
publish CURATED owner/name                                   | hub
classify RUN PICTURES/circle/0.png --labels a                | train
classify ONNX PICTURES/circle/0.png --labels a               | onnx
consolidate RUN                                              | train
explore CURATED --out OUT                                    | pool
embed RUN POOL --out OUT                                     | train
embed ONNX POOL --out OUT                                    | onnx
search EMBEDDED red                                          | train
serve RUN EMBEDDED                                           | serve
"""
WORKS = """
run RECIPE --out CURATED --until curate --workers 1
pool CURATED
curate CURATED --write tars --workers 1
init POOL --out x.toml
status CURATED
pool dedup POOL --out copies --workers 1
pool pack PICTURES --out packed
publish CURATED owner/name --dry-run
estimate CURATED
inspect CURATED --key 00001
languages
doctor --json
--version
compare RESULTS RESULTS
"""
HIDDEN = {module for modules in EXTRAS.values() for module in modules}
IMPORTED_AS = {"open-clip-torch": "open_clip", "pillow": "PIL", "pyyaml": "yaml", "scikit-learn": "sklearn"}


def test_commands_without_extras_work_or_name_them_before_any_work(toy_world, toy_run, tmp_path):
    names = {name: tmp_path / name for name in ("EMBEDDED", "ONNX", "PICTURES", "RESULTS", "OUT", "CURATED")}
    assert main(["embed", str(toy_run), str(toy_world.pool), "--out", str(names["EMBEDDED"])]) == 0
    write_stub_of_onnx(names["ONNX"])
    image = draw_shape(0, [9, 9, 9], 0)
    for label in ("circle", "square"):
        write_files(names["PICTURES"] / label, {"0.png": image, "0.txt": label})
    names["RESULTS"].mkdir()
    dataset = word_dataset("words", ["red", "green", "blue"], ("en", "de"))
    engine.evaluate(
        WordModel(), {"model": "words", "model_digest": "words"}, (dataset,), (), names["RESULTS"] / "results.jsonl"
    )
    places = names | {"RECIPE": toy_world.recipe, "POOL": toy_world.pool, "RUN": toy_run}
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
    assert not places["OUT"].exists()


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
