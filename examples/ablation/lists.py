"""The lists of pairs of one world: the arms of a world differ in their list and in nothing else.

    WORLD_DIR/world                pairs, images, names, tokenizer (world.py)
    WORLD_DIR/matched/<isolate>    the stages up to match
    WORLD_DIR/curated/<name>       the stages up to curate
    WORLD_DIR/lists/<arm>          the same with the pairs that an arm trains on; counts.json says what they are

A list is a table of key, text and lang (the matched one), with the truth about each pair: lang_truth, kind, concept.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import world as the_world
from plan import ENGLISH_PER_STEP, OTHERS_PER_STEP

from worldclip import curate
from worldclip.config import Recipe, load_recipe
from worldclip.contracts import schemas
from worldclip.core import artifacts
from worldclip.core.coin import hash_keys, uniform_of_hashes
from worldclip.core.execute import LocalExecutor
from worldclip.plugins.emoji.build import LANGS
from worldclip.recipe import run_stages

RECIPE = Path(__file__).with_name("recipe.toml")
TAIL_FRACTION = 0.06  # arXiv:2507.22062
VOCAB_SIZE = 16_000
MATCHED = ("pool", "metadata", "match")
CURATED = (*MATCHED, "balance", "curate")
EVERY_MATCH = ("balance.tail_fraction=1",)


class Lists:
    """The folder of a world; whatever is asked for is made once."""

    def __init__(self, folder: Path, seed: int, num_pairs: int = 300_000) -> None:
        self.folder = folder
        self.seed = seed
        self.num_pairs = num_pairs
        self.pairs_per_shard = -(-num_pairs // 10)
        self.world_dir = folder / "world"
        self.executor = LocalExecutor(quiet=True)

    def build(self) -> the_world.World:
        """Write the world, and a tokenizer trained on the texts of its raw pool."""
        from worldclip.model.tokenizer import train_tokenizer

        world = the_world.build_world(self.world_dir, self.seed, self.num_pairs, self.pairs_per_shard)
        folder = self.world_dir / "tokenizer"
        if not folder.exists():
            texts = pq.read_table(self.world_dir / "pairs", columns=["text"])["text"].to_pylist()
            trained = train_tokenizer(texts, vocab_size=VOCAB_SIZE, context_length=24)
            trained.save(aside := folder.with_name(".tokenizer"))
            os.replace(aside, folder)
        return world

    def write(self, arm: str) -> Path:
        """Write a run up to curate whose list is that of an arm."""
        self.build()
        folder = self.folder / "lists" / arm
        if not (folder / "counts.json").exists():
            table = ARMS[arm](self)
            shutil.rmtree(folder, ignore_errors=True)
            self._write(folder, table)
            if arm == "m3":
                self._write_other_images(table)
            is_noise = pc.not_equal(table["kind"], the_world.TRUE)
            counts = {"pairs": len(table), "langs": count_langs(table), "noise_share": pc.mean(is_noise).as_py()}
            artifacts.write_json(folder / "counts.json", counts)
        return folder

    def images(self, arm: str) -> Path:
        return self.folder / "other_images" if arm == "m3" else self.world_dir / "images"

    def recipe(self, values: Sequence[str]) -> Recipe:
        """Return what all runs of the world share, with further values."""
        names = (f"metadata.lists.{lang}='{self.world_dir / 'names' / f'{lang}.txt'}'" for lang in LANGS)
        paths = [f"pool.path='{self.world_dir / 'pairs'}'", *names]
        return load_recipe(RECIPE, [*paths, f"curate.seed={self.seed}", *values])

    def _write(self, folder: Path, table: pa.Table) -> None:
        """Curate every matched pair, and put the pairs of the list in their place."""
        self._run_stages(folder, "language", EVERY_MATCH, ("balance", "curate"))
        number = pair_numbers(table) // self.pairs_per_shard
        for place, path in enumerate(sorted((folder / "curate").glob("*.parquet"))):
            rows = table.filter(number == place)
            curated = pa.table(
                {
                    "key": rows["key"],
                    "text_idx": np.zeros(len(rows), np.int32),
                    "text": rows["text"],
                    "lang": rows["lang"],
                    "keep_prob": np.ones(len(rows)),
                }
            )
            artifacts.write_table(path, curated, schemas.CURATED)

    def _write_other_images(self, table: pa.Table) -> None:
        """The images of the world, linked, and those of pairs about other concepts."""
        folder = self.images("m3")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.world_dir / "images", folder, copy_function=os.link)
        rows = table.filter(pc.starts_with(table["key"], "o"))
        the_world.write_other_images(
            folder / "other.tar", self._world(), rows["key"].to_pylist(), pair_numbers(rows).tolist()
        )

    def _world(self) -> the_world.World:
        return the_world.read_world(self.world_dir)

    # Lists of the stages

    def raw(self) -> pa.Table:
        pairs = pq.read_table(self.world_dir / "pairs")
        return pairs.append_column("lang", pairs["lang_truth"])

    def curated(self, name: str, isolate: str, values: Sequence[str]) -> pa.Table:
        """The pairs that the stages keep under these settings."""
        folder = self.folder / "curated" / name
        self._run_stages(folder, isolate, values, ("balance", "curate"))
        paths = sorted((folder / "curate").glob("*.parquet"))
        kept = pa.concat_tables(curate.read_curated(folder, path.stem, ["key", "text", "lang"]) for path in paths)
        kept = kept.set_column(2, "lang", kept["lang"].cast(pa.string()))
        truth = self.raw()
        rows = pc.index_in(kept["key"].combine_chunks(), value_set=truth["key"].combine_chunks())
        for column in ("lang_truth", "kind", "concept"):
            kept = kept.append_column(column, truth[column].take(rows))
        return kept

    def _run_stages(self, folder: Path, isolate: str, values: Sequence[str], stages: Sequence[str]) -> None:
        recipe = self.recipe([f"match.isolate={isolate}", *values])
        matched = self.folder / "matched" / isolate
        run_stages(recipe, matched, MATCHED, executor=self.executor)
        link(matched, folder, MATCHED)
        run_stages(recipe, folder, stages, executor=self.executor)

    def english_threshold(self) -> int:
        """t_en: the threshold at which English texts, matched against English entries, have the tail."""
        folder = self.folder / "curated" / "threshold"
        self._run_stages(folder, "language", [f"balance.tail_fraction={TAIL_FRACTION}"], ("balance",))
        return int(artifacts.read_json(folder / "balance" / "thresholds.json")["lists"]["en"]["threshold"])

    def own_t(self) -> pa.Table:
        return self.curated("own_t", "language", [f"balance.english_threshold={self.english_threshold()}"])

    def one_t(self) -> pa.Table:
        return self.thinned("one_t", "language", ["balance.rule=same_threshold"])

    def merged(self) -> pa.Table:
        return self.thinned("merged", "merged", [])

    def thinned(self, name: str, isolate: str, values: Sequence[str]) -> pa.Table:
        """A list under t_en, thinned to the share that each language has in own_t."""
        values = [*values, f"balance.english_threshold={self.english_threshold()}"]
        whole = self.curated(f"{name}_whole", isolate, values)
        caps = caps_for_shares(count_langs(whole), count_langs(self.own_t()))
        table = ", ".join(f"{lang} = {cap}" for lang, cap in sorted(caps.items()))
        return self.curated(name, isolate, [*values, f"curate.max_pairs={{{table}}}"])

    # Lists of experiment 2

    def english_and_others(self) -> tuple[pa.Table, pa.Table]:
        """The pairs of own_t in English and in the others, thinned by the hash until they are as 64 to 83."""
        table = self.own_t()
        is_english = pc.equal(table["lang"], "en")
        english, others = table.filter(is_english), table.filter(pc.invert(is_english))
        num_english = min(len(english), len(others) * ENGLISH_PER_STEP // OTHERS_PER_STEP)
        num_others = num_english * OTHERS_PER_STEP // ENGLISH_PER_STEP
        return self._thin(english, num_english), self._thin(others, num_others)

    def _chance(self, purpose: str, keys: Sequence[str]) -> np.ndarray:
        return uniform_of_hashes(hash_keys([f"{purpose} {key}" for key in keys]), 0, self.seed, 0)

    def _thin(self, table: pa.Table, number: int) -> pa.Table:
        order = np.argsort(self._chance("thin", table["key"].to_pylist()), kind="stable")
        return table.take(np.sort(order[:number]))

    def exchanged(self, table: pa.Table) -> pa.Table:
        """Each caption goes to the next pair of its language in the order of a hash, and thus no caption stays."""
        chance = self._chance("exchange", table["key"].to_pylist())
        lang = np.array(table["lang"].to_pylist())
        source = np.arange(len(table))
        for each in np.unique(lang):
            rows = np.flatnonzero(lang == each)
            order = rows[np.argsort(chance[rows], kind="stable")]
            source[np.roll(order, 1)] = order
        return with_texts(table, table["text"].take(source))

    def in_english(self, table: pa.Table) -> pa.Table:
        """The same pictures with captions in English."""
        world, drawn = self._world(), self._drawn(table)
        english = np.full(len(table), LANGS.index("en"))
        return with_texts(table, pa.array(the_world.captions(world, drawn, english, world.concepts)))

    def about_others(self, table: pa.Table) -> pa.Table:
        """The same pairs about other concepts: other pictures, in the captions other names."""
        world, drawn = self._world(), self._drawn(table)
        renamed = with_texts(table, pa.array(the_world.captions(world, drawn, drawn.lang, world.others)))
        keys = pa.array([f"o{key}" for key in table["key"].to_pylist()])
        return renamed.set_column(renamed.column_names.index("key"), "key", keys)

    def _drawn(self, table: pa.Table) -> the_world.Drawn:
        return the_world.draw_pairs(self._world(), pair_numbers(table).tolist())


def _clean(table: pa.Table) -> pa.Table:
    """Without the noise, by the truth."""
    return table.filter(pc.equal(table["kind"], the_world.TRUE))


def _m(change: Callable[[Lists, pa.Table], pa.Table]) -> Callable[[Lists], pa.Table]:
    """English pairs as they are, and the others changed."""

    def make(lists: Lists) -> pa.Table:
        english, others = lists.english_and_others()
        return pa.concat_tables([english, change(lists, others)])

    return make


def _n1(lists: Lists) -> pa.Table:
    english, others = lists.english_and_others()
    return pa.concat_tables([lists.exchanged(english), others])


ARMS: dict[str, Callable[[Lists], pa.Table]] = {
    "raw": Lists.raw,
    "raw_clean": lambda lists: _clean(lists.raw()),
    "own_t": Lists.own_t,
    "own_t_clean": lambda lists: _clean(lists.own_t()),
    "one_t": Lists.one_t,
    "merged": Lists.merged,
    "m0": lambda lists: lists.english_and_others()[0],
    "m1": _m(Lists.exchanged),
    "m2": _m(lambda lists, others: others),
    "m3": _m(Lists.about_others),
    "m4": _m(Lists.in_english),
    "n0": lambda lists: lists.english_and_others()[1],
    "n1": _n1,
}


def caps_for_shares(have: dict[str, int], want: dict[str, int]) -> dict[str, int]:
    """As many pairs as `have` allows, each language at its share of `want`."""
    factor = min(have.get(lang, 0) / number for lang, number in want.items())
    return {lang: max(1, int(factor * want.get(lang, 0))) for lang in have}


def count_langs(table: pa.Table) -> dict[str, int]:
    return dict(Counter(table["lang"].to_pylist()))


def pair_numbers(table: pa.Table) -> np.ndarray:
    """The number of each pair in its world, which its key ends in."""
    return np.array([int(key[-7:]) for key in table["key"].to_pylist()], np.int64)


def with_texts(table: pa.Table, texts: Any) -> pa.Table:
    return table.set_column(table.column_names.index("text"), "text", texts)


def link(source: Path, folder: Path, stages: Sequence[str]) -> None:
    """Finished stages of one run in another, as hard links: files of ours are never changed in place."""
    for stage in stages:
        if not (folder / stage / artifacts.MANIFEST).exists():
            shutil.rmtree(folder / stage, ignore_errors=True)
            shutil.copytree(source / stage, folder / stage, copy_function=os.link)
