"""Kill a command at each of its renames and removals, or fill the disk there; compare what the next call leaves.

    python tests/helpers/kill_points.py --points 200 --seed 7 --seconds 40

Every call that renames, links or removes a file of the scenario's folder is a point.  A child process runs the command
and kills itself before or after that call, or finds the disk full there; another child runs the command to its end, and
the files are compared with those of an unbroken run.  Children are forked from this process, which has imported and
compiled everything already.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import functools
import gc
import hashlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WRITES = ("rename", "replace", "link", "symlink")  # calls that a full disk can fail
CALLS = (*WRITES, "unlink", "remove", "rmdir")
WHEN = ("before", "after", "full")
FULL = "No space left on device"
CHILD_S = 120  # a child that takes longer hangs
# Names of files and keys of JSON that say when and how fast, not what.
VOLATILE_FILES = {".lock", "report.html", "run.json", "log.txt", "log.jsonl"}
# sums/done: markers with the modification times of the files that were added up.
VOLATILE_KEYS = {"elapsed_s", "samples_per_s", "curve", "trainer/state.json"}

Point = tuple[int, str]
"""Number of the call, from 1 on, and one of WHEN."""


def nothing(folder: Path) -> None:
    """Start in an empty folder."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A command, and the folder that it works in."""

    name: str
    start: Callable[[Path], object] = nothing
    """Fills the empty folder with what is there before the command."""
    call: Callable[[Path], object]
    """Runs the command in the folder."""
    is_light: bool = True
    """Whether it takes part in the fast test, if its group does: a call of a few ms."""


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


def run_in_child(call: Callable[[Path], object], folder: Path, log: Path, point: Point | None = None) -> int | None:
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
            calls = Calls(folder, point)
            call(folder)
            os.write(write_end, str(calls.count).encode())
            code = 0
        except BaseException:  # noqa: BLE001  reported by the parent
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)
    os.close(write_end)
    status = _wait(pid)
    with os.fdopen(read_end) as answer:
        count = answer.read()
    if point is not None and (os.WIFSIGNALED(status) or (status != 0 and FULL in log.read_text(errors="replace"))):
        return None
    if status != 0:
        raise RuntimeError(f"status {status}:\n{log.read_text(errors='replace')[-3000:]}")
    return int(count)


def _wait(pid: int) -> int:
    end = time.monotonic() + CHILD_S
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        time.sleep(0.001)
    os.kill(pid, signal.SIGABRT)
    return os.waitpid(pid, 0)[1]


def digests(folder: Path) -> dict[str, str]:
    """Return the digest of every file that is not hidden, without what differs from call to call."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        parts = name.split("/")
        is_hidden = any(part.startswith(".") for part in parts)
        is_volatile = parts[-1] in VOLATILE_FILES or "tensorboard" in parts or "sums/done" in name
        is_volatile |= re.search(r"\btrain\.\d+/", f"{name}/") is not None  # a second --from train after a kill
        if is_hidden or path.is_dir() or is_volatile:
            continue
        data = path.read_bytes()
        if path.suffix == ".json":
            data = json.dumps(_stable(json.loads(data)), sort_keys=True).encode()
        found[name] = hashlib.sha256(data).hexdigest()
    return found


def _forget_files() -> None:
    """Clear what functions of worldclip remember of files: a child must read its own."""
    for item in gc.get_objects():
        if isinstance(item, functools._lru_cache_wrapper) and item.__module__.startswith("worldclip"):
            item.cache_clear()


def _stable(record: Any) -> Any:
    if isinstance(record, dict):
        return {key: _stable(value) for key, value in record.items() if key not in VOLATILE_KEYS}
    return [_stable(item) for item in record] if isinstance(record, list) else record


class Harness:
    """The scenarios with their folders below `root`."""

    def __init__(self, root: Path, scenarios: Sequence[Scenario]) -> None:
        self.root, self.scenarios = root, {scenario.name: scenario for scenario in scenarios}
        self.expected: dict[str, dict[str, str]] = {}
        self.points: dict[str, list[Point]] = {}
        for scenario in scenarios:
            self._prepare(scenario)

    def _prepare(self, scenario: Scenario) -> None:
        """Run a scenario without a kill, twice: in this process, which then has compiled all, and in a child."""
        start = self.root / scenario.name / "start"
        start.mkdir(parents=True)
        with open(self.root / "log", "w") as log, contextlib.redirect_stderr(log):
            scenario.start(start)
            scenario.call(self._folder(scenario))
        _forget_files()
        folder = self._folder(scenario)
        count = run_in_child(scenario.call, folder, self.root / "log")
        assert count is not None
        self.expected[scenario.name] = digests(folder)
        self.points[scenario.name] = list(itertools.product(range(1, count + 1), WHEN))

    def _folder(self, scenario: Scenario) -> Path:
        """Return the scenario's folder as it is before the command; always the same path, which files may record."""
        folder = self.root / scenario.name / "run"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.root / scenario.name / "start", folder, symlinks=True)
        return folder

    def try_point(self, name: str, point: Point) -> str | None:
        """Kill at a point and call again; return how the files differ from those of a run without a kill, or None."""
        scenario, log = self.scenarios[name], self.root / "log"
        folder = self._folder(scenario)
        try:
            if run_in_child(scenario.call, folder, log, point) is not None:
                return None  # threads made fewer calls this time
            killed_at = log.read_text(errors="replace").strip().splitlines()[-1]
            run_in_child(scenario.call, folder, log)
        except RuntimeError as error:
            return f"{name} {point}: {error}"
        found, expected = digests(folder), self.expected[name]
        if found == expected:
            return None
        changed = sorted(file for file in found.keys() | expected.keys() if found.get(file) != expected.get(file))
        return f"{name} {point}, {killed_at}: {changed[:8]}"


def run(
    scenarios: Sequence[Scenario], num_points: int | None, seed: int, seconds: float
) -> tuple[Counter[str], list[str]]:
    """Try `num_points` points at random (None: all), one of each scenario first, until `seconds` have passed.

    Returns the number of points of each scenario, and the differences.
    """
    with tempfile.TemporaryDirectory(prefix="kill_points_") as root:
        harness = Harness(Path(root), scenarios)
        points = [(name, point) for name, of_name in harness.points.items() for point in of_name]
        random.Random(seed).shuffle(points)
        firsts = {name: (name, point) for name, point in points}.values()  # one of each scenario before all others
        points = [*firsts, *(point for point in points if point not in firsts)]
        tried, differences = Counter(dict.fromkeys(harness.points, 0)), []
        end = time.monotonic() + seconds
        for name, point in points[:num_points]:
            if time.monotonic() > end:
                break
            tried[name] += 1
            difference = harness.try_point(name, point)
            if difference is not None:
                differences.append(difference)
        return tried, differences


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, help="number of points, at random (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--light", action="store_true", help="only scenarios whose calls take a few ms")
    parser.add_argument("--group", default="", help="a group of scenarios (kill_scenarios.MAKERS; default: all)")
    options = parser.parse_args()
    from kill_scenarios import all_scenarios

    with tempfile.TemporaryDirectory(prefix="kill_inputs_") as inputs:
        started_at = time.monotonic()
        scenarios = all_scenarios(Path(inputs), is_light=options.light, group=options.group)
        tried, differences = run(scenarios, options.points, options.seed, options.seconds)
        record = {
            "seed": options.seed,
            "seconds": round(time.monotonic() - started_at, 1),
            "points": tried,
            "kills": tried.total(),
            "differences": differences[:20],
            "num_differences": len(differences),
        }
        print(json.dumps(record))
    sys.exit(bool(differences))


if __name__ == "__main__":
    main()
