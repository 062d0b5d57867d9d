"""Print the tests for `make quick`: those that take no time, and the folders of tests of all files that changed.

python tests/helpers/changed_tests.py REVISION
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
ALWAYS = (
    *("tests/test_arrows.py", "tests/test_docs.py", "tests/balance"),
    *("tests/core/test_keys.py", "tests/core/test_job.py", "tests/train/test_plan.py"),
)


def changed_files(revision: str) -> list[str]:
    """Return the files that differ from a revision, and those that git does not track yet."""
    commands = (["diff", "--name-only", "--diff-filter=d", revision], ["ls-files", "--others", "--exclude-standard"])
    outputs = (subprocess.run(["git", *words], cwd=REPOSITORY, capture_output=True, check=True) for words in commands)
    return [line for output in outputs for line in output.stdout.decode().splitlines()]


def tests_of(path: str) -> Iterator[str]:
    """Yield the test or the folder of tests of a file; a module's tests mirror its package."""
    parts = Path(path).parts
    if path.startswith("tests/") and parts[-1].startswith("test_"):
        yield path
    elif path.startswith("src/worldclip/") and path.endswith(".py"):
        folder = REPOSITORY.joinpath("tests", *parts[2:-1])
        while folder != REPOSITORY and not folder.is_dir():
            folder = folder.parent
        if folder not in (REPOSITORY, REPOSITORY / "tests"):
            yield str(folder.relative_to(REPOSITORY))


def main() -> None:
    chosen = [*ALWAYS, *(test for path in changed_files(sys.argv[1]) for test in tests_of(path))]
    print(*dict.fromkeys(chosen))


if __name__ == "__main__":
    main()
