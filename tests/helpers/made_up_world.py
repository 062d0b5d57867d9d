"""The report of an evaluation in many languages, with made-up numbers of a plausible size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from worldclip.evaluate.interval import mean_interval
from worldclip.evaluate.report import held_out_combinations, task_result
from worldclip.language import table as languages

CLASSIFICATION = "zeroshot_classification"
DATASETS = {  # images, and how much easier than world_base
    "world_tone": (250, 1.5),
    "world_base": (1869, 1.0),
    "world_flags": (258, 2.0),
    "world_flags_held": (26, 1.3),
    "world_stamps": (951, 0.3),
    "world_photos": (116, 0.25),
}
ALL = tuple(code for code in languages.by_code() if code not in ("other", "simple"))
HELD_IN = 30  # languages with held-out flags
GREETINGS = {"en": "flag", "ru": "флаг", "ar": "علم", "hi": "झंडा", "am": "ባንዲራ", "el": "σημαία"}
SKILL = {"high": 0.35, "mid": 0.2, "low": 0.08}  # top-5 on world_base, by resource level


def made_up_world(
    image_uri: str = "",
    num_gallery: int = 4,
    datasets: Mapping[str, tuple[int, float]] = DATASETS,
    codes: Sequence[str] = ALL,
) -> dict[str, Any]:
    """Return report.json of an evaluation.  Defaults: the six datasets of the world pool in every language."""
    random = np.random.default_rng(0)
    rows = [languages.get(code) for code in codes]
    skills = {row.code: SKILL[row.resource_level] * random.lognormal(0, 0.5) for row in rows}
    skills[rows[-1].code] = 0.0  # one language at chance level
    records: dict[str, dict[str, Any]] = {}
    for name, (num_images, ease) in datasets.items():
        langs = [row for i, row in enumerate(rows) if name != "world_flags_held" or i % (len(rows) // HELD_IN) == 0]
        records[name] = {
            row.code: _record(random, name, row, num_images, min(1.0, ease * skills[row.code])) for row in langs
        }
    results = {}
    for name, (num_images, _) in datasets.items():
        about = {"about": f"Made <up>: {num_images} pictures.", "num_images": num_images}
        tasks = {CLASSIFICATION: task_result(name, CLASSIFICATION, records[name])}
        results[name] = {**about, "num_bad_images": 0, "bad_images": [], "tasks": tasks}
    gallery = [_gallery_image(name, i, image_uri) for name in datasets for i in range(num_gallery)]
    combinations = held_out_combinations(records)
    return {"model": "train/step_000650000", "datasets": results, "gallery": gallery, "held_out": combinations}


def _record(random: np.random.Generator, name: str, row: languages.Language, n: int, skill: float) -> dict[str, Any]:
    num_classes = 258 if "flags" in name else {"high": 3944, "mid": 3700, "low": 900}[row.resource_level]
    chance = {"acc1": 1 / num_classes, "acc5": 5 / num_classes}
    five = random.random(n) < max(skill, chance["acc5"])
    one = five & (random.random(n) < 0.4)
    hits = {"acc1": one, "acc5": five}
    thirds = {"head": five[::3], "middle": five[1::3], "tail": five[2::3]} if name == "emoji_base" else {}
    return {
        "dataset": name, "task": CLASSIFICATION, "lang": row.code, "n": n, "num_classes": num_classes, "chance": chance,
        "metrics": {metric: float(hit.mean()) for metric, hit in hits.items()},
        "interval_95": {metric: list(mean_interval(hit)) for metric, hit in hits.items()},
        "slices": {part: {"n": len(hit), "metrics": {"acc5": float(hit.mean())}} for part, hit in thirds.items()},
    }  # fmt: skip


def _gallery_image(dataset: str, i: int, uri: str) -> dict[str, Any]:
    names = {}
    for lang, word in GREETINGS.items():
        best = [{"name": f"{word} {k}", "score": 0.4 - 0.02 * k, "is_right": k == i % 3} for k in range(5)]
        names[lang] = {"truth": f"{word} {i % 3}", "best": best}
    return {"dataset": dataset, "key": f"1F1E6-{i}", "image": uri, "names": names}
