"""Balance, filter by similarity, or both: which trains the better model from as many pairs of a noisy emoji pool?

    python benchmarks/balance_or_filter.py OUT [--write]   --write renews benchmarks/results/balance_or_filter.md

A fifth of the texts is wrong: the name, in the same language, of another emoji.  Which ones is known, so the filter's
precision and recall are too.  The model that scores was trained by this script on a third of the emoji, as noisy, and
on more English than Arabic; the other two thirds are the pool.  Every arm keeps the same number of pairs of each
language and trains on as many samples.  Finished parts of OUT are skipped.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import worldclip
from worldclip.check.config import CheckConfig, SimilarityRule
from worldclip.check.similarity import DECIMALS
from worldclip.check.stage import check
from worldclip.config import Recipe, load_recipe
from worldclip.contracts import layout
from worldclip.core import artifacts
from worldclip.core.execute import LocalExecutor
from worldclip.match import Matcher
from worldclip.plugins.drawings import fraction, write_samples
from worldclip.plugins.emoji.build import LANGS as EMOJI_LANGS
from worldclip.plugins.emoji.build import build_emoji
from worldclip.pool.config import PoolConfig
from worldclip.report.table import Table, columns_of, text_column, to_markdown

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "ablation"))
from intervals import difference

RESULTS = Path(__file__).parent / "results" / "balance_or_filter.md"
LANGS = ("en", "es", "ja", "zh", "ru", "ar")
NOISE = 0.2  # share of wrong texts
SCORER_SHARE = 1 / 3  # of the emoji
SCORER_PAIRS = dict(zip(LANGS, (1_200, 800, 560, 390, 270, 190), strict=True))  # uneven, as in models of the web
PERCENTILE = 30  # of a language's texts: more than the noise, since the scorer is far from perfect
TAIL_FRACTION = 0.1  # as recipes/emoji.toml
SEEDS = (0, 1, 2)
TOP = (1, 10)
SAMPLES_PER_TAR = 500
SCORER_SAMPLES, SAMPLES_SEEN = 16_000, 20_000
# The arms are narrower than the scorer, so that a training costs half a minute of one core.
SCORER_MODEL = {"preset": "tiny", "image_size": 32}
ARM_MODEL = SCORER_MODEL | {"vision_width": 64, "text_width": 64, "embed_dim": 64, "text_layers": 2}
SCORER_LR, ARM_LR = 1.2e-3, 2e-3
PAIRS = 800  # of each language in every arm


class Arm(NamedTuple):
    """What selects the pairs of a training."""

    pool: str
    tail_fraction: float


ARMS = {
    "neither": Arm("noisy", 1.0),
    "balance": Arm("noisy", TAIL_FRACTION),
    "filter": Arm("filtered", 1.0),
    "both": Arm("filtered", TAIL_FRACTION),
}
DIFFERENCES = (
    ("balance", "neither"),
    ("filter", "neither"),
    ("both", "neither"),
    ("both", "balance"),
    ("both", "filter"),
)
ONE_CORE = LocalExecutor(workers=1)


# --- the pools


def read_tars(folder: Path) -> Iterator[tuple[str, bytes, dict[str, Any]]]:
    """Yield (key, PNG, record) of each sample."""
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            members = tar.getmembers()
            for picture, record in zip(members[::2], members[1::2], strict=True):
                key = picture.name.removesuffix(".png")
                yield key, _content(tar, picture), json.loads(_content(tar, record))


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


def write_pools(out: Path) -> None:
    """Write OUT/scorer_pool and OUT/pool with wrong texts, and OUT/truth.parquet, which says of each whether it is."""
    if (out / "truth.parquet").exists():
        return
    build_emoji(out / "emoji", executor=ONE_CORE)
    columns = [EMOJI_LANGS.index(lang) for lang in LANGS]
    samples = [
        (key, png, {"texts": [record["texts"][column] for column in columns], "lang_truth": list(LANGS)})
        for key, png, record in read_tars(out / "emoji" / "pairs")
    ]
    is_for_scorer = [fraction(key, "scorer") < SCORER_SHARE for key, _, _ in samples]
    rows: list[dict[str, Any]] = []
    for name, wanted in (("scorer_pool", True), ("pool", False)):
        part = [sample for sample, is_in in zip(samples, is_for_scorer, strict=True) if is_in == wanted]
        rows += mix_up(part)
        for start in range(0, len(part), SAMPLES_PER_TAR):
            write_samples(out / name / f"{start // SAMPLES_PER_TAR:06}.tar", part[start : start + SAMPLES_PER_TAR])
    truth = pa.Table.from_pylist(rows)
    truth = truth.set_column(truth.column_names.index("text_idx"), "text_idx", truth["text_idx"].cast(pa.int32()))
    artifacts.write_artifact(out / "truth.parquet", lambda path: pq.write_table(truth, path))


def mix_up(samples: Sequence[tuple[str, bytes, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Exchange a share NOISE of each language's texts among themselves, in place; return the truth of every text.

    The chosen texts move on by one emoji, so a language has the same texts as before, each as often.
    """
    truth = []
    for text_idx, lang in enumerate(LANGS):
        chosen = [record for key, _, record in samples if fraction(f"{key} {lang}", "wrong") < NOISE]
        right = [record["texts"][text_idx] for key, _, record in samples]
        moved = [record["texts"][text_idx] for record in chosen]
        for record, text in zip(chosen, [*moved[1:], *moved[:1]], strict=True):
            record["texts"][text_idx] = text
        for (key, _, record), name in zip(samples, right, strict=True):
            text = record["texts"][text_idx]
            truth.append({"key": key, "text_idx": text_idx, "lang": lang, "name": name, "is_wrong": text != name})
    return truth


def train_tokenizer(out: Path) -> Path:
    """Train one tokenizer for all models, on the texts of the pool."""
    from worldclip.model.tokenizer import train_tokenizer

    folder = out / "tokenizer"
    if not folder.exists():
        texts = [text for _, _, record in read_tars(out / "pool") for text in record["texts"]]
        train_tokenizer(texts, vocab_size=4_000, context_length=32).save(folder)
    return folder


# --- the models


def recipe(
    pool: Path,
    tokenizer: Path,
    samples: int,
    seed: int,
    pairs: int | dict[str, int],
    *,
    tail_fraction: float = 1.0,
    lr: float = ARM_LR,
    model: Mapping[str, Any] = ARM_MODEL,
) -> Recipe:
    """Return the recipe of a model; pairs: at most of each language."""
    return load_recipe(
        {
            "pool": {"path": str(pool), "lang": "json:lang_truth"},
            "languages": {"codes": list(LANGS)},
            "metadata": {"sources": ["number", "wordfreq"]},
            "match": {"profile": "unicode"},
            "balance": {"tail_fraction": tail_fraction},
            "curate": {"text_policy": "all", "seed": seed, "max_pairs": pairs},
            "train": {
                "samples_seen": samples,
                "global_batch_size": 64,
                "lr": lr,
                "warmup_samples": samples // 2,
                "beta2": 0.98,
                "curation": "offline",  # the same pairs in every epoch
                "augment": "drawings",
                "seed": seed,
                "device": "cpu",
                "checkpoint_every_samples": 1_000_000_000,
                "model": dict(model),
                "tokenizer": {"path": str(tokenizer)},
            },
        }
    )


def train_scorer(out: Path) -> Path:
    """Train the model that scores, on its own part of the emoji, which is as noisy as the pool."""
    tokenizer, pool = train_tokenizer(out), out / "scorer_pool"
    config = recipe(pool, tokenizer, SCORER_SAMPLES, 9, SCORER_PAIRS, lr=SCORER_LR, model=SCORER_MODEL)
    return worldclip.run(config, out / "scorer", until="train", executor=ONE_CORE)


def filter_pool(out: Path) -> Path:
    """Write the pool without the texts below their language's percentile; return the folder of the check."""
    rules = CheckConfig(
        duplicates="keep",
        write="tars",
        similarity=SimilarityRule(model=str(out / "scorer"), percentile=PERCENTILE),
    )
    check(PoolConfig(path=str(out / "pool")), out / "check", rules, executor=ONE_CORE)
    return out / "check"


def train_arm(out: Path, name: str, seed: int, samples: int, pairs: int) -> Path:
    """Return the run of an arm; what its pool's match found is shared."""
    arm = ARMS[name]
    pool = out / "pool" if arm.pool == "noisy" else out / "check" / "pairs"
    config = recipe(pool, train_tokenizer(out), samples, seed, pairs, tail_fraction=arm.tail_fraction)
    matched = out / "matched" / arm.pool
    worldclip.run(config, matched, until="match", executor=ONE_CORE)
    return worldclip.run(config, out / "runs" / f"{name}_{seed}", from_run=matched, until="train", executor=ONE_CORE)


# --- what is measured


def read_scores(out: Path) -> pa.Table:
    """Return the truth of the pool's texts with similarity and the threshold by which the check decided."""
    folder = out / "check"
    scores = pq.read_table(folder / "similarity", columns=["key", "text_idx", "lang", "similarity"])
    thresholds = artifacts.read_json(folder / "report.json")["similarity"]["by_language"]
    threshold = [thresholds[lang]["threshold"] for lang in scores["lang"].to_pylist()]
    scores = scores.drop_columns(["lang"]).append_column("threshold", pa.array(threshold))
    return pq.read_table(out / "truth.parquet").join(scores, ["key", "text_idx"], join_type="inner")


def separation(similarity: np.ndarray, is_wrong: np.ndarray) -> float:
    """Return the probability that a right text scores above a wrong one."""
    ranks = np.empty(len(similarity))
    ranks[np.argsort(similarity, kind="stable")] = np.arange(len(similarity))
    num_right = int((~is_wrong).sum())
    above = ranks[~is_wrong].sum() - num_right * (num_right - 1) / 2
    return float(above / (num_right * is_wrong.sum()))


def filter_rows(scores: pa.Table) -> tuple[list[list[Any]], float]:
    """Return rows (language, separation, then removed, precision, recall of both filters) and the fixed threshold.

    The fixed threshold removes as many texts of the whole pool as the percentiles do.
    """
    similarity = np.round(scores["similarity"].to_numpy().astype(np.float64), DECIMALS)
    is_wrong = scores["is_wrong"].to_numpy()
    lang = np.array(scores["lang"].to_pylist())
    by_percentile = similarity < scores["threshold"].to_numpy()
    fixed = float(np.sort(similarity)[by_percentile.sum()])
    rows = []
    for name in (*LANGS, "all"):
        members = (lang == name) | (name == "all")
        row: list[Any] = [name, f"{separation(similarity[members], is_wrong[members]):.2f}"]
        for removed in (by_percentile, similarity < fixed):
            both = (removed & is_wrong)[members].sum()
            row += [f"{100 * removed[members].mean():.0f}"]
            row += [f"{100 * both / max(1, total):.0f}" for total in (removed[members].sum(), is_wrong[members].sum())]
        rows.append(row)
    return rows, fixed


def keep_probs(run_dir: Path, lang: str, names: Sequence[str]) -> np.ndarray:
    """Return the keep probability of each name under a run's balance, (n,) float64."""
    ids, offsets = Matcher.load(layout.matcher(run_dir, lang, "unicode")).match_batch(names)
    return worldclip.curate.keep_prob(ids, offsets, np.load(layout.entry_probs(run_dir, lang)))


def test_set(out: Path) -> tuple[list[str], list[bytes]]:
    """Return keys and redrawn pictures of the pool's emoji without skin tones."""
    keys = set(pq.read_table(out / "truth.parquet", columns=["key"])["key"].to_pylist())
    pool_keys = {key for key in keys if fraction(key, "scorer") >= SCORER_SHARE}
    chosen = [(key, png) for key, png, _ in read_tars(out / "emoji" / "base") if key in pool_keys]
    return [key for key, _ in chosen], [png for _, png in chosen]


def score_run(out: Path, run_dir: Path, balanced: Path) -> dict[str, Any]:
    """Return top-1 and top-10 among all names of the test set, and what the list of the run holds.

    balanced: a run whose balance says which names are head (the third with the least keep probability) and tail.
    """
    path = run_dir / "score.json"
    if path.exists():
        return dict(artifacts.read_json(path))
    keys, pictures = test_set(out)
    truth = pq.read_table(out / "truth.parquet")
    clip = worldclip.load(run_dir, device="cpu")
    images_ND = clip.encode_image(pictures)
    ranks_LN = np.empty((len(LANGS), len(keys)), np.int64)
    third_LN = np.empty_like(ranks_LN)
    for i, lang in enumerate(LANGS):
        rows = truth.filter(pc.equal(truth["lang"], lang))
        rows = rows.take(pc.index_in(pa.array(keys), value_set=rows["key"].combine_chunks()))
        names = rows["name"].to_pylist()
        classes, target_N = np.unique(np.array(names, object), return_inverse=True)
        cosines_NC = images_ND @ clip.encode_text(classes.tolist()).T
        ranks_LN[i] = (cosines_NC > cosines_NC[np.arange(len(keys)), target_N][:, None]).sum(axis=1)
        order = np.argsort(keep_probs(balanced, lang, names), kind="stable")
        third_LN[i, order] = np.arange(len(names)) * 3 // len(names)
    record = {f"top{k}": accuracies(ranks_LN < k, third_LN) for k in TOP} | describe_list(out, run_dir)
    artifacts.write_json(path, record)
    return record


def accuracies(right_LN: np.ndarray, third_LN: np.ndarray) -> dict[str, Any]:
    """Return the share of right answers by language, by emoji, and in the first and last third of names."""
    return {
        "by_lang": dict(zip(LANGS, right_LN.mean(axis=1).tolist(), strict=True)),
        "by_emoji": right_LN.mean(axis=0).tolist(),
        "head": float(right_LN[third_LN == 0].mean()),
        "tail": float(right_LN[third_LN == 2].mean()),
    }


def describe_list(out: Path, run_dir: Path) -> dict[str, Any]:
    """Return the pairs of a run's list, the share of wrong ones among them, and how many different words it has."""
    shards = layout.matched_shards(run_dir)
    kept = pa.concat_tables([worldclip.curate.read_curated(run_dir, shard) for shard in shards])
    rows = kept.select(["key", "text_idx"]).join(
        pq.read_table(out / "truth.parquet"), ["key", "text_idx"], join_type="inner"
    )
    return {"pairs": len(rows), "wrong": float(np.mean(rows["is_wrong"].to_numpy(zero_copy_only=False)))}


# --- the page


def percent(values: Sequence[float]) -> str:
    return f"{100 * np.mean(values):.1f} ({100 * min(values):.1f} to {100 * max(values):.1f})"


def arm_rows(scores: dict[str, list[dict[str, Any]]]) -> list[list[Any]]:
    """Return a row for each arm and k: the list, then top-k of all languages, English, the others, head and tail."""
    rows: list[list[Any]] = []
    for k in TOP:
        for name, runs in scores.items():
            found = [run[f"top{k}"] for run in runs]
            measures = [
                [float(np.mean(one["by_emoji"])) for one in found],
                [one["by_lang"]["en"] for one in found],
                [float(np.mean([one["by_lang"][lang] for lang in LANGS if lang != "en"])) for one in found],
                [one["head"] for one in found],
                [one["tail"] for one in found],
            ]
            wrong = [run["wrong"] for run in runs]
            rows.append([name, f"top-{k}", f"{runs[0]['pairs']:,}", percent(wrong), *map(percent, measures)])
    return rows


def difference_rows(scores: dict[str, list[dict[str, Any]]]) -> list[list[Any]]:
    """Return a row for each of DIFFERENCES and k: points of the mean of all languages, with the 95% interval."""
    rows = []
    for k in TOP:
        for first, second in DIFFERENCES:
            arrays = [np.array([run[f"top{k}"]["by_emoji"] for run in scores[name]]) for name in (first, second)]
            gain = difference(arrays[0] - arrays[1])
            low, high = gain.interval
            star = " *" if low > 0 or high < 0 else ""
            points = f"{100 * gain.gains_S.mean():+.1f}{star}"
            interval = f"{100 * low:+.1f} to {100 * high:+.1f}"
            by_seed = ", ".join(f"{100 * value:+.1f}" for value in gain.gains_S)
            rows.append([f"{first} - {second}", f"top-{k}", points, interval, by_seed])
    return rows


def page(out: Path, scores: dict[str, list[dict[str, Any]]], samples: int) -> str:
    """Return the results as Markdown."""
    rows, fixed = filter_rows(read_scores(out))
    num_classes = len(test_set(out)[0])
    arms = [text_column("arm"), text_column("measure"), *columns_of(["pairs", "wrong pairs", "all", "English"])]
    arms += columns_of(["others", "head", "tail"])
    gains = [text_column("difference"), text_column("measure")]
    gains += columns_of(["points", "95%, seeds and emoji", "by seed"])
    filters = [text_column("language"), *columns_of(["right above wrong"])]
    filters += columns_of(
        [f"{what}{how}" for how in (" (percentile)", " (fixed)") for what in ("removed", "precision", "recall")]
    )
    return "\n".join(
        [
            "# Balance, filter, or both\n",
            f"{date.today()}, {platform.machine()}, torch {version('torch')}, emoji {version('emoji')}, one thread per "
            f"run on a shared machine. `benchmarks/balance_or_filter.py`: {samples:,} samples of each training, "
            f"percentile {PERCENTILE}, tail fraction {TAIL_FRACTION}, noise {NOISE:.0%}, {num_classes} pictures in the "
            "test. All numbers are in percent: the mean, the least and the most of the seeds.\n",
            to_markdown(Table(arms, arm_rows(scores))),
            "",
            to_markdown(Table(gains, difference_rows(scores))),
            "",
            f"What the filters remove; fixed: a similarity below {fixed:.4f} in every language, which removes as many "
            "texts in all.\n",
            to_markdown(Table(filters, rows)),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--write", action="store_true", help="renew the results page")
    parser.add_argument("--samples", type=int, default=SAMPLES_SEEN, help="of each training")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="of each language in every arm")
    parser.add_argument("--until", choices=("filter", "arms"), default="arms", help="filter: stop before the arms")
    options = parser.parse_args()
    out = options.out
    write_pools(out)
    train_scorer(out)
    filter_pool(out)
    for row in filter_rows(read_scores(out))[0]:
        print(*row)
    if options.until == "filter":
        return
    runs = {(name, seed): train_arm(out, name, seed, options.samples, options.pairs) for seed in SEEDS for name in ARMS}
    scores = {name: [score_run(out, runs[name, seed], runs["balance", 0]) for seed in SEEDS] for name in ARMS}
    text = page(out, scores, options.samples)
    print(text)
    if options.write:
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
