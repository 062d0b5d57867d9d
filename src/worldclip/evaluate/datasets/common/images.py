"""Locate the images of datasets: files of a folder or members of tars, read on demand and never all at once."""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from worldclip.core.artifacts import Json, fingerprint
from worldclip.core.errors import BadShard, UserError
from worldclip.core.image_names import SUFFIXES
from worldclip.core.regular_file import open_regular
from worldclip.core.safe_path import is_safe_name, safe_join

ANNOTATIONS = ("cls", "txt", "npy", "json")  # extensions of labels and captions


@dataclass(frozen=True, kw_only=True, slots=True)
class Images:
    """The images of a dataset, in the order of its tasks."""

    keys: list[str]
    read: Callable[[int, int], list[bytes]]
    """(start, stop) -> the encoded images of these positions, see Dataset.read_images."""
    fingerprints: list[Json]
    """Of the files that hold them: what their features are cached under."""


def fingerprints(paths: Iterable[Path], root: Path | None = None) -> list[Json]:
    """Return the fingerprint of each file, relative to `root` (default: its own folder)."""
    return [fingerprint(path, root or path.parent) for path in paths]


def images_by_stem(folder: Path, stems: Sequence[str], source: Path) -> Images:
    """Return the images anywhere below FOLDER/images with these names, extensions aside; of equal names the first.

    source: the file that lists them.  Raises UserError with the names of missing images, and ValueError for a name
    that occurs twice.
    """
    for stem, times in Counter(stems).items():
        if times > 1:
            raise ValueError(f"{source}: {stem!r} occurs twice; each image has one line")
    root = folder / "images"
    path_of_stem: dict[str, Path] = {}
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in SUFFIXES:
            path_of_stem.setdefault(path.stem, path)
    _check_missing(sorted(set(stems) - path_of_stem.keys()), root, source)
    return _images_in_files([path_of_stem[stem] for stem in stems], list(stems), folder)


def images_at(folder: Path, root: Path, paths: Sequence[str], source: Path, keys: Sequence[str] = ()) -> Images:
    """Return the images at `paths` relative to `root`, which lies in `folder`.

    source: the file that lists them.  keys: names of the images (default: their paths).  Raises UserError with the
    paths of missing images.
    """
    unsafe = [path for path in paths if not is_safe_name(path)]
    if unsafe:
        raise UserError(f"{source} lists {', '.join(map(repr, unsafe[:5]))}: not a path below {root}; it is refused")
    files: list[Path] = []
    missing: list[str] = []
    for path in paths:
        files.append(safe_join(root, path))
        if not files[-1].exists():
            missing.append(path)
    _check_missing(missing, root, source)
    return _images_in_files(files, list(keys or paths), folder)


def _images_in_files(paths: list[Path], keys: list[str], folder: Path) -> Images:
    files = fingerprints(paths, folder)
    return Images(keys=keys, read=lambda start, stop: list(map(_read, paths[start:stop])), fingerprints=files)


def _read(path: Path, offset: int = 0, size: int = -1) -> bytes:
    """Return `size` bytes (-1: all) of a file."""
    try:
        with open_regular(path) as file:
            file.seek(offset)
            return file.read(size)
    except OSError as error:
        raise BadShard(f"{path}: cannot be read ({error.strerror})") from error


def _check_missing(missing: Sequence[str], root: Path, source: Path) -> None:
    if missing:
        raise UserError(
            f"{source} lists {len(missing)} images that are missing from {root}: {', '.join(missing[:5])}; "
            "add them (results over fewer images are not comparable)"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """An image in a tar and the other members with its stem."""

    key: str
    tar: Path
    offset: int
    size: int
    members: dict[str, bytes] = field(default_factory=dict)
    """Contents by extension without its dot, e.g. cls, json, txt."""

    @property
    def where(self) -> str:
        """The sample as error messages name it."""
        return f"{self.tar}: {self.key}"


def read_samples(tars: Sequence[Path]) -> list[Sample]:
    """Return the samples of uncompressed tars, in the order of the tars.

    Raises BadShard for an unreadable tar, UserError for labels and captions without an image.
    """
    samples: list[Sample] = []
    for path in tars:
        samples += _samples_of(path)
    return samples


def _samples_of(path: Path) -> list[Sample]:
    images: dict[str, tuple[int, int]] = {}
    members: dict[str, dict[str, bytes]] = {}
    try:
        with open_regular(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                # WebDataset's rule: the extension starts at the first dot of the file name.
                path_in_tar = PurePosixPath(member.name)
                name, dot, extension = path_in_tar.name.partition(".")
                stem = (path_in_tar.parent / name).as_posix()
                suffix = (dot + extension).lower()
                if suffix in SUFFIXES:
                    images.setdefault(stem, (member.offset_data, member.size))
                    continue
                content = tar.extractfile(member)
                if content is not None:
                    members.setdefault(stem, {})[suffix.removeprefix(".")] = content.read()
    except (tarfile.TarError, EOFError) as error:
        raise BadShard(f"{path}: not a readable tar ({error})") from error
    without_image: list[str] = []
    for stem, contents in members.items():
        if stem not in images:
            without_image += [f"{stem}.{kind}" for kind in ANNOTATIONS if kind in contents]
    if without_image:
        examples = ", ".join(without_image[:5])
        raise UserError(f"{path} holds {len(without_image)} labels or captions without an image: {examples}")
    samples = []
    for stem, (offset, size) in images.items():
        contents = members.get(stem, {})
        samples.append(Sample(key=stem, tar=path, offset=offset, size=size, members=contents))
    return samples


def images_in_tars(samples: Sequence[Sample], keys: Iterable[str], tars: Sequence[Path], root: Path | None) -> Images:
    """Return the images of `samples`, which are in `tars`.  root: see fingerprints."""

    def read(start: int, stop: int) -> list[bytes]:
        return [_read(sample.tar, sample.offset, sample.size) for sample in samples[start:stop]]

    return Images(keys=list(keys), read=read, fingerprints=fingerprints(tars, root))
