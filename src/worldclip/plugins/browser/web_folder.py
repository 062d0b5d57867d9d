"""Write a page that runs the model in a browser tab: any static host serves the folder as it is.

    FOLDER/index.html, page.css, search.js     the page
    FOLDER/offline.js                          keeps its files in the browser, so that it works without its host
    FOLDER/facts.json                          what it needs to know: dimensions, precision, counts, special strings
    FOLDER/js/                                 transformers.js and its WebAssembly runtime (`make web` brings them)
    FOLDER/model/                              the ONNX encoders in one precision, tokenizer, processor
    FOLDER/pictures.json, pictures.bin         [key, caption, language] and vector of each picture of an embedded folder
    FOLDER/pictures/<thousands>/<row>.<jpg>    their thumbnails
    FOLDER/names.json, names.bin               [text, language] and vector of the folder's texts, each once

Vectors are float32 with float32 encoders, otherwise int8: N float32 scales, then (N, D) int8.

N pictures or names, D embed_dim.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldclip.core.artifacts import digest, fingerprint, read_json, write_json, write_text
from worldclip.core.console import say
from worldclip.core.errors import BadShard, UserError
from worldclip.core.job import Report
from worldclip.export.embedded import Embedded, check_model, open_kinds
from worldclip.export.segments import Of
from worldclip.language.identify import identify_codes
from worldclip.model.formats import onnx_folder
from worldclip.model.inference import Clip
from worldclip.plugins.style import search_style
from worldclip.report.images import thumbnail

MODEL = "model"
MAX_PICTURES = 10_000  # spread over the folder where it holds more, as names are
MAX_NAMES = 20_000
LIBRARY = Path(__file__).parent / "js"  # where `make web` puts transformers.js
UNREADABLE = "unreadable pictures"  # a further export may read them
PER_FOLDER = 1000  # hosts limit the files of one folder
LIBRARIES = ("transformers.web.min.js", "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
DTYPES = {"fp32": "fp32", "fp16": "fp16", "int8": "q8"}  # transformers.js' names


def problems() -> Iterator[str]:
    """Yield a problem where transformers.js is not in this installation."""
    missing = [name for name in LIBRARIES if not (LIBRARY / name).is_file()]
    if missing:
        yield (
            f"export to web needs {', '.join(missing)}: run `make web` in the clone of worldclip, which brings them, "
            "and npm on a machine without it"
        )


def page_digest() -> str:
    """Return a digest of the page itself and of transformers.js, which an export copies."""
    files: list[Path] = []
    for folder in (Path(__file__).parent / "static", LIBRARY):
        files += sorted(filter(Path.is_file, folder.rglob("*")))
    return digest([search_style(), *(fingerprint(path, path.parent) for path in files)])


def precision_of(precisions: Sequence[str]) -> str:
    """Return the precision of the page's encoders: the smallest of those to write."""
    return next(name for name in ("int8", "fp16", "fp32") if name in precisions)


def writer(clip: Clip, embedded: str, pictures_from: Sequence[str] = ()) -> WebFolder:
    """Return the writer of a page that searches `embedded`.  Raises UserError where another model embedded it."""
    if not embedded:
        return WebFolder({})
    pool = open_kinds(embedded, pictures_from)
    check_model(next(iter(pool.values())), clip, "the exported model", "give the folder of this model")
    return WebFolder(pool)


@dataclass(frozen=True, slots=True)
class WebFolder:
    """Write and compare pages, as the modules of model/formats do for their libraries.  Pages search `pool`."""

    pool: dict[Of, Embedded]

    def write(self, clip: Clip, folder: Path, precisions: Sequence[str]) -> None:
        """Write the page into an existing, empty folder.  Raises UserError where transformers.js is missing."""
        missing = list(problems())
        if missing:
            raise UserError(missing)
        precision = precision_of(precisions)
        (folder / MODEL).mkdir()
        onnx_folder.write(clip, folder / MODEL, [precision], has_joint=False)
        counts = {}
        left_out: dict[str, int] = {}
        if "images" in self.pool:
            say("export", self.pool["images"].places_text)
            counts["pictures"], pictures_left_out = _write_pictures(folder, self.pool["images"], precision)
            left_out |= pictures_left_out
        if "texts" in self.pool:
            counts["names"], names_left_out = _write_names(folder, self.pool["texts"], precision)
            left_out |= names_left_out
        left_out = {what: number for what, number in left_out.items() if number}
        for what, number in left_out.items():
            say("export", f"left out: {number:,} {what}")
        shutil.copytree(LIBRARY, folder / "js")
        for name in ("index.html", "search.js", "offline.js"):
            shutil.copyfile(Path(__file__).parent / "static" / name, folder / name)
        write_text(folder / "page.css", search_style())
        content = hashlib.sha256()  # by which offline.js tells this page from an earlier one at its address
        names = []
        for path in sorted(filter(Path.is_file, folder.rglob("*"))):
            name = path.relative_to(folder).as_posix()
            content.update(f"{name} {path.stat().st_size} ".encode())
            content.update(path.read_bytes())
            if not name.startswith("pictures/"):
                names.append(name)
        facts = {
            "dtype": DTYPES[precision],
            "counts": counts,
            "left_out": left_out,
            "specials": clip.tokenizer.special_strings,
            "page_bytes": page_bytes(folder),
            "files": sorted(names),  # that the page needs offline
            "version": content.hexdigest()[:16],
        }
        write_json(folder / "facts.json", facts, is_compact=True)

    def compare(self, clip: Clip, folder: Path, precisions: Sequence[str]) -> Report:
        """Compare the encoders in onnxruntime, as the format onnx does; `page_bytes`: see there.

        `left_out`: {what of the embedded folder is not on the page: its number}, None if all of it is.
        """
        checked = onnx_folder.compare(clip, folder / MODEL, [precision_of(precisions)], has_joint=False)
        sizes = page_bytes(folder)
        *parts, first, picture = (f"{name} {size / 1e6:.1f} MB" for name, size in sizes.items())
        say(
            "export",
            f"{first} ({', '.join(parts)}), {picture} more; --languages makes tokenizer and text encoder smaller "
            "where a model has more tokens than its languages need",
        )
        left_out = read_json(folder / "facts.json")["left_out"]
        return {"checked": checked["checked"], "page_bytes": sizes, "left_out": left_out or None}


def page_bytes(folder: Path) -> dict[str, int]:
    """Return the bytes of what the page loads: before the first search by text, and more for a dropped picture."""

    def size(*patterns: str) -> int:
        num_bytes = 0
        for pattern in patterns:
            num_bytes += sum(path.stat().st_size for path in folder.glob(pattern))
        return num_bytes

    sizes = {
        "page": size("*.html", "*.css", "*.js"),
        "runtime": size("js/*.js", "js/*.mjs", "js/*.wasm"),
        "tokenizer": size("model/tokenizer*.json"),
        "text encoder": size("model/onnx/text_model*"),
        "vectors": size("pictures.*", "names.*"),
    }
    return {**sizes, "first search": sum(sizes.values()), "dropped picture": size("model/onnx/vision_model*")}


def _spread(number: int, most: int) -> np.ndarray:
    """Return at most `most` rows of `number`, evenly spread."""
    return np.unique(np.linspace(0, number - 1, min(number, most)).astype(np.int64))


def _write_pictures(folder: Path, embedded: Embedded, precision: str) -> tuple[int, dict[str, int]]:
    """Write vectors, captions and thumbnails; return the number of pictures, and how many are left out and why."""
    ids = _spread(len(embedded), MAX_PICTURES)
    rows = embedded.rows(ids)
    captions = embedded.captions(rows)
    is_shown = np.zeros(len(rows), bool)
    records: list[list[str]] = []
    reasons: list[str] = []
    for i, row in enumerate(rows):
        try:
            content, kind = thumbnail(embedded.read_picture(row))
        except (BadShard, ValueError, OSError) as error:  # BadImage and UserError are ValueErrors
            reasons.append(str(error))
            continue
        extension = "jpg" if kind == "jpeg" else kind
        is_shown[i] = True
        name = f"{len(records) // PER_FOLDER:03}/{len(records):06}.{extension}"
        path = folder / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        records.append([name, row["key"], captions.get((row["shard"], row["key"]), [""])[0]])
    if not records:
        reason = reasons[0] if reasons else "none was embedded"
        raise UserError(f"none of the pictures of {embedded.folder} can be read ({reason})")
    if reasons:
        say("export", f"{len(reasons):,} {UNREADABLE}; the first: {reasons[0]}")
    langs = identify_codes([caption for *_, caption in records])
    shown = [[*record, lang] for record, lang in zip(records, langs, strict=True)]
    write_json(folder / "pictures.json", shown, is_compact=True)
    _write_vectors(folder / "pictures.bin", embedded.take(ids[is_shown]), precision)
    num_beyond = len(embedded) - len(ids)
    return len(records), {UNREADABLE: len(reasons), f"pictures beyond {MAX_PICTURES:,}": num_beyond}


def _write_names(folder: Path, embedded: Embedded, precision: str) -> tuple[int, dict[str, int]]:
    """Write the texts, each once, with language and vector; return their number, and how many are left out and why."""
    ids = _spread(len(embedded), len(embedded))
    texts = [row["text"] for row in embedded.rows(ids)]
    first: dict[str, int] = {}
    for i, text in enumerate(texts):
        first.setdefault(text, i)
    every = np.fromiter(first.values(), np.int64)
    chosen = every[_spread(len(every), MAX_NAMES)]
    names = [texts[i] for i in chosen]
    named = list(map(list, zip(names, identify_codes(names), strict=True)))
    write_json(folder / "names.json", named, is_compact=True)
    _write_vectors(folder / "names.bin", embedded.take(ids[chosen]), precision)
    return len(names), {f"names beyond {MAX_NAMES:,}": len(every) - len(chosen)}


def _write_vectors(path: Path, rows_ND: np.ndarray, precision: str) -> None:
    """Write float32, or one float32 scale per row and then int8; scaled rows are of unit length."""
    if precision == "fp32":
        path.write_bytes(rows_ND.astype("<f4").tobytes())
        return
    levels_ND = np.rint(rows_ND * (127 / np.abs(rows_ND).max(axis=1, keepdims=True)))
    scales_N = 1 / np.linalg.norm(levels_ND, axis=1)
    path.write_bytes(scales_N.astype("<f4").tobytes() + levels_ND.astype(np.int8).tobytes())
