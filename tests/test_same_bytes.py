"""The next call leaves what an unbroken call leaves, however the call before it went.

    python tests/test_same_bytes.py --only train --seconds 300

kills commands at random points, or fills the disk there: calls that rename, link or remove a file of the command's
folder.  A child kills itself before or after such a call, or finds the disk full; another one runs the command to its
end.  Children are forked from a process that has imported and compiled everything already.
"""

import argparse
import contextlib
import errno
import functools
import hashlib
import io
import itertools
import json
import os
import random
import secrets
import shutil
import signal
import sys
import tarfile
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
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
from killed import modified
from programs import python
from small_world import make_recipe as small_recipe
from small_world import write_world as write_small_world
from stages import QUIET, finish, run_stage
from tars import wat_of
from toy import TOY_WORDS, build_toy_world, draw_shape
from worldclip.check import CheckConfig, check
from worldclip.cli import main
from worldclip.contracts import entry_counts
from worldclip.core.errors import StageFailed, UserError
from worldclip.core.execute import LocalExecutor
from worldclip.plugins.crawl.wat import build_wat
from worldclip.plugins.pack_files import pack_files
from worldclip.pool.config import PoolConfig
from worldclip.tools.dedup import dedup
from worldclip.tools.embed import embed

RED = np.array([220, 30, 30], np.uint8)
CURATION = ("pool", "metadata", "match", "balance", "curate")


# --- what commands read -----------------------------------------------------------------------------------------------


class Inputs:
    """Folders and files in three states, and `now`, where commands read one state of each."""

    def __init__(self, root: Path, *, has_model: bool = True) -> None:
        """has_model: write also what `embed` reads."""
        self.root, self.now = root, root / "now"
        self.now.mkdir(parents=True)
        for state in ("old", "new"):
            _write_world(root / state)
            _write_others(root / state, 2 if state == "old" else 3)
        _change(root / "new")
        _grow(root / "old" / "pool", root / "grown" / "pool")
        self.recipe = self.now / "toy.toml"
        if not has_model:
            return
        write_world(root / "model and pool")
        pool = root / "model and pool" / "pool"
        shutil.copytree(pool, root / "old" / "images")
        shutil.copytree(pool, root / "new" / "images")
        shutil.copy(pool / "00002.tar", root / "new" / "images" / "00000.tar")
        shutil.copy(pool / "00001.tar", root / "new" / "images" / "00003.tar")
        self.model = root / "model and pool" / "model"

    def switch(self, state: str, *names: str) -> None:
        """Put some files and folders of a state, or all, in the place of others; what is equal keeps its time."""
        for name in names or [path.name for path in (self.root / state).iterdir()]:
            source, place = self.root / state / name, self.now / name
            if source.is_dir():
                shutil.rmtree(place, ignore_errors=True)
                shutil.copytree(source, place)
            else:
                shutil.copy2(source, place)


def _write_world(folder: Path) -> None:
    """Write the toy world with lists of keys, caps and tars; its recipe names the files in `now`."""
    recipe = build_toy_world(folder).recipe
    for name, keys in (("valid", [f"{n:05}" for n in range(70)]), ("denied", ["00003", "00030"])):
        pq.write_table(pa.table({"key": pa.array(keys, pa.string())}), folder / f"{name}.parquet")
    lists = f'valid_keys = "{folder}/valid.parquet"\ndeny_keys = ["{folder}/denied.parquet"]\n'
    text = recipe.read_text().replace("[pool]\n", f"[pool]\n{lists}")
    caps = '\ntext_policy = "all"\nwrite = "tars"\nsamples_per_tar = 20\nmax_pairs = 60\n'
    text = text.replace('\ntext_policy = "all"\n', caps).replace("[match]", '[match]\nisolate = "merged"')
    recipe.write_text(text.replace(str(folder), str(folder.parent / "now")))


def _write_others(folder: Path, number: int) -> None:
    """Write what other commands read, more of it and other words where `number` is larger."""
    for n in range(number):
        links = [{"path": "IMG@/src", "url": f"http://a.org/{i}.jpg", "alt": f"{number} {i}"} for i in range(9)]
        for name in ("wat", "files", "photos"):
            (folder / name).mkdir(exist_ok=True)
        (folder / "wat" / f"{n}.wat.gz").write_bytes(wat_of(links))
        for name in ("files", "photos"):
            (folder / name / f"{n}.png").write_bytes(draw_shape(0, np.array([number, 9, 9], np.uint8), n))
            (folder / name / f"{n}.txt").write_text(f"red {n}", "utf-8")
        text = f"paka mweusi na {['', '', 'simba', 'tembo'][number]} mkubwa. " * 10 * (n + 1)
        entry_lists.write_dump(folder / "dumps" / f"swwiki-20240101-pages-articles{n}.xml.bz2", [text])
    entry_lists.write_views(folder / "pageviews", f"sw {['', '', 'Simba', 'Tembo'][number]} 90 0")


def _change(world: Path) -> None:
    """Remove a shard, change another, add a third; change a word list and a list of keys."""
    pool = world / "pool"
    shutil.copy(pool / "00000.tar", pool / "00003.tar")
    shutil.copy(pool / "00002.tar", pool / "00000.tar")
    (pool / "00002.tar").unlink()
    with open(world / "lists" / "en.txt", "a", encoding="utf-8") as file:
        file.write("photo\n")
    keys = ["00003", "00004", "00030", "00031"]
    pq.write_table(pa.table({"key": pa.array(keys, pa.string())}), world / "denied.parquet")


def _grow(pool: Path, copy: Path) -> None:
    """Copy a pool with a pair more in its first tar, whose time of modification stays, as some copying tools do."""
    shutil.copytree(pool, copy)
    with tarfile.open(copy / "00000.tar", "a") as tar:
        member = tarfile.TarInfo("99999.txt")
        member.size = 23
        tar.addfile(member, io.BytesIO(b"a photo of a red circle"))
    shutil.copystat(pool / "00000.tar", copy / "00000.tar")


# --- the commands -----------------------------------------------------------------------------------------------------

Call = Callable[[Inputs, Path, LocalExecutor], object]


def until(stage: str, **options: Any) -> Call:
    """Return a run up to a stage."""

    def call(inputs: Inputs, folder: Path, executor: LocalExecutor) -> None:
        worldclip.run(inputs.recipe, out=folder / "run", until=stage, executor=executor, **options)

    return call


def metadata_of_dumps(inputs: Inputs, folder: Path, executor: LocalExecutor) -> None:
    files = {"wikipedia": {"sw": f"{inputs.now}/dumps/*.bz2"}, "dumps": str(inputs.now)}
    recipe = entry_lists.recipe(["sw"], sources=["unigram", "bigram", "title"], **files)
    run_stage("metadata", recipe, folder / "run", executor)


def pool_check(inputs: Inputs, folder: Path, executor: LocalExecutor) -> None:
    rules = CheckConfig(against={"photos": str(inputs.now / "photos")})
    check(PoolConfig(path=str(inputs.now / "pool")), folder / "check", rules, executor=executor)


def pool_dedup(inputs: Inputs, folder: Path, executor: LocalExecutor) -> None:
    dedup(PoolConfig(path=str(inputs.now / "pool")), folder / "dedup", executor=executor)


def pool_wat(inputs: Inputs, folder: Path, executor: LocalExecutor) -> None:
    paths = sorted(map(str, (inputs.now / "wat").iterdir()))
    build_wat(paths, folder / "pool", num_shards=2, executor=executor)


def pool_pack(inputs: Inputs, folder: Path, executor: LocalExecutor) -> None:
    pack_files(inputs.now / "files", folder / "tars", samples_per_tar=2, executor=executor)


def embed_pool(inputs: Inputs, folder: Path, executor: LocalExecutor) -> None:
    of = ("images", "texts")
    embed(inputs.model, inputs.now / "images", folder / "embedded", of=of, device="cpu", executor=executor)


# command: its function; what is replaced while the map of a label works: its name, by that of a state
COMMANDS: dict[str, tuple[Call, list[tuple[str, str, str]]]] = {
    "pool": (until("pool"), [("pool", "pool", "new"), ("pool", "pool", "grown")]),
    "metadata": (until("metadata"), [("metadata", "lists", "new")]),
    "match": (
        until("match"),
        [("match", "pool", "new"), ("match", "pool", "grown"), ("count", "denied.parquet", "new")],
    ),
    "balance": (until("balance"), []),
    "curate": (
        until("curate"),
        [("curate", "pool", "new"), ("curate", "pool", "grown"), ("curate", "denied.parquet", "new")],
    ),
    "metadata of dumps": (metadata_of_dumps, [("ngrams", "dumps", "new"), ("views", "pageviews", "new")]),
    "pool check": (pool_check, [("pool", "pool", "new"), ("images", "pool", "new"), ("against", "photos", "new")]),
    "pool dedup": (pool_dedup, [("pool", "pool", "new")]),
    "pool wat": (pool_wat, [("wat", "wat", "new")]),
    "pool pack": (pool_pack, [("pack", "files", "new")]),
    "embed": (embed_pool, [("pool", "images", "new"), ("images", "images", "new"), ("texts", "images", "new")]),
}

# Names of files and keys of JSON that say when and how fast, not what.
VOLATILE_FILES = {".lock", "report.html", "run.json", "listed_at.json", "log.txt", "log.jsonl"}
VOLATILE_KEYS = {"elapsed_s", "samples_per_s", "curve", "trainer/state.json"}


def digests(folder: Path) -> dict[str, str]:
    """Return the digest of every file that is not hidden, without what differs from call to call."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        parts = name.split("/")
        is_hidden = any(part.startswith(".") for part in parts)
        # sums/done: markers with the modification times of the files that were added up
        is_volatile = parts[-1] in VOLATILE_FILES or "tensorboard" in parts or "sums/done" in name
        if is_hidden or path.is_dir() or is_volatile:
            continue
        data = path.read_bytes()
        if path.suffix == ".json":
            data = json.dumps(_stable(json.loads(data)), sort_keys=True).encode()
        found[name] = hashlib.sha256(data).hexdigest()
    return found


def _stable(record: Any) -> Any:
    if isinstance(record, dict):
        return {key: _stable(value) for key, value in record.items() if key not in VOLATILE_KEYS}
    return [_stable(item) for item in record] if isinstance(record, list) else record


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Inputs:
    return Inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def unbroken(inputs, tmp_path_factory) -> Callable[[str], dict[str, str]]:
    """Return a function: what a command leaves that one worker runs in order, in the state `new`."""

    @functools.cache
    def digests_of(command: str) -> dict[str, str]:
        folder = tmp_path_factory.mktemp("unbroken")
        inputs.switch("new")
        COMMANDS[command][0](inputs, folder, QUIET)
        return digests(folder)

    return digests_of


# --- other executors and slices ---------------------------------------------------------------------------------------


class Backwards(LocalExecutor):
    """Works on the shards in the other order."""

    def _run(self, work, todo):
        yield from super()._run(work, todo[::-1])


@pytest.mark.parametrize("command", COMMANDS)
def test_any_order_of_shards_leaves_the_same_bytes(command, inputs, unbroken, tmp_path):
    expected = unbroken(command)
    inputs.switch("new")
    COMMANDS[command][0](inputs, tmp_path, Backwards(quiet=True))
    assert digests(tmp_path) == expected


def test_two_workers_leave_the_same_bytes(inputs, unbroken, tmp_path):
    """They start anew in each map, which takes seconds, so one worker does what precedes curate."""
    expected = unbroken("curate")
    inputs.switch("new")
    until("balance")(inputs, tmp_path, QUIET)
    until("curate")(inputs, tmp_path, LocalExecutor(workers=2, quiet=True))
    assert digests(tmp_path) == expected


def test_slices_of_a_check_leave_the_bytes_of_one_call_and_are_not_done_again(inputs, unbroken, tmp_path):
    expected = unbroken("pool check")
    inputs.switch("new")
    words = ["pool", "check", str(inputs.now / "pool"), "--out", str(tmp_path / "check")]
    words += ["--set", f"against.photos={inputs.now}/photos"]
    for part in ("2/2", "1/3"):  # one of three shards is looked at by both, and one part of three is lost
        assert main([*words, "--shards", part]) == 0
    assert not (tmp_path / "check/manifest.json").exists()
    before = modified(tmp_path / "check/images", "*.parquet")
    assert main(words) == 0
    assert before.items() <= modified(tmp_path).items()
    assert digests(tmp_path) == expected


# --- inputs that are replaced meanwhile -------------------------------------------------------------------------------


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

        return super().map(meddled if label == self.label else fn, shards, label=label, **options)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("command", "label", "name", "state"),
    [(command, *change) for command, (_, changes) in COMMANDS.items() for change in changes],
)
def test_the_call_after_one_whose_inputs_changed_is_right(command, label, name, state, when, inputs, tmp_path):
    call = COMMANDS[command][0]
    inputs.switch("old")
    meddler = Meddler(label=label, when=when, meddle=lambda: inputs.switch(state, name))
    with contextlib.suppress(StageFailed, UserError):  # it says that something changed, and the next call goes on
        call(inputs, tmp_path / "out", meddler)
    assert meddler.is_done
    for folder in ("out", "fresh"):
        call(inputs, tmp_path / folder, QUIET)
    assert digests(tmp_path / "out") == digests(tmp_path / "fresh")


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_tar_of_training_images_that_changes_while_it_is_joined(tmp_path, when):
    """Checkpoints of other images are not overwritten, and the next call says so."""
    tars = write_small_world(tmp_path / "run")
    photos = Path(shutil.copytree(tars, tmp_path / "images"))
    recipe = small_recipe(tars, samples_seen=64, pool={"path": str(photos), "key": "member"})
    meddler = Meddler(label="images", when=when, meddle=lambda: shutil.copy(photos / "001.tar", photos / "000.tar"))
    finish("train", recipe, tmp_path / "run", meddler)
    with pytest.raises(UserError, match=r"images\.000\.tar.* was .*\n.*has checkpoints from before this change"):
        run_stage("train", recipe, tmp_path / "run")


# --- kills and full disks: the commands of each group -----------------------------------------------------------------

Step = Callable[[Path], object]
Scenarios = Iterator[tuple[str, Step, Step]]
"""A name, what fills the folder, and the command that is killed."""


def nothing(folder: Path) -> None:
    """Start in an empty folder."""


def in_order(*steps: Step) -> Step:
    def call(folder: Path) -> None:
        for step in steps:
            step(folder)

    return call


def light(inputs: Inputs) -> Scenarios:
    """Yield each command that takes a few ms: on a new folder, and on that of a call with other inputs."""

    def step(command: str, state: str) -> Step:
        def call(folder: Path) -> None:
            inputs.switch(state)
            COMMANDS[command][0](inputs, folder, QUIET)

        return call

    before = nothing
    for command in COMMANDS:
        if command == "embed":
            continue
        call = step(command, "new")
        first = before if command in CURATION else nothing
        yield command, first, call
        yield f"{command} of changed inputs", in_order(step(command, "old"), first), call
        before = call


def embedding(inputs: Inputs) -> Scenarios:
    def step(state: str) -> Step:
        def call(folder: Path) -> None:
            inputs.switch(state)
            embed_pool(inputs, folder, QUIET)

        return call

    yield "embed", nothing, step("new")
    yield "embed of changed inputs", step("old"), step("new")


def runs(inputs: Inputs) -> Scenarios:
    """Yield whole runs and what is written of a curated one: the explorer, and the folder that is uploaded."""
    from worldclip.plugins.explorer.explore import explore
    from worldclip.plugins.publish.publish import publish

    def step(state: str, **options: Any) -> Step:
        def call(folder: Path) -> None:
            inputs.switch(state)
            until("curate", **options)(inputs, folder, QUIET)

        return call

    def branch(folder: Path) -> None:
        run = folder / "run"
        worldclip.run(inputs.recipe, out=folder / "branch", from_run=run, until="curate", executor=QUIET)

    def pages(folder: Path) -> None:
        explore(folder / "run", folder / "pages")

    def upload(folder: Path) -> None:
        publish.function(folder / "run", "owner/name", dry_run=True)

    yield "run of changed inputs", step("old"), step("new")
    yield "--from match", step("new"), step("new", from_stage="match")
    yield "--from-run", step("new"), branch
    for name, write in (("explore", pages), ("publish", upload)):
        yield name, in_order(step("old"), write, step("new")), write


TRAIN = """
[train]
samples_seen = 192
global_batch_size = 32
warmup_samples = 32
lr = 1e-3
checkpoint_every_samples = 32
evaluate_every_samples = 64
keep_last = 1
device = "cpu"
model = {{preset = "tiny", image_size = 32, vision_layers = 1, vision_width = 64, text_layers = 1, text_width = 64, \
embed_dim = 16, context_length = 12}}
tokenizer = {{vocab_size = 120}}
[evaluate]
datasets = ["shapes"]
languages = ["en"]
device = "cpu"
folders = {{shapes = "folders:{shapes}"}}
[export]
formats = ["huggingface", "open_clip"]
"""


def training(inputs: Inputs) -> Scenarios:
    inputs.switch("new")
    shapes = inputs.root / "shapes"
    for shape, word in enumerate(TOY_WORDS["en"][1].split()):
        (shapes / word).mkdir(parents=True)
        for number in range(2):
            (shapes / word / f"{number}.png").write_bytes(draw_shape(shape, RED, number))
    recipe = inputs.root / "trained.toml"
    recipe.write_text(inputs.recipe.read_text().split("[train]")[0] + TRAIN.format(shapes=shapes))

    def step(stage: str, recipe: Path = recipe, **options: Any) -> Step:
        return lambda folder: worldclip.run(recipe, out=folder / "run", until=stage, executor=QUIET, **options)

    yield "train", step("curate"), step("train")
    yield "evaluate", step("train"), step("evaluate")
    yield "export", step("evaluate"), step("export")
    yield "--from export", step("export"), step("export", from_stage="export")


def drawings(inputs: Inputs) -> Scenarios:
    """Yield the pools that are drawn, of a few emoji and flags."""
    from world_parts import write_json
    from worldclip.plugins.drawings import openmoji_files
    from worldclip.plugins.emoji import build as emoji
    from worldclip.plugins.world import build as world
    from worldclip.plugins.world import packages
    from worldclip.plugins.world.parts import char_of, flag_of

    tones = ("", "-1F3FB", "-1F3FC", "-1F3FD", "-1F3FE", "-1F3FF")
    hands = [f"{hand}{tone}" for hand in ("1F44B", "1F44D", "1F44F", "1F64F") for tone in tones]
    flags = [flag_of(code) for code in ("FR", "DE", "JP", "KE", "BR", "IN", "TR", "GE")]
    known = openmoji_files()
    few = {key: known[key] for key in [*hands, *flags, "1F34E", "1F436", "1F30D"] if key in known}
    emoji.openmoji_files = packages.openmoji_files = lambda: few
    write_json(inputs.root / "cldr", "fr", {char_of("1F34E"): ("pomme rouge", ["pomme"])})

    def draw(folder: Path) -> None:
        emoji.build_emoji(folder / "pool", 16, 10, executor=QUIET)

    def draw_world(parts: dict[str, Path]) -> Step:
        size = {"image_px": 16, "samples_per_shard": 10}
        return lambda folder: world.build_world(folder / "pool", parts, **size, executor=QUIET)

    names = draw_world({"cldr": inputs.root / "cldr"})
    yield "pool emoji", nothing, draw
    yield "pool world", nothing, names
    yield "pool world with other parts", draw_world({}), names


GROUPS = {"light": light, "embedding": embedding, "runs": runs, "training": training, "drawings": drawings}

# --- kills and full disks: the harness --------------------------------------------------------------------------------

WRITES = ("rename", "replace", "link", "symlink")  # calls that a full disk can fail
CALLS = (*WRITES, "unlink", "remove", "rmdir")
FULL = "No space left on device"
CHILD_S = 120  # a child that takes longer hangs
Point = tuple[int, str]
"""Number of the call, from 1 on, and before, after or full."""


class Calls:
    """Counts the calls of CALLS on files in `folder`, and kills this process at one of them."""

    def __init__(self, folder: Path, point: Point | None) -> None:
        self.folder, self.point = os.fspath(folder), point
        self.count = 0
        self._lock = threading.Lock()
        for name in CALLS:
            setattr(os, name, self._counting(name, getattr(os, name)))

    def _counting(self, name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, **options: Any) -> Any:
            is_inside = options.get("dir_fd") is not None or os.path.abspath(path).startswith(self.folder)
            if not is_inside:
                return plain(path, *arguments, **options)
            with self._lock:
                self.count += 1
                number = self.count
            if self.point == (number, "before"):
                self._die(name, path)
            if self.point == (number, "full") and name in WRITES:
                raise OSError(errno.ENOSPC, FULL, os.fspath(path))
            result = plain(path, *arguments, **options)
            if self.point == (number, "after"):
                self._die(name, path)
            return result

        return call

    def _die(self, name: str, path: Any) -> None:
        os.write(2, f"killed at {name} {path}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)


def run_in_child(call: Step, folder: Path, log: Path, point: Point | None = None) -> int | None:
    """Return the number of calls of a child that runs `call`, None if it was killed or its disk was full.

    Raises RuntimeError with the child's output if it failed or hangs.
    """
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(out, 2)
            signal.alarm(CHILD_S)
            calls = Calls(folder, point)
            call(folder)
            os.write(write_end, str(calls.count).encode())
            code = 0
        except BaseException:  # noqa: BLE001  reported by the parent
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)
    os.close(write_end)
    status = os.waitpid(pid, 0)[1]
    with os.fdopen(read_end) as answer:
        count = answer.read()
    said = log.read_text(errors="replace")
    is_killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    if point is not None and (is_killed or (status != 0 and FULL in said)):
        return None
    if status != 0:
        raise RuntimeError(f"status {status}:\n{said[-3000:]}")
    return int(count)


def is_marker(path: Path) -> bool:
    """Return whether a file says that a shard is done; sums of counts are added again after one of their shards."""
    return path.suffix == ".json" and "done" in path.parts and "sums" not in path.parts


def _forget_files() -> None:
    """Clear what functions of worldclip remember of files: a child must read its own."""
    for module in [module for name, module in sys.modules.items() if name.startswith("worldclip")]:
        for item in vars(module).values():
            if isinstance(item, functools._lru_cache_wrapper):
                item.cache_clear()


class Scenario:
    """A command with the folder that it starts in, and what it leaves without a kill."""

    def __init__(self, root: Path, name: str, start: Step, call: Step) -> None:
        """Run it twice: in this process, which then has compiled all, and in a child."""
        self.root, self.name, self.call, self.log = root / name, name, call, root / "log"
        self.is_resumed = name in COMMANDS
        """Whether markers of the first call count in the second one: its inputs are the same."""
        (self.root / "start").mkdir(parents=True)
        with open(self.log, "w") as log, contextlib.redirect_stderr(log):
            start(self.root / "start")
            call(self._folder())
        _forget_files()
        folder = self._folder()
        count = run_in_child(call, folder, self.log)
        assert count is not None
        self.expected = digests(folder)
        self.points = list(itertools.product(range(1, count + 1), ("before", "after", "full")))

    def _folder(self) -> Path:
        """Return the folder as it is before the command; always the same path, which files may record."""
        folder = self.root / "run"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.root / "start", folder, symlinks=True)
        return folder

    def try_point(self, point: Point) -> str | None:
        """Kill at a point and call again; return how the files differ from those of a run without a kill, or None."""
        folder = self._folder()
        try:
            if run_in_child(self.call, folder, self.log, point) is not None:
                return None  # threads made fewer calls this time
            killed_at = self.log.read_text(errors="replace").strip().splitlines()[-1]
            done = {path: at for path, at in modified(folder).items() if self.is_resumed and is_marker(path)}
            run_in_child(self.call, folder, self.log)
        except RuntimeError as error:
            return f"{self.name} {point}: {error}"
        after = modified(folder)
        again = [path.name for path, at in done.items() if after.get(path, at) != at]
        if len(again) > 1:
            return f"{self.name} {point}, {killed_at}: more is done again than the shard that was worked on: {again}"
        found, expected = digests(folder), self.expected
        changed = sorted(file for file in found.keys() | expected.keys() if found.get(file) != expected.get(file))
        return f"{self.name} {point}, {killed_at}: {changed[:8]}" if changed else None


def kill_all(group: str, seed: int, seconds: float) -> Iterator[str]:
    """Try points at random, one of each scenario first, until `seconds` have passed; yield the differences."""
    entry_counts.GROUP_SIZE, entry_counts.MAX_GROUPS = 2, 4  # sums in groups, as for very many shards
    with tempfile.TemporaryDirectory(prefix="kills_") as name:
        root = Path(name)
        inputs = Inputs(root / "inputs", has_model=group == "embedding")
        scenarios = [Scenario(root / "scenarios", *parts) for parts in GROUPS[group](inputs)]
        draw = random.Random(seed)
        firsts = [(scenario, draw.choice(scenario.points)) for scenario in scenarios]
        others = [(scenario, point) for scenario in scenarios for point in scenario.points]
        draw.shuffle(others)
        end = time.monotonic() + seconds
        for number, (scenario, point) in enumerate([*firsts, *others]):
            if number >= len(firsts) and time.monotonic() > end:
                break
            if (difference := scenario.try_point(point)) is not None:
                yield difference
        print(f"{group}: {number} kills")


# One thread each: a child that is forked from a process with running threads may wait for them for ever.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


@pytest.mark.parametrize(
    ("group", "seconds"),
    [("light", 5), *(pytest.param(group, 300, marks=pytest.mark.slow) for group in GROUPS)],
)
def test_kills_and_full_disks_leave_what_an_unbroken_call_leaves(group, seconds):
    """As many points at random as the time allows, of each scenario at least one; the seed is printed."""
    seed = secrets.randbelow(2**32)
    print(f"seed {seed}")
    path = ":".join([str(Path(__file__).parent / "helpers"), *filter(None, sys.path)])
    options = ["--only", group, "--seed", seed, "--seconds", seconds]
    print(python(__file__, *options, PYTHONPATH=path, **ONE_THREAD))


def run_child() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=GROUPS, default="light", help="a group of commands")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1e9)
    options = parser.parse_args()
    os.fsync = lambda handle: None
    differences = list(kill_all(options.only, options.seed, options.seconds))
    print("\n".join(differences), file=sys.stderr)
    sys.exit(bool(differences))


if __name__ == "__main__":
    run_child()
