"""The commands that kill_points.py kills: every stage and tool, on new folders and on folders of an earlier call."""

from __future__ import annotations

import bz2
import functools
import gzip
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kill_elsewhere import drawings, hub, web
from kill_points import Scenario
from kill_toy import QUIET, Call, change, nothing, toy
from tars import wat_of
from toy import TOY_WORDS


def all_scenarios(inputs: Path, *, is_light: bool = False, group: str = "", only: str = "") -> list[Scenario]:
    """Return the scenarios; `inputs` gets what they read.  group: one of MAKERS.  only: names, separated by commas."""
    groups = [group] if group else LIGHT if is_light else list(MAKERS)
    names = {name for name in only.split(",") if name}
    scenarios: list[Scenario] = []
    for name in groups:
        scenarios += MAKERS[name](inputs)
    return [one for one in scenarios if (not names or one.name in names) and (one.is_light or not is_light)]


# --- the stages before training ---------------------------------------------------------------------------------------


def _curation(inputs: Path) -> list[Scenario]:
    import worldclip
    from worldclip.contracts import entry_counts

    entry_counts.sum_shards.__defaults__ = (2, 16)  # sums in groups and ranges, as for very many shards
    old, new = (toy(inputs / name) for name in ("old", "new"))
    change(inputs / "new")

    def run(recipe: Path, until: str = "curate", **options: Any) -> Call:
        return lambda folder: worldclip.run(recipe, out=folder / "run", until=until, executor=QUIET, **options)

    def afterchange(until: str | None) -> Call:
        """Return what finishes a run of the old pool, and the stages of the new one up to `until`."""

        def start(folder: Path) -> None:
            run(old)(folder)
            if until is not None:
                run(new, until)(folder)

        return start

    scenarios = []
    stages = ("pool", "metadata", "match", "balance", "curate")
    for before, stage in zip((None, *stages), stages, strict=False):
        start = nothing if before is None else run(new, before)
        scenarios.append(Scenario(name=stage, start=start, call=run(new, stage)))
        scenarios.append(Scenario(name=f"{stage} of a changed pool", start=afterchange(before), call=run(new, stage)))
    scenarios += _kept_keys()
    words = _wikipedia(inputs)
    from_match = run(new, from_stage="match")

    def branch(folder: Path) -> None:
        worldclip.run(new, out=folder / "branch", from_run=folder / "run", until="curate", executor=QUIET)

    return [
        *scenarios,
        Scenario(name="run", start=nothing, call=run(new), is_light=False),
        Scenario(name="run of a changed pool", start=run(old), call=run(new), is_light=False),
        Scenario(name="--from match", start=run(new), call=from_match),
        Scenario(name="--from match, then run", start=run(new), call=from_match, again=run(new)),
        Scenario(name="--from-run", start=run(new), call=branch),
        Scenario(name="metadata of dumps", start=nothing, call=words["new"]),
        Scenario(name="metadata of other dumps", start=words["old"], call=words["new"]),
    ]


def _kept_keys() -> list[Scenario]:
    """Sort kept keys into one file, and into pieces in place of it."""
    from kept_keys import hex_keys, write_curated
    from worldclip.curate.sort_keys import write_keys

    def sort(file_keys: int) -> Call:
        def call(folder: Path) -> None:
            shards, num_kept = write_curated(folder / "run", hex_keys("random", 60), 4, is_new=False)
            sizes = {"group_keys": 30, "range_keys": 20, "file_keys": file_keys}
            write_keys(folder / "run", shards, num_kept, QUIET, **sizes)

        return call

    def write(folder: Path) -> None:
        write_curated(folder / "run", hex_keys("random", 60), 4)

    def write_and_sort(folder: Path) -> None:
        write(folder)
        sort(100)(folder)

    return [
        Scenario(name="kept keys", start=write, call=sort(100)),
        Scenario(name="kept keys in pieces", start=write_and_sort, call=sort(25)),
    ]


def _wikipedia(inputs: Path) -> dict[str, Call]:
    """Return the stage metadata over two dumps and page views, as they are at first and later."""
    from stages import run_stage
    from worldclip.config import load_recipe

    calls = {}
    for name, word in (("old", "simba"), ("new", "tembo")):
        folder = inputs / f"wikipedia {name}"
        (folder / "views").mkdir(parents=True)
        for part in (1, 2) if name == "new" else (1, 2, 3):
            text = f"paka mweusi na {word} mkubwa. " * 10 * part
            page = f"<page><title>T</title><ns>0</ns><revision><text>{text}</text></revision></page>"
            dump = folder / f"swwiki-20240101-pages-articles{part}.xml.bz2"
            dump.write_bytes(bz2.compress(f"<mediawiki>{page}</mediawiki>".encode()))
        (folder / "views" / "hour.gz").write_bytes(gzip.compress(f"sw {word.title()} 90 0\n".encode()))
        recipe = load_recipe(
            {
                "pool": {"path": "."},
                "languages": {"codes": ["sw"]},
                "metadata": {
                    "sources": ["unigram", "bigram", "title"],
                    "wikipedia": {"sw": f"{folder}/*.bz2"},
                    "pageviews": str(folder / "views"),
                },
                "balance": {"tail_fraction": 0.1},
            }
        )
        calls[name] = functools.partial(_run_stage, run_stage, recipe)
    return calls


def _run_stage(run_stage: Any, recipe: Any, folder: Path) -> None:
    run_stage("metadata", recipe, folder / "run", QUIET)


# --- tools over pools -------------------------------------------------------------------------------------------------


def _pools(inputs: Path) -> list[Scenario]:
    from worldclip.check.images import hash_images
    from worldclip.check.stage import check, load_config
    from worldclip.pool.config import PoolConfig
    from worldclip.tools.dedup import dedup

    pools = {}
    for name in ("old", "new"):
        folder = inputs / f"tools {name}"
        toy(folder)
        pools[name] = PoolConfig(path=str(folder / "pool"))
    change(inputs / "tools new")
    phrases = inputs / "phrases.txt"
    phrases.write_text("red circle\n", encoding="utf-8")
    rules = load_config({"write": "tars", "merge_texts": True, "texts": {"deny_phrases": [str(phrases)]}})

    def check_in(name: str) -> Call:
        return lambda folder: check(pools[name], folder / "check", rules, executor=QUIET)

    def dedup_in(name: str) -> Call:
        return lambda folder: dedup(pools[name], folder / "dedup", executor=QUIET)

    def hash_in(name: str) -> Call:
        return lambda folder: hash_images(Path(pools[name].path or ""), folder / "hashes.parquet", QUIET)

    return [
        Scenario(name="pool check", start=nothing, call=check_in("new")),
        Scenario(name="pool check of a changed pool", start=check_in("old"), call=check_in("new")),
        Scenario(name="pool dedup", start=nothing, call=dedup_in("new")),
        Scenario(name="pool dedup of a changed pool", start=dedup_in("old"), call=dedup_in("new")),
        Scenario(name="pool hash", start=nothing, call=hash_in("new")),
        Scenario(name="pool hash of a changed pool", start=hash_in("old"), call=hash_in("new")),
        *_wat(inputs),
        *_image_files(inputs),
        *_packs(inputs),
        *_tokenizer(inputs),
        *_explorer_and_upload(inputs),
    ]


def _wat(inputs: Path) -> list[Scenario]:
    from worldclip.plugins.crawl.wat import build_wat

    files = []
    for number in range(3):
        links = [{"path": "IMG@/src", "url": f"http://a.org/{n}.jpg", "alt": f"text {n} of {number}"} for n in range(9)]
        file = inputs / f"{number}.wat.gz"
        file.write_bytes(wat_of(links))
        files.append(str(file))

    def build(files: Sequence[str]) -> Call:
        return lambda folder: build_wat(files, folder / "pool", num_shards=2, executor=QUIET)

    return [
        Scenario(name="pool wat", start=nothing, call=build(files[:2])),
        Scenario(name="pool wat with a file more", start=build(files[:2]), call=build(files)),
    ]


def _image_files(inputs: Path) -> list[Scenario]:
    from toy import draw_shape
    from worldclip.plugins.pack_files import pack_files

    folders = {"old": inputs / "files old", "new": inputs / "files new"}
    for number, folder in enumerate(folders.values(), 3):
        folder.mkdir()
        for name in range(number):
            (folder / f"{name}.png").write_bytes(draw_shape(0, np.array([number, 9, 9], np.uint8), name))
            (folder / f"{name}.txt").write_text(f"red {name}", "utf-8")

    def pack(name: str) -> Call:
        return lambda folder: pack_files(folders[name], folder / "tars", samples_per_tar=2, executor=QUIET)

    return [
        Scenario(name="pool pack", start=nothing, call=pack("new")),
        Scenario(name="pool pack of other files", start=pack("old"), call=pack("new")),
    ]


def _packs(inputs: Path) -> list[Scenario]:
    import worldclip
    from worldclip.tools.pack import pack, unpack

    recipe = toy(inputs / "packed")
    worldclip.run(recipe, out=inputs / "packed run", until="metadata", executor=QUIET)
    pack(inputs / "packed run", inputs / "lists.tar")
    return [
        Scenario(name="pack", start=nothing, call=lambda folder: pack(inputs / "packed run", folder / "lists.tar")),
        Scenario(
            name="unpack", start=nothing, call=lambda folder: unpack(str(inputs / "lists.tar"), folder / "run", QUIET)
        ),
    ]


def _tokenizer(inputs: Path) -> list[Scenario]:
    import worldclip
    from worldclip.model.config import TokenizerConfig
    from worldclip.train.tokenizer import train_on_run

    run_dir = inputs / "curated run"
    worldclip.run(toy(inputs / "curated"), out=run_dir, until="curate", executor=QUIET)

    def train(folder: Path) -> None:
        if not (folder / "tokenizer").exists():  # a finished one is refused, as the command says
            train_on_run(run_dir, folder / "tokenizer", TokenizerConfig(vocab_size=120), context_length=12)

    return [Scenario(name="tokenizer train", start=nothing, call=train)]


def _explorer_and_upload(inputs: Path) -> list[Scenario]:
    """Return what is written of a curated run: the explorer, and the folder that is uploaded."""
    import worldclip
    from worldclip.plugins.explorer.explore import explore
    from worldclip.plugins.publish.publish import prepare

    recipes = {name: toy(inputs / f"shown {name}") for name in ("old", "new")}
    change(inputs / "shown new")

    def run(name: str) -> Call:
        return lambda folder: worldclip.run(recipes[name], out=folder / "run", until="curate", executor=QUIET)

    def in_order(*calls: Call) -> Call:
        def call(folder: Path) -> None:
            for one in calls:
                one(folder)

        return call

    def pages(folder: Path) -> None:
        explore(folder / "run", folder / "pages")

    def upload(folder: Path) -> None:
        prepare(folder / "run", "owner/name")

    return [
        Scenario(name="explore", start=in_order(run("old"), pages, run("new")), call=pages, is_light=False),
        Scenario(name="publish", start=in_order(run("old"), upload, run("new")), call=upload, is_light=False),
    ]


# --- training and models ----------------------------------------------------------------------------------------------

TINY = """
samples_seen = 192
global_batch_size = 32
warmup_samples = 32
lr = 1e-3
checkpoint_every_samples = 32
evaluate_every_samples = 64
keep_last = 1
device = "cpu"
[train.model]
preset = "tiny"
image_size = 32
vision_layers = 1
vision_width = 64
text_layers = 1
text_width = 64
embed_dim = 16
context_length = 12
[train.tokenizer]
vocab_size = 120
"""


def _training(inputs: Path) -> list[Scenario]:
    import worldclip
    from toy import draw_shape

    world = inputs / "trained"
    recipe = toy(world)
    for shape, word in enumerate(TOY_WORDS["en"][1].split()):
        for number in range(2):
            image = draw_shape(shape, np.array([220, 30, 30], np.uint8), number)
            path = world / "shapes" / word / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image)
    head = recipe.read_text().split("[train]")[0]
    evaluate = (
        f'[evaluate]\ndatasets = ["shapes"]\nlanguages = ["en"]\ndevice = "cpu"\nfolders = {{shapes = '
        f'"folders:{world}/shapes"}}\n[export]\nformats = ["huggingface", "open_clip", "timm"]\n'
    )
    recipe.write_text(f"{head}[train]{TINY}{evaluate}")
    faster = world / "faster.toml"
    faster.write_text(recipe.read_text().replace("lr = 1e-3", "lr = 2e-3"))

    def run(until: str, recipe: Path = recipe, **options: Any) -> Call:
        return lambda folder: worldclip.run(recipe, out=folder / "run", until=until, executor=QUIET, **options)

    return [
        Scenario(name="train", start=run("curate"), call=run("train"), is_light=False),
        Scenario(
            name="--from train", start=run("train", faster), call=run("train", from_stage="train"), is_light=False
        ),
        Scenario(name="evaluate", start=run("train"), call=run("evaluate"), is_light=False),
        Scenario(name="export", start=run("evaluate"), call=run("export"), is_light=False),
        Scenario(name="--from export", start=run("export"), call=run("export", from_stage="export"), is_light=False),
    ]


def _embedding(inputs: Path) -> list[Scenario]:
    from embedded_world import write_world
    from worldclip.tools.embed import embed
    from worldclip.tools.search import build_index

    world = inputs / "embedded"
    write_world(world)
    old = shutil.copytree(world / "pool", inputs / "embedded old")
    shutil.copy(old / "00002.tar", old / "00003.tar")
    shutil.copy(old / "00001.tar", old / "00000.tar")

    def embed_in(pool: Path) -> Call:
        return lambda folder: embed(
            world / "model", pool, folder / "embedded", of=("images", "texts"), device="cpu", executor=QUIET
        )

    def index(library: Any, before: Call) -> Call:
        def call(folder: Path) -> None:
            before(folder)
            build_index(folder / "embedded", library, "images")

        return call

    done = embed_in(world / "pool")
    return [
        Scenario(name="embed", start=nothing, call=done, is_light=False),
        Scenario(name="embed of a changed pool", start=embed_in(old), call=done, is_light=False),
        Scenario(name="index", start=done, call=index("faiss", nothing), is_light=False),
        Scenario(
            name="index --library exact", start=index("faiss", done), call=index("exact", nothing), is_light=False
        ),
    ]


MAKERS: dict[str, Callable[[Path], list[Scenario]]] = {
    "curation": _curation,
    "pools": _pools,
    "training": _training,
    "embedding": _embedding,
    "web": web,
    "drawings": drawings,
    "hub": hub,
}
LIGHT = ["curation", "pools"]
