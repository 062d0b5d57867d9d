"""match -> balance -> curate in plain Python over dicts, and small adversarial pools to compare it on.

Words of the lists hold letters alone and texts hold words and blanks, so that plain search is right in every script.
"""

from __future__ import annotations

import functools
import json
import random
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from plain_pool import PlainShard, Refused, Text
from stages import finish
from tars import write_tar
from worldclip.config import Recipe, load_recipe
from worldclip.contracts import schemas
from worldclip.core import artifacts, coin
from worldclip.core.execute import Executor
from worldclip.core.settings import to_toml
from worldclip.language import table as languages
from worldclip.language.identify import Identifier, read_labels
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

MERGED = list(dict.fromkeys(entry for lang in sorted(LISTS) for entry in LISTS[lang]))
MERGED_LISTS = {**LISTS, "merged": MERGED}  # those under any match.isolate
NUM_ALT = 2  # texts of a sample in `alt`, the others in `caption`, where a pool has both
Sample = tuple[str, Any]  # key, and its texts or BAD_JSON
Shards = dict[str, list[Sample]]


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


# --- the plain recipe -------------------------------------------------------------------------------------------------

# languages that pool.lang may state, and labels of the model; None: no language of the run
STATED = {"en": "en", "EN": "en", "eng": "en", "en-GB": "en", "English": "en", "zh": "zh", "yue": "zh", "tha": "th"}
STATED |= {"th": "th", "ar": "ar", "fr": None, "xx": None}
Keys = set[tuple[str, str | None]]
"""Keys of a list, each with its shard, or None if it is meant in all."""


@dataclass
class Outcome:
    """What each stage must give, by shard or by list."""

    matched: dict[str, list[tuple]] = field(default_factory=dict)
    counts: dict[str, list[int]] = field(default_factory=dict)
    thresholds: dict[str, int | None] = field(default_factory=dict)
    kept: dict[str, list[tuple]] = field(default_factory=dict)
    dropped: dict[str, list[tuple]] = field(default_factory=dict)
    report: dict[str, Counter] = field(default_factory=lambda: defaultdict(Counter))
    caps: dict[str, float] = field(default_factory=dict)
    refusal: Refused | None = None
    """What ends the run; the stages before it give what they must."""


def plain_run(pool: dict[str, PlainShard], recipe: Recipe, valid: list[Keys], denied: list[Keys]) -> Outcome:
    """Match, count, balance and curate what the stage pool finds.  valid: at most one list."""
    out = Outcome()
    try:
        plain_matches(pool, recipe, out)
        allowed = plain_allowed(pool, valid, denied)
        if not any(out.matched.values()):
            raise Refused("match", "pairs matched")
        plain_balance(pool, recipe, allowed, out)
        plain_curate(pool, recipe, allowed, out)
    except Refused as refusal:
        out.refusal = refusal
    return out


def plain_allowed(pool: dict[str, PlainShard], valid: list[Keys], denied: list[Keys]) -> set[tuple[str, str]]:
    """Return (shard, key) of what the lists of keys let through."""
    allowed = {(name, text.key) for name, text in texts_in(pool)}
    for keys in valid:
        allowed = {(name, key) for name, key in allowed if is_listed(keys, name, key)}
    for keys in denied:
        allowed = {(name, key) for name, key in allowed if not is_listed(keys, name, key)}
    for keys in [*valid, *denied]:
        is_used = any(is_listed(keys, name, key) for name, shard in pool.items() for key in shard.keys)
        if keys and not is_used:
            raise Refused("match", "none of its keys is in the pool")
    return allowed


def texts_in(pool: dict[str, PlainShard]) -> list[tuple[str, Text]]:
    return [(name, text) for name, shard in pool.items() for sample in shard.samples for text in sample]


def is_listed(keys: Keys, shard: str, key: str) -> bool:
    return (key, None) in keys or (key, shard) in keys


def list_of(recipe: Recipe, lang: str) -> str:
    return {"language": lang, "merged": "merged", "english": "en"}[recipe.match.isolate]


# match


def plain_matches(pool: dict[str, PlainShard], recipe: Recipe, out: Outcome) -> None:
    """Set language, entries and reason of each text."""
    states_languages = any(place.lang for place in recipe.pool.places)
    for label, lang in recipe.match.merge_labels.items():
        if label not in read_labels() and not states_languages:
            raise Refused("match", "unknown label")
        if lang not in LISTS:
            raise Refused("match", "not a language of this run")
    for name, shard in pool.items():
        out.matched[name] = []
        for text in [text for sample in shard.samples for text in sample if text.reason == "kept"]:
            lang = plain_lang(text, recipe)
            if lang is None:
                text.reason = "no_language"
                continue
            text.lang = lang
            text.ids = plain_match(text.text, MERGED_LISTS[list_of(recipe, lang)], recipe.match.fold_case)
            text.reason = "matched" if text.ids else "no_match"
            if text.ids:
                out.matched[name].append((text.key, text.idx, lang, text.text, text.ids))


def plain_lang(text: Text, recipe: Recipe) -> str | None:
    """Return the language of a text, as the pool says it or the model."""
    config = recipe.match
    if text.is_labelled:
        return config.merge_labels.get(text.label) or STATED.get(text.label)
    label, prob = identified(text.text, config.restrict_to_recipe_languages, tuple(config.merge_labels))
    lang = config.merge_labels.get(label) or languages.from_lid(label)
    return lang if lang in LISTS and prob >= config.min_lang_prob else None


@functools.cache
def identified(text: str, is_restricted: bool, merged: tuple[str, ...]) -> tuple[str, np.float32]:
    """Return the most probable label and its probability; merged: labels that stand for a language of the run."""
    allowed = [label for label in read_labels() if label in merged or languages.from_lid(label) in LISTS]
    labels, probs = Identifier(None, allowed if is_restricted else None).predict([text])
    return str(labels[0]), probs[0]


def plain_match(text: str, entries: Sequence[str], has_fold: bool = False) -> list[int]:
    """Return the entries in a text: words between blanks, or any part of a text of a script without blanks."""
    text = text.casefold() if has_fold else text
    words = re.split(r"[\s,\"]", text)
    found = []
    for number, entry in enumerate(entries):
        is_word = entry in LISTS["en"] or entry in LISTS["ar"]
        if entry in words if is_word else entry in text and not plain_breaks_cluster(text, entry):
            found.append(number)
    return found


def plain_breaks_cluster(text: str, entry: str) -> bool:
    """Whether a combining mark follows every occurrence (Thai vowels and tones above and below)."""
    places = [i for i in range(len(text)) if text.startswith(entry, i)]
    behind = [text[i + len(entry) : i + len(entry) + 1] for i in places]
    return all(char and unicodedata.category(char).startswith("M") for char in behind)


# balance


def plain_balance(pool: dict[str, PlainShard], recipe: Recipe, allowed: set[tuple[str, str]], out: Outcome) -> None:
    """Set counts and thresholds of each list, and the probability of each text."""
    config = recipe.balance
    lists = sorted({list_of(recipe, lang) for lang in LISTS})
    out.counts = {name: [0] * len(MERGED_LISTS[name]) for name in lists}
    for name, text in texts_in(pool):
        for entry in text.ids if (name, text.key) in allowed else []:
            out.counts[list_of(recipe, text.lang)][entry] += 1
    if any(name not in lists for name in config.tail_fractions):
        raise Refused("balance", "balance.tail_fractions: the run has no list")
    fraction = config.tail_fraction
    of_english: list[str] = []
    if config.english_threshold is not None:
        of_english = lists
    if config.english_threshold is not None and config.rule == "tail_fraction" and recipe.match.isolate == "language":
        of_english = ["en"]
        english = out.counts["en"]
        if not any(english):
            raise Refused("balance", "no English entry has a match")
        fraction = sum(n for n in english if n < config.english_threshold) / sum(english)
    probs = {}
    for name, counts in out.counts.items():
        threshold = None
        if any(counts) and name in of_english and name not in config.tail_fractions:
            threshold = max(config.english_threshold, config.min_threshold)
        elif any(counts):
            threshold = max(plain_threshold(counts, config.tail_fractions.get(name, fraction)), config.min_threshold)
        out.thresholds[name] = threshold
        probs[name] = [np.float32(1.0 if threshold is None else threshold / max(threshold, n)) for n in counts]
    for _, text in texts_in(pool):
        product = 1.0
        for entry in text.ids:
            product *= 1.0 - float(probs[list_of(recipe, text.lang)][entry])
        text.prob = 1.0 - product


def plain_threshold(counts: Sequence[int], fraction: float) -> int:
    """Return the count whose cumulative share is first nearest to the fraction."""
    cumulated = 0
    nearest, threshold = float("inf"), 1
    for count in sorted(counts):
        cumulated += count
        distance = abs(cumulated / sum(counts) - fraction)
        if distance < nearest:
            nearest, threshold = distance, max(1, count)
    return threshold


# curate

ORDER = ("bad_pair", "duplicate", "no_text", "no_language", "no_match", "not_valid", "excluded", "drawable")


def plain_curate(pool: dict[str, PlainShard], recipe: Recipe, allowed: set[tuple[str, str]], out: Outcome) -> None:
    """Draw and decide, and account for every text or sample."""
    config = recipe.curate
    named = {*config.include, *config.exclude, *(config.max_pairs if isinstance(config.max_pairs, dict) else [])}
    if named - {*LISTS}:
        raise Refused("curate", "not a language of this run")
    if all(map(config.is_excluded, LISTS)):
        raise Refused("curate", "no language of this run remains")
    if config.write == "tars" and not any(shard.images or name.endswith(".tar") for name, shard in pool.items()):
        raise Refused("curate", "the pool consists of tables without images")
    if config.write == "parquet" and not all(name.endswith(".parquet") for name in pool):
        raise Refused("curate", "is no Parquet file")
    for name, text in texts_in(pool):
        if text.reason == "matched":
            text.reason = "excluded" if config.is_excluded(text.lang) else "drawable"
            text.reason = text.reason if (name, text.key) in allowed else "not_valid"
    expected: Counter = Counter()
    samples = [(name, sample) for name, shard in pool.items() for sample in shard.samples]
    for _, sample in samples:
        drawable = [text for text in sample if text.reason == "drawable"]
        weights = plain_weights(drawable, recipe)
        for text, weight in zip(drawable, weights, strict=True):
            share = 1.0 if config.text_policy == "all" else weight / sum(weights)
            expected[text.lang] += text.prob * share
    for lang, number in expected.items():
        cap = config.cap_of(lang)
        out.caps |= {lang: cap / number} if cap is not None and cap < number else {}
        out.report[lang]["expected_pairs"] = number if cap is None else min(cap, number)
    out.kept = {name: [] for name in pool}
    out.dropped = {name: [] for name in pool}
    for name, sample in samples:
        for text in plain_decided(sample, recipe):
            prob = text.prob * out.caps.get(text.lang, 1.0)
            reason = text.reason
            numbers = None
            if reason == "drawable":
                toss = coin.uniform(text.key, text.idx, config.seed, 0)
                reason = "pairs_out" if toss < prob else "sampled_out"
                counts = out.counts[list_of(recipe, text.lang)]
                numbers = (toss, prob, len(text.ids), min(counts[entry] for entry in text.ids))
            out.report[text.lang][reason] += 1
            if reason == "pairs_out":
                out.kept[name].append((text.key, text.idx, text.text, text.lang, pytest.approx(prob, rel=1e-9)))
            else:
                key = text.key if (name, text.key) in allowed else None
                out.dropped[name].append((key, text.idx, text.lang, reason, numbers))
    for row in out.report.values():
        row["pairs_in"] = sum(number for column, number in row.items() if column != "expected_pairs")
    if not any(out.kept.values()):
        raise Refused("curate", "kept")


def plain_weights(drawable: list[Text], recipe: Recipe) -> list[float]:
    """Return how much each text weighs in the draw of its sample."""
    weights = recipe.pool.text_weights
    places = [text.place for text in drawable]
    return [weights[place] / places.count(place) if weights else 1.0 for place in places]


def plain_decided(sample: list[Text], recipe: Recipe) -> list[Text]:
    """Return the texts that count: all, or the one that is drawn, or the first of those that came furthest."""
    if recipe.curate.text_policy == "all":
        return sample
    drawable = [text for text in sample if text.reason == "drawable"]
    if not drawable:
        furthest = max(ORDER.index(text.reason) for text in sample)
        return [text for text in sample if text.reason == ORDER[furthest]][:1]
    weights = plain_weights(drawable, recipe)
    point = coin.uniform(drawable[0].key, 0, recipe.curate.seed, 0, coin.TEXT_DRAW) * sum(weights)
    passed = 0.0
    for text, weight in zip(drawable, weights, strict=True):
        passed += weight
        if point < passed:
            return [text]
    raise AssertionError("a coin is below 1")
