"""The last lines of a command that writes and is no stage: how long it took, in which folder, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

NEXT_OF_COMMAND = {
    "pool check": "paste the line valid_keys = ... below [pool], then: worldclip run RECIPE --until curate",
    "pool hash": "worldclip pool check POOL --out checked --set against.mine={out}",
    "pool dedup": "paste the line deny_keys = ... below [pool], then: worldclip run RECIPE --until curate",
    "pool emoji": "worldclip init {out}",
    "pool world": "worldclip init {out}",
    "pool pack": "worldclip init {out}",
    "pool wat": "download the images with img2dataset (docs/pool.md), then: worldclip init TARS",
    "fetch metadata": "worldclip metadata {recipe}",
    "fetch dataset": "worldclip evaluate MODEL --datasets {name} --data {out} --out results",
    "fetch cldr": "worldclip pool world --cldr {out} --out DIR",
    "pack": "worldclip unpack {out} --out OTHER_RUN",
    "unpack": "worldclip inspect {out}/metadata",
    "evaluate MODEL": "worldclip compare {out} OTHER_RESULTS --out comparison.html",
    "export MODEL": "worldclip classify {out}/FORMAT a.jpg --labels cat dog",
    "compare": "open {out} in a browser",
    "leaderboard": "open {out} in a browser",
    "embed": 'worldclip search {out} "a red apple"; in a browser: worldclip serve {model} {out}',
    "index": 'worldclip search {folder} "a red apple"',
    "tokenizer train": "worldclip train {run} --tokenizer.path FOLDER",
    "explore": "worldclip inspect {run} --key KEY, which says why one pair was kept or dropped",
}
"""Command that writes -> what its user does next.  Names in braces are its flags."""


def command_ending(name: str, flags: Any, seconds: float) -> Iterator[str]:
    """Yield the lines after a command that writes and is no stage; none for other commands, and none without --out.

    flags: an object with the value of each flag, those in NEXT_OF_COMMAND among them.
    """
    if name not in NEXT_OF_COMMAND or ("{out}" in NEXT_OF_COMMAND[name] and flags.out is None):
        return
    from worldclip.report.numbers import duration  # a second of import, for commands that end here only

    words = {key: shlex.quote(str(value)) for key, value in vars(flags).items()}
    out = getattr(flags, "out", None)
    yield f"done in {duration(seconds)}{f'; in {out}' if out else ''}"
    yield f"next: {NEXT_OF_COMMAND[name].format_map(words)}"
