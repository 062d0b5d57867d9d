"""The commands that kill_points.py kills: every stage and tool, on new folders and on folders of an earlier call."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import entry_lists
import worldclip
from kill_points import Scenario, nothing
from stages import QUIET, run_stage
from tars import wat_of
from toy import TOY_WORDS, build_toy_world, draw_shape
from worldclip.config import Recipe

Call = Callable[[Path], object]
CURATE = """
text_policy = "all"
write = "tars"
samples_per_tar = 20
max_pairs = 60
"""


def all_scenarios(inputs: Path, *, is_light: bool = False, group: str = "") -> list[Scenario]:
    """Return the scenarios; `inputs` gets what they read.  group: one of MAKERS."""
    groups = [group] if group else LIGHT if is_light else list(MAKERS)
    scenarios: list[Scenario] = []
    for name in groups:
        scenarios += MAKERS[name](inputs)
    return [one for one in scenarios if one.is_light or not is_light]


# --- the world that most commands read --------------------------------------------------------------------------------


def run(recipe: Path, until: str = "curate", **options: Any) -> Call:
    """Return a run of a recipe, up to a stage."""
    return lambda folder: worldclip.run(recipe, out=folder / "run", until=until, executor=QUIET, **options)


def at(link: Path, target: Path, call: Call) -> Call:
    """Return a call for which `link` leads to `target`: one pool that changes, not two pools."""

    def pointed(folder: Path) -> None:
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        call(folder)

    return pointed


def in_order(*calls: Call) -> Call:
    """Return one call after the other."""

    def call(folder: Path) -> None:
        for one in calls:
            one(folder)

    return call


def toy(folder: Path) -> Path:
    """Write the toy world with lists of keys, caps and tars; return its recipe."""
    recipe = build_toy_world(folder).recipe
    for name, keys in (("valid", [f"{n:05}" for n in range(70)]), ("denied", ["00003", "00030"])):
        pq.write_table(pa.table({"key": pa.array(keys, pa.string())}), folder / f"{name}.parquet")
    lists = f'valid_keys = "{folder}/valid.parquet"\ndeny_keys = ["{folder}/denied.parquet"]\n'
    text = recipe.read_text().replace("[pool]\n", f"[pool]\n{lists}")
    text = text.replace('\ntext_policy = "all"\n', CURATE).replace("[match]", '[match]\nisolate = "merged"')
    recipe.write_text(text)
    return recipe


def change(world: Path) -> None:
    """Remove a shard, change another, add a third; change a word list."""
    pool = world / "pool"
    shutil.copy(pool / "00000.tar", pool / "00003.tar")
    shutil.copy(pool / "00002.tar", pool / "00000.tar")
    (pool / "00002.tar").unlink()
    with open(world / "lists" / "en.txt", "a", encoding="utf-8") as file:
        file.write("photo\n")


# --- the stages before training ---------------------------------------------------------------------------------------


def _curation(inputs: Path) -> list[Scenario]:
    from worldclip.contracts import entry_counts

    entry_counts.GROUP_SIZE, entry_counts.MAX_GROUPS = 2, 4  # sums in groups, as for very many shards
    pool = inputs / "pool"
    recipes = {name: toy(inputs / name) for name in ("old", "new")}
    for name, recipe in recipes.items():
        recipe.write_text(recipe.read_text().replace(str(inputs / name / "pool"), str(pool)))
    change(inputs / "new")

    def run_in(name: str, until: str = "curate", **options: Any) -> Call:
        return at(pool, inputs / name / "pool", run(recipes[name], until, **options))

    scenarios = []
    before = nothing
    for stage in ("pool", "metadata", "match", "balance", "curate"):
        call = run_in("new", stage)
        scenarios.append(Scenario(name=stage, start=before, call=call))
        scenarios.append(Scenario(name=f"{stage} of a changed pool", start=in_order(run_in("old"), before), call=call))
        before = call
    words = _wikipedia(inputs)
    new = run_in("new")
    from_match = run_in("new", from_stage="match")

    def branch(folder: Path) -> None:
        worldclip.run(recipes["new"], out=folder / "branch", from_run=folder / "run", until="curate", executor=QUIET)

    return [
        *scenarios,
        Scenario(name="run", call=new, is_light=False),
        Scenario(name="run of a changed pool", start=run_in("old"), call=new, is_light=False),
        Scenario(name="--from match", start=new, call=from_match),
        Scenario(name="--from-run", start=new, call=branch),
        Scenario(name="metadata of dumps", call=words["new"]),
        Scenario(name="metadata of other dumps", start=words["old"], call=words["new"]),
    ]


def _wikipedia(inputs: Path) -> dict[str, Call]:
    """Return the stage metadata over two dumps and page views, as they are at first and later."""
    calls = {}
    for name, word in (("old", "simba"), ("new", "tembo")):
        folder = inputs / f"wikipedia {name}"
        for part in (1, 2) if name == "new" else (1, 2, 3):
            dump = folder / f"swwiki-20240101-pages-articles{part}.xml.bz2"
            entry_lists.write_dump(dump, [f"paka mweusi na {word} mkubwa. " * 10 * part])
        entry_lists.write_views(folder / "pageviews", f"sw {word.title()} 90 0")
        sources = {"wikipedia": {"sw": f"{folder}/*.bz2"}, "dumps": str(folder)}
        recipe = entry_lists.recipe(["sw"], sources=["unigram", "bigram", "title"], **sources)
        calls[name] = functools.partial(_build_metadata, recipe)
    return calls


def _build_metadata(recipe: Recipe, folder: Path) -> None:
    run_stage("metadata", recipe, folder / "run", QUIET)


# --- tools over pools -------------------------------------------------------------------------------------------------


def _pools(inputs: Path) -> list[Scenario]:
    from worldclip.check import CheckConfig, check
    from worldclip.pool.config import PoolConfig
    from worldclip.tools.dedup import dedup

    pools = {}
    for name in ("old", "new"):
        folder = inputs / f"tools {name}"
        toy(folder)
        pools[name] = folder / "pool"
    change(inputs / "tools new")
    place = inputs / "tools pool"
    pool = PoolConfig(path=str(place))
    evaluated = inputs / "tools evaluated"
    evaluated.mkdir()
    (evaluated / "0.png").write_bytes(draw_shape(0, np.array([220, 30, 30], np.uint8), 0))
    rules = CheckConfig(against={"evaluated": str(evaluated)})

    def check_in(name: str) -> Call:
        return at(place, pools[name], lambda folder: check(pool, folder / "check", rules, executor=QUIET))

    def dedup_in(name: str) -> Call:
        return at(place, pools[name], lambda folder: dedup(pool, folder / "dedup", executor=QUIET))

    return [
        Scenario(name="pool check", call=check_in("new")),
        Scenario(name="pool check of a changed pool", start=check_in("old"), call=check_in("new")),
        Scenario(name="pool dedup", call=dedup_in("new")),
        Scenario(name="pool dedup of a changed pool", start=dedup_in("old"), call=dedup_in("new")),
        *_wat(inputs),
        *_image_files(inputs),
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
        Scenario(name="pool wat", call=build(files[:2])),
        Scenario(name="pool wat with a file more", start=build(files[:2]), call=build(files)),
    ]


def _image_files(inputs: Path) -> list[Scenario]:
    from worldclip.plugins.pack_files import pack_files

    folders = {"old": inputs / "files old", "new": inputs / "files new"}
    for number, folder in enumerate(folders.values(), 3):
        folder.mkdir()
        for name in range(number):
            (folder / f"{name}.png").write_bytes(draw_shape(0, np.array([number, 9, 9], np.uint8), name))
            (folder / f"{name}.txt").write_text(f"red {name}", "utf-8")

    def pack(name: str) -> Call:
        files = inputs / "files"
        return at(
            files, folders[name], lambda folder: pack_files(files, folder / "tars", samples_per_tar=2, executor=QUIET)
        )

    return [
        Scenario(name="pool pack", call=pack("new")),
        Scenario(name="pool pack of other files", start=pack("old"), call=pack("new")),
    ]


def _explorer_and_upload(inputs: Path) -> list[Scenario]:
    """Return what is written of a curated run: the explorer, and the folder that is uploaded."""
    from worldclip.plugins.explorer.explore import explore
    from worldclip.plugins.publish.publish import publish

    place = inputs / "shown pool"
    runs = {}
    for name in ("old", "new"):
        world = inputs / f"shown {name}"
        recipe = toy(world)
        recipe.write_text(recipe.read_text().replace(str(world / "pool"), str(place)))
        runs[name] = at(place, world / "pool", run(recipe))
    change(inputs / "shown new")

    def pages(folder: Path) -> None:
        explore(folder / "run", folder / "pages")

    def upload(folder: Path) -> None:
        publish.function(folder / "run", "owner/name", dry_run=True)

    return [
        Scenario(name="explore", start=in_order(runs["old"], pages, runs["new"]), call=pages, is_light=False),
        Scenario(name="publish", start=in_order(runs["old"], upload, runs["new"]), call=upload, is_light=False),
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
    world = inputs / "trained"
    recipe = toy(world)
    for shape, word in enumerate(TOY_WORDS["en"][1].split()):
        for number in range(2):
            image = draw_shape(shape, np.array([220, 30, 30], np.uint8), number)
            path = world / "shapes" / word / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image)
    head = recipe.read_text().split("[train]")[0]
    sections = (
        f'[evaluate]\ndatasets = ["shapes"]\nlanguages = ["en"]\ndevice = "cpu"\nfolders = {{shapes = '
        f'"folders:{world}/shapes"}}\n[export]\nformats = ["huggingface", "open_clip"]\n'
    )
    recipe.write_text(f"{head}[train]{TINY}{sections}")
    faster = world / "faster.toml"
    faster.write_text(recipe.read_text().replace("lr = 1e-3", "lr = 2e-3"))

    curate, train, evaluate, export = (run(recipe, stage) for stage in ("curate", "train", "evaluate", "export"))
    train_again = run(recipe, "train", from_stage="train")
    export_again = run(recipe, "export", from_stage="export")
    return [
        Scenario(name="train", start=curate, call=train),
        Scenario(name="--from train", start=run(faster, "train"), call=train_again),
        Scenario(name="evaluate", start=train, call=evaluate),
        Scenario(name="export", start=evaluate, call=export),
        Scenario(name="--from export", start=export, call=export_again),
    ]


def _embedding(inputs: Path) -> list[Scenario]:
    from embedded_world import write_world
    from worldclip.tools.embed import embed

    world = inputs / "embedded"
    write_world(world)
    old = shutil.copytree(world / "pool", inputs / "embedded old")
    shutil.copy(old / "00002.tar", old / "00003.tar")
    shutil.copy(old / "00001.tar", old / "00000.tar")

    def embed_in(target: Path) -> Call:
        pool = inputs / "embedded pool"

        def call(folder: Path) -> None:
            out = folder / "embedded"
            embed(world / "model", pool, out, of=("images", "texts"), device="cpu", executor=QUIET)

        return at(pool, target, call)

    done = embed_in(world / "pool")
    return [
        Scenario(name="embed", call=done),
        Scenario(name="embed of a changed pool", start=embed_in(old), call=done),
    ]


# --- pools from elsewhere ---------------------------------------------------------------------------------------------


def _drawings(inputs: Path) -> list[Scenario]:
    """Return the pools that are drawn, of a few emoji and flags."""
    from world_parts import write_json
    from worldclip.plugins.drawings import openmoji_files
    from worldclip.plugins.emoji import build as emoji
    from worldclip.plugins.world import build as world
    from worldclip.plugins.world import packages
    from worldclip.plugins.world.parts import char_of, flag_of

    tones = ("", "-1F3FB", "-1F3FC", "-1F3FD", "-1F3FE", "-1F3FF")
    hands = [f"{hand}{tone}" for hand in ("1F44B", "1F44D", "1F44F", "1F64F") for tone in tones]
    flags = [flag_of(code) for code in ("FR", "DE", "JP", "KE", "BR", "IN", "TR", "GE")]
    files = openmoji_files()
    few = {key: files[key] for key in [*hands, *flags, "1F34E", "1F436", "1F30D"] if key in files}
    emoji.openmoji_files = packages.openmoji_files = lambda: few
    write_json(inputs / "cldr", "fr", {char_of("1F34E"): ("pomme rouge", ["pomme"])})

    def draw(folder: Path) -> None:
        emoji.build_emoji(folder / "pool", 16, 10, executor=QUIET)

    def draw_world(parts: dict[str, Path]) -> Call:
        return lambda folder: world.build_world(
            folder / "pool", parts, image_px=16, samples_per_shard=10, executor=QUIET
        )

    names = draw_world({"cldr": inputs / "cldr"})
    return [
        Scenario(name="pool emoji", call=draw),
        Scenario(name="pool world", call=names),
        Scenario(name="pool world with other parts", start=draw_world({}), call=names),
    ]


MAKERS: dict[str, Callable[[Path], list[Scenario]]] = {
    "curation": _curation,
    "pools": _pools,
    "training": _training,
    "embedding": _embedding,
    "drawings": _drawings,
}
LIGHT = ["curation", "pools"]
