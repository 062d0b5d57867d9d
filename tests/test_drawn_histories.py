"""Whatever a drawn history did to a run, a plain call at its end leaves the bytes of one fresh run.

A history is a list of steps: calls that end, stop in the middle or work on a slice, and changes of the recipe, the
pool, the lists and the folders.  A failure shows the shortest one that Hypothesis finds.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from killed import digests_of_curation
from pools import write_lines
from worldclip.cli import main
from worldclip.core.artifacts import read_json

STAGES = ("pool", "metadata", "match", "balance", "curate")
WORDS = ("cat", "dog", "house", "sea")
RECIPE: dict[str, dict[str, Any]] = {
    "pool": {"key": "uid", "texts": ["text"], "lang": "lang"},
    "languages": {"codes": ["de", "en"]},
    "metadata": {"sources": ["pool"], "pool_min_count": 1},
    "match": {},
    "balance": {"tail_fraction": 0.5},
    "curate": {},
}
VALUES: dict[str, list[Any]] = {
    "pool.texts": [["text"], ["more", "text"]],
    "pool.where": [[], [["size", ">", 2]]],
    "metadata.pool_min_count": [1, 2],
    "match.isolate": ["language", "merged"],
    "match.fold_case": [False, True],
    "balance.tail_fraction": [0.5, 0.0],
    "curate.text_policy": ["one", "all"],
    "curate.seed": [0, 5],
    "curate.max_pairs": [1000, 3],
    "curate.write_dropped": [True, False],
}
CHANGES = [("set", key, value) for key, values in VALUES.items() for value in values]
STAGE = st.sampled_from(STAGES)
CALL = st.one_of(
    st.tuples(st.just("run"), STAGE),
    st.tuples(st.just("interrupt"), STAGE, st.integers(0, 40)),
    st.tuples(st.just("from"), STAGE),
    st.tuples(st.just("slice"), st.sampled_from(["pool", "match", "curate"]), st.sampled_from(["1/2", "2/2", "1/3"])),
    st.tuples(st.just("branch"), STAGE),
)
CHANGE = st.one_of(
    st.sampled_from(CHANGES),
    st.tuples(st.just("write shard"), st.integers(0, 3), st.integers(0, 4)),
    st.tuples(st.just("remove shard"), st.integers(0, 3)),
    st.tuples(st.just("take down"), st.sampled_from(["k0-0", "k0-3", "k1-1"])),
    st.tuples(st.just("list"), st.sampled_from(WORDS)),
    st.just(("move pool",)),
    st.just(("move run",)),
)
STEPS = st.lists(st.one_of(CALL, CALL, CHANGE), min_size=1, max_size=8)


class History:
    """A pool, a recipe and a run, and what each step does to them."""

    def __init__(self, folder: Path, capture: pytest.CaptureFixture) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        self.folder, self.capture = folder, capture
        self.recipe = {name: dict(section) for name, section in RECIPE.items()}
        self.pool, self.run = folder / "pool0", folder / "run0"
        self.denied = ["k0-1"]
        self.words = list(WORDS[:1])
        self.num_moves = 0
        for number in range(2):
            self.write_shard(number, 3)

    def write_shard(self, number: int, size: int) -> None:
        """Write a shard with 2 + size pairs; another size is another content."""
        rows = []
        for row in range(2 + size):
            text = f"the {WORDS[row % len(WORDS)]} and a {'Dog' if row % 2 else 'dog'}"
            lang = "de" if row % 3 == 0 else "en"
            rows.append({"uid": f"k{number}-{row}", "text": text, "more": f"more {size}", "lang": lang, "size": row})
        write_lines(self.pool / f"{number}.jsonl", rows)

    def call(self, *words: object) -> tuple[int, str]:
        """Call the command; return its code and what it said."""
        (self.folder / "denied.txt").write_text("\n".join(self.denied))
        (self.folder / "en.txt").write_text("\n".join(self.words))
        sections = {name: dict(section) for name, section in self.recipe.items()}
        sections["pool"] |= {"path": str(self.pool), "deny_keys": [str(self.folder / "denied.txt")]}
        sections["metadata"] |= {"lists": {"en": str(self.folder / "en.txt")}}
        (self.folder / "my.toml").write_text(tomli_w.dumps(sections))
        code = main([*map(str, words)])
        said = self.capture.readouterr().err
        assert "Traceback" not in said, said
        return code, said

    def run_until(self, stage: str, *more: object, out: Path | None = None) -> tuple[int, str]:
        return self.call("run", self.folder / "my.toml", "--out", out or self.run, "--until", stage, *more)

    def step(self, kind: str, *values: Any) -> None:
        if kind == "run":
            self.run_until(values[0])
        elif kind == "from":
            self.run_until("curate", "--from", values[0])
        elif kind == "interrupt":
            interrupted(lambda: self.run_until(values[0]), values[1])
        elif kind == "slice":
            self.call(values[0], self.run, "--shards", values[1])
        elif kind == "branch":
            source = self.run
            self.run = self.next_folder("run")
            self.run_until(values[0], "--from-run", source)
        elif kind == "set":
            section, key = values[0].split(".")
            self.recipe[section][key] = values[1]
        elif kind == "write shard":
            self.write_shard(*values)
        elif kind == "remove shard":
            (self.pool / f"{values[0]}.jsonl").unlink(missing_ok=True)
        elif kind == "take down":
            self.denied = list(dict.fromkeys([*self.denied, values[0]]))
        elif kind == "list":
            self.words = list(dict.fromkeys([*self.words, values[0]]))
        elif kind == "move pool":
            self.pool = self.pool.rename(self.next_folder("pool"))
        elif self.run.exists():
            self.run = self.run.rename(self.next_folder("run"))

    def next_folder(self, name: str) -> Path:
        self.num_moves += 1
        return self.folder / f"{name}{self.num_moves}"


def interrupted(call: Callable[[], object], num_files: int) -> None:
    """Send Ctrl-C where the call would finish a further file than num_files."""
    replace = os.replace
    left = [num_files]

    def replace_some(*arguments: Any) -> None:
        left[0] -= 1
        if left[0] == -1:
            raise KeyboardInterrupt
        replace(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", replace_some)
        call()


def bytes_of(run: Path) -> dict[str, str]:
    """Return the digests of the files, without the place that the pool had when it was read.

    Without pool/keys too, which a stage makes when it looks for a key: in a branch none may have looked.
    """
    manifest = read_json(run / "pool" / "manifest.json")
    manifest.pop("source")
    digests = digests_of_curation(run) | {"pool/manifest.json": json.dumps(manifest)}
    return {name: digest for name, digest in digests.items() if not name.startswith("pool/keys/")}


@pytest.mark.parametrize("num_draws", [12, pytest.param(2_000, marks=pytest.mark.slow)])
def test_a_drawn_history_ends_with_the_bytes_of_one_fresh_run(num_draws, tmp_path, capfd):
    @settings(max_examples=num_draws, deadline=None, report_multiple_bugs=False, suppress_health_check=[*HealthCheck])
    @given(STEPS)
    def check(steps: list[tuple]) -> None:
        history = History(tmp_path / "history", capfd)
        for step in steps:
            history.step(*step)
        code, said = history.run_until("curate")
        if "start anew with --from pool" in said:  # no shard of the pool is the same
            code, said = history.run_until("curate", "--from", "pool")
        fresh_code, fresh_said = history.run_until("curate", out=history.folder / "fresh")
        assert code == fresh_code, (said, fresh_said)
        if code == 0:
            assert bytes_of(history.run) == bytes_of(history.folder / "fresh")

    check()
