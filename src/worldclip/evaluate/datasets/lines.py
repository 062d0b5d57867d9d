"""Parallel captions, one file a language with a line an image: XTD-10, XTD-200, Flickr30k-200 and Multi30K.

FOLDER/<list of images>   a file name a line: test_image_names.txt, filenames.txt or test_2016_flickr.txt
FOLDER/<captions>         anywhere below FOLDER, as many lines as images:
                          test_1kcaptions_<lang>.txt (XTD-10), <flores code>.txt (XTD-200, Flickr30k-200),
                          test_2016_flickr.<lang> (Multi30K)
FOLDER/images/            the images, in folders or not
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np

from worldclip.core.artifacts import digest, fingerprint
from worldclip.core.errors import UserError
from worldclip.evaluate.datasets.codes import our_codes
from worldclip.evaluate.datasets.files import file_reader, find_images, read_lines
from worldclip.evaluate.datasets.webdataset import retrieval_task
from worldclip.evaluate.tasks import Dataset

IMAGE_LISTS = ("test_image_names.txt", "filenames.txt", "test_2016_flickr.txt")
_CAPTION_FILES = (
    re.compile(r"^test_1kcaptions_(?P<lang>[a-z]{2,3})\.txt$"),
    re.compile(r"^test_2016_flickr\.(?P<lang>[a-z]{2})$"),
    re.compile(r"^(?P<lang>[a-z]{3}_[A-Z][a-z]{3})\.txt$"),
)


def load(name: str, folder: Path) -> Dataset:
    """The data set in `folder`.  UserError where counts of lines differ, images lack, or there is no language."""
    lists = [folder / file for file in IMAGE_LISTS if (folder / file).exists()]
    if len(lists) != 1:
        raise UserError(
            f"{folder} holds {len(lists)} of {', '.join(IMAGE_LISTS)}; one of them lists the images, one a line"
        )
    image_names = [line.strip() for line in read_lines(lists[0], "the names of the images, one a line")]
    stems = [Path(image).stem for image in image_names]
    paths = find_images(folder / "images", stems, lists[0])
    if len(set(stems)) < len(stems):
        twice = next(stem for stem, times in Counter(stems).items() if times > 1)
        raise UserError(f"{lists[0]} names {twice!r} twice; each image has one line")
    files = _caption_files(folder)
    captions = {lang: _captions(path, len(stems), lists[0]) for lang, path in files.items()}
    images = [fingerprint(path, folder) for path in paths]
    return Dataset(
        name=name,
        digest=digest([images, stems, [fingerprint(path, folder) for path in files.values()], list(files)]),
        images_digest=digest(images),
        image_keys=stems,
        read_images=file_reader(paths),
        languages=tuple(files),
        tasks=lambda lang: [retrieval_task(captions[lang], np.arange(len(stems)), len(stems), "all_captions")],
    )


def _caption_files(folder: Path) -> dict[str, Path]:
    """our code -> file; UserError where there is none, or two of one language."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        match = next((match for pattern in _CAPTION_FILES if (match := pattern.match(path.name))), None)
        if match is None:
            continue
        if match["lang"] in found:
            raise UserError(f"{path} and {found[match['lang']]} are both captions in {match['lang']}; remove one")
        found[match["lang"]] = path
    if not found:
        raise UserError(
            f"{folder} holds no captions; they are called test_1kcaptions_<lang>.txt, test_2016_flickr.<lang> or "
            "<flores code>.txt, for example deu_Latn.txt"
        )
    ours = our_codes(list(found))
    return dict(sorted((ours[theirs], path) for theirs, path in found.items()))


def _captions(path: Path, num_images: int, image_list: Path) -> list[str]:
    lines = [line.strip() for line in read_lines(path, "a caption a line")]
    if len(lines) != num_images:
        raise UserError(f"{path} has {len(lines)} lines, and {image_list} has {num_images}; line i is of image i")
    if "" in lines:
        raise UserError(f"{path}:{lines.index('') + 1} is empty; every image has a caption")
    return lines
