"""`worldclip pool pack`: image files and their captions to WebDataset tars.

    OUT/000000.tar ...    samples `000000000.jpg` with `.txt`, or with `texts` in the `.json` where pairs have several

The images are copied as they are.  `file` in the .json is the image's path below the folder.  Captions come from:

- a file next to each image: `a.jpg` and `a.txt`, as img2dataset's output format `files` has them;
- `metadata.jsonl` or `metadata.csv` with a column `file_name`, the imagefolder of `datasets`;
- COCO's captions: {"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]};
- conversations of LLaVA and ShareGPT4V: [{"image", "conversations": [{"from", "value"}]}]; the first answer of the
  model is the caption.
"""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from worldclip.contracts import layout
from worldclip.core.artifacts import digest, whole_file
from worldclip.core.command import Command, OutFolder
from worldclip.core.console import say
from worldclip.core.csv_rows import find_delimiter, read_rows
from worldclip.core.errors import BadShard, UserError
from worldclip.core.execute import Executor, LocalExecutor, Report, Shard, add_counts
from worldclip.core.image_names import SUFFIXES, by_suffix
from worldclip.core.job import Job, Result, lock_folder
from worldclip.core.local_path import has_surrogate
from worldclip.core.safe_path import is_safe_name, safe_join
from worldclip.core.tars import add_member
from worldclip.pool.files import check_own, check_source

METADATA_FILES = ("metadata.jsonl", "metadata.csv")
FILE_FIELDS = ("file_name", "image", "filename")
TEXT_FIELDS = ("text", "texts", "caption", "captions", "description", "title", "alt_text")
ANSWERS = ("gpt", "assistant", "model")  # who speaks in a conversation, besides the human
# Why a caption or an image gives no pair
REASONS = ("bad_record", "no_image", "no_text", "not_unicode", "unsafe_name", "not_an_image")
CAPTIONS_HELP = (
    "captions are .txt files next to the images, metadata.jsonl or metadata.csv with file_name (imagefolder), COCO's "
    "captions, or conversations of LLaVA and ShareGPT4V (--captions FILE)"
)


Row = tuple[object, Iterable[object]]  # image file and texts, as somebody else wrote them


class Pair(NamedTuple):
    """An image and its texts."""

    file: str
    """The image's path below the folder."""
    texts: tuple[str, ...]


def pack_files(
    folder: Path,
    out: OutFolder,
    captions: Path | None = None,
    samples_per_tar: int = 10_000,
    executor: Executor | None = None,
) -> Report:
    """Write tars of the image files of `folder` and their captions; an interrupted call resumes.

    folder: folder of the image files.
    out: folder of the tars.
    captions: file with the captions (default: metadata.jsonl or metadata.csv in the folder, else a .txt per image).
    samples_per_tar: pairs per tar.

    Raises UserError where there are no captions, and StageFailed that names the tars whose images cannot be read.

    Examples:
        worldclip pool pack photos --out pool
        worldclip pool pack photos --out pool --json
    """
    check_own(out, "pool pack", ("*.tar",))
    problems = []
    if not folder.is_dir():
        problems.append(f"{folder}: no such folder; give the one that holds the image files")
    if samples_per_tar < 1:
        problems.append(f"--samples-per-tar {samples_per_tar}: must be at least 1")
    if problems:
        raise UserError(problems)
    pairs, counts = read_pairs(folder, captions)
    if not pairs:
        raise UserError(f"{captions or folder}: gives no pair ({_named(counts)}); {CAPTIONS_HELP}")
    has_several = any(len(pair.texts) > 1 for pair in pairs)
    starts = range(0, len(pairs), samples_per_tar)
    parts = {f"{number:06}.tar": pairs[start : start + samples_per_tar] for number, start in enumerate(starts)}
    shards = [Shard(name=name, path=str(out / name)) for name in parts]
    sizes = []
    for pair in pairs:
        stamp = safe_join(folder, pair.file).stat()
        sizes.append((stamp.st_size, stamp.st_mtime_ns))
    source = str(folder.absolute())
    inputs = {"pairs": digest(pairs), "images": digest(sizes)}

    def write() -> Result:
        tar = partial(write_tar, folder, parts, samples_per_tar, has_several)
        done = layout.done_dir(out, "tars")
        key = {**inputs, "samples_per_tar": samples_per_tar}
        reports = (executor or LocalExecutor()).map(tar, shards, label="pack", done_dir=done, key=key)
        totals = counts | add_counts(reports, ("pairs", "texts"))
        outputs: list[Path] = []
        for name in parts:
            outputs += [out / name, layout.marker(out, f"tars/{name}")]
        return Result(report=totals, counts=totals, outputs=outputs, manifest={"source": source})

    job = Job("pool pack", out, {"samples_per_tar": samples_per_tar}, lambda: inputs)
    check_source(job, source)
    with lock_folder(out):
        return job.run(write)


def write_tar(
    folder: Path, parts: Mapping[str, list[Pair]], samples_per_tar: int, has_several: bool, shard: Shard
) -> Report:
    """Write one tar; equal files give equal bytes.  Raises BadShard that names an image that cannot be read."""
    pairs = parts[shard.name]
    first = list(parts).index(shard.name) * samples_per_tar
    with whole_file(Path(shard.path)) as aside, tarfile.open(aside, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, pair in enumerate(pairs, first):
            path = safe_join(folder, pair.file)
            try:
                content = path.read_bytes()
            except OSError as error:
                raise BadShard(f"{path}: cannot be read ({error.strerror})") from error
            add_member(tar, f"{number:09}{path.suffix.lower()}", content)
            record: dict[str, Any] = {"file": pair.file}
            if has_several:
                record["texts"] = pair.texts
            else:
                add_member(tar, f"{number:09}.txt", pair.texts[0].encode())
            add_member(tar, f"{number:09}.json", json.dumps(record, ensure_ascii=False).encode())
    return {"pairs": len(pairs), "texts": sum(len(pair.texts) for pair in pairs)}


# --- captions ---------------------------------------------------------------------------------------------------------


def read_pairs(folder: Path, captions: Path | None) -> tuple[list[Pair], Report]:
    """Return the pairs sorted by file, and how many images and captions give none, by REASONS.

    Raises UserError for captions that cannot be read.
    """
    if captions is None:
        captions = next(filter(Path.is_file, map(folder.joinpath, METADATA_FILES)), None)
    rows = _rows_next_to_images(folder) if captions is None else _rows_of(captions)
    if rows and not any(rows):
        raise UserError(f"{captions}: holds no captions that are known; {CAPTIONS_HELP}")
    if rows and not any(row is not None and row[0] is not None for row in rows):
        raise UserError(
            f"{captions}: no record names its image; the column or field is one of {', '.join(FILE_FIELDS)}"
        )
    counts = dict.fromkeys(REASONS, 0)
    texts_of: dict[str, list[str]] = {}
    for row in rows:
        if row is None:
            counts["bad_record"] += 1
            continue
        file, texts = row
        strings = [text for text in texts if isinstance(text, str) and text.strip()]
        usable = [text for text in strings if not has_surrogate(text)]
        reason = _reason(folder, file)
        if not reason and not usable:
            reason = "not_unicode" if strings else "no_text"
        if reason:
            counts[reason] += 1
        else:
            name = PurePosixPath(str(file)).as_posix()  # ./a.jpg is a.jpg
            texts_of.setdefault(name, []).extend(usable)
    return [Pair(file, tuple(texts_of[file])) for file in sorted(texts_of)], counts


def _reason(folder: Path, file: object) -> str:
    """Return why a name that somebody else wrote is no image of the folder; empty where it is one."""
    if not isinstance(file, str) or not is_safe_name(file):
        return "unsafe_name"
    if has_surrogate(file):  # bytes that are not UTF-8
        return "not_unicode"
    if not file.lower().endswith(SUFFIXES):
        return "not_an_image"
    return "" if safe_join(folder, file).is_file() else "no_image"


def _rows_next_to_images(folder: Path) -> list[Row | None]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    left_out = [path for path in files if path.suffix.lower() not in (*SUFFIXES, ".txt", ".json")]
    if left_out:
        say("pool pack", f"{folder}: left out {by_suffix(map(str, left_out))}")
    rows: list[Row | None] = []
    for path in files:
        if path.suffix.lower() in SUFFIXES:
            text = path.with_suffix(".txt")
            texts = [_read_text(text, errors="surrogateescape")] if text.is_file() else []
            rows.append((path.relative_to(folder).as_posix(), texts))
    return rows


def _rows_of(path: Path) -> list[Row | None]:
    """Return (image file, texts) of each record of a file of captions, None of a record that is another.

    Raises UserError for any other file.
    """
    content = _read_text(path)
    try:
        if path.suffix == ".csv":
            rows = read_rows(io.StringIO(content, newline=""), find_delimiter(content) or ",")
            header = next(rows, [])
            records = (dict(zip(header, row, strict=True)) if len(row) == len(header) else None for row in rows)
            return list(map(_row, records))
        if path.suffix == ".jsonl":
            return [_row(json.loads(line)) for line in content.split("\n") if line.strip()]
        record = json.loads(content)
        if isinstance(record, dict) and {"images", "annotations"} <= record.keys():
            captions: dict[Any, list[object]] = {}
            rows_of_images: list[Row | None] = []
            for annotation in record["annotations"]:
                if {"image_id", "caption"} <= annotation.keys():
                    captions.setdefault(annotation["image_id"], []).append(annotation["caption"])
                else:
                    rows_of_images.append(None)
            for image in record["images"]:
                has_both = {"id", "file_name"} <= image.keys()
                rows_of_images.append((image["file_name"], captions.get(image["id"], [])) if has_both else None)
            return rows_of_images
        if isinstance(record, list):
            return list(map(_row, record))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, csv.Error) as error:
        raise UserError(f"{path}: {type(error).__name__}: {error}; {CAPTIONS_HELP}") from error
    raise UserError(f"{path}: holds no captions that are known; {CAPTIONS_HELP}")


def _read_text(path: Path, errors: str = "strict") -> str:
    try:
        return path.read_text("utf-8-sig", errors)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 ({error.reason} at byte {error.start:,})") from error


def _row(record: Any) -> Row | None:
    """Return the image file and the texts of a record; None where it is another."""
    if not isinstance(record, dict):
        return None
    file = next((record[name] for name in FILE_FIELDS if name in record), None)
    if "conversations" in record:
        turns = record["conversations"]
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            return None
        answers = [turn.get("value") for turn in turns if turn.get("from") in ANSWERS]
        return file, answers[:1]
    value: Any = next((record[name] for name in TEXT_FIELDS if record.get(name)), [])
    return file, value if isinstance(value, list) else [value]


def _named(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {counts[name]:,}" for name in REASONS if counts.get(name)) or "no images in it"


def to_text(report: Report, out: Path) -> str:
    """Return what was packed, and what was not."""
    lines = [f"{report['pairs']:,} pairs, {report['texts']:,} texts: {out}"]
    if any(report.get(name) for name in REASONS):
        lines.append(f"left out: {_named(report)}")
    return "\n".join(lines)


POOL_PACK = Command(pack_files, lambda report, flags: to_text(report, flags.out))
"""Write tars of image files and their captions: img2dataset's files, imagefolder, COCO, LLaVA."""
