"""Dumps of a Wikipedia in three formats -> one iterator of (title, text).

`pages-articles` XML (.xml, .xml.bz2, .xml.gz, in parts or whole), CirrusSearch JSON (.json.gz), and Parquet with a
column `text`.  Redirects and other namespaces than the articles' are left out.  A multistream .bz2 is decompressed by
several threads.  Whatever is broken (a truncated file, XML that is none, an entity bomb) is a BadShard in plain words.
"""

from __future__ import annotations

import bz2
import gzip
import json
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any
from xml.parsers import expat

import pyarrow as pa
import pyarrow.parquet as pq

from worldclip.core.errors import BadShard
from worldclip.language import table as languages
from worldclip.metadata.sources import wikitext

# Namespaces that MediaWiki numbers alike everywhere; their English names work in every language.
ARTICLES, MEDIA, FILE, CATEGORY = 0, -2, 6, 14
ENGLISH_PREFIXES = ("Media", "File", "Image", "Category")

SCHEMA = pa.schema([("title", pa.large_string()), ("text", pa.large_string())])
BATCH_BYTES = 2**22  # text of a batch; an article more may follow
MAX_TEXT_CHARS = 2**20  # longer texts are cut at ends of lines and marks, which no bigram crosses anyway
_CUT = re.compile("[\n.,;:!?。、，]")
READ_BYTES = 2**20

# A stream of bzip2 begins at a byte with its signature and that of its first block.
_BZ2_STREAM = re.compile(rb"BZh[1-9]1AY&SY")
MAX_STREAM_BYTES = 2**23  # streams of a multistream dump hold 100 pages, under 1 MiB

# A redirect's first line, in any language: `#REDIRECT [[...`, `#ПРЕНАСОЧВАНЕ [[...`.
_REDIRECT = re.compile(r"\s*#\s*\w+\s*:?\s*\[\[")

Batch = tuple[list[str], list[str]]


def iter_articles(path: Path, *, threads: int = 1) -> Iterator[tuple[str, str]]:
    """(title, plain text) of each article of a dump.  Raises BadShard where the file is broken."""
    for batch in read_articles(path, threads=threads):
        yield from zip(batch.column("title").to_pylist(), batch.column("text").to_pylist(), strict=True)


def read_articles(path: Path, *, threads: int = 1) -> Iterator[pa.RecordBatch]:
    """Batches (SCHEMA) of a dump's articles, plain text; a long article may come in several rows.

    threads: that decompress a multistream bz2.  Raises BadShard where the file is broken.
    """
    name = path.name.lower()
    if name.endswith(".parquet"):
        return _read_parquet(path)
    if ".json" in name:
        return _read_cirrus(path, threads)
    if ".xml" in name:
        return _read_xml(path, threads)
    raise BadShard(f"{path}: not a dump that we know; expected .xml(.bz2|.gz), .json(.gz|.bz2) or .parquet in its name")


def _to_batch(titles: list[str], texts: list[str]) -> pa.RecordBatch:
    rows = [(title, piece) for title, text in zip(titles, texts, strict=True) for piece in _pieces(text)]
    columns = [[title for title, _ in rows], [piece for _, piece in rows]]
    return pa.record_batch([pa.array(column, pa.large_string()) for column in columns], schema=SCHEMA)


def _pieces(text: str) -> Iterator[str]:
    """A text in pieces of about MAX_TEXT_CHARS, without the marks that it is cut at."""
    start = 0
    while len(text) - start > MAX_TEXT_CHARS and (found := _CUT.search(text, start + MAX_TEXT_CHARS)):
        yield text[start : found.start()]
        start = found.end()
    yield text[start:] if start else text


# --- bytes ------------------------------------------------------------------------------------------------------------


def iter_bytes(path: Path, threads: int = 1) -> Iterator[bytes]:
    """A file's decompressed bytes, in chunks.  Raises BadShard where it is truncated or damaged."""
    try:
        with open(path, "rb") as file:
            if path.name.endswith((".bz2", ".gz")) and not path.stat().st_size:
                raise EOFError
            if path.name.endswith(".bz2"):
                yield from _iter_bz2(file, threads)
            elif path.name.endswith(".gz"):
                with gzip.GzipFile(fileobj=file) as unpacked:
                    while chunk := unpacked.read(READ_BYTES):
                        yield chunk
            else:
                while chunk := file.read(READ_BYTES):
                    yield chunk
    except EOFError as error:
        raise BadShard(f"{path}: ends in the middle of its compressed data; fetch it again") from error
    except (gzip.BadGzipFile, zlib.error, ValueError) as error:
        raise BadShard(f"{path}: its compressed data are damaged ({error}); fetch it again") from error
    except OSError as error:
        if error.errno is not None:  # the bz2 module's own complaint has none
            raise
        raise BadShard(f"{path}: its compressed data are damaged ({error}); fetch it again") from error


def _iter_bz2(file: IO[bytes], threads: int) -> Iterator[bytes]:
    head = file.read(MAX_STREAM_BYTES)
    file.seek(0)
    if threads > 1 and _BZ2_STREAM.search(head, 1):
        yield from _iter_multistream(file, threads)
    else:
        yield from _iter_streams(file)


def _iter_streams(file: IO[bytes]) -> Iterator[bytes]:
    """One stream of bzip2 after the other, by this thread."""
    unpacker, is_started, data = bz2.BZ2Decompressor(), False, b""
    while True:
        data = data or file.read(READ_BYTES)
        if not data:
            break
        if unpacker.eof:
            unpacker, is_started = bz2.BZ2Decompressor(), False
        chunk = unpacker.decompress(data)
        data, is_started = unpacker.unused_data, True
        if chunk:
            yield chunk
    if is_started and not unpacker.eof:
        raise EOFError


def _iter_multistream(file: IO[bytes], threads: int) -> Iterator[bytes]:
    """Streams decompressed by `threads`, in order, with as many waiting."""
    waiting: deque[Future[bytes]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for stream in _cut_streams(file):
            waiting.append(pool.submit(_unpack, stream))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _cut_streams(file: IO[bytes]) -> Iterator[bytes]:
    """The bytes of each stream, found by the signature at its beginning."""
    data = b""
    while more := file.read(READ_BYTES):
        seen = max(1, len(data) - 9)  # the signature has 10 bytes and may lie across two reads
        data += more
        while found := _BZ2_STREAM.search(data, seen):
            yield data[: found.start()]
            data, seen = data[found.start() :], 1
    if data:
        yield data


def _unpack(stream: bytes) -> bytes:
    unpacker = bz2.BZ2Decompressor()
    data = unpacker.decompress(stream)
    if not unpacker.eof:
        raise EOFError
    return data


# --- XML --------------------------------------------------------------------------------------------------------------


class _PageHandler:
    """Gathers titles and wikitexts of articles from the events of an XML parser."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.titles: list[str] = []
        self.texts: list[str] = []
        self.num_chars = 0
        self.namespaces: dict[int, str] = {}
        self.element: list[str] = []  # the names of the open elements
        self.page: dict[str, str] = {}
        self.is_redirect = False
        self.text: list[str] = []
        self.namespace_key: int | None = None

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if not self.element and name != "mediawiki":
            raise BadShard(f"{self.path}: is no MediaWiki export, its root is <{name}>; expected pages-articles XML")
        self.element.append(name)
        self.text = []
        if name == "page":
            self.page, self.is_redirect = {}, False
        elif name == "redirect":
            self.is_redirect = True
        elif name == "namespace":
            self.namespace_key = _to_int(attributes.get("key", ""))

    def characters(self, data: str) -> None:
        self.text.append(data)

    def end(self, name: str) -> None:
        self.element.pop()
        parent = self.element[-1] if self.element else ""
        if name == "namespace" and self.namespace_key is not None:
            self.namespaces[self.namespace_key] = "".join(self.text)
        elif (name in ("title", "ns") and parent == "page") or (name == "text" and parent == "revision"):
            self.page[name] = "".join(self.text)
        elif name == "page":
            self._end_page()
        self.text = []

    def _end_page(self) -> None:
        title, text = self.page.get("title", ""), self.page.get("text", "")
        if self.is_redirect or not self._is_article(title) or _REDIRECT.match(text):
            return
        self.titles.append(title)
        self.texts.append(text)
        self.num_chars += len(text)

    def _is_article(self, title: str) -> bool:
        """By the number of the namespace, or its name in dumps that have no number."""
        if "ns" in self.page:
            return self.page["ns"].strip() == str(ARTICLES)
        prefix, colon, _ = title.partition(":")
        return not (colon and prefix in self.namespaces.values())

    def take(self) -> Batch:
        batch = self.titles, self.texts
        self.titles, self.texts, self.num_chars = [], [], 0
        return batch


def _to_int(text: str) -> int | None:
    return int(text) if text.removeprefix("-").isdecimal() else None


def _refuse(path: Path) -> Callable[..., Any]:
    def refuse(*_: object) -> None:
        raise BadShard(f"{path}: declares a document type or entities; a dump has none, so it is not read further")

    return refuse


def _parser(path: Path, handler: _PageHandler) -> Any:
    """An XML parser that refuses document types: no entity of a file's own is ever expanded or fetched."""
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.buffer_size = READ_BYTES
    parser.StartElementHandler, parser.EndElementHandler = handler.start, handler.end
    parser.CharacterDataHandler = handler.characters
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = parser.ExternalEntityRefHandler = _refuse(path)
    return parser


def _read_xml(path: Path, threads: int) -> Iterator[pa.RecordBatch]:
    handler = _PageHandler(path)
    parser = _parser(path, handler)
    for chunk in iter_bytes(path, threads):
        _parse(parser, chunk, path)
        if handler.num_chars >= BATCH_BYTES:
            yield _stripped(handler)
    _parse(parser, b"", path, is_last=True)
    if handler.titles:
        yield _stripped(handler)


def _parse(parser: Any, chunk: bytes, path: Path, *, is_last: bool = False) -> None:
    try:
        parser.Parse(chunk, is_last)
    except (expat.ExpatError, ValueError) as error:  # ValueError: an encoding that the parser does not know
        raise BadShard(f"{path}: broken XML, {error}; fetch it again") from error


def read_xml_namespaces(path: Path) -> dict[int, str]:
    """Names of a site's namespaces by their numbers, from the beginning of its XML dump."""
    handler = _PageHandler(path)
    parser = _parser(path, handler)
    for chunk in iter_bytes(path):
        _parse(parser, chunk, path)
        if handler.page:
            break
    return handler.namespaces


def unwanted_prefixes(namespaces: dict[int, str]) -> list[str]:
    """Prefixes of links that show nothing in the text: files, categories, and the same article in other languages."""
    local = [namespaces[key] for key in (MEDIA, FILE, CATEGORY) if key in namespaces]
    others = [wiki.replace("_", "-") for language in languages.all_languages() for wiki in language.wikipedia]
    return [*ENGLISH_PREFIXES, *local, *others]


def _stripped(handler: _PageHandler) -> pa.RecordBatch:
    titles, texts = handler.take()
    unwanted = wikitext.prefix_hashes(unwanted_prefixes(handler.namespaces))
    return _to_batch(titles, wikitext.strip(pa.array(texts, pa.large_string()), unwanted).to_pylist())


# --- JSON and Parquet -------------------------------------------------------------------------------------------------


def _iter_lines(path: Path, threads: int) -> Iterator[bytes]:
    rest = b""
    for chunk in iter_bytes(path, threads):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
    if rest:
        yield rest


def _read_cirrus(path: Path, threads: int) -> Iterator[pa.RecordBatch]:
    """CirrusSearch: a line that names a page, then a line with its fields; `text` is plain already."""
    titles: list[str] = []
    texts: list[str] = []
    num_chars = 0
    for number, line in enumerate(_iter_lines(path, threads), start=1):
        if not line.strip():
            continue
        try:
            page = json.loads(line)
        except ValueError as error:
            raise BadShard(f"{path}: line {number} is not JSON ({error}); fetch it again") from error
        if not isinstance(page, dict):
            raise BadShard(f"{path}: line {number} is {type(page).__name__}, not an object with title and text")
        if "index" in page or page.get("namespace", ARTICLES) != ARTICLES:
            continue
        text = page.get("text")
        if not isinstance(text, str):
            raise BadShard(f"{path}: line {number} has no field `text`; expected a CirrusSearch content dump")
        titles.append(_valid(str(page.get("title", ""))))
        texts.append(_valid(text))
        num_chars += len(text)
        if num_chars >= BATCH_BYTES:
            yield _to_batch(titles, texts)
            titles, texts, num_chars = [], [], 0
    if titles:
        yield _to_batch(titles, texts)


def _read_parquet(path: Path) -> Iterator[pa.RecordBatch]:
    """Parquet with a column `text` and, where there is one, `title`."""
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:  # pre_buffer keeps all that was read until the end
            schema = file.schema_arrow
            if "text" not in schema.names or not _is_string(schema.field("text").type):
                found = ", ".join(f"{field.name} ({field.type})" for field in schema)
                raise BadShard(f"{path}: has no column `text` of strings, but {found}")
            columns = [x for x in ("title", "text") if x in schema.names and _is_string(schema.field(x).type)]
            for batch in file.iter_batches(batch_size=1000, columns=columns):
                texts = _strings(batch.column("text"))
                titles = _strings(batch.column("title")) if "title" in columns else [""] * len(texts)
                yield _to_batch(titles, texts)
    except (pa.ArrowInvalid, OSError) as error:
        raise BadShard(f"{path}: not a readable Parquet file ({error})") from error


def _is_string(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _strings(column: pa.Array) -> list[str]:
    """Values of a column of strings: null is empty, and bytes that are no UTF-8 are replaced."""
    try:
        return [text or "" for text in column.to_pylist()]
    except UnicodeDecodeError:
        return [(data or b"").decode("utf-8", "replace") for data in _as_binary(column).to_pylist()]


def _as_binary(column: pa.Array) -> pa.Array:
    plain = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    return plain.cast(pa.binary() if pa.types.is_string(plain.type) else pa.large_binary())


def _valid(text: str) -> str:
    """`text` with half surrogate pairs, which JSON can spell, replaced."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
