"""One set of rows, written in every format of a pool: 60 pairs in two shards, most of them odd in some way.

The odd pairs are the literals of `ODD`; the others are drawn as those of small_data.py are.  A format writes what it
can hold: CSV has neither null nor lists, JSON no bytes that are not UTF-8 without a bad record, Parquet no bad row.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import struct
import tarfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from small_data import LANGS, caption, pick, write_bytes

NUM_ROWS = 60
SHARDS = {"000": range(30), "sub/001": range(30, 60)}
MISSING = "(missing)"  # the field is absent from JSON, null in Parquet, empty in CSV and TSV
FIELDS = {
    "uid": pa.string(),
    "number": pa.int64(),
    "url": pa.string(),
    "alt": pa.string(),
    "caption": pa.list_(pa.string()),
    "lang": pa.string(),
    "langs": pa.list_(pa.string()),
    "labels": pa.list_(pa.string()),
    "source": pa.string(),
    "width": pa.int64(),
    "similarity": pa.float64(),
    "is_safe": pa.bool_(),
}
Row = dict[str, Any]

# Odd pairs by their row.  Bytes that are not UTF-8 and lone carriage returns stand in the second shard only: a CSV
# file with either is read by another function.
ODD: dict[int, Row] = {
    # texts: null, empty, of blanks, missing, of another type, with characters that a format must escape
    0: {"alt": None},
    1: {"alt": ""},
    2: {"alt": "  \t "},
    3: {"alt": "\0 \u3000\u00a0"},
    4: {"alt": MISSING},
    5: {"alt": MISSING, "caption": MISSING, "langs": MISSING, "labels": MISSING},
    6: {"alt": None, "caption": [], "langs": [], "labels": []},
    7: {"alt": 7},
    8: {"caption": {"text": "a red circle"}},
    9: {"caption": [None, "", "a red circle", "  "], "langs": ["en", "en", None, "de"], "labels": ["de", "en"]},
    10: {"caption": ["a red circle", 8, ["a"]]},
    11: {"caption": "a green square in front of the house"},
    12: {"alt": 'a "red" circle, and a star; or a | cross', "image": "two"},
    13: {"alt": "a red circle\nin front of\r\nthe\thouse", "image": "upper"},
    14: {"alt": "\ufeffa blue star", "image": "dots"},
    15: {"alt": 'a 12" star', "image": "folder"},
    # keys: repeated in the shard, missing, of another type
    16: {"uid_of": 15},
    17: {"uid_of": 2, "stem_of": 16, "alt": "a green cross in front of the market"},
    18: {"uid": MISSING},
    19: {"uid": None},
    20: {"uid": "", "stem_of": 10},
    21: {"uid": 7},
    22: {"uid": True},
    23: {"uid": "7", "number": None},
    24: {"uid": " k 24 "},
    25: {"json": b'{"uid": "k25", "alt": ', "csv": "k25{0}two fields"},
    # images
    26: {"image": None},
    27: {"image": "lost"},
    28: {"image": "notes"},
    29: {"image": "heic"},
    # shard 2: what is not UTF-8, lone surrogates, keys of shard 1
    30: {"uid_of": 3, "alt": "a yellow triangle in front of the river"},
    31: {"uid_of": 4, "image": None},
    32: {"alt": b"a \xff star"},
    33: {"alt": b"a \xed\xa0\x80 star in UTF-8"},
    34: {"alt": "a \ud800 star"},
    35: {"caption": ["a red circle", "\udfff", "a star in front of the garden"], "langs": ["en", "en", "en"]},
    36: {"uid": b"k\xff36"},
    37: {"uid": "k\ud83d37"},
    38: {"alt": "a red\rcircle", "image": "mac"},
    39: {"caption": [b"a \xfe cross", "a cross"], "langs": ["en", "en"], "labels": ["en", "en"]},
    # labels
    40: {"lang": "eng"},
    41: {"lang": "de-DE"},
    42: {"lang": "Swahili"},
    43: {"lang": "zho_Hans"},
    44: {"lang": "xx"},
    45: {"lang": ""},
    46: {"lang": None, "labels": None},
    47: {"lang": MISSING},
    48: {"lang": 7},
    49: {"lang": ["en", "de"]},
    50: {"caption": ["a red circle", "ein Kreis", None], "langs": ["en", "de", ""], "labels": ["de"]},
    51: {"caption": ["a star", "ein Haus"], "langs": ["sw", "fr"], "labels": []},
    52: {"caption": ["a star", "a house"], "langs": ["en", "en"], "labels": ["en", "en", "de"]},
    53: {"caption": ["a star", "a house"], "labels": "en"},
    # records that cannot be read
    54: {"json": b'["uid"]', "csv": "k54{0}a{0}b{0}c{0}d{0}e{0}f{0}g{0}h{0}i{0}j{0}k{0}l{0}m{0}n"},
    55: {"json": b'\xff{"uid": "k55"}', "csv": ""},
    56: {"json": b"7", "csv": "k56", "image": "jpg"},
    57: {"bad_stem": True},
    58: {"uid_of": 0, "alt": "a red house", "image": "lost"},
    59: {"url": MISSING, "number": MISSING, "image": None},
}


def png(name: object) -> bytes:
    """Return a PNG of 24 x 24 pixels that no library has compressed, so that its bytes are always the same."""
    side = 24
    seed = hashlib.sha256(repr(name).encode()).digest()
    pixels = b""
    for y in range(side):
        pixels += b"\0" + bytes(seed[(x // 6 + 4 * (y // 6) + 7 * c) % 32] for x in range(side) for c in range(3))
    stored = b"\x01" + struct.pack("<HH", len(pixels), len(pixels) ^ 0xFFFF) + pixels
    data = b"\x78\x01" + stored + struct.pack(">I", zlib.adler32(pixels))
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)), (b"IDAT", data), (b"IEND", b""))
    png_bytes = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        png_bytes += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return png_bytes


def ordinary(number: int) -> Row:
    """Return a pair of one alt text, one to three captions, their languages and some numbers."""
    langs = [pick(LANGS, number, "rows", place) for place in range(1 + number % 3)]
    lang = pick(LANGS, number, "rows, alt")
    return {
        "uid": hashlib.md5(b"row %d" % number).hexdigest(),
        "number": 1000 + number,
        "url": f"https://example.org/{number}?a=1&b=2",
        "alt": caption(lang, number, "rows"),
        "caption": [caption(code, number, "rows", place) for place, code in enumerate(langs)],
        "lang": lang,
        "langs": langs,
        "labels": langs[:1],
        "source": ("web", "book", None, "news")[number % 4],
        "width": (100, None, 200, 300, 150)[number % 5],
        "similarity": (0.25, 0.5, None, 0.75)[number % 4],
        "is_safe": (True, False, None)[number % 3],
        "image": "png",
    }


def rows() -> list[Row]:
    """Return all pairs, in order."""
    found = []
    for number in range(NUM_ROWS):
        odd = ODD.get(number, {})
        row = {**ordinary(number), "stem": f"{odd.get('stem_of', number):05}", **odd}
        if "caption" in odd and "langs" not in odd:
            row["langs"] = ["en"] * len(odd["caption"]) if isinstance(odd["caption"], list) else ["en"]
        if "uid_of" in odd:
            row["uid"] = ordinary(odd["uid_of"])["uid"]
        found.append(row)
    return found


# --- values of a format


def to_bytes(value: Any) -> bytes:
    """Return a value as a table of bytes holds it: null and missing are empty, of a list the first text."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, list):
        return to_bytes(next((item for item in value if item), ""))
    if value is None or value == MISSING:
        return b""
    if isinstance(value, dict):
        return json.dumps(value).encode()
    return str(value).encode("utf-8", "surrogatepass")


def to_arrow(value: Any, kind: pa.DataType) -> Any:
    """Return a value of a column of this type; texts are bytes, which `to_column` makes texts without a check."""
    if value is None or value == MISSING:
        return None
    if pa.types.is_list(kind):
        values = value if isinstance(value, list) else [value]
        return [to_arrow(item, kind.value_type) for item in values]
    return to_bytes(value) if pa.types.is_string(kind) else value


def to_column(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Return a column of values; texts that are not UTF-8 stay in it, as other writers leave them."""
    if pa.types.is_list(kind):
        array = pa.array(values, pa.list_(pa.binary()))
    elif pa.types.is_string(kind):
        array = pa.array(values, pa.binary())
    else:
        return pa.array(values, kind)
    return pc.cast(array, options=pc.CastOptions(target_type=kind, allow_invalid_utf8=True))


def to_json(row: Row) -> bytes:
    """Return the record of a pair, or the bytes that stand in its place."""
    if "json" in row:
        return to_bytes(row["json"])
    record = {name: row[name] for name in FIELDS if row[name] != MISSING}

    def with_escapes(value: Any) -> Any:
        if isinstance(value, bytes):
            return value.decode("utf-8", "surrogateescape")
        return [with_escapes(item) for item in value] if isinstance(value, list) else value

    raw = json.dumps({name: with_escapes(value) for name, value in record.items()}, ensure_ascii=False)
    try:
        return raw.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a lone surrogate, which JSON holds as an escape
        return json.dumps(record).encode()


# --- images

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
MEMBERS: dict[str | None, Callable[[str, bytes], list[tuple[str, bytes]]]] = {
    None: lambda stem, image: [],
    "png": lambda stem, image: [(f"{stem}.png", image)],
    "two": lambda stem, image: [(f"{stem}.jpg", image), (f"{stem}.png", image[::-1])],
    "upper": lambda stem, image: [(f"{stem}.PNG", image)],
    "dots": lambda stem, image: [(f"{stem}.thumb.png", image[::-1]), (f"{stem}.png", image)],
    "folder": lambda stem, image: [(f"a/{stem}.png", image)],
    "lost": lambda stem, image: [],
    "notes": lambda stem, image: [(f"{stem}.notes", b"no image")],
    "heic": lambda stem, image: [(f"{stem}.heic", HEIC)],
    "mac": lambda stem, image: [(f"__MACOSX/._{stem}.png", b"resources"), (f"{stem}.png", image)],
    "jpg": lambda stem, image: [(f"{stem}.jpg", image)],
}
PATHS = {"lost": "images/lost.png", "notes": "images/notes.txt", "upper": "images/{}.PNG", "folder": "./images/{}.png"}


def path_of(row: Row) -> str | None:
    """Return the path of a pair's image in a table, relative to it."""
    return None if row["image"] is None else PATHS.get(row["image"], "images/{}.png").format(row["stem"])


def write_images(folder: Path, of_shard: Sequence[Row]) -> None:
    for row in of_shard:
        if row["image"] not in (None, "lost", "notes"):
            write_bytes(folder / path_of(row), png(row["stem"]))  # type: ignore[arg-type]
    write_bytes(folder / "images/notes.txt", b"no image")


# --- formats


def write_tar(path: Path, of_shard: Sequence[Row], *, of_txt: bool) -> None:
    """Write samples of an image and a .json; of_txt: a .txt, and a .json in every third sample only."""
    members: list[tuple[str, bytes]] = [("nostem", b"x"), (".json", b"{}"), ("LICENSE.", b"x")]
    for number, row in enumerate(of_shard):
        stem = f"{row['stem']}\udcff" if row.get("bad_stem") else row["stem"]
        images = MEMBERS[row["image"]](stem, png(row["stem"]))
        folder = "a/" if row["image"] == "folder" else ""
        texts = [(f"{folder}{stem}.txt", to_bytes(row["alt"]))] if of_txt and row["alt"] not in (None, MISSING) else []
        if not of_txt or number % 3 == 0:
            texts.append((f"{folder}{stem}.json", to_json(row)))
        members += texts + images if number % 2 else images + texts
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, encoding="utf-8", errors="surrogateescape") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def write_parquet(path: Path, of_shard: Sequence[Row], images: str | None) -> None:
    """Write a table; images: `bytes` for a column of structs, `paths`, or None for none."""
    of_shard = [row for row in of_shard if "json" not in row]
    columns = {name: to_column([to_arrow(row[name], kind) for row in of_shard], kind) for name, kind in FIELDS.items()}
    if images == "bytes":
        kinds: dict[str | None, Any] = {None: None, "lost": {"bytes": None, "path": "lost.png"}}
        kinds["heic"] = {"bytes": HEIC, "path": None}
        values = [
            kinds.get(row["image"], {"bytes": png(row["stem"]), "path": f"a/{row['stem']}.png"}) for row in of_shard
        ]
        columns["image"] = pa.array(values, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    elif images == "paths":
        columns["image"] = pa.array([path_of(row) for row in of_shard], pa.string())
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=8)


def write_json_lines(path: Path, of_shard: Sequence[Row]) -> None:
    data = b"\n".join([*map(to_json, of_shard), b"", b"  "]) + b"\n"
    write_bytes(path, gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def write_delimited(path: Path, of_shard: Sequence[Row], *, has_paths: bool) -> None:
    """Write CSV with quotes where they are needed, or TSV without any."""
    is_csv = path.suffix == ".csv"
    delimiter = b"," if is_csv else b"\t"

    def field(value: bytes) -> bytes:
        if not is_csv:
            return value.replace(b"\t", b" ").replace(b"\r\n", b" ").replace(b"\n", b" ")
        needs_quotes = any(mark in value for mark in (b",", b'"', b"\n", b"\r"))
        return b'"' + value.replace(b'"', b'""') + b'"' if needs_quotes else value

    lines = [delimiter.join(name.encode() for name in [*FIELDS, *(["image"] if has_paths else [])])]
    for row in of_shard:
        if "csv" in row:
            lines.append(row["csv"].format(delimiter.decode()).encode())
            continue
        values = [row[name] for name in FIELDS] + ([path_of(row)] if has_paths else [])
        lines.append(delimiter.join(field(to_bytes(value)) for value in values))
    write_bytes(path, b"\n".join(lines) + b"\n")


def to_sound(value: Any) -> Any:
    """Return a value without bytes that are not UTF-8 and without lone surrogates."""
    if isinstance(value, list):
        return [to_sound(item) for item in value]
    is_text = isinstance(value, str | bytes) and value != MISSING
    return to_bytes(value).decode("utf-8", "ignore") if is_text else value


FORMATS: dict[str, tuple[str, Callable[[Path, Sequence[Row]], None]]] = {
    "tar of .txt": (".tar", lambda path, part: write_tar(path, part, of_txt=True)),
    "tar of .json": (".tar", lambda path, part: write_tar(path, part, of_txt=False)),
    "parquet with images": (".parquet", lambda path, part: write_parquet(path, part, "bytes")),
    "parquet with paths": (".parquet", lambda path, part: write_parquet(path, part, "paths")),
    "csv with paths": (".csv", lambda path, part: write_delimited(path, part, has_paths=True)),
    "tsv with paths": (".tsv", lambda path, part: write_delimited(path, part, has_paths=True)),
    "parquet": (".parquet", lambda path, part: write_parquet(path, part, None)),
    "jsonl": (".jsonl", write_json_lines),
    "jsonl.gz": (".jsonl.gz", write_json_lines),
    "csv": (".csv", lambda path, part: write_delimited(path, part, has_paths=False)),
    "tsv": (".tsv", lambda path, part: write_delimited(path, part, has_paths=False)),
}
WITH_PATHS = tuple(name for name in FORMATS if name.endswith("paths"))
WITH_IMAGES = (*tuple(name for name in FORMATS if name.startswith("tar")), "parquet with images", *WITH_PATHS)


def write_rows(folder: Path, kind: str, *, is_sound: bool = False) -> Path:
    """Write the pool in a format, if it is not there; return its folder.

    is_sound: without texts that are not UTF-8, since tars are not written of such a Parquet file.
    """
    if folder.exists():
        return folder
    suffix, write = FORMATS[kind]
    for shard, numbers in SHARDS.items():
        path = folder / f"{shard}{suffix}"
        of_shard = [rows()[number] for number in numbers]
        if is_sound:
            of_shard = [{name: to_sound(value) for name, value in row.items()} for row in of_shard]
        write(path, of_shard)
        if kind in WITH_PATHS:
            write_images(path.parent, of_shard)
    return folder
