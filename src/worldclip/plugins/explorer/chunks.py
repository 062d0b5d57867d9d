"""The data of the page: scripts, since a page opened from disk may load scripts but may not fetch files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Chunks:
    """Writes files of the explorer and counts them.

    A chunk is one call, `receiveChunk("NAME", VALUE)`, with VALUE as JSON.  Captions, keys and entries stand in strings
    only, never in the names of an object or of a file.
    """

    def __init__(self, folder: Path) -> None:
        """Begin to write into `folder`, the explorer's."""
        self.folder = folder
        self.num_files = 0
        self.num_bytes = 0

    def write(self, name: str, value: Any) -> None:
        """Write data/NAME.js.  A lone surrogate becomes a question mark."""
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        self.write_file(f"data/{name}.js", f'receiveChunk("{name}",{text})\n'.encode("utf-8", "replace"))

    def write_file(self, name: str, content: bytes) -> None:
        """Write one file; the folder gets its own name when it is complete, so a file needs no temporary one."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self.num_files += 1
        self.num_bytes += len(content)
