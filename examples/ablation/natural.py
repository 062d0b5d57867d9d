"""Experiment 3: recipes/emoji.toml under four ways to balance, answered on its two held-out sets and another artist's.

    WORK/natural/matched/<isolate>       the stages up to match      WORK/natural/curated/<name>    up to curate

The other artist's drawings are those of FxEmoji (Apache-2.0), from the npm package @iconify-json/fxemoji; no arm trains
on them.  A drawing belongs to an emoji whose name, English or of its code point, is the drawing's.
"""

from __future__ import annotations

import itertools
import json
import re
import tomllib
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from answers import ask
from hits import HitSet
from lists import MATCHED, caps_for_shares, link

from worldclip.config import Recipe, load_recipe
from worldclip.contracts import layout, schemas
from worldclip.core import artifacts
from worldclip.core.execute import LocalExecutor
from worldclip.evaluate.datasets.common.images import read_samples, reader
from worldclip.match import Matcher
from worldclip.plugins.drawings import render
from worldclip.plugins.emoji.build import LANGS, read_emoji
from worldclip.recipe import run_stages

RECIPE = Path(__file__).parents[2] / "recipes" / "emoji.toml"
IMAGE_PX = 64
WARMUP_SHARE = 8 / 17  # recipes/emoji.toml: 80,000 of 170,000 samples
CURATED = (*MATCHED, "balance", "curate")


class Natural:
    """The folder of the pool and its lists; whatever is asked for is made once."""

    def __init__(self, folder: Path, seed: int, drawings: Path) -> None:
        self.folder = folder
        self.seed = seed
        self.drawings = drawings
        self.executor = LocalExecutor(quiet=True)

    def write(self, arm: str) -> Path:
        """Run the stages up to curate for an arm; return the run."""
        if arm == "every_pair":
            return self._curate("every_pair", {"tail_fraction": 1.0})
        if arm == "p":
            return self._curate("p", {})
        threshold = artifacts.read_json(self.write("p") / "balance" / "thresholds.json")["lists"]["en"]["threshold"]
        if arm == "english_list":
            return self._curate("english_list", {"english_threshold": threshold}, isolate="english")
        same = {"rule": "same_threshold", "english_threshold": threshold}
        whole = self._curate("one_t_whole", same)
        caps = caps_for_shares(pairs_by_lang(whole), pairs_by_lang(self.write("p")))
        return self._curate("one_t", same, max_pairs=caps)

    def recipe(self, arm: str, values: Sequence[str] = ()) -> Recipe:
        """The recipe of a written arm, with further values."""
        return load_recipe(self._run_dir(arm), values)

    def _run_dir(self, name: str) -> Path:
        return self.folder / "curated" / f"{name}_s{self.seed}"

    def _curate(
        self,
        name: str,
        balance: Mapping[str, Any],
        isolate: str = "language",
        max_pairs: Mapping[str, int] | None = None,
    ) -> Path:
        """Balance and curate under these keys; without any, as the recipe says."""
        settings = tomllib.loads(RECIPE.read_text(encoding="utf-8"))
        settings["match"]["isolate"] = isolate
        settings["balance"] = dict(balance) or settings["balance"]
        settings["curate"]["seed"] = self.seed
        if max_pairs is not None:
            settings["curate"]["max_pairs"] = dict(max_pairs)
        matched, folder = self.folder / "matched" / isolate, self._run_dir(name)
        recipe = load_recipe(settings)
        if isolate != "language":
            link(self.matched(), matched, ("pool",))
        run_stages(recipe, matched, MATCHED, executor=self.executor)
        link(matched, folder, MATCHED)
        run_stages(recipe, folder, ("balance", "curate"), executor=self.executor)
        return folder

    def matched(self) -> Path:
        """The run with the pool, and its texts matched against the lists of their languages."""
        return self.folder / "matched" / "language"

    def answer(self, run_dir: Path) -> dict[str, HitSet]:
        """Answer with the last checkpoint of a run: base and tone among all names, the other artist among its own."""
        names = artifacts.read_json(self.matched() / "pool" / "names.json")
        place = {key: row for row, key in enumerate(names["keys"])}
        found = {}
        for part in ("base", "tone"):
            samples = read_samples(sorted((self.matched() / "pool" / part).glob("*.tar")))
            rows = [place[sample.key] for sample in samples]
            thirds = self._thirds(rows, names) if part == "base" else None
            found[part] = self._ask(run_dir, names, rows, range(len(place)), reader(samples), thirds)
        drawn = draw_artist(self.drawings)
        rows, images = [place[key] for key in drawn], list(drawn.values())
        found["artist"] = self._ask(run_dir, names, rows, rows, lambda start, stop: images[start:stop], None)
        return found

    def _ask(
        self, run_dir: Path, names: Any, rows: Sequence[int], candidates: Sequence[int], read: Any, thirds: Any
    ) -> HitSet:
        """Which of the candidates' names is in each picture; equal names are one class."""

        def question(lang: str) -> tuple[list[str], np.ndarray]:
            classes = sorted({names["lang"][lang][row] for row in candidates})
            class_of = {name: number for number, name in enumerate(classes)}
            return classes, np.array([class_of[names["lang"][lang][row]] for row in rows])

        keys = [names["keys"][row] for row in rows]
        rank_LC = ask(run_dir, keys, read, question)
        return HitSet(
            top1_LCR=rank_LC[..., None] < 1,
            top5_LCR=rank_LC[..., None] < 5,
            concepts=np.array(keys),
            kinds=np.zeros(len(keys)),
            thirds=np.full(rank_LC.shape, -1) if thirds is None else thirds,
        )

    def _thirds(self, rows: Sequence[int], names: Any) -> np.ndarray:
        """(languages, pictures): thirds by how many texts match the rarest entry of the name; -1 without an entry."""
        thirds = np.full((len(LANGS), len(rows)), -1)
        counts = self._entry_counts()
        for row, lang in enumerate(LANGS):
            matcher = Matcher.load(layout.matcher(self.matched(), lang, "unicode"))
            entry_ids, offsets = matcher.match_batch([names["lang"][lang][each] for each in rows])
            rarest = {
                place: min(counts[lang].get(entry, 0) for entry in entry_ids[start:stop].tolist())
                for place, (start, stop) in enumerate(itertools.pairwise(offsets))
                if start < stop
            }
            order = sorted(rarest, key=lambda place: (-rarest[place], place))
            thirds[row, order] = np.arange(len(order)) * 3 // len(order)
        return thirds

    def _entry_counts(self) -> dict[str, dict[int, int]]:
        """List -> entry -> number of the pool's texts that match it."""
        files = [
            artifacts.read_table(layout.match_counts(self.matched(), shard), schemas.MATCH_COUNTS)
            for shard in layout.counted_shards(self.matched())
        ]
        table = pa.concat_tables(files).unify_dictionaries()
        table = table.set_column(0, "entries_lang", pc.cast(table["entries_lang"], pa.string()))
        sums = table.group_by(["entries_lang", "entry_id"]).aggregate([("count", "sum")])
        counts: dict[str, dict[int, int]] = {lang: {} for lang in LANGS}
        for row in sums.to_pylist():
            counts[row["entries_lang"]][row["entry_id"]] = row["count_sum"]
        return counts


def pairs_by_lang(run_dir: Path) -> dict[str, int]:
    rows = artifacts.read_json(layout.report_json(run_dir / "curate"))["languages"]
    return {lang: row["pairs_out"] for lang, row in rows.items() if row["pairs_out"]}


def draw_artist(package: Path) -> dict[str, bytes]:
    """Key of an emoji without a tone -> PNG of the other artist's drawing.  package: the unpacked npm package."""
    drawings = json.loads((package / "icons.json").read_text(encoding="utf-8"))
    box = f"0 0 {drawings['width']} {drawings['height']}"
    found = {}
    for emoji in read_emoji():
        char = emoji.char.replace("\ufe0f", "")
        names = [emoji.names[0], unicodedata.name(char, "") if len(char) == 1 else ""]
        matching = [name for name in map(_plain, names) if name in drawings["icons"]]
        if matching and not emoji.tones:
            body = drawings["icons"][matching[0]]["body"]
            svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">{body}</svg>'
            found[emoji.key] = render(svg, IMAGE_PX)
    return found


def _plain(name: str) -> str:
    """As FxEmoji spells names: small letters and digits only."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
