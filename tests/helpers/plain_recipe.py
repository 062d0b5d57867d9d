"""match -> balance -> curate in plain Python over dicts, and small adversarial pools to compare it on.

Words of the lists hold letters alone and texts hold words and blanks, so that plain search is right in every script.
"""

from __future__ import annotations

import json
import random
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from stages import finish
from tars import write_tar
from worldclip import match
from worldclip.config import Recipe, load_recipe
from worldclip.contracts import schemas
from worldclip.core import artifacts, coin
from worldclip.core.execute import Executor
from worldclip.core.settings import to_toml
from worldclip.language import table as languages
from worldclip.match.matcher.matcher import Matcher

_SENTENCES = {
    "en": "a the red green house houses cat cats dog of on photo picture water sea mountain tree old new big small",
    "ar": "صورة بيت قطة كلب كبير صغير بحر جبل شجرة ماء أحمر أخضر في على جميل قديم جديد",
    "th": "รูป บ้าน แมว หมา ใหญ่ เล็ก ทะเล ภูเขา ต้นไม้ น้ำ แดง เขียว สวย เก่า ใหม่ ที่ ของ ไม้",
    "zh": "照片 房子 猫 狗 大 小 海 山 树 水 红色 绿色 美丽 旧 新 的 在 色 子",
}
WORDS = {lang: words.split() for lang, words in _SENTENCES.items()}
LISTS = {lang: words[1::2] for lang, words in WORDS.items()}  # every other word matches nothing
FOREIGN = "старая фотография большого красного дома у моря"  # in no language of the run
BAD_JSON = object()

NUM_ALT = 2  # texts of a sample in `alt`, the others in `caption`, where a pool has both
Sample = tuple[str, Any]  # key, and its texts or BAD_JSON
Shards = dict[str, list[Sample]]
Fate = tuple[str, str, int, str, str, list[int], int]
"""Reason, key, text_idx, language, text, entry ids and place of a text."""
Fates = dict[str, list[list[Fate]]]
"""Per shard, per sample: the fates of its texts."""


@dataclass
class Outcome:
    """What each stage must give."""

    matched: dict[str, list[tuple]] = field(default_factory=dict)
    counts: dict[str, list[int]] = field(default_factory=dict)
    thresholds: dict[str, int | None] = field(default_factory=dict)
    kept: dict[str, list[tuple]] = field(default_factory=dict)
    report: dict[str, dict[str, float]] = field(default_factory=dict)


def make_text(rng: random.Random, lang: str) -> str:
    joint = "" if lang in ("th", "zh") else " "
    frequencies = [1 / rank for rank in range(1, len(WORDS[lang]) + 1)]
    return joint.join(rng.choices(WORDS[lang], frequencies, k=rng.randint(3, 7)))


def make_shards(seed: int, num_shards: int = 4, num_samples: int = 30) -> Shards:
    """Images with up to 5 texts: several languages, empty ones, foreign ones, repeated keys, broken records."""
    rng = random.Random(seed)
    shards: Shards = {}
    for s in range(num_shards):
        samples: list[Sample] = []
        for i in range(num_samples):
            kinds = rng.choices([*WORDS, "empty", "foreign", "no match"], [3, 2, 2, 2, 1, 1, 1], k=rng.randint(0, 5))
            texts = [make_text(rng, kind) if kind in WORDS else None for kind in kinds]
            for place, kind in enumerate(kinds):
                if kind == "foreign":
                    texts[place] = FOREIGN
                elif kind == "no match":
                    texts[place] = "unmatched words everywhere without any listed thing"
                elif kind == "empty":
                    texts[place] = rng.choice(["", "  ", None])
            samples.append((f"s{s}_{i:03}", BAD_JSON if rng.random() < 0.05 else texts))
        samples += [(key, [make_text(rng, "en"), make_text(rng, "zh")]) for key, _ in rng.sample(samples, 2)]
        shards[f"part{s % 2}/{s:05}.tar"] = samples
    return shards


def keys_of(shards: Shards) -> list[str]:
    """Return the key of each sample, in the order of the shards' names, each once."""
    keys = [f"{Path(name).parent}/{stem}" for name in sorted(shards) for stem, _ in shards[name]]
    return list(dict.fromkeys(keys))


def write_pool(
    folder: Path, shards: Shards, *, by_place: bool = False, image_of: Callable[[str], bytes] | None = None
) -> None:
    """by_place: texts in the fields `alt` and `caption`, for weights.  image_of: of a key; else no pictures."""
    for name, samples in shards.items():
        members = []
        for key, texts in samples:
            record = {"texts": texts}
            if by_place and texts is not BAD_JSON:
                record = {"alt": texts[:NUM_ALT], "caption": texts[NUM_ALT:]}
            body = b"{broken" if texts is BAD_JSON else json.dumps(record, ensure_ascii=False).encode()
            image = image_of(key) if image_of else b"image of " + key.encode()
            members += [(f"{key}.json", body), (f"{key}.jpg", image)]
        write_tar(folder / name, members)


def write_metadata(run: Path, lists: Mapping[str, Sequence[str]], profile: str = "unicode") -> None:
    """RUN/metadata as its stage leaves it."""
    digests = {}
    for name, entries in lists.items():
        rows = [{"entry_id": i, "entry": entry, "source": "list"} for i, entry in enumerate(entries)]
        table = pa.Table.from_pylist(rows, schemas.METADATA)
        artifacts.write_table(run / "metadata" / f"{name}.parquet", table, schemas.METADATA)
        matcher = Matcher(list(entries), profile)
        matcher.save(run / "metadata" / f"{name}.matcher" / profile)
        digests[name] = matcher.digest
    artifacts.write_manifest(run / "metadata", config={}, inputs=dict(lists), counts={}, digests=digests, sources={})


def make_recipe(pool_folder: Path, **sections: Any) -> Recipe:
    pool = {"path": str(pool_folder), **sections.pop("pool", {})}
    whole = {"languages": {"codes": list(WORDS)}, "balance": {"tail_fraction": 0.05}, **sections}
    return load_recipe({"pool": pool, **whole})


def run_stages(recipe: Recipe, run: Path, executor: Executor | None = None, stages: str = "pool match balance curate"):
    """Run the real stages, as recipe.py does, on LISTS unless the run has other lists; return the reports by stage."""
    if not (run / "metadata").exists():
        write_metadata(run, LISTS)
    artifacts.write_text(run / "recipe.toml", to_toml(recipe))
    return {name: finish(name, recipe, run, executor) for name in stages.split()}


def make_run(folder: Path, shards: Shards, stages: str = "pool match balance curate", **sections: Any) -> Path:
    """Write FOLDER/pool, run the stages on it, and return FOLDER/run."""
    write_pool(folder / "pool", shards)
    run_stages(make_recipe(folder / "pool", **sections), folder / "run", stages=stages)
    return folder / "run"


# the plain recipe


def plain_match(text: str, entries: Sequence[str], lang: str) -> list[int]:
    if lang in ("th", "zh"):
        return [i for i, entry in enumerate(entries) if entry in text and not plain_breaks_cluster(text, entry)]
    return [i for i, entry in enumerate(entries) if f" {entry} " in f" {text} "]


def plain_breaks_cluster(text: str, entry: str) -> bool:
    """Whether a combining mark follows every occurrence (Thai vowels and tones above and below)."""
    places = [i for i in range(len(text)) if text.startswith(entry, i)]
    behind = [text[i + len(entry) : i + len(entry) + 1] for i in places]
    return all(char and unicodedata.category(char).startswith("M") for char in behind)


def plain_lang(text: str, recipe: Recipe, lists: Mapping[str, Sequence[str]]) -> str | None:
    labels, probs = match.identify([text])
    lang = recipe.match.merge_labels.get(labels[0]) or languages.from_lid(labels[0])
    return lang if lang in lists and probs[0] >= recipe.match.min_lang_prob else None


def plain_run(
    shards: Shards,
    recipe: Recipe,
    lists: Mapping[str, Sequence[str]] = LISTS,
    valid: set[str] | None = None,
    denied: Sequence[str] = (),
) -> Outcome:
    """Everything in one pass over dicts; keys as in a pool whose tars lie in folders: <folder>/<stem>."""
    fates: Fates = {}
    for name in sorted(shards):
        seen: set[str] = set()
        fates[name] = []
        for stem, texts in shards[name]:
            key = f"{Path(name).parent}/{stem}"
            fates[name].append(plain_fates(key, texts, key in seen, recipe, lists))
            seen.add(key)
    return plain_outcome(fates, recipe, lists, valid, denied)


def plain_outcome(
    fates: Fates,
    recipe: Recipe,
    lists: Mapping[str, Sequence[str]] = LISTS,
    valid: set[str] | None = None,
    denied: Sequence[str] = (),
) -> Outcome:
    """Count, balance and curate texts whose fates are known."""
    out = Outcome(counts={lang: [0] * len(entries) for lang, entries in lists.items()})
    keys = {sample[0][1] for samples in fates.values() for sample in samples}
    is_valid = {key: (valid is None or key in valid) and key not in denied for key in keys}
    for name, samples in fates.items():
        rows = [fate for sample in samples for fate in sample if fate[0] == "matched"]
        out.matched[name] = [(key, idx, lang, text, ids) for _, key, idx, lang, text, ids, _ in rows]
        for _, key, _, lang, _, ids, _ in rows:
            for entry in ids if is_valid[key] else ():
                out.counts[lang][entry] += 1
    probs = {}
    for lang, counts in out.counts.items():
        out.thresholds[lang] = plain_threshold(counts, recipe.balance.tail_fraction)
        probs[lang] = [np.float32(1 if not n else out.thresholds[lang] / max(out.thresholds[lang], n)) for n in counts]
    table: dict[str, Counter] = defaultdict(Counter)
    for name, samples in fates.items():
        out.kept[name] = []
        for sample in samples:
            plain_curate(sample, recipe, is_valid, probs, out.kept[name], table)
    for lang, row in table.items():
        reasons = {reason: n for reason, n in row.items() if reason != "expected_pairs"}
        out.report[lang] = {**row, "pairs_in": sum(reasons.values())}
    return out


def plain_fates(key: str, texts: Any, is_repeated: bool, recipe: Recipe, lists) -> list[tuple]:
    """The fate of each text; one row for an image without any."""
    if texts is BAD_JSON:
        return [("bad_pair", key, 0, "und", "", [], 0)]
    if is_repeated:
        return [("duplicate", key, idx, "und", "", [], 0) for idx in range(max(1, len(texts)))]
    found = []
    for idx, text in enumerate(texts or [None]):
        if text is None or not text.strip():
            found.append(("no_text", key, idx, "und", "", [], 0))
            continue
        lang = plain_lang(text, recipe, lists)
        found.append(plain_fate(key, idx, text, lang, int(idx >= NUM_ALT), lists))
    return found


def plain_fate(key: str, idx: int, text: str, lang: str | None, place: int, lists) -> Fate:
    """The fate of a text that has a language, or None."""
    ids = plain_match(text, lists[lang], lang) if lang else []
    reason = "no_language" if lang is None else "matched" if ids else "no_match"
    return (reason, key, idx, lang or "und", text, ids, place)


def plain_threshold(counts: Sequence[int], fraction: float) -> int | None:
    if not sum(counts):
        return None
    distances, cumulated = [], 0
    for count in sorted(counts):
        cumulated += count
        distances.append((abs(cumulated / sum(counts) - fraction), count))
    return max(1, min(distances, key=lambda item: item[0])[1])


def plain_prob(ids: Sequence[int], probs: Sequence[np.float32]) -> float:
    product = 1.0
    for entry in ids:
        product *= 1.0 - float(probs[entry])
    return 1.0 - product


ORDER = ("bad_pair", "duplicate", "no_text", "no_language", "no_match", "not_valid", "excluded", "drawable")


def plain_curate(sample: list[tuple], recipe: Recipe, is_valid, probs, kept: list, table) -> None:
    config = recipe.curate
    weight_of_place = recipe.pool.text_weights or (1, 1)
    settled = []
    for reason, key, idx, lang, text, ids, place in sample:
        if reason == "matched":
            excluded = lang in config.exclude or (config.include and lang not in config.include)
            reason = "not_valid" if not is_valid[key] else "excluded" if excluded else "drawable"
        settled.append((reason, key, idx, lang, text, plain_prob(ids, probs[lang]) if ids else 0.0, place))
    drawable = [row for row in settled if row[0] == "drawable"]
    if config.text_policy == "one":
        if drawable:
            key = drawable[0][1]
            weights = [1.0] * len(drawable)
            if recipe.pool.text_weights:
                places = [row[6] for row in drawable]
                weights = [weight_of_place[place] / places.count(place) for place in places]
            point = coin.uniform(key, 0, config.seed, 0, coin.TEXT_DRAW) * sum(weights)
            number = next(i for i in range(len(weights)) if point < sum(weights[: i + 1]))
            for row, weight in zip(drawable, weights, strict=True):
                table[row[3]]["expected_pairs"] += row[5] * weight / sum(weights)
            settled = [drawable[number]]
        else:
            latest = max(settled, key=lambda row: ORDER.index(row[0]))[0]
            settled = [next(row for row in settled if row[0] == latest)]
    for reason, key, idx, lang, text, prob, _ in settled:
        if reason == "drawable":
            reason = "pairs_out" if coin.uniform(key, idx, config.seed, 0) < prob else "sampled_out"
            if reason == "pairs_out":
                kept.append((key, idx, text, lang, prob))
            if config.text_policy == "all":
                table[lang]["expected_pairs"] += prob
        table[lang][reason] += 1
