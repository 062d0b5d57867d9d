"""A table of wrong inputs: each ends with 1 or 2 and a message that names what is wrong, none with a traceback."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from toy import ToyWorld
from worldclip.cli import main

# R: a good recipe, P: its pool, B: the folder of broken files, N: a path that does not exist, O: a folder to write
WRONG: list[tuple[str, str]] = [
    # commands
    ("mtach R --workers 2", "worldclip: unknown command mtach; did you mean match?\n"),
    ("xyzzy", "worldclip: unknown command xyzzy; worldclip --help lists all commands\n"),
    ("fetch", "unknown command fetch; fetch has metadata, dataset, cldr"),
    ("fetch datset imagenet", "did you mean fetch dataset?"),
    ("tokenizer", "tokenizer has train, compare"),
    ("pool chek", "unknown command pool chek; did you mean pool check?"),
    ("pool chek P", "did you mean pool check?"),
    ("pool dedub P --out O", "unknown command pool dedub; did you mean pool dedup?"),
    ("poool check P", "did you mean pool check?"),
    ("--versoin", "worldclip --help lists all commands"),
    ("run", "RECIPE is missing"),
    ("match", "RECIPE is missing"),
    ("train --lr 1", "comes first"),
    ("init", "SOURCE is missing"),
    ("status", "RUN is missing"),
    ("pool emoji", "--out DIR is missing"),
    ("pool world", "--out DIR is missing"),
    ("pool wat --out O", "FILES is empty"),
    ("pool check P", "--out DIR is missing"),
    ("pool hash P", "--out FILE is missing"),
    ("pool dedup P", "--out DIR is missing"),
    ("fetch metadata", "RECIPE is missing"),
    ("fetch dataset imagenet", "--out DIR is missing"),
    ("pack", "RUN is missing"),
    ("unpack", "SOURCE is missing"),
    ("classify", "MODEL is missing"),
    ("classify N --labels a", "N"),
    ("consolidate", "CHECKPOINT is missing: "),
    ("tokenizer train", "RUN is missing"),
    ("tokenizer compare N", "--on"),
    ("estimate", "RUN is missing"),
    ("inspect", "PATH is missing"),
    ("compare", "takes two or more runs"),
    ("compare N", "two or more"),
    ("embed", "MODEL is missing"),
    ("embed N", "POOL is missing"),
    ("index", "FOLDER is missing"),
    ("search", "FOLDER is missing"),
    ("evaluate N", "--out DIR is missing"),
    ("export N", "--out DIR is missing"),
    ("status N extra", "'extra'"),
    ("pack N --out O --jsn", "worldclip: unknown flag '--jsn'; did you mean --json?\n"),
    ("pack N more --out O", "unknown argument 'more'; worldclip pack --help lists the flags"),
    ("run R --untl pool", "did you mean --until?"),
    ("match R --worker 2", "did you mean --workers?"),
    ("pack N --out", "--out has no value; give one; worldclip pack --help lists the flags"),
    # values of flags
    ("match R --workers two", "--workers 'two': must be a whole number; worldclip match --help lists the flags"),
    ("tokenizer train N --lang-exponent much", "--lang-exponent 'much': must be a number"),
    ("match R --workers 0", "must be at least 1"),
    ("match R --workers -3", "must be at least 1"),
    ("match R --workers 1.5", "whole number"),
    ("match R --executor spark", "use local"),
    ("match R --shards 5", "must be I/N"),
    ("match R --shards 4/3", "must be I/N"),
    ("match R --shards 0/3", "must be I/N"),
    ("curate R --shards a/b", "must be I/N"),
    ("match R --profile latin", "must be one of reference, unicode"),
    ("match R --min-lang-prob high", "must be a number"),
    ("match R --min-lang-prob 2", "match.min_lang_prob = 2"),
    ("match R --compare-profiles -1", "match.compare_profiles"),
    ("match R --merge-labels ms", "give pairs"),
    ("pool R --format zip", "unknown pool format; known: tar, parquet, jsonl"),
    ("pool R --where width", "give pairs, NAME VALUE"),
    ("metadata R --overrides max_chars", "give pairs, NAME VALUE"),
    ("metadata R --wordnets en", "give pairs, NAME VALUE"),
    ("metadata R --lists en", "give pairs, NAME VALUE"),
    ("pool R --path N", "no such folder or file"),
    ("pool R --key json:", "pool.key"),
    ("balance R --tail-fraction 2", "balance.tail_fraction"),
    ("curate R --include en,sw --exclude sw", "curate.exclude, too"),
    ("train R --lr -1", "train.lr"),
    ("train R --lr nan", "train.lr"),
    ("train R --device tpu", "must be one of auto, cpu, cuda, mps"),
    ("train R --precision fp8", "must be one of fp32, bf16"),
    ("train R --global-batch-size 1", "train.global_batch_size"),
    ("train R --warmup-samples 9999999", "train.warmup_samples"),
    ("train R --freeze eyes", "must be one of vision, text"),
    ("train R --model.preset huge", "--model.preset 'huge'"),
    ("train R --beta1 1", "train.beta1"),
    ("evaluate R --suite everything", "must be one of imagenet"),
    ("evaluate R --datasets imagnet", 'did you mean "imagenetv2"?'),
    ("export R --formats onnx,zip", '"zip": unknown model format; known: huggingface'),
    ("export R --push noslash", "worldclip: --push 'noslash': a repository of the hub is owner/name\n"),
    ("export N --out O --push noslash", "--push 'noslash': a repository of the hub is owner/name"),
    ("run R --until evaluat", "unknown stage"),
    ("run R --from pol", "unknown stage"),
    ("run R --from-run N", "N"),
    ("run R --set lr=1", "section.key=value"),
    ("run R --set train.lr=fast", "must be a number"),
    ("run R --set train.lrr=1", "did you mean lr?"),
    ("run R --set trian.lr=1", "did you mean train?"),
    ("run R --set train.lr", "section.key=value"),
    ("run R --set languages.codes=3", "must be a list"),
    ("run R --set languages.codes=", "must be a list"),
    ("run R --set languages.codes=en;sw", 'unknown language "en;sw"'),
    ("run R --set metadata.sources=cldr,emojis", "unknown metadata source; did you mean emoji?"),
    ("run R --set languages.add=kea", "must be a table of"),
    ("run R --set languages.add.sw.name=Swahili", "is an installed language (Swahili)"),
    ("run R --set languages.add.kea.labels=kea", "unknown key languages.add.kea.labels"),
    ("run R --set languages.add.kea.script=latin", "must be the ISO 15924 code"),
    ('run R --set languages.codes=["english"]', "unknown language"),
    ('run R --set languages.codes=["en","en"]', "duplicate language"),
    ("run R --set languages.lid_model=N", "no such file"),
    ("run R --set pool.build=emoji", "exactly one of path, roots and build"),
    ('run R --set metadata.sources=["wikipedai"]', "metadata.sources"),
    ("run R --set metadata.sources=[]", "must not be empty"),
    ("pool emoji --out O --image-px 0", "must be at least 8"),
    ("pool emoji --out O --samples-per-shard 0", "must be at least 1"),
    ("pool world --out O --cldr N", "not a folder"),
    ("run R --set pool.build_options.train_on_stamps=true", "needs pool.build"),
    ("run R --set pool.parts.cldr=N", "needs pool.build"),
    ("pool check P --out O --set radius=far", "must be a whole number"),
    ("pool check P --out O --set radiu=6", "did you mean radius?"),
    ("pool check P --out O --config N", "N"),
    ("pool check P --out O --shards 9", "must be I/N"),
    ("fetch metadata R --langs en,english", "unknown language"),
    ("fetch metadata R --date yesterday", "YYYYMMDD"),
    ("fetch metadata R --connections 0", "at least 1"),
    ("fetch metadata R --base-url ftp://x", "http"),
    ("fetch dataset imagnet --out O", "unknown dataset"),
    ("estimate N --threshold many", "--threshold 'many'"),
    ("estimate N --pairs lots", "--pairs 'lots'"),
    ("estimate N --plot x.png", ".svg"),
    ("tokenizer train N --model char", "must be one of unigram, bpe"),
    ("classify N x.png --labels a --templates x --prompts y", "both set"),
    ("classify N x.png --labels a --layout zip", "must be one of"),
    ("embed N P --out O --of sounds", "must be one of"),
    ("index N --library annoy", "must be one of"),
    # files that do not exist, or are something else
    ("run N", "does not exist"),
    ("run B", "holds no recipe.toml"),
    ("run B/broken.toml", "is not valid TOML"),
    ("run B/latin1.toml", "is not valid TOML"),
    ("run B/list.toml", "pool.path"),
    ("run B/section.toml", "must be a section"),
    ("run B/unknown.toml", "did you mean"),
    ("run B/picture.png", "is not valid TOML"),
    ("pool B/empty.toml", "exactly one of path, roots and build"),
    ("init N", "N"),
    ("init B/empty", "B/empty"),
    ("status N", "N"),
    ("status B", "B"),
    ("inspect N", "N"),
    ("inspect B --key a", "B"),
    ("languages N", "N"),
    ("estimate N", "N"),
    ("pack N --out O/lists.tar", "N"),
    ("unpack N", "N"),
    ("unpack B/cut.tar --out O", "cut.tar"),
    ("compare N B", "N"),
    ("consolidate N", "N"),
    ("tokenizer train N", "N"),
    ("tokenizer compare N --on B/empty", "N"),
    ("search N word", "N"),
    ("search B word", "B"),
    ("index N", "N"),
    ("index B", "B"),
    ("pool dedup N --out O", "N"),
    ("pool dedup B/empty --out O", "B/empty"),
    ("pool check N --out O", "N"),
    ("pool hash N --out O/h.parquet", "N"),
    ("pool hash B/empty --out O/h.parquet", "B/empty"),
    ("pool wat N --out O", "N"),
    ("pool R --out B/picture.png", "picture.png"),
    ("pool R --out O --path B/cut", "cut off in the header"),
    ("pool R --out O --path B/table.parquet --key id", "did you mean 'uid'?"),
    ("balance R --out O", "run first: worldclip match"),
    ("curate R --out O", "is not finished; run first"),
    ("report N", "did you mean export?"),
    # nothing to do
    ("evaluate R --out O", "no dataset to evaluate; set evaluate.datasets"),
    # what was meant
    ("run emoj", "emoj does not exist and is no recipe of worldclip; did you mean emoji?"),
    ("run nothing", "or one of ablate_english"),
    ("run P", "for a folder of pairs: worldclip init"),
    ("run B/table.parquet", "for a file of pairs: worldclip init"),
    ("run R --tail-fraction 0.1", "it is a key of the recipe: --set balance.tail_fraction=NUMBER"),
    ("run R --seed 1", "--set curate.seed=N or --set train.seed=N"),
    ("run R --out O --set languages.codes=deu", 'did you mean "de"?'),
    ("metadata R --out O --lists DE list.txt", 'did you mean "de"?'),
]


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files and folders that are not what a command reads."""
    folder = tmp_path_factory.mktemp("broken")
    texts = {
        "broken.toml": "[pool\npath=",
        "list.toml": "[pool]\npath = [1, 2]",
        "section.toml": "pool = 3",
        "unknown.toml": "[pool]\npth = 'x'",
        "empty.toml": "",
        "cut.tar": "not a tar",
        "cut/0.tar": "not a tar",
        "empty/.hidden": "",
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "latin1.toml").write_bytes("[pool]\npath = 'Müll'".encode("latin-1"))
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\xff")
    pq.write_table(pa.table({"uid": ["a"], "text": ["red"]}), folder / "table.parquet")
    return folder


def to_arguments(command: str, places: dict[str, Path]) -> list[str]:
    """Return the words of a command, with a path for each capital letter that stands for one."""
    return [re.sub(r"^([RPBNO])(?=/|$)", lambda match: str(places[match[1]]), word) for word in command.split()]


@pytest.mark.parametrize(("command", "message"), WRONG, ids=[command for command, _ in WRONG])
def test_wrong_inputs_end_with_a_message(
    command: str, message: str, toy_world: ToyWorld, broken: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    places = {"R": toy_world.recipe, "P": toy_world.pool, "B": broken, "N": tmp_path / "N", "O": tmp_path / "O"}
    code = main(to_arguments(command, places))
    captured = capfd.readouterr()
    assert code in (1, 2), captured.out
    assert "worldclip: " in captured.err
    named = " ".join(to_arguments(message, places)) if message in ("N", "B") or message.startswith("B/") else message
    assert named in captured.err
    assert "Traceback" not in captured.err
