"""The last lines of a command: how long it took, what came out, in which folder or file, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from worldclip.contracts import layout


def _next_of_publish(flags: Any) -> str:
    if flags.dry_run:
        return "the same command without --dry-run, which uploads these files"
    return 'datasets.load_dataset("{repository}") in Python, as the card shows'


def _drafted(flags: Any) -> Any:
    from worldclip.tools.draft_recipe import default_path

    return flags.out or default_path(str(flags.source))


NEXT_OF_COMMAND: dict[str, str | Callable[[Any], str]] = {
    "init": "worldclip run {out} --until curate",
    "pool check": "paste the line valid_keys = ... below [pool], then: worldclip run RECIPE --until curate",
    "pool dedup": "paste a line deny_keys = ..., if there is one, below [pool]; then: worldclip run RECIPE",
    "pool emoji": "worldclip init {out}",
    "pool world": "worldclip init {out}",
    "pool pack": "worldclip init {out}",
    "pool wat": "download the images with img2dataset (docs/pool.md), then: worldclip init TARS",
    "fetch metadata": "worldclip metadata {recipe}",
    "fetch dataset": lambda flags: (
        "worldclip evaluate MODEL --datasets {name} --data {out} --out results"
        if flags.out
        else "worldclip fetch dataset {name} --out DATA"
    ),
    "fetch cldr": "worldclip pool world --cldr {out} --out DIR",
    "classify": "worldclip embed {model} PHOTOS --out embedded, then search among many pictures",
    "evaluate MODEL": "worldclip compare {out} OTHER_RESULTS",
    "export MODEL": "worldclip classify {out}/FORMAT a.jpg --labels cat dog",
    "consolidate": "worldclip export {checkpoint} --out exports --formats open_clip",
    "embed": 'worldclip search {out} "a red apple"; in a browser: worldclip serve {model} {out}',
    "search": "to see the pictures: worldclip serve MODEL {folder}",
    "explore": "worldclip inspect {run} --key KEY, which says why one pair was kept or dropped",
    "publish": _next_of_publish,
}
"""Command -> what its user does next, or (flags) -> that.  Names in braces are its flags."""
PLACE_OF_COMMAND: dict[str, Callable[[Any], Any]] = {
    "init": _drafted,
    "consolidate": lambda flags: flags.checkpoint,
    "publish": lambda flags: layout.published(layout.run_of(flags.run, "curate")),
}
"""Command whose results are not always in --out -> (flags) -> the file or folder; None where it wrote none."""
NEXT_OF_STAGE = {
    "curate": "worldclip explore {run} --out {explorer}",
    **dict.fromkeys(("train", "evaluate", "export"), "worldclip embed {run} POOL --out embedded"),
}
"""Last stage of a run -> what its user does next; after other stages the run goes on."""


def command_ending(name: str, flags: Any, seconds: float) -> Iterator[str]:
    """Yield the lines after a command that is no stage; none after those that only look at something.

    flags: an object with the value of each flag, those in NEXT_OF_COMMAND among them.
    """
    following = NEXT_OF_COMMAND.get(name)
    if following is None:
        return
    from worldclip.report.numbers import duration  # a second of import, for commands that end here only

    place = PLACE_OF_COMMAND[name](flags) if name in PLACE_OF_COMMAND else getattr(flags, "out", None)
    words = {key: shlex.quote(str(value)) for key, value in {**vars(flags), "out": place}.items()}
    yield f"done in {duration(seconds)}{f'; in {place}' if place else ''}"
    yield f"next: {(following if isinstance(following, str) else following(flags)).format_map(words)}"


def run_ending(run_dir: Path, stage: str, seconds: float) -> Iterator[str]:
    """Yield the lines after stages of a run.  stage: the last of the call, finished.  seconds: of the whole call."""
    from worldclip.report import STAGES
    from worldclip.report.numbers import duration
    from worldclip.tools.status import counts_text, stage_status

    counts = counts_text(stage_status(run_dir, stage))
    yield f"done in {duration(seconds)}: {counts or stage}; in {layout.stage_dir(run_dir, stage)}"
    if layout.report_html(run_dir).exists():
        yield f"report: {layout.report_html(run_dir)}"
    named = run_dir.resolve() if run_dir.name in ("", "..") else run_dir  # `.` has no name
    places = {"run": str(run_dir), "explorer": f"{named}_explorer"}
    words = {name: shlex.quote(path) for name, path in places.items()}
    if stage in NEXT_OF_STAGE:
        yield f"next: {NEXT_OF_STAGE[stage].format_map(words)}"
    elif not all(layout.stage_report(run_dir, name).exists() for name in STAGES):
        yield f"next: worldclip run {words['run']}"
