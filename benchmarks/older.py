"""List the results that are older than the code they measure, oldest first, and speeds on the pages that cite none.

    python benchmarks/older.py

A result is older when a commit of a later day changed a path that its head names; a newer one of its command takes its
place.  The second list goes by words after a number (times, us, top-1): it has limits too, and misses other wordings.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from head import HEAD

UNIT = r"times|us|ms|s|seconds?|min|minutes?|(?:core[ -])?hours?|[A-Za-z]+/s|\w* ?(?:per|a) second"
SPEED = re.compile(rf"\b\d[\d.,]* (?:{UNIT})\b|top-\d")
SOURCE = re.compile(r"benchmarks/results|ablation\.md|log\.md#|\d{4}-\d\d-\d\d")
OTHERS = ("log.md", "voice.md", "ablation.md")  # dated entries; rules with invented numbers; a page of results


def read_pages(root: Path) -> dict[str, str]:
    pages = [root / "README.md", *(page for page in sorted(root.glob("docs/*.md")) if page.name not in OTHERS)]
    return {page.relative_to(root).as_posix(): page.read_text(encoding="utf-8") for page in pages}


def find_older(root: Path) -> Iterator[str]:
    """Yield a paragraph per measurement whose code has changed since; it begins with the date."""
    pages = read_pages(root)
    lines = [(f"{page}:{n}", line) for page in pages for n, line in enumerate(pages[page].splitlines(), 1)]
    for result in [*sorted(root.glob("benchmarks/results/*.md")), *root.glob("docs/ablation.md")]:
        name = result.relative_to(root).as_posix()
        cited = ", ".join(place for place, line in lines if name.removeprefix("docs/") in line)
        heads = sorted(HEAD.finditer(result.read_text(encoding="utf-8")), key=lambda head: head["date"])
        newest = {(head["commands"].replace(" --write", ""), head["paths"]): head for head in heads}
        for head in newest.values():
            paths = re.findall(r"`([^`]+)`", head["paths"])
            commits = git(root, "log", f"--since={head['date']}T23:59:59Z", "--format=%h %cs %s", "--", *paths)
            if commits:
                command = head["commands"] + (f" at {head['commit']}" if head["commit"] else "")
                counted = f"{commits.count(chr(10))} commits since, the last {commits.splitlines()[0]}"
                yield f"{head['date']} {name}: {counted}\n    {command}\n    cited in: {cited or 'no page'}"


def find_unsourced(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line number, line) of speeds in paragraphs, each with its tables, that name neither result nor date."""
    text = re.sub(r"^```.*?^```", lambda block: "\n" * block[0].count("\n"), text, flags=re.MULTILINE | re.DOTALL)
    start = 1
    for paragraph in re.split(r"\n\n(?!\|)", text):
        if not SOURCE.search(paragraph):
            yield from (line for line in enumerate(paragraph.split("\n"), start) if SPEED.search(line[1]))
        start += paragraph.count("\n") + 2


def git(root: Path, *words: str) -> str:
    answer = subprocess.run(["git", "-C", root, *words], capture_output=True, text=True)
    if answer.returncode:
        sys.exit(f"git {words[0]}: {answer.stderr.strip()}; run this in a clone with its history")
    return answer.stdout


def main(root: Path) -> None:
    if git(root, "rev-parse", "--is-shallow-repository").strip() == "true":
        sys.exit("this clone has no history: git fetch --unshallow")
    print("Older than the code they measure:", *sorted(find_older(root)) or ["none"], sep="\n")
    headless = [p.name for p in sorted(root.glob("benchmarks/results/*.md")) if not HEAD.search(p.read_text("utf-8"))]
    print("\nPages without a head:", ", ".join(headless) or "none")
    print("\nSpeeds whose paragraph names neither a result nor a date:")
    for page, text in read_pages(root).items():
        for number, line in find_unsourced(text):
            print(f"{page}:{number}: {line.strip()[:150]}")


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # older.py | head
    main(Path(__file__).parents[1])
