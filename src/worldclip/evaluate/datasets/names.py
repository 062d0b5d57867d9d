"""Pictures of subjects that have one name in each language, asked among the names of all subjects.

    FOLDER/*.tar                   images
    FOLDER/set.json                {"subjects": {image: position}, "classes": [position, ...], "about": which they are}
    FOLDER/names.json, or ../      {"lang": {LANG: [name or null, one per subject]}}, which sets may share, and
                                   "templates": {LANG: ["... {} ...", ...]}; of other languages the name is asked

A position counts subjects in names.json.  `classes` (default: all subjects) have their names among the candidates.  A
language is asked about the images that it names if these are at least half; with `asked` in set.json, {LANG: [image,
...]}, a language is asked about those images instead.  Names that are equal in a language are one class, as no model
can tell them apart; in retrieval they are one text that belongs to several images.  With `"thirds": true`, a run's own
sets are also split by how often the run's pool mentions the English name: head, middle, tail.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip.contracts import layout
from worldclip.contracts.matched import read_matched_texts
from worldclip.contracts.schemas import MATCH_COUNTS
from worldclip.core.artifacts import Json, digest, read_manifest, read_table
from worldclip.core.errors import BadShard, UserError
from worldclip.evaluate.datasets.common.class_names import with_places
from worldclip.evaluate.datasets.common.images import fingerprints, images_in_tars, read_samples
from worldclip.evaluate.datasets.common.text_files import read_json
from worldclip.evaluate.tasks import Classification, Dataset, Retrieval, Task
from worldclip.language.table import INSTALLED, Languages

NAMES = "names.json"
MIN_NAMED = 0.5  # share of the images that a language must name
THIRDS = ("head", "middle", "tail")


def load(name: str, folder: Path, run_dir: Path | None = None, languages: Languages = INSTALLED) -> Dataset:
    """Return the set in `folder`; run_dir: the run whose matches split it into thirds."""
    tars = sorted(folder.glob("*.tar"))
    # Several sets may share names.json.
    names_path = next((path for path in (folder / NAMES, folder.parent / NAMES) if path.exists()), None)
    if not tars or names_path is None:
        raise UserError(f"{folder} must hold tars, set.json and names.json (or its parent the last)")
    samples = read_samples(tars)
    keys = [sample.key for sample in samples]
    record, named = _read(folder / "set.json", names_path)
    unknown = [key for key in keys if key not in record["subjects"]]
    if unknown:
        raise BadShard(f"{folder}: {len(unknown)} images are not in set.json, the first is {unknown[0]}")
    subject_idx = np.array(list(map(record["subjects"].__getitem__, keys)))
    names = named["lang"]
    slices = {}
    if record.get("thirds") and run_dir is not None and "en" in names:
        slices = thirds(keys, [names["en"][idx] or "" for idx in subject_idx], run_dir)
    images = images_in_tars(samples, keys, tars, folder.parent)
    contents = {
        "files": images.fingerprints + fingerprints([folder / "set.json", names_path], folder.parent),
        "slices": {part: np.flatnonzero(mask).tolist() for part, mask in slices.items()},
    }
    images_of_langs = {}
    for lang, names_of_lang in names.items():
        if lang not in languages.by_code():
            continue  # a code of CLDR that neither the table nor the recipe has
        chosen = set(keys)
        min_images = MIN_NAMED * len(keys)
        if "asked" in record:
            chosen = set(record["asked"].get(lang, ()))
            min_images = 0
        image_idx = []
        for i, idx in enumerate(subject_idx.tolist()):
            has_name = names_of_lang[idx] is not None
            if has_name and keys[i] in chosen:
                image_idx.append(i)
        if image_idx and len(image_idx) >= min_images:
            images_of_langs[lang] = np.array(image_idx)
    classes = {*(record.get("classes") or subject_idx.tolist())}
    for i in itertools.chain.from_iterable(images_of_langs.values()):
        if subject_idx[i] not in classes:
            raise BadShard(f"{folder / 'set.json'}: the subject of image {keys[i]} is not one of classes; add it there")
    return Dataset(
        name=name,
        digest=digest(contents),
        image_keys=keys,
        read_images=images.read,
        languages=tuple(images_of_langs),
        tasks=functools.partial(_tasks, record, named, subject_idx, images_of_langs, slices),
        images_digest=digest(images.fingerprints),
    )


def _read(set_path: Path, names_path: Path) -> tuple[Json, Json]:
    """Return set.json and names.json.  Raises ValueError where the two do not fit together."""
    record = read_json(set_path)
    named = read_json(names_path)
    templates = named.get("templates", {})
    if not isinstance(templates, dict):
        raise ValueError(f"{names_path}: templates must be a table of lists, one per language")
    named["templates"] = {lang: with_places(texts, names_path) for lang, texts in templates.items()}
    for lang, names in named["lang"].items():
        for name in names:
            if not isinstance(name, str | None):
                raise ValueError(f"{names_path}: a name in {lang} must be text or null, not {name!r}")
    positions = [*record["subjects"].values(), *record.get("classes", ())]
    num_subjects = min(map(len, named["lang"].values()))
    if positions and not 0 <= min(positions) <= max(positions) < num_subjects:
        raise ValueError(f"{set_path} and {names_path} do not fit together: a position is not one of the subjects")
    return record, named


def _tasks(
    record: Json,
    named: Json,
    subject_idx: np.ndarray,
    images_of_langs: Mapping[str, np.ndarray],
    slices: Mapping[str, np.ndarray],
    lang: str,
) -> list[Task]:
    """Return the tasks of a language: which name an image has, and retrieval between the two.

    Classification asks the names in the language's templates, retrieval only the names.  record, named: of set.json and
    names.json.  subject_idx: (N,) of each image of the dataset.  images_of_langs: (n,) those that are asked.  slices:
    (N,) masks.
    """
    names = named["lang"][lang]
    image_idx = images_of_langs[lang]
    class_names: dict[int, str] = {}  # by subject
    for idx in record.get("classes") or range(len(names)):
        if names[idx] is not None:
            class_names[idx] = names[idx]
    classes, class_idx = np.unique(np.array(list(class_names.values()), dtype=object), return_inverse=True)
    class_of_subject = dict(zip(class_names, class_idx.tolist(), strict=True))
    target = np.array(list(map(class_of_subject.__getitem__, subject_idx[image_idx].tolist())))
    text_classes, pair_text = np.unique(target, return_inverse=True)
    templates = named["templates"].get(lang, ["{}"])
    return [
        Classification(
            class_names=classes[:, None].tolist(),
            templates=templates,
            target=target,
            image_idx=image_idx,
            slices={part: mask[image_idx] for part, mask in slices.items()},
            protocol={"templates": len(templates), "classes": record["about"]},
        ),
        Retrieval(
            texts=classes[text_classes].tolist(),
            pair_image=image_idx,
            pair_text=pair_text,
            image_idx=image_idx,
            protocol={
                "captions": "all_captions",
                "equal_names": "one text of several images",
                "images": "those that the language names",
            },
        ),
    ]


# --- thirds


def thirds(keys: Sequence[str], english_names: Sequence[str], run_dir: Path) -> dict[str, np.ndarray]:
    """Return masks of the head, middle and tail third of the images, by how often the pool mentions the English name.

    A name's count is the geometric mean of the match counts of the entries that match it (0 if none does: such names
    are in the tail); equal counts are ordered by key.  Empty if the run has no match yet.
    """
    if read_manifest(layout.stage_dir(run_dir, "match")) is None:
        return {}
    rows: list[Json] = []  # English texts that are names
    names = pa.array(set(english_names), pa.string())
    for shard in layout.matched_shards(run_dir):
        texts = read_matched_texts(run_dir, shard, ["text", "lang", "entries_lang", "entry_ids"])
        is_english = pc.equal(texts["lang"].cast(pa.string()), "en")
        is_name = pc.is_in(texts["text"].cast(pa.string()), names)
        rows += texts.filter(pc.and_(is_english, is_name)).to_pylist()
    lists = pa.array({row["entries_lang"] for row in rows}, pa.string())
    tables = []
    for shard in layout.counted_shards(run_dir):
        table = read_table(layout.match_counts(run_dir, shard), MATCH_COUNTS)
        tables.append(table.filter(pc.is_in(table["entries_lang"].cast(pa.string()), lists)))
    counts = pa.concat_tables(tables).unify_dictionaries()
    sums = counts.group_by(["entries_lang", "entry_id"]).aggregate([("count", "sum")]).to_pylist()
    entry_counts = {(row["entries_lang"], row["entry_id"]): row["count_sum"] for row in sums}
    name_counts: dict[str, float] = {}
    for row in rows:
        counts_of_row = [max(1, entry_counts.get((row["entries_lang"], entry), 0)) for entry in row["entry_ids"]]
        mean = np.exp(np.mean(np.log(counts_of_row)))
        name_counts[row["text"]] = float(f"{mean:.9g}")  # the last digits depend on the processor
    order = sorted(range(len(keys)), key=lambda i: (-name_counts.get(english_names[i], 0.0), keys[i]))
    masks = {}
    for third, images in zip(THIRDS, np.array_split(np.array(order), len(THIRDS)), strict=True):
        masks[third] = np.zeros(len(keys), bool)
        masks[third][images] = True
    return masks
