"""Images where they lie: members of tars by their place, files of a folder.  Read when asked, never all at once."""

from __future__ import annotations

import csv
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from worldclip.core.errors import BadShard, UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
LABELS = ("cls", "txt", "npy", "json")  # extensions of what is said of an image


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """Members of a tar that share a stem: the image's place, and what else is there by its extension."""

    key: str
    tar: Path
    offset: int
    size: int
    others: dict[str, bytes] = field(default_factory=dict)
    """Contents by extension without its dot, e.g. cls, json, txt."""


def read_samples(tars: Sequence[Path]) -> list[Sample]:
    """The samples of plain tars, in the tars' order.

    Raises BadShard for a tar that is none, UserError for labels and captions of images that are not there.
    """
    found: list[Sample] = []
    for path in tars:
        images: dict[str, tuple[int, int]] = {}
        others: dict[str, dict[str, bytes]] = {}
        try:
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    if not member.isfile():
                        continue
                    stem, suffix = _split(member.name)
                    if suffix in IMAGE_SUFFIXES:
                        images.setdefault(stem, (member.offset_data, member.size))
                    elif (file := tar.extractfile(member)) is not None:
                        others.setdefault(stem, {})[suffix.removeprefix(".")] = file.read()
        except (tarfile.TarError, EOFError) as error:
            raise BadShard(f"{path}: not a readable tar ({error})") from error
        if alone := [
            f"{stem}.{kind}" for stem in others for kind in LABELS if kind in others[stem] and stem not in images
        ]:
            raise UserError(
                f"{path} holds {len(alone)} labels or captions of images that it lacks: {', '.join(alone[:5])}"
            )
        found += [
            Sample(key=stem, tar=path, offset=offset, size=size, others=others.get(stem, {}))
            for stem, (offset, size) in images.items()
        ]
    return found


def _split(name: str) -> tuple[str, str]:
    """WebDataset's rule: the extension begins at the first dot of the last part of the name."""
    path = PurePosixPath(name)
    stem, dot, suffix = path.name.partition(".")
    return (path.parent / stem).as_posix(), (dot + suffix).lower()


def reader(samples: Sequence[Sample]) -> Callable[[int, int], list[bytes]]:
    """Dataset.read_images over the images of `samples`."""

    def read(start: int, stop: int) -> list[bytes]:
        found = []
        for sample in samples[start:stop]:
            with open(sample.tar, "rb") as file:
                file.seek(sample.offset)
                found.append(file.read(sample.size))
        return found

    return read


def file_reader(paths: Sequence[Path]) -> Callable[[int, int], list[bytes]]:
    """Dataset.read_images over image files."""
    return lambda start, stop: [path.read_bytes() for path in paths[start:stop]]


def images_by_stem(folder: Path) -> dict[str, Path]:
    """stem -> file of the images below `folder`; UserError where there is no such folder."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not there; it holds the data set's images")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    return {path.stem: path for path in reversed(files)}


def find_images(folder: Path, stems: Sequence[str], where: Path) -> list[Path]:
    """The image below `folder` of each stem; UserError names those that `where` asks for and that are not there."""
    there = images_by_stem(folder)
    if missing := sorted({stem for stem in stems if stem not in there}):
        raise UserError(
            f"{where} names {len(missing)} images that {folder} lacks: {', '.join(missing[:5])}; "
            "results over fewer images do not compare, so put them there"
        )
    return [there[stem] for stem in stems]


def check_there(paths: Sequence[Path], folder: Path, where: Path) -> None:
    """UserError where files that `where` names below `folder` are not there."""
    if missing := [path.relative_to(folder).as_posix() for path in paths if not path.exists()]:
        raise UserError(
            f"{where} names {len(missing)} images that {folder} lacks: {', '.join(missing[:5])}; "
            "results over fewer images do not compare, so put them there"
        )


def utf8(content: bytes, where: str) -> str:
    """A caption; UserError where it is not UTF-8."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not UTF-8 ({error}); it holds the image's captions") from error


def read_lines(path: Path, what: str) -> list[str]:
    """Lines of a UTF-8 text file, the last line end optional; UserError where it is missing, empty or not UTF-8."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path} is missing; it holds {what}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error}); it holds {what}") from error
    lines = text.removesuffix("\n").split("\n")
    if lines == [""]:
        raise UserError(f"{path} is empty; it holds {what}")
    return lines


def read_records(path: Path, what: str, fields: Sequence[str], texts: Sequence[str]) -> list[dict[str, Any]]:
    """JSON objects, one a line, each with `fields`, those of `texts` strings; UserError names the line that is not."""
    found = []
    for number, line in enumerate(read_lines(path, what), 1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}:{number} is not JSON ({error})") from error
        check_fields(record, fields, texts, f"{path}:{number}")
        found.append(record)
    return found


def check_fields(record: Any, fields: Sequence[str], texts: Sequence[str], where: str) -> None:
    """UserError where a record is none, lacks one of `fields`, or has no text where `texts` says so."""
    if not isinstance(record, dict):
        raise UserError(f"{where} is {record!r}; it must be an object with {', '.join(fields)}")
    if lacking := [name for name in fields if name not in record]:
        raise UserError(f"{where} lacks {', '.join(lacking)}")
    if wrong := [name for name in texts if not isinstance(record[name], str) or not record[name].strip()]:
        raise UserError(f"{where}: {wrong[0]} is {record[wrong[0]]!r}; it must be a text")


def read_table_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV with a header; UserError where it is missing, empty, lacks `columns`, or has a short row."""
    read_lines(path, f"columns {', '.join(columns)}")
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if lacking := [name for name in columns if name not in (reader.fieldnames or ())]:
            raise UserError(
                f"{path} lacks the columns {', '.join(lacking)}; it has {', '.join(reader.fieldnames or ())}"
            )
        rows = list(reader)
    if not rows:
        raise UserError(f"{path} has no rows below its header")
    if short := [i for i, row in enumerate(rows, 2) if any(row[name] is None for name in columns)]:
        raise UserError(f"{path}:{short[0]} has fewer fields than the header")
    return rows
