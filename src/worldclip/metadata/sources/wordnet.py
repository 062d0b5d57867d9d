"""Lemmas of WordNets in three forms: OMW's tab files, WN-LMF files, and lexicons installed by the package wn.

A line of a tab file is `synset <TAB> type <TAB> lemma`, plain or gzipped.  The type is `<lang>:lemma`, in some files
plain `lemma`.  Arabic has two more: `arb:lemma:brokenplural`, plurals that do not follow from the lemma, are kept;
`arb:lemma:root`, three bare consonants that are no word, are skipped.  Definitions (`<lang>:def`) and examples
(`<lang>:exe`) are skipped.  Files: https://github.com/omwn/omw-data.

WN-LMF (globalwordnet.github.io/schemas) is read by wn.  A file that declares XML entities is refused before: wn's
parser would expand them (an entity bomb fills the memory), and no WordNet declares any.
"""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, cast
from xml.parsers import expat

from worldclip.core import unpack
from worldclip.core.artifacts import NOT_INSTALLED
from worldclip.core.errors import BadShard, UserError, require
from worldclip.core.registry import Requirement
from worldclip.language.characters import lower
from worldclip.language.table import INSTALLED, OTHER, Languages
from worldclip.metadata.config import is_lexicon
from worldclip.metadata.counting import Candidates, Record
from worldclip.metadata.entry_list import EntryList
from worldclip.metadata.source import NOT_STATED, Inputs, Source, describe_path, fingerprint_file
from worldclip.metadata.sources.lists import iter_lines

FOLDER = "wordnets"  # folder in metadata.dumps
ENDINGS = (".tab", ".tab.gz", ".xml", ".xml.gz")
HEAD_BYTES = 2**16  # read at a time until the root element begins
BCP47 = {"nb": "no"}  # codes in WordNets that are neither those of a Wikipedia nor ISO 639-3

# Lexicons of the Open Multilingual Wordnet by our code, in the paper's 31 languages.  Its second Italian lexicon and
# its other English ones are not the paper's.
OMW_LEXICONS = {
    "ar": "omw-arb", "bg": "omw-bg", "ca": "omw-ca", "da": "omw-da", "el": "omw-el", "en": "omw-en", "es": "omw-es",
    "eu": "omw-eu", "fi": "omw-fi", "fr": "omw-fr", "gl": "omw-gl", "he": "omw-he", "hr": "omw-hr", "id": "omw-id",
    "is": "omw-is", "it": "omw-it", "ja": "omw-ja", "lt": "omw-lt", "ms": "omw-zsm", "nl": "omw-nl", "nn": "omw-nn",
    "no": "omw-nb", "pl": "omw-pl", "pt": "omw-pt", "ro": "omw-ro", "sk": "omw-sk", "sl": "omw-sl", "sq": "omw-sq",
    "sv": "omw-sv", "th": "omw-th", "zh": "omw-cmn",
}  # fmt: skip

Lexicon = Mapping[str, Any]


class WordnetHeader(NamedTuple):
    """A WordNet's description of itself: missing fields are empty, the language is spelled as in the file."""

    name: str = ""
    lang: str = ""
    url: str = ""
    licence: str = ""


def read_headers(wordnet: str) -> list[WordnetHeader]:
    """Return what a WordNet says of itself; a WN-LMF file may hold several WordNets."""
    if is_lexicon(wordnet):
        lexicon = _installed(wordnet)
        name = f"{lexicon.label} {lexicon.version}"
        return [WordnetHeader(name, lexicon.language, lexicon.url or "", lexicon.license or "")]
    if is_lmf(wordnet):
        return [
            WordnetHeader(
                f"{lexicon['label']} {lexicon['version']}",
                lexicon["language"],
                lexicon.get("url") or "",
                lexicon["license"],
            )
            for lexicon in _load(Path(wordnet))
        ]
    return [_read_tab_header(Path(wordnet))]


def read_wordnet(wordnet: str, lang: str, languages: Languages = INSTALLED) -> Candidates:
    """Yield each lemma in the WordNet's order, with `_` replaced by a blank and `+` removed; there are no scores.

    wordnet: path of a file, or a lexicon of the package wn such as `omw-fr:1.4`.  English follows version 1 of the
    recipe (arXiv:2309.16671): only the first lemma of each synset, lower-cased.  Raises BadShard for a WordNet of
    another language, without lemmas, or unreadable.
    """
    if is_lexicon(wordnet):
        lemmas = _read_installed(wordnet, lang, languages)
        if_empty = f"no lemma; install it again: python -m wn download {wordnet}"
    elif is_lmf(wordnet):
        lemmas = _read_lmf(Path(wordnet), lang, languages)
        if_empty = "no lemma (a LexicalEntry with a Lemma); is it a whole WordNet?"
    else:
        lemmas = _read_tab(Path(wordnet), lang, languages)
        if_empty = f"no lemma line (synset, tab, {lang}:lemma, tab, lemma); is it a WordNet?"
    is_empty = True
    for lemma in lemmas:
        is_empty = False
        entry = lemma.replace("_", " ").replace("+", "").strip()
        yield lower(entry) if lang == "en" else entry, None
    if is_empty:
        raise BadShard(f"{wordnet}: {if_empty}")


def is_lmf(wordnet: str) -> bool:
    """Return whether a WordNet's name is that of a WN-LMF file."""
    return wordnet.lower().endswith((".xml", ".xml.gz"))


def our_code(lang: str, languages: Languages = INSTALLED) -> str | None:
    """Return our code of a WordNet's language (BCP 47, such as `als`, `cmn-Hans`, `nb`); None if it is unknown."""
    code = lang.partition("-")[0].lower()
    # Codes of WordNets come first: `als` is Albanian in all of them, and the Alemannic Wikipedia's code in our table.
    with contextlib.suppress(KeyError):
        return languages.from_wordnet(code)
    if code in languages.by_code():
        return code
    by_iso = languages.from_lid(code, "glotlid")
    return BCP47.get(code) or (by_iso if by_iso != OTHER else None)


# --- tab files --------------------------------------------------------------------------------------------------------


def _read_tab_header(path: Path) -> WordnetHeader:
    """Read the first line of a tab file, `# name <TAB> lang <TAB> url <TAB> licence`; empty if it is no header."""
    first = next(iter_lines(path), "")
    fields = [field.strip() for field in first.lstrip("# ").split("\t")] if first.startswith("#") else []
    return WordnetHeader(*fields[:4])


def _read_tab(path: Path, lang: str, languages: Languages) -> Iterator[str]:
    header_lang = _read_tab_header(path).lang
    by_wordnet_code = {code: language.code for language in languages.all_languages() for code in language.wordnet}
    file_lang = by_wordnet_code.get(header_lang, lang)
    if file_lang != lang:
        name = languages.get(file_lang).name
        raise BadShard(f"{path}: WordNet of {file_lang} ({name}; {header_lang!r} in its header), not of {lang}")
    seen_synsets: set[str] = set()
    for line in iter_lines(path):
        fields = line.split("\t")
        if len(fields) < 3 or line.startswith("#"):
            continue
        kind = fields[1].split(":")
        if kind[-1] != "lemma" and kind[-2:] != ["lemma", "brokenplural"]:
            continue
        if lang == "en" and fields[0] in seen_synsets:
            continue
        seen_synsets.add(fields[0])
        yield fields[2]


# --- WN-LMF files -----------------------------------------------------------------------------------------------------


def _read_lmf(path: Path, lang: str, languages: Languages) -> Iterator[str]:
    """Yield the lemmas of a file's lexicons of `lang`, or of an unknown language, in the file's order.

    English: the first lemma of each synset.
    """
    lexicons = _load(path)
    matching = [lexicon for lexicon in lexicons if our_code(lexicon["language"], languages) in (lang, None)]
    if not matching:
        others = ", ".join(f"{our_code(lexicon['language'], languages)} ({lexicon['label']})" for lexicon in lexicons)
        raise BadShard(f"{path}: WordNet of {others or 'no language'}, not of {lang}")
    for lexicon in matching:
        yield from _first_lemmas(lexicon) if lang == "en" else _lemmas(lexicon)


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
            lemma_of_sense[entry["id"]] = lemma  # some WordNets list entries as members, not senses
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
            for line in unpack.iter_lines(path):
                plain.write(line)
        except BadShard as error:
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


def fingerprint_installed(name: str) -> dict[str, str | bool]:
    """Return what identifies a lexicon without reading it.  Raises UserError if wn has not installed it."""
    if find_spec("wn") is None:
        return {"lexicon": name, "label": NOT_INSTALLED, "modified": NOT_INSTALLED}
    lexicon = _installed(name)
    return {"lexicon": name, "label": lexicon.label, "modified": bool(lexicon.modified())}


def _read_installed(name: str, lang: str, languages: Languages) -> Iterator[str]:
    """Return lemmas as `_read_lmf` does, of an installed lexicon."""
    wn, lexicon = require("wn", extra="metadata"), _installed(name)
    if our_code(lexicon.language, languages) not in (lang, None):
        raise BadShard(f"{name}: WordNet of {our_code(lexicon.language, languages)} ({lexicon.label}), not of {lang}")
    wordnet = wn.Wordnet(lexicon=name, expand="")
    if lang == "en":
        return (lemma for synset in wordnet.synsets() for lemma in synset.lemmas()[:1])
    return (word.lemma() for word in wordnet.words())


def installed_lexicons(lang: str, languages: Languages) -> tuple[str, ...]:
    """Return the names of the lexicons of a language that wn has installed, sorted.

    Of the Open Multilingual Wordnet the paper's lexicon only, and its latest version: its release has two of Italian
    and several of English.  Of English one lexicon in all, since another one would repeat its synsets.
    """
    names = sorted(name for name, lexicon in _all_installed().items() if our_code(lexicon.language, languages) == lang)
    papers = [name for name in names if name.partition(":")[0] == OMW_LEXICONS.get(lang)]
    if papers:
        names = [name for name in names if not name.startswith("omw-") or name == papers[-1]]
    if lang == "en":
        names = papers[-1:] or names[:1]
    return tuple(names)


def _all_installed() -> dict[str, Any]:
    """Return the lexicons of wn by their names.  Raises UserError if wn or its database cannot be used."""
    wn = require("wn", extra="metadata")
    try:
        return {lexicon.specifier(): lexicon for lexicon in wn.lexicons()}
    except (wn.Error, sqlite3.Error, OSError) as error:
        raise UserError(f"database of the package wn, {wn.config.database_path}: cannot be read ({error})") from error


def _installed(name: str) -> Any:
    installed = _all_installed()
    if name not in installed:
        raise UserError(
            f"metadata.wordnets: {name!r} is neither a file nor an installed lexicon (installed:"
            f" {', '.join(installed) or 'none'}); run: python -m wn download {name}"
        )
    return installed[name]


class Wordnets(Source):
    """Lemmas of WordNets, which the 31 languages of the Open Multilingual Wordnet should have."""

    name = "wordnet"
    meaning = "a lemma of the language's WordNet"
    requires = Requirement(("wn",), "metadata")
    remedy = (
        "run: python -m wn download omw:2.0, and set metadata.installed_wordnets = true; or set"
        " metadata.wordnets.{lang} = FILE"
    )

    def wordnets(self, inputs: Inputs) -> tuple[str, ...]:
        """Return the WordNets to read for a language: the recipe's, else those in metadata.dumps, else wn's."""
        config = inputs.config
        if inputs.lang in config.wordnets:
            named = config.wordnets[inputs.lang]
            return (named,) if isinstance(named, str) else tuple(named)
        files: list[str] = []
        if config.dumps:
            paths = sorted((Path(config.dumps) / FOLDER / inputs.lang).glob("*"))
            files = [str(path) for path in paths if path.name.endswith(ENDINGS)]
        if files or not config.installed_wordnets:
            return tuple(files)
        return installed_lexicons(inputs.lang, inputs.languages)

    def has_words(self, inputs: Inputs) -> bool:
        return bool(self.wordnets(inputs))

    def is_missing(self, inputs: Inputs) -> bool:
        return inputs.lang in OMW_LEXICONS and not self.has_words(inputs)

    def needs_packages(self, inputs: Inputs) -> bool:
        return any(is_lmf(wordnet) for wordnet in self.wordnets(inputs))

    def add_to(self, entries: EntryList, inputs: Inputs) -> None:
        for wordnet in self.wordnets(inputs):
            # Lemmas of any length are entries, as in the reference.
            entries.add(self.name, read_wordnet(wordnet, inputs.lang, inputs.languages), max_chars=None)

    def fingerprint(self, inputs: Inputs) -> Any:
        return [
            fingerprint_installed(wordnet) if is_lexicon(wordnet) else fingerprint_file(Path(wordnet))
            for wordnet in self.wordnets(inputs)
        ]

    def describe(self, inputs: Inputs, known: Any) -> list[Record]:
        records = []
        for wordnet, identity in zip(self.wordnets(inputs), known, strict=True):
            place = {} if is_lexicon(wordnet) else describe_path(Path(wordnet))
            for header in read_headers(wordnet):
                origin = {"name": header.name, "url": header.url, "licence": header.licence or NOT_STATED}
                records.append({"source": self.name, **place, **identity, **origin})
        return records


WORDNET = Wordnets()
