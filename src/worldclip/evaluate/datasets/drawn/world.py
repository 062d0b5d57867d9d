"""The world pool's held-out sets, asked in every language that names at least half of their pictures.

The classes are all distinct names of a kind in the language: of all emoji and flags for `world_tone` and `world_base`,
of all territories for `world_flags`, of all stamps for `world_stamps`.  `world_flags_held` asks, in 30 languages, only
for the territories whose name in this very language was held out of training.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from worldclip.core import layout
from worldclip.core.artifacts import digest, read_json
from worldclip.core.errors import BadShard, UserError
from worldclip.evaluate.datasets.common.images import fingerprints, read_samples, reader
from worldclip.evaluate.datasets.drawn.emoji import name_tasks, thirds
from worldclip.evaluate.tasks import Dataset, Task
from worldclip.language import table

MIN_NAMED = 0.5  # share of a set's pictures that a language must name


class WorldSet(NamedTuple):
    """Where the pictures of a set are, and which names are its classes."""

    folder: str
    """Below RUN/pool."""
    kinds: tuple[str, ...]
    """Of the pictures whose names are the classes."""
    about: str
    """For readers of the report."""


SETS = {
    "world_tone": WorldSet(
        "tone",
        ("emoji", "toned", "flag"),
        "Emoji with a skin tone, held out of training in all drawings: their shape and their tone both occur there, "
        "never together.",
    ),
    "world_base": WorldSet(
        "base",
        ("emoji", "toned", "flag"),
        "Every emoji without a skin tone, on another background, rotated and scaled; their names occur in training.",
    ),
    "world_flags": WorldSet("flags", ("flag",), "Every flag, on another background, rotated and scaled."),
    "world_flags_held": WorldSet(
        "flags",
        ("flag",),
        "Flags whose name was held out of training in this language; names in other languages occur there.",
    ),
    "world_stamps": WorldSet("stamps", ("stamp",), "Stamps of Tux Paint, a domain that no training picture is from."),
    "world_photos": WorldSet("photos", ("photo",), "Photographs of GCompris; no training picture is a photograph."),
}
ABOUT = {name: item.about for name, item in SETS.items()}


def load(name: str, run_dir: Path) -> Dataset:
    """Return a set of SETS from RUN/pool.  Raises UserError if it is not there.

    world_base has head, middle and tail thirds if the run has matched its texts.
    """
    wanted = SETS[name]
    folder = layout.built_set(run_dir, wanted.folder)
    names_path = layout.pool_names(run_dir)
    tars = sorted(folder.glob("*.tar"))
    if not tars or not names_path.exists():
        raise UserError(
            f"evaluate.datasets names {name}, but {folder} holds no tars; this dataset is a part of the world pool: "
            "set pool.build = 'world' and, for stamps and photos, pool.parts, or leave it out"
        )
    samples = read_samples(tars)
    keys = [sample.key for sample in samples]
    if not keys:
        raise BadShard(f"{folder}: its tars hold no image")
    names = read_json(names_path)
    if unknown := [key for key in keys if key not in names["pictures"]]:
        raise BadShard(f"{folder}: {len(unknown)} images are not in {names_path}, the first is {unknown[0]}")
    position = {subject: idx for idx, subject in enumerate(names["subjects"])}
    name_idx = np.array([position[names["pictures"][key]["subject"]] for key in keys])
    kinds = [record for record in names["pictures"].values() if record["kind"] in wanted.kinds]
    class_idx = np.array(sorted({position[record["subject"]] for record in kinds}))
    asked = _images_of_languages(name, names, name_idx)
    english = [names["lang"]["en"][idx] or "" for idx in name_idx] if "en" in names["lang"] else []
    slices = thirds(keys, english, run_dir) if name == "world_base" and english else {}
    contents = {
        "files": fingerprints([*tars, names_path], run_dir),
        "slices": {part: np.flatnonzero(mask).tolist() for part, mask in slices.items()},
    }

    def tasks(lang: str) -> Sequence[Task]:
        image_idx = asked[lang]
        parts = {part: mask[image_idx] for part, mask in slices.items()}
        candidates = np.array([idx for idx in class_idx if names["lang"][lang][idx] is not None])
        about = "distinct names of all " + " and ".join(wanted.kinds)
        return name_tasks(names["lang"][lang], candidates, name_idx[image_idx], image_idx, parts, about)

    return Dataset(
        name=name,
        digest=digest(contents),
        image_keys=keys,
        read_images=reader(samples),
        languages=tuple(asked),
        tasks=tasks,
        images_digest=digest(fingerprints(tars, run_dir)),
    )


def _images_of_languages(name: str, names: dict[str, Any], name_idx: np.ndarray) -> dict[str, np.ndarray]:
    """Return {language: positions of the images to ask for}, sorted by language."""
    asked = {}
    for lang, in_lang in sorted(names["lang"].items()):
        if lang not in table.by_code():
            continue  # CLDR's code of a language that neither the table nor the recipe has
        is_named = np.array([in_lang[idx] is not None for idx in name_idx])
        if is_named.mean() < MIN_NAMED:
            continue
        if name == "world_flags_held":
            held = set(names["held_flags"].get(lang, ()))
            is_named &= np.array([names["subjects"][idx] in held for idx in name_idx])
        if is_named.any():
            asked[lang] = np.flatnonzero(is_named)
    return asked
