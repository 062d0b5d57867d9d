"""The folder that a server searches, as its newest manifest has it: a request is answered by one version of it.

`worldclip embed` writes new files, then a manifest that names them, and then removes what no manifest names any more.
A request that misses such a file starts again on the next version.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from worldclip.core.artifacts import MANIFEST
from worldclip.core.console import say
from worldclip.core.errors import UserError
from worldclip.core.inputs import Stamp, stamp_of
from worldclip.core.job import Record
from worldclip.export.embedded import Embedded, as_json, check_model, open_kinds
from worldclip.export.segments import Of
from worldclip.model.inference import Clip

MAX_CHOICES = 40
"""A column of more values is no choice."""
CHECK_SECONDS = 1.0
"""The manifest is looked at once in this time."""


@dataclass(frozen=True, slots=True)
class Version:
    """A folder as one manifest has it, by `images` and `texts`."""

    kinds: dict[Of, Embedded]
    _sorted_ids: dict[Of, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    _columns: dict[Of, list[Record]] = field(default_factory=dict)

    @property
    def sizes(self) -> dict[str, int]:
        """Return the number of rows of each kind."""
        return {of: len(embedded) for of, embedded in self.kinds.items()}

    def describe_columns(self, of: Of) -> list[Record]:
        """Return {"name", "kind": number | choice | text} of each column, of a choice also its `values`.

        The first call reads the columns.
        """
        if of not in self._columns:
            embedded = self.kinds[of]
            self._columns[of] = [_describe(embedded, name) for name in embedded.columns]
        return self._columns[of]

    def find(self, of: Of, row_id: str) -> int | None:
        """Return the row with an id, or None.  The first call reads the keys of all rows."""
        if of not in self._sorted_ids:
            ids = self.kinds[of].all_ids()
            order = np.argsort(ids, kind="stable")
            self._sorted_ids[of] = (ids[order], order)
        ids, rows = self._sorted_ids[of]
        number = np.uint64(int(row_id, 16))
        at = int(np.searchsorted(ids, number))
        return int(rows[at]) if at < len(ids) and ids[at] == number else None


def _describe(embedded: Embedded, name: str) -> Record:
    values: set[Any] = set()
    for s in range(len(embedded.shards)):
        column = embedded.read_columns(s, [name])[name]
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            return {"name": name, "kind": "number"}
        values |= {as_json(value) for value in column.unique().to_pylist() if value is not None}
        if len(values) > MAX_CHOICES:
            return {"name": name, "kind": "text"}
    return {"name": name, "kind": "choice", "values": sorted(values, key=str)}


class Collections:
    """The folder of a server; `current` returns its newest version."""

    def __init__(
        self, folder: Path, clip: Clip, name: str, *, pictures_from: Sequence[str] = (), pool: Sequence[str] = ()
    ) -> None:
        """Open a folder.  Raises UserError where it holds no embeddings, or where another model embedded it."""
        self.folder = folder
        self.problem = ""
        """Why the newest manifest cannot be used, for clients; the version before stays."""
        self._clip = clip
        self._name = name
        self._pictures_from = pictures_from
        self._pool = pool
        self._lock = threading.Lock()
        self._checked_at = time.monotonic()
        self._stamp = self._stamp_now()
        self._version = self._open()
        check_model(next(iter(self._version.kinds.values())), clip, name, "serve that one")

    def current(self, *, at_once: bool = False) -> Version:
        """Return the newest version; at_once: look even if that was done within CHECK_SECONDS."""
        if not at_once and time.monotonic() - self._checked_at < CHECK_SECONDS:
            return self._version
        with self._lock:
            self._checked_at = time.monotonic()
            stamp = self._stamp_now()
            while stamp and stamp != self._stamp:
                self._stamp = stamp
                folder = self.folder.name
                problem = f"the folder {folder!r} was embedded again and cannot be opened; the server's log says why"
                before = next(iter(self._version.kinds.values()))
                try:
                    version = self._open()
                    after = next(iter(version.kinds.values()))
                    if after.manifest.get("probe") != before.manifest.get("probe"):
                        problem = f"another model embedded the folder {folder!r}; restart the server with that one"
                        check_model(after, self._clip, self._name, "restart the server with that one")
                except (UserError, OSError) as error:
                    self.problem = problem
                    say("serve", f"cannot open the new {self.folder}: {error}; searches still use the version before")
                else:
                    self.problem = ""
                    self._version = version
                    sizes = ", ".join(f"{size:,} {of}" for of, size in version.sizes.items())
                    say("serve", f"{self.folder} was embedded again: {sizes}")
                stamp = self._stamp_now()
        return self._version

    def _stamp_now(self) -> Stamp:
        return stamp_of(str(self.folder / MANIFEST))

    def _open(self) -> Version:
        return Version(open_kinds(self.folder, self._pictures_from, self._pool))
