"""Three questions on the world pool: curated or raw, worldwide or English alone, own thresholds or one.

    python examples/world/questions.py --pool runs/world/pool --out runs/questions
    python examples/world/questions.py --pool runs/world/pool --out runs/questions --scaled runs/world_long

Every arm and seed that has no results yet is trained and measured; the tables are in OUT/tables.md after each run.  A
second call goes on where the first one stopped.

    OUT/matched/<lid, true>   pool, metadata, match: shared by the arms
    OUT/lists/<arm>           balance, curate: shared by the seeds, which decide weights and order
    OUT/results/<run>         run.json (written last), results.jsonl, ranks/; the run itself is removed

The test is which of C names is in the picture, for emoji drawn anew (`base`) and flags drawn anew (`flags`): the same
C concepts in each language, those that all the languages evaluated name, at most --concepts of them, by hash.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

sys.path.insert(0, str(Path(__file__).parents[1] / "ablation"))

from intervals import difference, table, two_level_interval

from worldclip import pool
from worldclip.config import Recipe, load_recipe
from worldclip.contracts import layout, schemas
from worldclip.contracts.reasons import Reason
from worldclip.core import artifacts
from worldclip.core.console import say
from worldclip.core.errors import UserError
from worldclip.core.execute import LocalExecutor
from worldclip.core.job import Run
from worldclip.core.settings import to_dict, to_toml
from worldclip.curate import read_curated
from worldclip.language.table import by_code
from worldclip.pool.config import PoolConfig
from worldclip.pool.read import read_texts
from worldclip.recipe import run_stages, sections_of
from worldclip.tools.branch import branch

RECIPE = Path(__file__).parents[2] / "recipes" / "world.toml"
LANGUAGES = (  # 15 families, 13 scripts, all levels of resources; each names at least 3,000 emoji
    *("en", "de", "es", "ru", "hi", "fa", "zh", "ja", "ko", "ar", "ha", "am"),
    *("tr", "kk", "fi", "id", "sw", "yo", "ta", "th", "vi", "ka", "eu", "mn"),
)
SETS = {"base": ("emoji",), "flags": ("flag",)}
"""Folder of a held-out set below the pool, and the kinds of its pictures that are asked for."""
TOP = 5
UP_TO_CURATE = ("pool", "metadata", "match", "balance", "curate")


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """A way to curate the pool."""

    name: str
    says: str
    is_lid: bool = False
    """Languages are identified; else the pool's own word on them is taken."""
    include: tuple[str, ...] = ()


RAW = Arm(name="raw", says="all texts, matched or not", is_lid=True)
LID = Arm(name="lid", says="the recipe: own thresholds, languages identified", is_lid=True)
WORLDWIDE = Arm(name="worldwide", says="own thresholds, true languages")
ENGLISH = Arm(name="english", says="own threshold, English texts alone", include=("en",))
ONE_THRESHOLD = Arm(name="one_threshold", says="English's threshold for all, pairs per language as in worldwide")
ARMS = (RAW, LID, WORLDWIDE, ENGLISH, ONE_THRESHOLD)
QUESTIONS = {
    "Curated against raw, equal samples": [("raw", "lid"), ("raw", "worldwide"), ("lid", "worldwide")],
    "Worldwide against English alone, equal samples": [("english", "worldwide")],
    "Own thresholds against one, equal pairs per language": [("one_threshold", "worldwide")],
}
"""Title -> pairs of arms; a difference is the second minus the first."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pool", type=Path, required=True, help="folder of `worldclip pool world`, or RUN/pool")
    parser.add_argument("--out", type=Path, default=Path("runs/questions"))
    parser.add_argument("--samples", type=int, default=200_000, help="pairs that a run sees; 40,000 decide nothing")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds: 0, 1, ...")
    parser.add_argument("--languages-evaluated", default=",".join(LANGUAGES), metavar="LIST", help="codes, by commas")
    parser.add_argument("--concepts", type=int, default=600, help="number of names to choose from, at most")
    says = "finished worldwide runs; English alone then sees as many English pairs as each of them did"
    parser.add_argument("--scaled", type=Path, nargs="*", default=[], metavar="RUN", help=says)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the recipe, for all arms")
    asked = parser.parse_args(arguments)
    langs = tuple(asked.languages_evaluated.split(","))
    study = Study(asked.out.absolute(), asked.pool.absolute(), asked.samples, langs, asked.concepts, asked.set)
    study.prepare()
    for seed in range(asked.seeds):
        for arm in ARMS:
            study.run(arm, seed)
        for source in asked.scaled:
            study.run_scaled(source, seed)
    print(study.write_tables())


class Study:
    """The folder of all runs, and what they share."""

    def __init__(
        self, out: Path, pool_dir: Path, samples: int, langs: Sequence[str], num_concepts: int, values: Sequence[str]
    ) -> None:
        """Raise UserError for a pool or languages that cannot be used, and if OUT holds a study of other settings."""
        self.out, self.pool_dir, self.samples, self.langs, self.values = out, pool_dir, samples, langs, list(values)
        if not (pool_dir / "names.json").is_file():
            raise UserError(f"--pool {pool_dir}: holds no names.json; draw it: worldclip pool world --out DIR")
        self.sets = [test_set(pool_dir, name, langs, num_concepts) for name in SETS]
        setting = {
            "pool": artifacts.digest(artifacts.fingerprint(pool_dir / "names.json", pool_dir)),
            "samples": samples,
            "languages": list(langs),
            "concepts": num_concepts,
            "set": self.values,
        }
        path = out / "study.json"
        if path.exists() and artifacts.read_json(path) != setting:
            raise UserError(f"{path} is of other settings; choose another --out")
        artifacts.write_json(path, setting)
        self.executor = LocalExecutor(workers=1)

    # Recipes

    def recipe(self, arm: Arm, *values: str) -> Recipe:
        """Return the recipe of an arm, on the drawn pool."""
        with open(RECIPE, "rb") as file:
            record = tomllib.load(file)
        record["pool"] = {"path": str(self.pool_dir / "pairs")}
        record.pop("evaluate")
        if not arm.is_lid:
            record["pool"]["lang"] = "json:lang_truth"
        record["curate"]["include"] = list(arm.include)
        return load_recipe(record, [*self.values, *values])

    def list_recipe(self, arm: Arm) -> Recipe:
        """Return the recipe of an arm up to its list; that of one_threshold needs the list of worldwide."""
        if arm != ONE_THRESHOLD:
            return self.recipe(arm)
        source = self.curated(WORLDWIDE)
        threshold = artifacts.read_json(layout.thresholds(source))["lists"]["en"]["threshold"]
        pairs = {lang: row["pairs_out"] for lang, row in self.curate_report(source)["languages"].items()}
        caps = ", ".join(f"{lang} = {number}" for lang, number in sorted(pairs.items()) if number)
        without = [lang for lang in artifacts.require_manifest(source, "match")["languages"] if not pairs.get(lang)]
        recipe = self.recipe(arm, f"curate.max_pairs={{{caps}}}", f"curate.exclude={without}")
        return load_recipe(_with_one_threshold(recipe, threshold))

    def training_recipe(self, arm: Arm, seed: int, samples: int) -> Recipe:
        """Return the recipe of a run: the warm-up's share of the samples is the recipe's."""
        train = self.recipe(arm).train
        values = [
            f"train.seed={seed}",
            f"train.samples_seen={samples}",
            f"train.warmup_samples={samples * train.warmup_samples // train.samples_seen}",
            f"train.tokenizer.path='{layout.tokenizer(self.curated(RAW))}'",
            "train.checkpoint_every_samples=1000000000",
        ]
        if arm == RAW:  # nothing is drawn anew: every epoch has all texts
            values.append("train.curation='offline'")
        return self.recipe(arm, *values)

    # What runs share

    def prepare(self) -> None:
        """Write the list of all texts and the tokenizer."""
        from worldclip.train.tokenizer import run_tokenizer

        folder = self.curated(RAW)
        run_tokenizer(self.recipe(RAW).train, folder, layout.matched_shards(folder))

    def matched(self, arm: Arm) -> Path:
        """Return the run of pool, metadata and match that an arm begins with."""
        folder = self.out / "matched" / ("lid" if arm.is_lid else "true")
        run_stages(self.recipe(LID if arm.is_lid else WORLDWIDE), folder, UP_TO_CURATE[:3], executor=self.executor)
        return folder

    def curated(self, arm: Arm) -> Path:
        """Return the run that holds the list of an arm."""
        folder = self.out / "lists" / arm.name
        if not (folder / "curate" / artifacts.MANIFEST).exists():
            recipe = self.list_recipe(arm)
            branch(self.matched(arm), folder, UP_TO_CURATE[:3])
            if arm == RAW:
                write_raw_list(recipe, folder)
            else:
                run_stages(recipe, folder, UP_TO_CURATE[3:], executor=self.executor)
        return folder

    def curate_report(self, folder: Path) -> Any:
        return artifacts.read_json(layout.report_json(folder / "curate"))

    def share_of_english(self, run_dir: Path) -> float:
        """Return the share of pairs of a list whose true language is English."""
        columns = ("key", "text_idx")
        raw = _read_list(self.curated(RAW), (*columns, "lang"))
        english = raw.filter(pc.equal(raw["lang"].cast(pa.string()), "en")).select(columns)
        pairs = _read_list(run_dir, columns)
        return len(pairs.join(english, list(columns), join_type="left semi")) / len(pairs)

    # Runs

    def run(self, arm: Arm, seed: int, samples: int | None = None, name: str = "") -> None:
        """Train and measure; the results stay, the run goes."""
        name = f"{name or arm.name}_s{seed}"
        results = self.out / "results" / name
        if (results / "run.json").exists():
            return
        say("questions", name)
        source, folder = self.curated(arm), self.out / "runs" / name
        branch(source, folder, [stage for stage in UP_TO_CURATE if (source / stage).exists()])
        run_stages(self.training_recipe(arm, seed, samples or self.samples), folder, ("train",), executor=self.executor)
        self.measure(folder, results, {"arm": name.rpartition("_s")[0], "seed": seed})
        shutil.rmtree(folder)
        self.write_tables()

    def run_scaled(self, source: Path, seed: int) -> None:
        """Measure a longer worldwide run, once, and English alone on as many English pairs as it saw."""
        name = f"scaled_{source.resolve().name}"
        results = self.out / "results" / f"{name}_s0"
        if not (results / "run.json").exists():
            self.measure(source, results, {"arm": name, "seed": 0, "english_share": self.share_of_english(source)})
        record = artifacts.read_json(results / "run.json")
        samples = max(2, round(record["english_share"] * record["samples_seen"]))
        self.run(ENGLISH, seed, samples, f"english_as_{name}")

    def measure(self, run_dir: Path, results: Path, record: dict[str, Any]) -> None:
        """Write results.jsonl and ranks of a run's checkpoint on the test sets, then run.json."""
        from worldclip.evaluate import engine
        from worldclip.evaluate.stage import checkpoint_folder, model_digest
        from worldclip.model.load import load

        checkpoint = checkpoint_folder(run_dir)
        model_id = {"model": results.name, "model_digest": model_digest(checkpoint)}
        engine.evaluate(load(checkpoint, device="cpu"), model_id, self.sets, self.langs, results / "results.jsonl")
        report = artifacts.read_json(layout.report_json(run_dir / "train"))
        kept = {key: report[key] for key in ("samples_seen", "steps", "pairs", "epochs", "samples_per_s")}
        scores = {
            each.name: {lang: float((ranks < TOP).mean()) for lang, ranks in self.ranks(results, each.name).items()}
            for each in self.sets
        }
        artifacts.write_json(
            results / "run.json", record | kept | {"loss": report["curve"][-1]["loss"], "top5": scores}
        )

    def ranks(self, results: Path, name: str) -> dict[str, np.ndarray]:
        """Return the rank of each picture's name by language, (C,)."""
        folder = results / "ranks" / name
        return {lang: np.load(folder / lang / "zeroshot_classification.acc.npy") for lang in self.langs}

    # Tables

    def write_tables(self) -> str:
        """Write and return tables.md: scores of the arms, differences with 95% intervals over seeds and concepts."""
        hits: Hits = {}
        records: dict[str, dict[int, Any]] = {}
        for path in sorted((self.out / "results").glob("*/run.json")):
            record = artifacts.read_json(path)
            arm, seed = record["arm"], int(record["seed"])
            records.setdefault(arm, {})[seed] = record
            of_sets = {each.name: self.ranks(path.parent, each.name) for each in self.sets}
            hits.setdefault(arm, {})[seed] = {
                name: np.stack([ranks < TOP for ranks in of_set.values()]).astype(float)
                for name, of_set in of_sets.items()
            }
        parts = [self._scores(records, hits)]
        for title, pairs in (QUESTIONS | _scaled_question(hits)).items():
            rows = [row for pair in pairs for row in self._differences(hits, *pair)]
            if rows:
                parts.append(f"## {title}\n\n{table(HEADER, rows)}")
        text = "\n".join(parts)
        artifacts.write_text(self.out / "tables.md", text)
        return text

    def _scores(self, records: dict[str, dict[int, Any]], hits: Hits) -> str:
        measures = self.measures()
        rows = []
        for arm, of_seed in records.items():
            record = next(iter(of_seed.values()))
            cells = [arm, str(len(of_seed)), f"{record['samples_seen']:,}", f"{record['pairs']:,}"]
            for _, of_set, measure in measures:
                values = [100 * measure(of_arm[of_set]).mean() for of_arm in hits[arm].values()]
                cells.append(f"{np.mean(values):.1f} ({min(values):.1f}-{max(values):.1f})")
            rows.append(cells)
        chance = [f"{100 * TOP / len(self.set_of(of_set).image_keys):.1f}" for _, of_set, _ in measures]
        rows.append(["chance", "", "", "", *chance])
        return f"## Top-{TOP}, percent\n\n" + table(
            ["arm", "seeds", "samples", "pairs in the list", *(name for name, _, _ in measures)], rows
        )

    def _differences(self, hits: Hits, first: str, second: str) -> list[list[str]]:
        """Return a row per measure; none unless both arms have been run.

        Arms are paired by seed; a single long run is compared with each seed of the other arm.
        """
        if first not in hits or second not in hits:
            return []
        of_first, of_second = hits[first], hits[second]
        seeds = sorted(set(of_first) & set(of_second)) if len(of_second) > 1 else sorted(of_first)
        rows = []
        for name, of_set, measure in self.measures():
            gains_SC = np.stack(
                [
                    measure((of_second.get(seed) or of_second[0])[of_set]) - measure(of_first[seed][of_set])
                    for seed in seeds
                ]
            )
            found = difference(gains_SC)
            low, high = two_level_interval(found.gains_S, found.concepts_error, gains_SC.shape[1])
            star = " *" if low > 0 or high < 0 else ""
            bounds = f"{100 * low:+.1f} to {100 * high:+.1f}" if np.isfinite(low) else "one seed"
            by_seed = ", ".join(f"{100 * gain:+.1f}" for gain in found.gains_S)
            mean = f"{100 * found.gains_S.mean():+.1f}{star}"
            rows.append([f"{second} - {first}", name, mean, bounds, by_seed])
        return rows

    def set_of(self, name: str) -> Any:
        return next(each for each in self.sets if each.name == name)

    def measures(self) -> list[tuple[str, str, Measure]]:
        """Return (name, set, measure) of the columns."""
        groups = {"all languages": list(range(len(self.langs)))}
        if "en" in self.langs:
            groups["English"] = [self.langs.index("en")]
        low = [idx for idx, lang in enumerate(self.langs) if by_code()[lang].resource_level == "low"]
        if low:
            groups["low resources"] = low
        return [(f"{name}: {group}", name, _mean_over(rows)) for name in SETS for group, rows in groups.items()]


HEADER = ("difference", f"in (top-{TOP})", "points", "95%, seeds and concepts", "by seed")
Measure = Callable[[np.ndarray], np.ndarray]
"""(languages, concepts) -> (concepts,)"""
Hits = dict[str, dict[int, dict[str, np.ndarray]]]
"""Arm -> seed -> set -> (languages, concepts), 1 where the name was among the first TOP."""


def _mean_over(rows: Sequence[int]) -> Measure:
    return lambda hits_LC: hits_LC[rows].mean(axis=0)


def _scaled_question(hits: Hits) -> dict[str, list[tuple[str, str]]]:
    pairs = [(arm, arm.removeprefix("english_as_")) for arm in hits if arm.startswith("english_as_")]
    return {"Worldwide against English alone, equal numbers of English pairs": pairs} if pairs else {}


def _with_one_threshold(recipe: Recipe, threshold: int) -> dict[str, Any]:
    """Return a recipe with English's threshold for every list."""
    record: dict[str, Any] = to_dict(recipe)
    record["balance"] = {"rule": "same_threshold", "english_threshold": threshold}
    return record


def _read_list(run_dir: Path, columns: Sequence[str]) -> pa.Table:
    """Return columns of all pairs of RUN/curate."""
    shards = sorted(path.stem for path in (run_dir / "curate").glob("*.parquet"))
    return pa.concat_tables([read_curated(run_dir, shard, columns) for shard in shards])


def write_raw_list(recipe: Recipe, run_dir: Path) -> None:
    """Write RUN/curate of every text in the pool, also of those that match nothing, with its true language."""
    artifacts.write_text(layout.recipe(run_dir), to_toml(recipe))
    shards = pool.shards(Run(dir=run_dir, sections=sections_of(recipe)))
    for shard in shards:
        texts = read_texts(shard, PoolConfig(path=str(recipe.pool.path), lang="json:lang_truth"))
        rows = pa.table(
            {
                "key": texts.key.cast(pa.string()),
                "text_idx": texts.text_idx,
                "text": texts.text.cast(pa.string()),
                "lang": texts.lang,
                "keep_prob": np.ones(len(texts.text)),
            }
        ).filter(pa.array(texts.reason == Reason.KEPT))
        artifacts.write_table(layout.curated(run_dir, shard.name), rows, schemas.CURATED)
    inputs = {"shards": {shard.name: shard.fingerprint for shard in shards}}
    artifacts.write_manifest(run_dir / "curate", config={"curate": "every text"}, inputs=inputs, counts={})


def test_set(pool_dir: Path, name: str, langs: Sequence[str], num_concepts: int) -> Any:
    """Return a set of SETS: one picture of each concept, to be found among the names of all of them.

    Raises UserError if the languages share no concept.
    """
    from worldclip.evaluate.datasets.common.images import read_samples, reader
    from worldclip.evaluate.datasets.names import name_tasks
    from worldclip.evaluate.tasks import Dataset

    names = artifacts.read_json(pool_dir / "names.json")
    if unknown := [lang for lang in langs if lang not in names["lang"] or lang not in by_code()]:
        raise UserError(f"--languages-evaluated: the pool names nothing in {', '.join(unknown)}")
    position = {subject: idx for idx, subject in enumerate(names["subjects"])}
    tars = sorted((pool_dir / name).glob("*.tar"))
    samples = {}
    for sample in read_samples(tars):
        picture = names["pictures"][sample.key]
        idx = position[picture["subject"]]
        if picture["kind"] in SETS[name] and all(names["lang"][lang][idx] for lang in langs):
            samples[idx] = sample
    if not samples:
        raise UserError(f"--languages-evaluated: no picture of {name} has a name in all of {', '.join(langs)}")
    by_hash = sorted(samples, key=lambda idx: hashlib.sha256(names["subjects"][idx].encode()).digest())
    concepts = np.array(sorted(by_hash[:num_concepts]))
    chosen = [samples[idx] for idx in concepts.tolist()]
    about = f"names of {len(concepts)} pictures of {name}"

    def tasks(lang: str) -> list[Any]:
        return name_tasks(names["lang"][lang], concepts, concepts, np.arange(len(concepts)), {}, about)[:1]

    return Dataset(
        name=name,
        digest=artifacts.digest([[artifacts.fingerprint(tar, pool_dir) for tar in tars], concepts.tolist()]),
        image_keys=[sample.key for sample in chosen],
        read_images=reader(chosen),
        languages=langs,
        tasks=tasks,
    )


if __name__ == "__main__":
    main()
