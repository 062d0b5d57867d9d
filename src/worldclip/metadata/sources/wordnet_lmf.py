"""WordNets in the form WN-LMF (globalwordnet.github.io/schemas), from a file or from what the package wn has installed.

The package reads both.  A file's own document type is looked at first: the package's parser would expand entities
that it declares, and a wordnet declares none.
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

HEAD_BYTES = 2**16  # read at once until the root element begins
BCP47 = {"nb": "no"}  # codes of wordnets that are neither a Wikipedia's nor ISO 639-3

Lexicon = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class WordnetHeader:
    """What a wordnet says of itself; empty what it does not."""

    name: str = ""
    lang: str = ""
    """As the wordnet spells it."""
    url: str = ""
    licence: str = ""


def our_code(lang: str) -> str | None:
    """Our code of a wordnet's language (BCP 47, as `als`, `cmn-Hans`, `nb`); None for one that we do not know."""
    code = lang.partition("-")[0].lower()
    try:
        return languages.from_wordnet(code)  # first: `als` is Albanian in all wordnets
    except KeyError:
        pass
    if code in {language.code for language in languages.all_languages()}:
        return code
    by_iso = languages.from_lid(code, "glotlid")
    return BCP47.get(code) or (by_iso if by_iso != languages.OTHER else None)


# --- files ------------------------------------------------------------------------------------------------------------


def read_headers(path: Path) -> list[WordnetHeader]:
    """Of each lexicon of a file.  Raises BadShard where the file is broken."""
    return [_header(lexicon) for lexicon in _load(path)]


def read_file(path: Path, lang: str) -> Iterator[str]:
    """Lemmas of the lexicons of a file that are of `lang`, or of a language we do not know, in the file's order.

    English: the first lemma of each synset.  Raises BadShard where the file is broken, has none of `lang`, or no lemma.
    """
    lexicons = _load(path)
    fitting = [lexicon for lexicon in lexicons if our_code(lexicon["language"]) in (lang, None)]
    if not fitting:
        found = ", ".join(f"{our_code(lexicon['language'])} ({lexicon['label']})" for lexicon in lexicons)
        raise BadShard(f"{path} is the wordnet of {found or 'no language'}, not of {lang}")
    num_lemmas = 0
    for lexicon in fitting:
        for lemma in _first_lemmas(lexicon) if lang == "en" else _lemmas(lexicon):
            num_lemmas += 1
            yield lemma
    if not num_lemmas:
        raise BadShard(f"{path} has no lemma (a LexicalEntry with a Lemma); is it a whole wordnet?")


def _header(lexicon: Lexicon) -> WordnetHeader:
    return WordnetHeader(
        name=f"{lexicon['label']} {lexicon['version']}",
        lang=lexicon["language"],
        url=lexicon.get("url") or "",
        licence=lexicon["license"],
    )


def _lemmas(lexicon: Lexicon) -> Iterator[str]:
    """Of the lexicon's own entries; those of an extension that only point into another lexicon have none."""
    for entry in lexicon.get("entries", ()):
        if "writtenForm" in entry.get("lemma", {}):
            yield entry["lemma"]["writtenForm"]


def _first_lemmas(lexicon: Lexicon) -> Iterator[str]:
    """The first lemma of each synset: by its list of members, where it has none by the order of the entries."""
    lemma_of_sense: dict[str, str] = {}
    first_of_synset: dict[str, str] = {}
    for entry in lexicon.get("entries", ()):
        lemma = entry.get("lemma", {}).get("writtenForm")
        for sense in entry.get("senses", ()) if lemma else ():
            lemma_of_sense[sense["id"]] = lemma
            first_of_synset.setdefault(sense.get("synset", ""), lemma)
        if lemma:
            lemma_of_sense[entry["id"]] = lemma  # members are senses, in some wordnets entries
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
        except (wn_lmf.LMFError, AssertionError, KeyError, ValueError) as error:  # the package asserts what it expects
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise BadShard(f"{path} is no whole WN-LMF file ({reason}); fetch it again") from error
    return cast(list[Lexicon], resource["lexicons"])


@contextlib.contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """The file itself, or what is in a .gz, for as long as it is read."""
    if path.suffix != ".gz":
        yield path
        return
    with tempfile.NamedTemporaryFile(suffix=".xml") as plain:
        try:
            with gzip.open(path, "rb") as packed:
                shutil.copyfileobj(cast(IO[bytes], packed), plain)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise BadShard(f"{path} cannot be unpacked ({error}); fetch it again") from error
        plain.flush()
        yield Path(plain.name)


class _RootReached(Exception):
    pass


def _refuse_entities(path: Path, plain: Path) -> None:
    """All that a document may declare stands before its root element."""

    def refuse(*_: object) -> None:
        raise BadShard(f"{path}: declares entities of its own; a wordnet has none, so it is not read further")

    def stop(*_: object) -> None:
        raise _RootReached

    parser = expat.ParserCreate()
    parser.EntityDeclHandler, parser.StartElementHandler = refuse, stop
    with open(plain, "rb") as file, contextlib.suppress(_RootReached, expat.ExpatError):  # what is no XML wn refuses
        while head := file.read(HEAD_BYTES):
            parser.Parse(head, False)


# --- what wn has installed --------------------------------------------------------------------------------------------


def read_installed_header(name: str) -> WordnetHeader:
    """Of a lexicon `id:version`.  Raises UserError where wn has it not."""
    lexicon = _lexicon(name)
    return WordnetHeader(
        name=f"{lexicon.label} {lexicon.version}",
        lang=lexicon.language,
        url=lexicon.url or "",
        licence=lexicon.license or "",
    )


def fingerprint_installed(name: str) -> dict[str, Any]:
    """What is known of a lexicon without reading it.  Raises UserError where wn has it not."""
    lexicon = _lexicon(name)
    return {"lexicon": name, "label": lexicon.label, "modified": bool(lexicon.modified())}


def read_installed(name: str, lang: str) -> Iterator[str]:
    """Lemmas as read_file gives them of a lexicon that wn has installed."""
    wn, lexicon = require("wn", extra="metadata"), _lexicon(name)
    if our_code(lexicon.language) not in (lang, None):
        raise BadShard(f"{name} is the wordnet of {our_code(lexicon.language)} ({lexicon.label}), not of {lang}")
    wordnet = wn.Wordnet(lexicon=name, expand="")
    if lang == "en":
        found = (lemma for synset in wordnet.synsets() for lemma in synset.lemmas()[:1])
    else:
        found = (word.lemma() for word in wordnet.words())
    num_lemmas = 0
    for lemma in found:
        num_lemmas += 1
        yield lemma
    if not num_lemmas:
        raise BadShard(f"{name} has no lemma; install it again: python -m wn download {name}")


def _lexicon(name: str) -> Any:
    wn = require("wn", extra="metadata")
    try:
        installed = {lexicon.specifier(): lexicon for lexicon in wn.lexicons()}
    except (wn.Error, sqlite3.Error, OSError) as error:
        raise UserError(f"the database of wn, {wn.config.database_path}, cannot be read: {error}") from error
    if name not in installed:
        has = ", ".join(installed) or "none"
        raise UserError(
            f"metadata.wordnets names {name!r}, which is neither a file nor a lexicon that wn has installed (it has"
            f" {has}); python -m wn download {name}"
        )
    return installed[name]
