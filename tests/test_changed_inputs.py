"""Files of the user that change while a stage reads them: the next call has the results of the new files."""

from __future__ import annotations

import functools
import io
import os
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import entry_lists
import worldclip
from embedded_world import write_world
from killed import contents
from small_world import make_recipe as small_recipe
from small_world import write_world as write_small_world
from stages import QUIET, finish, run_stage
from tars import wat_of
from toy import draw_shape
from worldclip import check
from worldclip.core.errors import StageFailed, UserError
from worldclip.core.execute import LocalExecutor
from worldclip.core.execute.shards import reads
from worldclip.plugins.crawl.wat import build_wat
from worldclip.pool.config import PoolConfig
from worldclip.tools.dedup import dedup
from worldclip.tools.embed import embed

Call = Callable[[Path, LocalExecutor], object]
Made = tuple[Call, Callable[[], object]]
Make = Callable[[Path], Made]
VOLATILE = ("run.json", "log.txt", "recipe.toml", ".lock", "report.html")  # say when and how, not what


@dataclass(kw_only=True)
class Meddler(LocalExecutor):
    """Changes a file once, before or after a function of the map `label` works on its first shard."""

    label: str
    when: str
    meddle: Callable[[], object]
    quiet: bool = True
    is_done: bool = False

    def map(self, fn: Any, shards: Any, *, label: str, **options: Any) -> Any:
        def meddled(shard: Any) -> Any:
            is_first = not self.is_done
            self.is_done = True
            if is_first and self.when == "before":
                self.meddle()
            report = fn(shard)
            if is_first and self.when == "after":
                self.meddle()
            return report

        meddled.reads_input = reads(fn)  # type: ignore[attr-defined]
        return super().map(meddled if label == self.label else fn, shards, label=label, **options)


def assert_next_call_is_right(call: Call, label: str, when: str, meddle: Callable[[], object], folder: Path) -> None:
    """Check that a call during which `meddle` runs, and another one, leave what a call after `meddle` leaves."""
    meddler = Meddler(label=label, when=when, meddle=meddle)
    try:
        call(folder / "out", meddler)
    except (StageFailed, UserError):
        assert meddler.is_done  # it says that something changed, and the next call goes on
    assert meddler.is_done, f"no shard is worked on by {label!r}"
    call(folder / "out", QUIET)
    call(folder / "fresh", QUIET)
    found, expected = (without_volatile(folder / name) for name in ("out", "fresh"))
    assert sorted(found) == sorted(expected)
    assert [name for name in found if found[name] != expected[name]] == []


def without_volatile(path: Path) -> dict[str, bytes]:
    if path.is_file():
        return {"": path.read_bytes()}
    return contents(path, VOLATILE)


@pytest.fixture
def world(toy_world, tmp_path) -> Path:
    """A folder with a copy of the toy world: pool/, lists/, deny.parquet, thresholds.json, toy.toml that names them."""
    folder = tmp_path / "world"
    shutil.copytree(toy_world.folder, folder)
    text = toy_world.recipe.read_text().replace(str(toy_world.folder), str(folder))
    (folder / "toy.toml").write_text(text.replace("[pool]", f'[pool]\ndeny_keys = ["{folder}/deny.parquet"]'))
    deny(folder, "00003", "00030")
    return folder


def deny(folder: Path, *keys: str) -> None:
    pq.write_table(pa.table({"key": pa.array(keys, pa.string())}), folder / "deny.parquet")


def run_until(world: Path, stage: str) -> Call:
    return lambda out, executor: worldclip.run(world / "toy.toml", out=out, until=stage, executor=executor)


def replace_shard(world: Path) -> None:
    """Give another tar the shard's name: other pairs, other offsets."""
    copy = shutil.copy(world / "pool" / "00002.tar", world / "copy.tar")
    os.replace(copy, world / "pool" / "00000.tar")


def grow_in_place(world: Path) -> None:
    """Append a pair and set the modification time back, as some copying tools do."""
    path = world / "pool" / "00000.tar"
    before = path.stat()
    with tarfile.open(path, "a") as tar:
        member = tarfile.TarInfo("99999.txt")
        member.size = 23
        tar.addfile(member, io.BytesIO(b"a photo of a red circle"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def deny_more(world: Path) -> None:
    deny(world, "00003", "00004", "00030", "00031")


def add_word(world: Path) -> None:
    with open(world / "lists" / "en.txt", "a", encoding="utf-8") as file:
        file.write("photo\n")


def until(stage: str, meddle: Callable[[Path], object]) -> Make:
    return lambda world: (run_until(world, stage), lambda: meddle(world))


def wikipedia(folder: Path) -> Made:
    """Lists of a dump and of page views."""

    def write(text: str) -> None:
        entry_lists.write_dump(folder / "dump.xml.bz2", [text])
        entry_lists.write_views(folder / "pageviews", f"sw {text.split()[0]} 90 0")

    write("paka mweusi " * 20)
    files = {"wikipedia": {"sw": f"{folder}/dump.xml.bz2"}, "dumps": str(folder)}
    loaded = entry_lists.recipe(["sw"], sources=["unigram", "bigram", "title"], **files)

    def call(out: Path, executor: LocalExecutor) -> None:
        run_stage("metadata", loaded, out, executor)

    return call, lambda: write("simba mkubwa sana " * 20)


def write_photos(world: Path, number: int) -> None:
    for n in range(number):
        (world / "photos" / f"{n}.png").write_bytes(draw_shape(n, np.array([220, 30, 30], np.uint8), 0))


def checked(meddle: Callable[[Path], object]) -> Make:
    def make(world: Path) -> Made:
        (world / "photos").mkdir()
        write_photos(world, 2)
        config = check.CheckConfig(against={"photos": str(world / "photos")})
        pool = PoolConfig(path=str(world / "pool"))
        return lambda out, executor: check.check(pool, out, config, executor=executor), lambda: meddle(world)

    return make


def over_pool(call: Callable[[Path, Path, LocalExecutor], object]) -> Make:
    """Call with a pool, a folder to write and an executor, while a shard of the pool is replaced."""
    return lambda world: (functools.partial(call, world / "pool"), lambda: replace_shard(world))


def compare(pool: Path, out: Path, executor: LocalExecutor) -> None:
    dedup(PoolConfig(path=str(pool)), out, executor=executor)


def embedded(world: Path) -> Made:
    write_world(world)  # its pool in place of the other

    def call(out: Path, executor: LocalExecutor) -> None:
        embed(world / "model", world / "pool", out, of=("images", "texts"), device="cpu", executor=executor)

    return call, lambda: replace_shard(world)


def crawled(world: Path) -> Made:
    path = world / "a.wat.gz"

    def write(text: str) -> None:
        path.write_bytes(wat_of([{"path": "IMG@/src", "url": "http://example.org/a.jpg", "alt": text}]))

    write("a cat")
    return lambda out, executor: build_wat([str(path)], out, executor=executor), lambda: write("a black dog")


CHANGES: dict[str, tuple[str, Make]] = {
    **{
        f"{stage}, {meddle.__name__}": (label, until(stage, meddle))
        for stage, label in (("pool", "index"), ("match", "match"), ("curate", "curate"))
        for meddle in (replace_shard, grow_in_place)
    },
    "match, a deny list that grows": ("count", until("match", deny_more)),
    "curate, a deny list that grows": ("curate", until("curate", deny_more)),
    "a word list": ("metadata", until("metadata", add_word)),
    "a dump": ("ngrams", wikipedia),
    "page views": ("views", wikipedia),
    "images of a pool that is checked": ("images", checked(replace_shard)),
    "evaluation images of a check": ("against", checked(lambda world: write_photos(world, 3))),
    "keys that are compared": ("keys", over_pool(compare)),
    "a WAT file": ("wat", crawled),
    "images that are embedded": ("images", embedded),
    "texts that are embedded": ("texts", embedded),
}  # fmt: skip
"""What changes: the label of the map meanwhile, and the function that prepares the call and the change."""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("change", CHANGES)
def test_the_call_after_a_change_is_right(world, tmp_path, change, when):
    label, make = CHANGES[change]
    call, meddle = make(world)
    assert_next_call_is_right(call, label, when, meddle, tmp_path)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_tar_of_training_images_that_changes_while_it_is_joined(tmp_path, when):
    """Only the join is redone: checkpoints of other images are not overwritten, and the next call says so."""
    tars = write_small_world(tmp_path / "run")
    images = Path(shutil.copytree(tars, tmp_path / "images"))
    recipe = small_recipe(tars, samples_seen=64, pool={"path": str(images), "key": "member"})

    def meddle() -> None:
        shutil.copy(images / "001.tar", images / "000.tar")

    meddler = Meddler(label="images", when=when, meddle=meddle)
    with pytest.raises(StageFailed, match="changed"):
        finish("train", recipe, tmp_path / "run", meddler)
    assert not (tmp_path / "run" / "train" / "join" / "done" / "images" / "000.tar.json").exists()
