"""WordNets in WN-LMF (globalwordnet.github.io/schemas), from a file or installed by the package wn; wn reads both.

A file that declares XML entities is refused before wn reads it: wn's parser would expand them (an entity bomb fills the
memory), and no WordNet declares any.
"""

from __future__ import annotations

import contextlib
import gzip
import shutil
import sqlite3
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast
from xml.parsers import expat

from worldclip.core.errors import BadShard, UserError, require
from worldclip.language import table as languages

HEAD_BYTES = 2**16  # read at a time until the root element begins
BCP47 = {"nb": "no"}  # codes in WordNets that are neither those of a Wikipedia nor ISO 639-3

Lexicon = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class WordnetHeader:
    """What a WordNet says of itself; fields that it lacks are empty."""

    name: str = ""
    lang: str = ""
    """As the WordNet writes it."""
    url: str = ""
    licence: str = ""


def our_code(lang: str) -> str | None:
    """Return our code of a WordNet's language (BCP 47, such as `als`, `cmn-Hans`, `nb`); None if it is unknown."""
    code = lang.partition("-")[0].lower()
    # Codes of WordNets come first: `als` is Albanian in all of them, and the Alemannic Wikipedia's code in our table.
    with contextlib.suppress(KeyError):
        return languages.from_wordnet(code)
    if code in {language.code for language in languages.all_languages()}:
        return code
    by_iso = languages.from_lid(code, "glotlid")
    return BCP47.get(code) or (by_iso if by_iso != languages.OTHER else None)


# --- files ------------------------------------------------------------------------------------------------------------


def read_headers(path: Path) -> list[WordnetHeader]:
    """Return the header of each lexicon of a file.  Raises BadShard if the file is broken."""
    return [_header(lexicon) for lexicon in _load(path)]


def read_file(path: Path, lang: str) -> Iterator[str]:
    """Return the lemmas of a file's lexicons of `lang`, or of an unknown language, in the file's order.

    English: the first lemma of each synset.  Raises BadShard if the file is broken, has no lexicon of `lang`, or no
    lemma.
    """
    lexicons = _load(path)
    matching = [lexicon for lexicon in lexicons if our_code(lexicon["language"]) in (lang, None)]
    if not matching:
        others = ", ".join(f"{our_code(lexicon['language'])} ({lexicon['label']})" for lexicon in lexicons)
        raise BadShard(f"{path}: WordNet of {others or 'no language'}, not of {lang}")
    read = _first_lemmas if lang == "en" else _lemmas
    lemmas = (lemma for lexicon in matching for lemma in read(lexicon))
    return require_lemmas(lemmas, f"{path}: no lemma (a LexicalEntry with a Lemma); is it a whole WordNet?")


def require_lemmas(lemmas: Iterator[str], message: str) -> Iterator[str]:
    """Yield lemmas; raises BadShard after the last one if there was none."""
    is_empty = True
    for lemma in lemmas:
        is_empty = False
        yield lemma
    if is_empty:
        raise BadShard(message)


def _header(lexicon: Lexicon) -> WordnetHeader:
    return WordnetHeader(
        name=f"{lexicon['label']} {lexicon['version']}",
        lang=lexicon["language"],
        url=lexicon.get("url") or "",
        licence=lexicon["license"],
    )


def _lemmas(lexicon: Lexicon) -> Iterator[str]:
    """Yield the lemma of each entry; an extension's entries that refer to another lexicon have none."""
    for entry in lexicon.get("entries", ()):
        if "writtenForm" in entry.get("lemma", {}):
            yield entry["lemma"]["writtenForm"]


def _first_lemmas(lexicon: Lexicon) -> Iterator[str]:
    """Yield the first lemma of each synset: of its list of members, or in the order of the entries if it has none."""
    lemma_of_sense: dict[str, str] = {}
    first_of_synset: dict[str, str] = {}
    for entry in lexicon.get("entries", ()):
        lemma = entry.get("lemma", {}).get("writtenForm")
        for sense in entry.get("senses", ()) if lemma else ():
            lemma_of_sense[sense["id"]] = lemma
            first_of_synset.setdefault(sense.get("synset", ""), lemma)
        if lemma:
            lemma_of_sense[entry["id"]] = lemma  # in some WordNets members are entries, not senses
    for synset in lexicon.get("synsets", ()):
        named = [lemma_of_sense[member] for member in synset.get("members", ()) if member in lemma_of_sense]
        first = named[0] if named else first_of_synset.get(synset["id"])
        if first is not None:
            yield first


def _load(path: Path) -> list[Lexicon]:
    wn_lmf = require("wn.lmf", extra="metadata")
    with _unpacked(path) as plain:
        _refuse_entities(path, plain)
        try:
            resource = wn_lmf.load(plain, progress_handler=None)
        except (wn_lmf.LMFError, AssertionError, KeyError, ValueError) as error:  # wn asserts what it expects
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise BadShard(f"{path}: not a whole WN-LMF file ({reason}); download it again") from error
    return cast(list[Lexicon], resource["lexicons"])


@contextlib.contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """Yield the path of the file, or of a temporary copy of what is in a .gz."""
    if path.suffix != ".gz":
        yield path
        return
    with tempfile.NamedTemporaryFile(suffix=".xml") as plain:
        try:
            with gzip.open(path, "rb") as packed:
                shutil.copyfileobj(cast(IO[bytes], packed), plain)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise BadShard(f"{path}: cannot be decompressed ({error}); download it again") from error
        plain.flush()
        yield Path(plain.name)


class _RootReached(Exception):
    pass


def _refuse_entities(path: Path, plain: Path) -> None:
    """Raise BadShard if a file declares entities; all declarations come before the root element."""

    def refuse(*_: object) -> None:
        raise BadShard(f"{path}: declares XML entities, which no WordNet needs; not read for safety")

    def stop(*_: object) -> None:
        raise _RootReached

    parser = expat.ParserCreate()
    parser.EntityDeclHandler, parser.StartElementHandler = refuse, stop
    with open(plain, "rb") as file, contextlib.suppress(_RootReached, expat.ExpatError):  # wn reports invalid XML
        while head := file.read(HEAD_BYTES):
            parser.Parse(head, False)


# --- what wn has installed --------------------------------------------------------------------------------------------


def read_installed_header(name: str) -> WordnetHeader:
    """Return the header of a lexicon `id:version`.  Raises UserError if wn has not installed it."""
    lexicon = _lexicon(name)
    return WordnetHeader(
        name=f"{lexicon.label} {lexicon.version}",
        lang=lexicon.language,
        url=lexicon.url or "",
        licence=lexicon.license or "",
    )


def fingerprint_installed(name: str) -> dict[str, Any]:
    """Return what identifies a lexicon without reading it.  Raises UserError if wn has not installed it."""
    lexicon = _lexicon(name)
    return {"lexicon": name, "label": lexicon.label, "modified": bool(lexicon.modified())}


def read_installed(name: str, lang: str) -> Iterator[str]:
    """Return lemmas as `read_file` does, of an installed lexicon."""
    wn, lexicon = require("wn", extra="metadata"), _lexicon(name)
    if our_code(lexicon.language) not in (lang, None):
        raise BadShard(f"{name}: WordNet of {our_code(lexicon.language)} ({lexicon.label}), not of {lang}")
    wordnet = wn.Wordnet(lexicon=name, expand="")
    if lang == "en":
        lemmas = (lemma for synset in wordnet.synsets() for lemma in synset.lemmas()[:1])
    else:
        lemmas = (word.lemma() for word in wordnet.words())
    return require_lemmas(lemmas, f"{name}: no lemma; install it again: python -m wn download {name}")


def _lexicon(name: str) -> Any:
    wn = require("wn", extra="metadata")
    try:
        installed = {lexicon.specifier(): lexicon for lexicon in wn.lexicons()}
    except (wn.Error, sqlite3.Error, OSError) as error:
        raise UserError(f"database of the package wn, {wn.config.database_path}: cannot be read ({error})") from error
    if name not in installed:
        raise UserError(
            f"metadata.wordnets: {name!r} is neither a file nor an installed lexicon (installed:"
            f" {', '.join(installed) or 'none'}); run: python -m wn download {name}"
        )
    return installed[name]
