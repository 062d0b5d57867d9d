"""Measure what the tests prove: put one mistake after the other into src, and run the tests that should fail.

    python before/mistakes.py                       all of before/mistakes/mistakes.toml that have no result yet
    python before/mistakes.py --only pool core_marker_without_key --again
    python before/mistakes.py --summary --out FILE  print the results, run nothing

A mistake "falls" where a test fails that passes without it, "passes" where none does.  It is "unfinished" where tests
are left to run, by --groups or --limit: the next call goes on with those.  Works on a copy of the checkout.  Results go
to --out after each mistake: an interrupted call goes on.  Tests that fail without any mistake are found first, named in
the results (`baseline`), and left out.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[1]
MISTAKES = CHECKOUT / "before/mistakes/mistakes.toml"
RESULTS = CHECKOUT / "before/mistakes/results_before.json"
SHARED = os.environ.get("WORLDCLIP_SHARED", str(CHECKOUT.parent / "shared"))
TEST_S = 600  # longest test; one that hangs by a mistake fails
MAX_BYTES = 12 * 2**30  # memory of a process: tests of a limit that is gone must not take that of the machine
MAX_IMPORTING = 15  # files of tests that import a module; of a module that more import they say nothing about it
# numba keeps a compiled function although one that it calls, of another file, has changed
COMPILED = re.compile(r"^@(compiled|inlined|inner|kernel|njit|intrinsic|_emits)\b", re.MULTILINE)
WHOLE_FILE = "*"
VARIANTS = (("old", "new"), ("or_old", "or_new"))  # keys of a mistake: its text, and that of another version of src

Json = dict[str, Any]


class Results:
    """The results in a file: `baseline`, the failing tests of each file of tests, and what became of each mistake."""

    def __init__(self, path: Path) -> None:
        self.path, self.lock = path, threading.Lock()
        record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        self.baseline: dict[str, Json] = record.get("baseline", {})
        self.mistakes: dict[str, Json] = record.get("mistakes", {})

    def write(self) -> None:
        record = {"summary": self.summary(), "baseline": self.baseline, "mistakes": self.mistakes}
        aside = self.path.with_suffix(".tmp")
        aside.write_text(json.dumps(record, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
        os.replace(aside, self.path)

    def summary(self) -> dict[str, dict[str, int]]:
        """Return the number of mistakes by what became of them: of all, by origin, and by room."""
        counts: dict[str, Counter[str]] = {}
        for result in self.mistakes.values():
            for place in ("all", f"origin {result['origin']}", result["room"]):
                counts.setdefault(place, Counter())[result["result"]] += 1
        return {place: dict(sorted(of_place.items())) for place, of_place in counts.items()}


class Copy:
    """A copy of the checkout, in which one mistake is at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listed = ["git", "-C", str(CHECKOUT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for name in filter(None, subprocess.check_output(listed).decode().split("\0")):
            if not name.startswith("before/") and (CHECKOUT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(CHECKOUT / name, folder / name)

    def place_of(self, mistake: Json) -> tuple[Path, str] | None:
        """Return the file of a mistake, and its text with the mistake; None where it does not apply.

        That is the named file if it holds the old text once, else the only one of src that does.
        """
        named = self.folder / mistake["file"]
        for old, new in ((mistake.get(before), mistake.get(after)) for before, after in VARIANTS):
            for files in ([named] if named.exists() else [], sorted((self.folder / "src").rglob("*.py"))):
                texts = {file: file.read_text(encoding="utf-8") for file in files if old}
                holders = [file for file, text in texts.items() if old in text]
                if len(holders) == 1 and texts[holders[0]].count(old) == 1:
                    return holders[0], texts[holders[0]].replace(old, new)
        return None

    def tests_of(self, mistake: Json, room: Json, file: Path) -> Iterator[list[str]]:
        """Yield files of tests, each once: those named, those that import the module, the room's, the wider ones."""
        module = file.relative_to(self.folder / "src").with_suffix("").as_posix().replace("/", ".")
        package, _, name = module.removesuffix(".__init__").rpartition(".")
        package = re.escape(package)
        imports = re.compile(rf"\b{package}\.{name}\b|from {package} import .*\b{name}\b")
        tests = [path for path in sorted((self.folder / "tests").rglob("test_*.py")) if "clients" not in path.parts]
        importing = [path for path in tests if imports.search(path.read_text(encoding="utf-8"))]
        if len(importing) > MAX_IMPORTING:
            importing = []
        seen: set[str] = set()
        for group in (mistake["tests"], importing, room["folder"], room["wide"]):
            files = [name for name in self.expand(group) if name not in seen]
            seen.update(files)
            yield files

    def expand(self, places: Iterable[str | Path]) -> Iterator[str]:
        """Yield the files of tests at those of the places that exist."""
        for place in places:
            path = self.folder / place
            files = sorted(path.rglob("test_*.py")) if path.is_dir() else [path] if path.exists() else []
            yield from (file.relative_to(self.folder).as_posix() for file in files)

    def pytest(self, files: list[str], limit_s: float, *options: str, **environment: str) -> tuple[int | None, Path]:
        """Run files of tests in one process; return its exit code, None after limit_s, and its JUnit record."""
        record, temporary = self.folder / "junit.xml", self.folder.parent / "t"
        record.unlink(missing_ok=True)
        environment |= {"PYTHONPATH": str(self.folder / "src"), "OMP_NUM_THREADS": "1", "WORLDCLIP_SHARED": SHARED}
        command = [sys.executable, "-m", "pytest", "--tb=line", f"--timeout={TEST_S}", "--hypothesis-seed=0"]
        command += [f"--junitxml={record}", "-o", "junit_family=xunit1", f"--basetemp={temporary}"]
        command += ["-p", "no:cacheprovider", "--continue-on-collection-errors", *options, *files]
        with open(self.folder / "output.txt", "wb") as output:
            process = subprocess.Popen(
                command, cwd=self.folder, env=os.environ | environment, stdout=output, stderr=output,
                start_new_session=True, preexec_fn=limit_memory,
            )  # fmt: skip
            try:
                return process.wait(limit_s), record
            except subprocess.TimeoutExpired:
                return None, record
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # also what the tests have started
                process.wait()
                for left in (temporary, self.folder / ".hypothesis"):  # no failing examples of another mistake
                    shutil.rmtree(left, ignore_errors=True)

    @contextlib.contextmanager
    def holding(self, file: Path, content: str) -> Iterator[dict[str, str]]:
        """Give a file other content while the block runs; yield what its tests need in their environment."""
        whole = file.read_text(encoding="utf-8")
        # Python tells two versions of a file apart by seconds and size
        bytecode = Path(importlib.util.cache_from_source(str(file)))
        with tempfile.TemporaryDirectory(prefix="numba_", dir=self.folder) as fresh:
            file.write_text(content, encoding="utf-8")
            bytecode.unlink(missing_ok=True)
            try:
                yield {"NUMBA_CACHE_DIR": fresh} if COMPILED.search(whole) or "kernels" in file.parts else {}
            finally:
                file.write_text(whole, encoding="utf-8")
                bytecode.unlink(missing_ok=True)


def limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_BYTES, MAX_BYTES))


def read_record(record: Path) -> Iterator[tuple[str, str, float, str]]:
    """Yield (file, name, seconds, message of its failure or "") of each test; WHOLE_FILE: the file does not load."""
    if not record.exists():
        return
    for case in ElementTree.parse(record).iter("testcase"):
        faults = [*case.findall("failure"), *case.findall("error")]
        message = (faults[0].get("message") or "fails").partition("\n")[0][:160] if faults else ""
        file, name = case.get("file"), case.get("name") or ""
        if file is None:
            file, name = f"{name.replace('.', '/')}.py", WHOLE_FILE
        yield file, name, float(case.get("time") or 0), message


def measure_baseline(copy: Copy, results: Results, files: list[str]) -> None:
    """Run the files of tests that were not run without a mistake yet, and note which tests fail."""
    todo = [file for file in files if file not in results.baseline]
    if not todo:
        return
    code, record = copy.pytest(todo, 7200)
    found: dict[str, Json] = {file: {"seconds": 0.0, "failing": {}} for file in todo}
    for file, name, seconds, message in read_record(record):
        found[file]["seconds"] = round(found[file]["seconds"] + seconds, 1)
        if message:
            found[file]["failing"][name] = message
    if code not in (0, 1, 5):
        for of_file in found.values():
            of_file["failing"][WHOLE_FILE] = f"pytest ended with {code}"
    with results.lock:
        results.baseline |= found
        results.write()


def try_mistake(copy: Copy, results: Results, mistake: Json, room: Json, num_groups: int, limit_s: float) -> Json:
    """Put a mistake into the copy, run its tests until one fails, take it out again."""
    known: Json = {"room": mistake["room"], "origin": mistake.get("origin", "own")}
    place = copy.place_of(mistake)
    if place is None:
        return known | {"result": "does not apply"}
    before = results.mistakes.get(mistake["id"], {})
    passed: list[str] = before.get("passed", []) if before.get("result") == "unfinished" else []
    seconds = 0.0
    left = [[file for file in files if file not in passed] for files in copy.tests_of(mistake, room, place[0])]
    for files in left[:num_groups]:
        measure_baseline(copy, results, files)
        files.sort(key=lambda file: results.baseline[file]["seconds"])
        failing = {file: results.baseline[file]["failing"] for file in files}
        usable = [file for file in files if WHOLE_FILE not in failing[file]]
        without = [f"--deselect={file}::{name}" for file in usable for name in failing[file]]
        if usable:
            started_at = time.monotonic()
            with copy.holding(*place) as environment:
                code, record = copy.pytest(usable, limit_s - seconds, "-x", *without, **environment)
            seconds += time.monotonic() - started_at
            known["seconds"] = round(seconds)
            failed = [f"{file}::{name}: {message}" for file, name, _, message in read_record(record) if message]
            if failed or code not in (0, 5, None):
                by = failed[0] if failed else f"pytest ended with {code} in {' '.join(usable)}"
                return known | {"result": "falls", "by": by.replace(str(copy.folder), "")}
            if code is None:
                break
        passed = [*passed, *files]
    is_done = all(file in passed for files in left for file in files)
    return known | {"result": "passes" if is_done else "unfinished", "passed": passed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], metavar="ROOM|ID", help="rooms, ids, own, earlier or fixed")
    parser.add_argument("--jobs", type=int, default=1, help="mistakes at a time, each in its own copy")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--limit", type=float, default=1800, help="longest time of a mistake in seconds")
    parser.add_argument("--groups", type=int, default=4, help="1: tests named, 2: importing, 3: the room's, 4: wider")
    parser.add_argument("--again", action="store_true", help="run those that have a result, too")
    parser.add_argument("--summary", action="store_true", help="print the results, run nothing")
    options = parser.parse_args()
    config = tomllib.loads(MISTAKES.read_text(encoding="utf-8"))
    results, only = Results(options.out), set(options.only)
    if options.summary:
        print(json.dumps(results.summary(), indent=1))
        print(*(f"{result['result']}: {name}" for name, result in results.mistakes.items()), sep="\n")
        return
    todo = [
        mistake
        for mistake in config["mistake"]
        if (not only or only & {mistake["id"], mistake["room"], mistake.get("origin", "own")})
        and (options.again or results.mistakes.get(mistake["id"], {}).get("result") in (None, "unfinished"))
    ]
    with tempfile.TemporaryDirectory(prefix="mistakes_") as scratch:
        copies = [Copy(Path(scratch, str(number), "checkout")) for number in range(min(options.jobs, len(todo)))]

        def work(mistake: Json) -> None:
            copy = copies.pop()
            try:
                room = config["rooms"][mistake["room"]]
                result = try_mistake(copy, results, mistake, room, options.groups, options.limit)
            finally:
                copies.append(copy)
            with results.lock:
                results.mistakes[mistake["id"]] = result
                results.write()
            print(f"{result['result']}  {mistake['id']}  {result.get('by', '')}", flush=True)

        with ThreadPoolExecutor(max(1, len(copies))) as threads:
            list(threads.map(work, todo))


if __name__ == "__main__":
    main()
