"""Plain texts of the articles of a Wikipedia dump, from two formats.

    .xml, .xml.bz2, .xml.gz   `pages-articles` XML, whole or in parts (https://www.mediawiki.org/wiki/Help:Export)
    .parquet                  any table with a string column `text`

Redirects and pages outside the namespace of articles are skipped.  A file that is truncated, not XML, or an entity
bomb is a BadShard.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from xml.parsers import expat

import pyarrow as pa
import pyarrow.parquet as pq

from worldclip.core import unpack
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
MAX_PAGE_CHARS = 2**25  # characters of one XML element; MediaWiki allows pages of 2 MiB
MAX_DEPTH = 64  # nested elements; dumps have 5
MAX_NAMESPACES = 10_000
MAX_TEXTS = 2**17  # of a batch; limits batches of pages without text
READ_BYTES = 2**20


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
    return pa.array([piece for text in texts for piece in _pieces(text)], pa.large_string())


def _pieces(text: str) -> Iterator[str]:
    """Yield a text in pieces of about MAX_TEXT_CHARS, without the characters at which it is cut."""
    start = 0
    while len(text) - start > MAX_TEXT_CHARS:
        cut = _CUT.search(text, start + MAX_TEXT_CHARS)
        if cut is None:
            break
        yield text[start : cut.start()]
        start = cut.end()
    yield text[start:]


# --- bytes ------------------------------------------------------------------------------------------------------------


def iter_bytes(path: Path) -> Iterator[bytes]:
    """Yield the decompressed bytes of a file in chunks.  Raises BadShard if it is truncated or damaged."""
    try:
        with open_regular(path) as file:
            if unpack.is_packed(path.name) and not path.stat().st_size:
                raise unpack.Truncated
            yield from unpack.unpack(file, path.name)
    except BadShard as error:
        raise BadShard(f"{path}: {error}; download it again") from error


# --- XML --------------------------------------------------------------------------------------------------------------


class _PageParser:
    """Gathers wikitexts of articles from XML.

    Document types are refused: no entity of a file is ever expanded or fetched.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.texts: list[str] = []
        self.num_gathered = 0  # characters of them
        self.namespaces: dict[int, str] = {}
        self.open_elements: list[str] = []
        self.page: dict[str, str] = {}
        self.is_redirect = False
        self.characters: list[str] = []
        self.num_chars = 0  # characters of the current element
        self.num_bytes = 0  # given to the parser
        self.namespace_key: int | None = None
        self.parser: Any = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.buffer_size = READ_BYTES
        self.parser.StartElementHandler = self.start
        self.parser.EndElementHandler = self.end
        self.parser.CharacterDataHandler = self.add_characters
        self.parser.StartDoctypeDeclHandler = self.refuse
        self.parser.EntityDeclHandler = self.refuse
        self.parser.ExternalEntityRefHandler = self.refuse

    def feed(self, chunk: bytes, *, is_last: bool = False) -> None:
        """Parse the next bytes of the file.  Raises BadShard if it is not XML."""
        try:
            self.parser.Parse(chunk, is_last)
        except (expat.ExpatError, ValueError) as error:  # ValueError: an encoding that the parser does not know
            raise BadShard(f"{self.path}: broken XML ({error}); download it again") from error
        self.num_bytes += len(chunk)
        # The parser keeps a tag until its end.
        if self.num_bytes - self.parser.CurrentByteIndex > unpack.MAX_LINE_BYTES:
            raise self.too_large("a tag")

    def too_large(self, what: str) -> BadShard:
        return BadShard(f"{self.path}: {what} is larger than in any dump; not read for safety")

    def add_characters(self, data: str) -> None:
        self.num_chars += len(data)
        if self.num_chars > MAX_PAGE_CHARS:
            raise self.too_large("the text of an element")
        self.characters.append(data)

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if not self.open_elements and name != "mediawiki":
            raise BadShard(f"{self.path}: root element is <{name}>, not <mediawiki>; expected pages-articles XML")
        self.open_elements.append(name)
        if len(self.open_elements) > MAX_DEPTH:
            raise self.too_large("the depth of its elements")
        self.characters = []
        self.num_chars = 0
        if name == "page":
            self.page = {}
            self.is_redirect = False
        elif name == "redirect":
            self.is_redirect = True
        elif name == "namespace":
            key = attributes.get("key", "")
            self.namespace_key = int(key) if key.removeprefix("-").isdecimal() else None

    def end(self, name: str) -> None:
        self.open_elements.pop()
        parent = self.open_elements[-1] if self.open_elements else ""
        if name == "namespace" and self.namespace_key is not None:
            self.namespaces[self.namespace_key] = "".join(self.characters)
            if len(self.namespaces) > MAX_NAMESPACES:
                raise self.too_large("the number of its namespaces")
        elif (name in ("title", "ns") and parent == "page") or (name == "text" and parent == "revision"):
            self.page[name] = "".join(self.characters)
        elif name == "page":
            title, text = self.page.get("title", ""), self.page.get("text", "")
            if not self.is_redirect and self._is_article(title) and not _redirect().match(text):
                self.texts.append(text)
                self.num_gathered += len(text)
        self.characters = []
        self.num_chars = 0

    def _is_article(self, title: str) -> bool:
        """Tell by the number of the namespace, or by its name in dumps without numbers."""
        if "ns" in self.page:
            return self.page["ns"].strip() == str(ARTICLES)
        prefix, colon, _ = title.partition(":")
        return not (colon and prefix in self.namespaces.values())

    def refuse(self, *_: object) -> Any:
        raise BadShard(f"{self.path}: declares a document type or entities, which no dump does; not read for safety")

    @property
    def is_full(self) -> bool:
        return self.num_gathered >= BATCH_CHARS or len(self.texts) >= MAX_TEXTS

    def take(self) -> pa.LargeStringArray:
        """Return the texts gathered so far, their wikitext stripped, and forget them."""
        unwanted = wikitext.prefix_hashes(unwanted_prefixes(self.namespaces))
        texts = wikitext.strip(pa.array(self.texts, pa.large_string()), unwanted)
        self.texts = []
        self.num_gathered = 0
        return _in_pieces(texts.to_pylist())


@functools.cache
def _redirect() -> re.Pattern[str]:
    """Return the pattern of a redirect's first line in any language: `#REDIRECT [[...`, `#ПРЕНАСОЧВАНЕ [[...`."""
    # No two runs of blanks can meet: they would take quadratic time on a page of blanks.
    return re.compile(rf"\s*#\s*[{characters.word_class()}]+\s*(?::\s*)?\[\[")


def _read_xml(path: Path) -> Iterator[pa.LargeStringArray]:
    parser = _PageParser(path)
    for chunk in iter_bytes(path):
        parser.feed(chunk)
        if parser.is_full:
            yield parser.take()
    parser.feed(b"", is_last=True)
    if parser.texts:
        yield parser.take()


def read_xml_namespaces(path: Path) -> dict[int, str]:
    """Return the names of a site's namespaces by their numbers, from the beginning of its XML dump."""
    parser = _PageParser(path)
    for chunk in iter_bytes(path):
        parser.feed(chunk)
        if parser.page:
            break
    return parser.namespaces


def unwanted_prefixes(namespaces: dict[int, str]) -> list[str]:
    """Return prefixes of links that show no text: files, categories, and the same article in other languages."""
    local = [namespaces[key] for key in (MEDIA, FILE, CATEGORY) if key in namespaces]
    wikis = [wiki for language in INSTALLED.all_languages() for wiki in language.wikipedia]
    other_wikis = [wiki.replace("_", "-") for wiki in wikis]
    return [*ENGLISH_PREFIXES, *local, *other_wikis]


# --- Parquet ----------------------------------------------------------------------------------------------------------


def _read_parquet(path: Path) -> Iterator[pa.LargeStringArray]:
    try:
        check_parquet(path, path.stat().st_size)
        with pq.ParquetFile(path, pre_buffer=False) as file:  # pre_buffer keeps all that was read until the end
            schema = file.schema_arrow
            if "text" not in schema.names or not _is_string(schema.field("text")):
                fields = ", ".join(f"{field.name} ({field.type})" for field in schema)
                raise BadShard(f"{path}: no string column `text`; columns: {fields}")
            for batch in file.iter_batches(batch_size=1000, columns=["text"]):
                yield _in_pieces(_strings(batch.column("text")))
    except unpack.TooLarge as error:
        raise BadShard(f"{path}: {error}") from error
    except (pa.ArrowInvalid, OSError) as error:
        if is_no_memory(error):
            raise
        raise BadShard(f"{path}: not a readable Parquet file ({error})") from error


def _is_string(field: pa.Field) -> bool:
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _strings(column: pa.Array) -> list[str]:
    """Return the values of a string column; null is empty, and bytes that are not UTF-8 are replaced by U+FFFD."""
    plain = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    return [(data or b"").decode("utf-8", "replace") for data in plain.cast(pa.large_binary()).to_pylist()]
