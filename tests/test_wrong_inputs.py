"""Tables of wrong inputs: each ends with a message that names what is wrong and what to do, none with a traceback.

WRONG are mistakes of the user (exit code 2), DAMAGED are files that fail alone while the others go on (exit code 1).
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from miniature import write_files
from pools import parquet_of
from programs import words_of
from worldclip.cli import main
from worldclip.cli.overview import ANY_MODEL, COMMANDS
from worldclip.recipe import stage_names

# (command line, what it must say).  R: a good recipe, T: its finished run, P: its pool, B: a folder of files that no
# command reads, N: a path that does not exist, O: a folder to write.
WRONG: list[tuple[str, str]] = [
    # commands
    ("mtach R --workers 2", "worldclip: unknown command mtach; did you mean match?\n"),
    ("xyzzy", "worldclip: unknown command xyzzy; worldclip --help lists all commands\n"),
    ("fetch", "unknown command fetch; known: fetch metadata, fetch dataset"),
    ("fetch datset imagenet", "did you mean fetch dataset?"),
    ("pool chek", "unknown command pool chek; did you mean pool check?"),
    ("pool dedub P --out O", "unknown command pool dedub; did you mean pool dedup?"),
    ("poool check P", "did you mean pool check?"),
    ("--versoin", "worldclip --help lists all commands"),
    ("match", "RECIPE is missing"),
    ("train --lr 1", "comes first"),
    ("pool wat --out O", "FILES is empty"),
    ("classify N --labels a", "no image is named; give image files"),
    ("classify N x.png --labels a", "N does not exist; give a run, a model's folder or file, or a hub id"),
    ("compare", "takes two or more runs"),
    ("compare N", "two or more"),
    ("evaluate N", "--out DIR is missing"),
    ("export N", "--out DIR is missing"),
    ("languages extra", "unknown argument 'extra'; worldclip languages --help lists the flags"),
    ("status N extra", "'extra'"),
    ("inspect N --jsn", "worldclip: unknown flag '--jsn'; did you mean --json?\n"),
    ("inspect N more", "unknown argument 'more'; worldclip inspect --help lists the flags"),
    ("run R --untl pool", "did you mean --until?"),
    ("match R --worker 2", "did you mean --workers?"),
    ("explore N --out", "--out has no value; give one; worldclip explore --help lists the flags"),
    ("run R --set balance.tail_fraction 0.2", "--set balance.tail_fraction: must be KEY=VALUE, without blanks"),
    ("match R --set match.profile =unicode", "--set match.profile: must be KEY=VALUE, without blanks"),
    # values of flags
    ("match R --workers two", "--workers 'two': must be a whole number; worldclip match --help lists the flags"),
    ("match R --workers 0", "must be at least 1"),
    ("match R --executor spark", "use local"),
    ("match R --shards 5", "must be I/N"),
    ("match R --shards 4/3", "must be I/N"),
    ("match R --shards 0/3", "must be I/N"),
    ("match R --shards 1/0", "must be I/N"),
    ("curate R --shards a/b", "must be I/N"),
    ("match R --profile latin", 'must be one of "reference", "unicode"'),
    ("match R --min-lang-prob high", "must be a number"),
    ("match R --min-lang-prob 2", "match.min_lang_prob = 2"),
    ("match R --merge-labels ms", "must be a table"),
    ("pool R --path N", "no such folder or file"),
    ("pool R --key json:", "pool.key"),
    ("balance R --tail-fraction 2", "balance.tail_fraction"),
    ("train R --lr -1", "train.lr"),
    ("train R --device tpu", 'must be one of "auto", "cpu"'),
    ("train R --freeze eyes", 'each one of "vision", "text"'),
    ("train R --model.preset huge", 'train.model.preset = "huge"'),
    ("evaluate R --suite everything", "must be one of imagenet"),
    ("evaluate R --datasets imagnet", 'did you mean "imagenetv2"?'),
    ("export R --formats onnx,zip", 'each one of "huggingface", "open_clip", "onnx", "web"'),
    ("run R --until evaluat", "unknown stage"),
    ("run R --from pol", "unknown stage"),
    ("run R --from-run N", "N"),
    ("run R --set lr=1", "section.key=value"),
    ("run R --set trian.lr=1", "did you mean train?"),
    ("run R --set train.lr", "must be KEY=VALUE"),
    ("run R --set pool.path.deeper=1", "path is a value, not a section"),
    ("run R --set languages.codes=3", 'unknown language "3"'),
    ("run R --set languages.codes=", "must be a list"),
    ("run R --set languages.codes=en;sw", 'unknown language "en;sw"'),
    ("run R --set languages.add=kea", "must be a table of"),
    ("run R --set languages.lid_model=N", "no such file"),
    ("run R --set pool.build=emoji", "exactly one of path and build"),
    ("run R --set metadata.sources=[]", "must not be empty"),
    ("pool emoji --out O --image-px 0", "must be at least 8"),
    ("pool emoji --out O --samples-per-shard 0", "must be at least 1"),
    ("pool world --out O --cldr N", "not a folder"),
    ("run R --set pool.parts.cldr=N", "needs pool.build"),
    ("pool check P --out O --set radius=far", "must be a whole number"),
    ("pool check P --out O --set radiu=6", "did you mean radius?"),
    ("pool check P --out O --config N", "N"),
    ("pool check P --out O --shards 9", "must be I/N"),
    ("fetch metadata R --langs en,english", "unknown language"),
    ("fetch metadata R --date yesterday", "YYYYMMDD"),
    ("fetch metadata R --base-url ftp://x", "http"),
    ("fetch dataset imagnet --out O", "unknown dataset"),
    ("estimate N --threshold many", "--threshold 'many'"),
    ("embed N P --out O --of sounds", "must be one of"),
    # files that do not exist, or are something else
    ("run N", "does not exist"),
    ("run B", "holds no recipe.toml"),
    ("run B/broken.toml", "is not valid TOML"),
    ("run B/deep.toml", "is not valid TOML"),
    ("run B/latin1.toml", "is not valid TOML"),
    ("pool B/empty.toml", "exactly one of path and build"),
    ("init N", "no such folder or file; name the folder of the shards"),
    ("init B/empty", "B/empty"),
    ("status N", "N"),
    ("status B", "B"),
    ("inspect N --key a", "N"),
    ("inspect B --key a", "B"),
    ("estimate N", "N"),
    ("compare N B", "N"),
    ("consolidate N", "N"),
    ("search B word", "B"),
    ("pool dedup N --out O", "N"),
    ("pool dedup B/empty --out O", "B/empty"),
    ("pool check N --out O", "N"),
    ("pool check P --out O --set against.x=N", "N"),
    ("pool check P --out O --set against.x=B/empty", "B/empty"),
    ("pool wat N --out O", "N"),
    ("pool R --out B/picture.png", "picture.png is a file; give the folder to write"),
    ("pool R --out O --path B/table.parquet --key id", "did you mean 'uid'?"),
    ("run R --out B/picture.png/run", "cannot be written"),
    ("run R --out O --until curate --set pool.path=B/empty", "pool.path"),
    ("run R --out P", "holds files of pairs such as 00000.tar; choose another folder for the run"),
    ("match R --out P", "holds files of pairs such as 00000.tar"),
    ("balance R --out O", "run first: worldclip match"),
    ("match R --out O --shards 1/2", "run first: worldclip pool"),
    ("curate R --out O --set curate.max_pairs=10 --shards 1/2", "caps are decided over all shards"),
    ("report N", "did you mean export?"),
    # nothing to do
    ("evaluate R --out O", "no dataset to evaluate; set evaluate.datasets"),
    # what was meant
    ("run emoj", "emoj does not exist and is no recipe of worldclip; did you mean emoji?"),
    ("run nothing", "or one of ablate_english"),
    ("run P", "for a folder of pairs: worldclip init"),
    ("run B/table.parquet", "for a file of pairs: worldclip init"),
    ("run R --tail-fraction 0.1", "unknown flag '--tail-fraction'"),
    ("run R --out O --set languages.codes=deu", 'did you mean "de"?'),
    ("metadata R --out O --lists.DE list.txt", 'did you mean "de"?'),
    ("run R --out O --set languages.codes=DE,zh-CN", 'did you mean "de"?'),
    # tables of pairs
    ("pool R --out O --path B/compressed", "compressed tar(s) such as a.tar.gz; unpack them to .tar"),
    ("pool R --out O --texts json:caption", "there is: texts, lang_truth"),
    ("init P --key json:uid", "--key: no column or field 'uid'; there is: texts, lang_truth"),
    ("init P --lang language", "--lang: no column or field 'language'; there is: texts, lang_truth"),
    ("init P --texts json:caption", "hold no text; give --texts"),
    ("pool check B/table.parquet --out O", "set it to the column of the key: uid"),
    ("pool check P --out O --set against.x=B/table.parquet", "has no column of images"),
    ("pool pack N --out O", "no such folder; give the one that holds the image files"),
    ("pool pack B/empty --out O", "captions are .txt files next to the images"),
    ("pool pack B/photos --out O --captions N", "cannot be read"),
    ("pool pack B/photos --out O --captions B/captions.csv", "the column or field is one of file_name"),
    ("pool pack B/photos --out O --samples-per-tar 0", "--samples-per-tar 0: must be at least 1"),
    # lists of keys, before the first stage starts
    ("run R --out O --until match --set pool.valid_keys=N", "which is not a file; give a .txt"),
    ("run R --out O --until match --set pool.valid_keys=B/table.parquet", "has the columns uid, text"),
    ("run R --out O --until match --set pool.deny_keys=B/captions.csv", "give a .txt with one key per line"),
    # a run, and what it holds
    ("balance T --tail-fractions.sv 0.1", "has no list sv; its lists are ar, en, th, zh"),
    ("balance T --english-threshold 5", "set exactly one of english_threshold"),
    ("match T --merge-labels.nn no", "its languages are ar, en, th, zh"),
    ("match T --merge-labels.xx en", "unknown label; labels of the LID model look like 'en'"),
    ("match T --isolate both", 'must be one of "language"'),
    ("curate T --text-policy both", 'must be one of "one", "all"'),
    ("curate T --max-pairs 0", "to drop a language, add it to curate.exclude"),
    ("curate T --write parquet", 'is no Parquet file; set "list"'),
    ("train R --pool N", "did you mean --pool.key?"),
    ("metadata R --sources number --wordnets.fr omw-fr:1.4", 'unused: metadata.sources lacks "wordnet"'),
    ("metadata R --lists.en N", "no such file"),
    ("evaluate T --folders.x folders:N --datasets x", "N is not a folder"),
    ("evaluate R --suite imagenet", "or set evaluate.folders.imagenet1k"),
    ("export R --formats", "must not be empty (for example huggingface)"),
    ("run T --from evaluate --until train", "--from evaluate comes after --until train"),
    ("run R --quiet --verbose", "exclude each other; leave out one"),
    ("estimate T --threshold 0", "must be at least 1 (matches per entry)"),
    ("inspect T --entry nothing", "is not in list en; spell it as the list does"),
    ("inspect T --key a --entry b", "give --key or --entry, one of them"),
    ("doctor --jsn", "did you mean --json?"),
    ("consolidate P", "give RUN/train/step_... or a run"),
    ("publish T noslash --dry-run", "a repository of the hub is owner/name"),
    ("publish N owner/name --dry-run", "give the folder of one whose stage curate is finished"),
    ("publish T owner/name --dry-run --data tars", 'run curate with curate.write = "tars"'),
    ("publish T owner/name --data zip", 'must be one of "list"'),
    ("explore R --out O", "is a file; give the folder of a run"),
    ("explore T --out P", "holds no explorer; choose an empty directory"),
    ("compare T T", "evaluate all on the same datasets"),
    # models and what they embed
    ("classify T N --labels a", "N: does not exist"),
    ("classify T P --labels a", "is a directory; name the image files in it"),
    ("classify T B/picture.png --labels", "labels is empty; give at least one"),
    ("serve N", "N does not exist; give a run"),
    ("serve T P", "holds no embeddings; give a folder that"),
    ("serve T --port 80x", "must be a whole number"),
    ("serve T --port 99999", "cannot listen there"),
    ("export T --out B/captions.csv", "is a file; give the folder to write"),
    ("pool world --out B/captions.csv", "is a file; give the folder to write"),
]
DAMAGED: list[tuple[str, str]] = [
    ("pool R --out O --path B/cut", "0.tar: cut off in the header"),
    ("pool R --out O --path B/cut_table --key uid", "a.parquet: not a Parquet file, or damaged"),
    ("pool R --out O --path B/no_rows --key uid", "a.csv: is empty; its first line has the names of the columns"),
    ("metadata R --out O --lists.en B/latin1.txt", "latin1.txt, line 1: not UTF-8"),
    ("pool wat B/captions.csv --out O", "captions.csv: not a WARC file, or damaged"),
]


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files and folders that are not what a command reads."""
    files = {
        "broken.toml": "[pool\npath=",
        "deep.toml": f"[pool]\npath = {'[' * 2000}",
        "empty.toml": "",
        "cut.tar": "not a tar",
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
    return write_files(tmp_path_factory.mktemp("broken"), files)


@pytest.mark.parametrize(
    ("code", "command", "message"),
    [pytest.param(2, *row, id=row[0]) for row in WRONG] + [pytest.param(1, *row, id=row[0]) for row in DAMAGED],
)
def test_wrong_inputs_end_with_a_message(
    code, command, message, toy_world, toy_run, broken, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    places = {
        "R": toy_world.recipe, "T": toy_run, "P": toy_world.pool, "B": broken, "N": tmp_path / "N", "O": tmp_path / "O",
    }  # fmt: skip
    assert main(words_of(command, places)) == code
    captured = capfd.readouterr()
    assert "worldclip: " in captured.err
    assert " ".join(words_of(message, places)) in captured.err
    assert "Traceback" not in captured.err
    assert code == 1 or not (tmp_path / "O" / "recipe.toml").exists()


def required_arguments(name: str) -> list[str]:
    """Return how a command names its parameters without a default; one of many values says it in its own words."""
    shown = {"out": "--out", "run_dir": "RUN", "repository": "OWNER/NAME"}
    return [
        shown.get(parameter.name, parameter.name.upper())
        for parameter in inspect.signature(COMMANDS.load(name).function).parameters.values()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD and parameter.default is parameter.empty
        if "Sequence" not in str(parameter.annotation)
    ]


@pytest.mark.parametrize("name", [name for name in COMMANDS.names() if not name.endswith(ANY_MODEL)])
def test_all_missing_arguments_are_named(name, capfd):
    required = required_arguments(name)
    if required:
        assert main(name.split()) == 2
    assert re.findall(r"^worldclip: (\S+)(?: [A-Z]+)? is missing: ", capfd.readouterr().err, re.MULTILINE) == required


def test_every_command_has_wrong_inputs():
    lines = [line for line, _ in WRONG]
    names = [*stage_names(), *COMMANDS.names()]
    assert [name for name in names if not any(line.startswith(name.removesuffix(ANY_MODEL)) for line in lines)] == []
