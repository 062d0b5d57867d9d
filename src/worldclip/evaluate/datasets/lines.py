"""Parallel captions, one file per language and one line per image: XTD-10, XTD-200, Flickr30k-200 and Multi30K.

FOLDER/<list of images>   one file name per line: test_image_names.txt, filenames.txt or test_2016_flickr.txt
FOLDER/<captions>         anywhere below FOLDER, as many lines as images:
                          test_1kcaptions_<lang>.txt (XTD-10), <flores code>.txt (XTD-200, Flickr30k-200),
                          test_2016_flickr.<lang> (Multi30K)
FOLDER/images/            the images, in folders or not
"""

from __future__ import annotations

import re
from pathlib import Path

from worldclip.evaluate.datasets.common.build import retrieval_dataset
from worldclip.evaluate.datasets.common.images import fingerprints, images_by_stem
from worldclip.evaluate.datasets.common.text_files import our_codes, read_lines
from worldclip.evaluate.tasks import Dataset
from worldclip.language.table import INSTALLED, Languages

IMAGE_LISTS = ("test_image_names.txt", "filenames.txt", "test_2016_flickr.txt")
_CAPTION_FILE = re.compile(
    r"test_1kcaptions_(?P<xtd10>[a-z]{2,3})\.txt|test_2016_flickr\.(?P<multi30k>[a-z]{2})"
    r"|(?P<flores>[a-z]{3}_[A-Z][a-z]{3})\.txt"
)


def load(name: str, folder: Path, languages: Languages = INSTALLED) -> Dataset:
    (image_list,) = [folder / file for file in IMAGE_LISTS if (folder / file).exists()]
    stems = [Path(line.strip()).stem for line in read_lines(image_list)]
    images = images_by_stem(folder, stems, image_list)
    path_of_code: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        match = _CAPTION_FILE.fullmatch(path.name)
        if match is None:
            continue
        code = match[match.lastgroup or 0]
        if code in path_of_code:
            raise ValueError(f"{path} and {path_of_code[code]} are both captions in {code}; remove one")
        path_of_code[code] = path
    ours = our_codes(list(path_of_code), languages)
    files = dict(sorted((ours[code], path) for code, path in path_of_code.items()))
    captions = {}
    for lang, path in files.items():
        lines = list(map(str.strip, read_lines(path)))
        if len(lines) != len(stems) or "" in lines:
            raise ValueError(
                f"{path} has {len(lines)} lines; it must have a caption for each of the {len(stems)} images"
            )
        captions[lang] = list(enumerate(lines))
    contents = [images.fingerprints, stems, fingerprints(files.values(), folder), list(files)]
    return retrieval_dataset(name, images, captions, contents)
