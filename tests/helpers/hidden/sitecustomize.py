"""Hide the modules that WORLDCLIP_HIDDEN names, in this process and in its workers, as if they were not installed.

Python imports this module at its start, from the folder that PYTHONPATH names (without_extras.py).
"""

from __future__ import annotations

import os
import sys

HIDDEN = frozenset(os.environ.get("WORLDCLIP_HIDDEN", "").split())


class Hider:
    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        root = name.partition(".")[0]
        if root in HIDDEN:
            raise ModuleNotFoundError(f"No module named {root!r}", name=root)


sys.meta_path.insert(0, Hider())  # type: ignore[arg-type]
