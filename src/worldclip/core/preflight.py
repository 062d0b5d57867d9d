"""What a stage needs before it starts: packages and free disk.  A run asks all its stages before the first one runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from worldclip.core.errors import UserError

GIB = 2**30


def missing_packages(stage: str, modules: Sequence[str], *, extra: str) -> Iterator[str]:
    """Yield one problem that names the modules that are not installed, and the extra to install."""
    absent = [module for module in modules if not _is_installed(module)]
    if absent:
        yield f"{stage} needs {', '.join(absent)}: pip install 'worldclip[{extra}]'"


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ImportError:  # raised by the import hooks of other packages
        return False


def missing_space(folder: Path, num_bytes: int, content: str) -> Iterator[str]:
    """Yield a problem if the file system of `folder`, which need not exist yet, has less than `num_bytes` free."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < num_bytes:
        yield (
            f"{folder}: {content} need {num_bytes / GIB:.1f} GiB and {free / GIB:.1f} GiB are free; free some space, "
            "or choose another --out"
        )


def problems_of(check: Callable[..., object], *arguments: object) -> list[str]:
    """Return the problems of the UserError that a check raises; empty if it raises none."""
    try:
        check(*arguments)
    except UserError as error:
        return error.problems
    return []
