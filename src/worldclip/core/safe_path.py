"""Join names that others wrote: listings, archives, manifests, language codes and index files come from the net.

`safe_join` is the only way to make a path of such a name.
"""

from __future__ import annotations

from pathlib import Path

from worldclip.core.errors import UserError

MAX_NAME_BYTES = 255  # file systems refuse longer names and paths, each in its own way
MAX_PATH_BYTES = 2048


class UnsafeName(UserError):
    """A name that leads out of the folder that it is joined to."""


def is_safe_name(name: object) -> bool:
    """Return whether `name` is a relative path, with `/`, that a file below the folder it is joined to can have."""
    if not isinstance(name, str) or "\0" in name or name.startswith("/"):
        return False
    parts = [part for part in name.split("/") if part not in ("", ".")]
    sizes = [len(part.encode("utf-8", "surrogatepass")) for part in parts]
    is_short = max(sizes, default=0) <= MAX_NAME_BYTES and sum(sizes) + len(sizes) <= MAX_PATH_BYTES
    return bool(parts) and ".." not in parts and is_short


def safe_join(folder: Path, *names: str) -> Path:
    """Return folder / name / ... for names that others wrote.  Raises UnsafeName unless each stays below its folder."""
    for name in names:
        if not is_safe_name(name):
            raise UnsafeName(f"{name!r} is not a path below {folder}")
        folder = folder / name
    return folder
