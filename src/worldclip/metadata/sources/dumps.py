"""Plain texts of the articles of a Wikipedia dump, from two formats.

    .xml, .xml.bz2, .xml.gz   `pages-articles` XML, whole or in parts (https://www.mediawiki.org/wiki/Help:Export)
    .parquet                  any table with a string column `text`

Redirects and pages outside the namespace of articles are skipped.  A file that is truncated, not XML, or an entity
bomb is a BadShard.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq

from worldclip.core import unpack
from worldclip.core.console import say
from worldclip.core.errors import BadShard, is_no_memory
from worldclip.core.parquet_size import check_parquet
from worldclip.core.regular_file import open_regular
from worldclip.language import characters
from worldclip.language.table import INSTALLED
from worldclip.metadata.sources import wikitext

# Numbers of namespaces that are the same on every wiki (https://www.mediawiki.org/wiki/Manual:Namespace), and their
# English names, which work on every wiki in addition to the local ones.
ARTICLES, MEDIA, FILE, CATEGORY = 0, -2, 6, 14
ENGLISH_PREFIXES = ("Media", "File", "Image", "Category")

BATCH_CHARS = 2**22  # text of a batch; the article that exceeds it still belongs to the batch
MAX_TEXT_CHARS = 2**20  # longer texts are cut at line ends and punctuation, which no bigram crosses
_CUT = re.compile("[\n.,;:!?。、，]")
MAX_PAGE_BYTES = 2**24  # bytes of XML without the end of a page; MediaWiki allows texts of 2 MiB
MAX_TEXTS = 2**17  # of a batch; limits batches of pages without text
LINE_S = 60  # seconds between two lines of progress within a file
_EXPECTED = "expected pages-articles XML"


def read_texts(path: Path) -> Iterator[pa.LargeStringArray]:
    """Return batches of the plain texts of a dump's articles; a long one comes in several pieces.

    Raises BadShard if the file is broken.
    """
    name = path.name.lower()
    if name.endswith(".parquet"):
        return _read_parquet(path)
    if ".xml" in name:
        return _read_xml(path)
    raise BadShard(f"{path}: unknown dump format; its name must contain .xml(.bz2|.gz) or .parquet")


def _in_pieces(texts: Iterable[str]) -> pa.LargeStringArray:
    """Return texts in pieces of about MAX_TEXT_CHARS, without the characters at which they are cut."""
    pieces = []
    for text in texts:
        start = 0
        while len(text) - start > MAX_TEXT_CHARS:
            cut = _CUT.search(text, start + MAX_TEXT_CHARS)
            if cut is None:
                break
            pieces.append(text[start : cut.start()])
            start = cut.end()
        pieces.append(text[start:])
    return pa.array(pieces, pa.large_string())


# --- bytes ------------------------------------------------------------------------------------------------------------


def iter_bytes(path: Path) -> Iterator[bytes]:
    """Yield the decompressed bytes of a file in chunks.  Raises BadShard if it is truncated or damaged."""
    try:
        with open_regular(path) as file:
            size = path.stat().st_size
            if unpack.is_packed(path.name) and not size:
                raise unpack.Truncated
            said_at = time.perf_counter()
            for chunk in unpack.unpack(file, path.name):
                if time.perf_counter() - said_at > LINE_S:  # a large Wikipedia is one file of many hours
                    say("metadata", f"{path.name}: {file.tell() / size:.0%} of {size / 2**30:,.1f} GiB read")
                    said_at = time.perf_counter()
                yield chunk
    except BadShard as error:
        raise BadShard(f"{path}: {error}; download it again") from error


# --- XML --------------------------------------------------------------------------------------------------------------


class _Pages(ElementTree.TreeBuilder):
    """Gathers wikitexts of articles from XML.

    Document types are refused: no entity of a file is ever expanded or fetched.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.root: ElementTree.Element | None = None
        self.num_pages = 0
        self.texts: list[str] = []
        self.num_chars = 0  # characters of them
        self.namespaces: dict[int, str] = {}

    def start(self, tag: str, attributes: dict[str, str]) -> ElementTree.Element:
        element = super().start(_name(tag), attributes)
        if self.root is None:
            self.root = element
            if element.tag != "mediawiki":
                raise BadShard(f"{self.path}: root element is <{element.tag}>, not <mediawiki>; {_EXPECTED}")
        return element

    def end(self, tag: str) -> ElementTree.Element:
        element = super().end(_name(tag))
        if element.tag == "namespace":
            key = element.get("key", "")
            if key.removeprefix("-").isdecimal():
                self.namespaces[int(key)] = element.text or ""
        elif element.tag == "page" and self.root is not None:
            self.num_pages += 1
            text = element.findtext("revision/text", "")
            is_article = element.findtext("ns", "0").strip() == str(ARTICLES) and element.find("redirect") is None
            if is_article and not _redirect().match(text):
                self.texts.append(text)
                self.num_chars += len(text)
            self.root.clear()
        return element

    def doctype(self, *_: object) -> None:
        raise BadShard(f"{self.path}: declares a document type or entities, which no dump does; not read for safety")

    def take(self) -> pa.LargeStringArray:
        """Return the texts gathered so far, their wikitext stripped, and forget them."""
        # Prefixes of links that show no text: files, categories, and the same article in other languages
        unwanted = list(ENGLISH_PREFIXES)
        unwanted += [self.namespaces[key] for key in (MEDIA, FILE, CATEGORY) if key in self.namespaces]
        for language in INSTALLED.all_languages():
            unwanted += [wiki.replace("_", "-") for wiki in language.wikipedia]
        texts = wikitext.strip(pa.array(self.texts, pa.large_string()), wikitext.prefix_hashes(unwanted))
        self.texts = []
        self.num_chars = 0
        return _in_pieces(texts.to_pylist())


def _name(tag: str) -> str:
    """Return an element's name without its XML namespace, which is another in each version of the format."""
    return tag.rpartition("}")[2]


@functools.cache
def _redirect() -> re.Pattern[str]:
    """Return the pattern of a redirect's first line in any language: `#REDIRECT [[...`, `＃転送 [[...`."""
    word = f"[{characters.word_class()}{characters.mark_class()}]+"
    # No two runs of blanks can meet: they would take quadratic time on a page of blanks.
    return re.compile(rf"\s*[#＃]\s*{word}\s*(?::\s*)?\[\[")


def _parse(path: Path) -> Iterator[_Pages]:
    """Yield the pages after each chunk of the file.  Raises BadShard if it is not XML, or not a dump's."""
    pages = _Pages(path)
    parser = ElementTree.XMLParser(target=pages)
    num_pages = num_bytes = 0  # pages that are read, and bytes since the chunk in which the last one ended
    try:
        for chunk in iter_bytes(path):
            parser.feed(chunk)
            num_bytes += len(chunk)
            if pages.num_pages > num_pages:
                num_bytes = 0
            num_pages = pages.num_pages
            if num_bytes > MAX_PAGE_BYTES:
                raise BadShard(f"{path}: a page is larger than in any dump; not read for safety")
            yield pages
        parser.close()
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # not only ParseError: unknown encodings
        raise BadShard(f"{path}: broken XML ({error}); download it again") from error
    yield pages


def _read_xml(path: Path) -> Iterator[pa.LargeStringArray]:
    for pages in _parse(path):
        if pages.num_chars >= BATCH_CHARS or len(pages.texts) >= MAX_TEXTS:
            yield pages.take()
    if pages.texts:
        yield pages.take()


def read_xml_namespaces(path: Path) -> dict[int, str]:
    """Return the names of a site's namespaces by their numbers, from the beginning of its XML dump."""
    for pages in _parse(path):
        if pages.num_pages:
            break
    return pages.namespaces


# --- Parquet ----------------------------------------------------------------------------------------------------------


def _read_parquet(path: Path) -> Iterator[pa.LargeStringArray]:
    try:
        with open_regular(path):
            check_parquet(path, path.stat().st_size)
        with pq.ParquetFile(path, pre_buffer=False) as file:  # pre_buffer keeps all that was read until the end
            schema = file.schema_arrow
            kind = schema.field("text").type if "text" in schema.names else pa.null()
            if pa.types.is_dictionary(kind):
                kind = kind.value_type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
                fields = ", ".join(f"{field.name} ({field.type})" for field in schema)
                raise BadShard(f"{path}: no string column `text`; columns: {fields}")
            for batch in file.iter_batches(batch_size=1000, columns=["text"]):
                column = batch.column("text")
                if pa.types.is_dictionary(column.type):
                    column = column.dictionary_decode()
                values = column.cast(pa.large_binary()).to_pylist()
                # null is empty, and bytes that are not UTF-8 are replaced by U+FFFD
                yield _in_pieces((data or b"").decode("utf-8", "replace") for data in values)
    except unpack.TooLarge as error:
        raise BadShard(f"{path}: {error}") from error
    except (pa.ArrowException, ValueError, OSError) as error:  # ValueError: a name of the footer is not UTF-8
        if is_no_memory(error):
            raise
        raise BadShard(f"{path}: not a readable Parquet file ({error})") from error
