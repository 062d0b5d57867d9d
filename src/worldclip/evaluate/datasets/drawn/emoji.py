"""The emoji pool's two held-out sets, asked in each of its 14 languages among the names of *all* its emoji.

`tone`: emoji with a skin tone whose shape and tone occur in training, but never together.  `base`: emoji without a
tone, drawn with another background, rotation and scale.  Names that are equal in a language are one class, as no model
can tell them apart; in retrieval they are one text that belongs to several images.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip.core import layout
from worldclip.core.artifacts import MATCH_COUNTS, MATCH_TEXTS, Json, digest, read_json, read_manifest, read_table
from worldclip.core.errors import BadShard, UserError
from worldclip.evaluate.datasets.common.images import fingerprints, read_samples, reader
from worldclip.evaluate.tasks import Classification, Dataset, Retrieval, Task

THIRDS = ("head", "middle", "tail")


ABOUT = {  # of the two sets, for readers of the report
    "emoji_tone": "Emoji with a skin tone, held out of training: their shape and their tone both occur there, never "
    "together.",
    "emoji_base": "Every emoji without a skin tone, on another background, rotated and scaled; their names occur in "
    "training.",
}


def load(part: str, run_dir: Path) -> Dataset:
    """Return `tone` or `base` of RUN/pool; base has head, middle and tail thirds if the run has matched its texts."""
    folder = run_dir / "pool" / part
    names_path = layout.pool_names(run_dir)
    tars = sorted(folder.glob("*.tar"))
    if not tars or not names_path.exists():
        raise UserError(
            f"evaluate.datasets names emoji_{part}, but {folder} holds no tars; "
            "this dataset is a part of the emoji pool: set pool.build = 'emoji', or leave it out"
        )
    samples = read_samples(tars)
    keys = [sample.key for sample in samples]
    if not keys:
        raise BadShard(f"{folder}: its tars hold no image")
    names = read_json(names_path)
    position = {key: idx for idx, key in enumerate(names["keys"])}
    if unknown := [key for key in keys if key not in position]:
        raise BadShard(f"{folder}: {len(unknown)} images have no name in {names_path}, the first is {unknown[0]}")
    name_idx = np.array([position[key] for key in keys])
    every = np.arange(len(names["keys"]))
    slices = thirds(keys, [names["lang"]["en"][idx] for idx in name_idx], run_dir) if part == "base" else {}
    contents = {
        "files": fingerprints([*tars, names_path], run_dir),
        "slices": {name: np.flatnonzero(mask).tolist() for name, mask in slices.items()},
    }
    return Dataset(
        name=f"emoji_{part}",
        digest=digest(contents),
        image_keys=keys,
        read_images=reader(samples),
        languages=tuple(names["lang"]),
        tasks=lambda lang: name_tasks(
            names["lang"][lang],
            every,
            name_idx,
            np.arange(len(keys)),
            slices,
            "distinct names of all emoji of the pool",
        ),
    )


def name_tasks(
    all_names: Sequence[str],
    class_idx: np.ndarray,
    name_idx: np.ndarray,
    image_idx: np.ndarray,
    slices: dict[str, np.ndarray],
    about: str,
) -> list[Task]:
    """Return the tasks of a language: which name an image has, and retrieval between the two.

    all_names: names by subject.  class_idx: (K,) subjects whose names are the classes.  name_idx: (n,) the subject of
    each image.  image_idx: (n,) the image's position in the dataset.  slices: (n,) masks.  about: which names.
    """
    subject_names = np.array([all_names[idx] for idx in class_idx], dtype=object)
    classes, class_of_subject = np.unique(subject_names, return_inverse=True)
    concepts = dict(zip(class_idx.tolist(), class_of_subject.tolist(), strict=True))
    target = np.array([concepts[idx] for idx in name_idx.tolist()])
    text_classes, pair_text = np.unique(target, return_inverse=True)
    return [
        Classification(
            class_names=[[name] for name in classes],
            target=target,
            image_idx=image_idx,
            slices=slices,
            concepts=concepts,
            protocol={"templates": 1, "classes": about},
        ),
        Retrieval(
            texts=[classes[idx] for idx in text_classes],
            pair_image=np.arange(len(image_idx)),
            pair_text=pair_text,
            image_idx=image_idx,
            protocol={"captions": "all_captions", "equal_names": "one text of several images"},
        ),
    ]


def thirds(keys: Sequence[str], english_names: Sequence[str], run_dir: Path) -> dict[str, np.ndarray]:
    """Return masks of the head, middle and tail third of the images, by how often the pool mentions the English name.

    A name's count is the geometric mean of the match counts of the entries that match it (0 if none does: such names
    are in the tail); equal counts are ordered by key.  Empty if the run has no match yet.
    """
    if read_manifest(run_dir / "match") is None:
        return {}
    name_counts = _name_counts(set(english_names), run_dir)
    order = sorted(range(len(keys)), key=lambda i: (-name_counts.get(english_names[i], 0.0), keys[i]))
    masks = {}
    for name, rows in zip(THIRDS, np.array_split(np.array(order), len(THIRDS)), strict=True):
        masks[name] = np.zeros(len(keys), bool)
        masks[name][rows] = True
    return masks


def _name_counts(names: set[str], run_dir: Path) -> dict[str, float]:
    """Return the geometric mean of the counts of the entries that each English name matches, over the whole pool."""
    matched = [_matched_names(layout.match_texts(run_dir, shard), names) for shard in layout.matched_shards(run_dir)]
    rows = [row for of_shard in matched for row in of_shard]
    lists = pa.array({row["entries_lang"] for row in rows}, pa.string())
    files = [read_table(path, MATCH_COUNTS) for path in layout.counted_shards(run_dir)]
    counts = pa.concat_tables(table.filter(pc.is_in(table["entries_lang"].cast(pa.string()), lists)) for table in files)
    sums = counts.unify_dictionaries().group_by(["entries_lang", "entry_id"]).aggregate([("count", "sum")]).to_pylist()
    entry_counts = {(row["entries_lang"], row["entry_id"]): row["count_sum"] for row in sums}
    name_counts: dict[str, float] = {}
    for row in rows:
        of_entries = [max(1, entry_counts.get((row["entries_lang"], entry), 0)) for entry in row["entry_ids"]]
        mean = np.exp(np.mean(np.log(of_entries)))
        name_counts[row["text"]] = float(f"{mean:.9g}")  # the last digits depend on the processor
    return name_counts


def _matched_names(path: Path, names: set[str]) -> list[Json]:
    """Return the rows of English texts that are names, of one shard."""
    table = read_table(path, MATCH_TEXTS, ["text", "lang", "entries_lang", "entry_ids"])
    is_english = pc.equal(table["lang"].cast(pa.string()), "en")
    is_name = pc.is_in(table["text"].cast(pa.string()), pa.array(names, pa.string()))
    return table.filter(pc.and_(is_english, is_name)).to_pylist()
