"""Lemmas of WordNets: OMW's tab files, and lexicons that the package wn has installed.

A line of a tab file is `synset <TAB> type <TAB> lemma`, plain or gzipped.  The type is `<lang>:lemma`, in some files
plain `lemma`.  Arabic has two more: `arb:lemma:brokenplural`, plurals that do not follow from the lemma, are kept;
`arb:lemma:root`, three bare consonants that are no word, are skipped.  Definitions (`<lang>:def`) and examples
(`<lang>:exe`) are skipped.  Files: https://github.com/omwn/omw-data.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

from worldclip.core.errors import BadShard, UserError, require
from worldclip.core.inputs import fingerprint_of
from worldclip.language.characters import lower
from worldclip.language.table import INSTALLED, Languages
from worldclip.metadata.config import is_lexicon
from worldclip.metadata.counting import NOT_STATED, Candidates, Record
from worldclip.metadata.entry_list import EntryList
from worldclip.metadata.lists import iter_lines
from worldclip.metadata.source import Inputs, Source

# Lexicons of the Open Multilingual Wordnet by our code, in the paper's 31 languages.  Its second Italian lexicon and
# its other English ones are not the paper's.
OMW_LEXICONS = {
    "ar": "omw-arb", "bg": "omw-bg", "ca": "omw-ca", "da": "omw-da", "el": "omw-el", "en": "omw-en", "es": "omw-es",
    "eu": "omw-eu", "fi": "omw-fi", "fr": "omw-fr", "gl": "omw-gl", "he": "omw-he", "hr": "omw-hr", "id": "omw-id",
    "is": "omw-is", "it": "omw-it", "ja": "omw-ja", "lt": "omw-lt", "ms": "omw-zsm", "nl": "omw-nl", "nn": "omw-nn",
    "no": "omw-nb", "pl": "omw-pl", "pt": "omw-pt", "ro": "omw-ro", "sk": "omw-sk", "sl": "omw-sl", "sq": "omw-sq",
    "sv": "omw-sv", "th": "omw-th", "zh": "omw-cmn",
}  # fmt: skip


def wordnets_of(inputs: Inputs) -> Sequence[str]:
    """Return the WordNets to read for a language: those that the recipe names, else what wn has installed."""
    config = inputs.config
    if inputs.lang in config.wordnets:
        named = config.wordnets[inputs.lang]
        return (named,) if isinstance(named, str) else named
    if not config.installed_wordnets:
        return ()
    lexicon = OMW_LEXICONS.get(inputs.lang)
    return sorted(name for name in _all_installed() if name.partition(":")[0] == lexicon)[-1:]  # the latest version


def reads_wordnets(inputs: Inputs) -> list[Record]:
    """Return a record per file or lexicon."""
    records = []
    for wordnet in wordnets_of(inputs):
        record: Record = {"source": "wordnet"}
        if is_lexicon(wordnet):
            lexicon = _installed(wordnet)
            record |= {"lexicon": wordnet, "name": f"{lexicon.label} {lexicon.version}", "url": lexicon.url}
            record |= {"modified": bool(lexicon.modified()), "licence": lexicon.license or NOT_STATED}
        else:
            record |= fingerprint_of(wordnet, wordnet.rpartition("/")[2])
            record["licence"] = "stated in the file's first line"
        records.append(record)
    return records


def add_lemmas(entries: EntryList, inputs: Inputs) -> None:
    """Append the lemmas of each WordNet, of any length, as in the reference."""
    for wordnet in wordnets_of(inputs):
        entries.add("wordnet", read_wordnet(wordnet, inputs.lang, inputs.languages), max_chars=None)


def read_wordnet(wordnet: str, lang: str, languages: Languages = INSTALLED) -> Candidates:
    """Yield each lemma in the WordNet's order, with `_` replaced by a blank and `+` removed; there are no scores.

    wordnet: path of a tab file, or a lexicon of the package wn such as `omw-fr:1.4`.  English follows version 1 of the
    recipe (arXiv:2309.16671): only the first lemma of each synset, lower-cased.  Raises BadShard for a WordNet of
    another language, without lemmas, or unreadable.
    """
    if is_lexicon(wordnet):
        lemmas = _read_installed(wordnet, lang, languages)
        if_empty = f"no lemma; install it again: python -m wn download {wordnet}"
    else:
        lemmas = _read_tab(wordnet, lang, languages)
        if_empty = f"no lemma line (synset, tab, {lang}:lemma, tab, lemma); is it a tab file of OMW?"
    is_empty = True
    for lemma in lemmas:
        is_empty = False
        entry = lemma.replace("_", " ").replace("+", "").strip()
        if lang == "en":
            entry = lower(entry)
        yield entry, None
    if is_empty:
        raise BadShard(f"{wordnet}: {if_empty}")


def _read_tab(file: str, lang: str, languages: Languages) -> Iterator[str]:
    """Yield the lemmas of a tab file, whose first line may be `# name <TAB> lang <TAB> url <TAB> licence`."""
    seen_synsets: set[str] = set()
    for number, line in enumerate(iter_lines(file)):
        fields = line.split("\t")
        if number == 0 and line.startswith("#") and len(fields) > 1:
            with contextlib.suppress(KeyError):
                _require_language(file, languages.from_wordnet(fields[1].strip()), fields[1], lang)
        if len(fields) < 3 or line.startswith("#"):
            continue
        kind = fields[1].split(":")
        if kind[-1] != "lemma" and kind[-2:] != ["lemma", "brokenplural"]:
            continue
        if lang == "en" and fields[0] in seen_synsets:
            continue
        seen_synsets.add(fields[0])
        yield fields[2]


def _require_language(wordnet: str, code: str | None, label: str, lang: str) -> None:
    if code not in (lang, None):
        raise BadShard(f"{wordnet}: WordNet of {code} ({label.strip()!r}), not of {lang}")


# --- what wn has installed --------------------------------------------------------------------------------------------


def our_code(tag: str, languages: Languages = INSTALLED) -> str | None:
    """Return our code of a lexicon's language (BCP 47, such as `als`, `cmn-Hans`, `nb`); None if it is unknown."""
    # Codes of WordNets come first: `als` is Albanian in all of them, and the Alemannic Wikipedia's code in our table.
    with contextlib.suppress(KeyError):
        return languages.from_wordnet(tag.partition("-")[0].lower())
    return languages.from_tag(tag)


def _read_installed(name: str, lang: str, languages: Languages) -> Iterator[str]:
    wn = require("wn", extra="metadata")
    lexicon = _installed(name)
    _require_language(name, our_code(lexicon.language, languages), lexicon.label, lang)
    wordnet = wn.Wordnet(lexicon=name, expand="")
    if lang == "en":
        for synset in wordnet.synsets():
            yield from synset.lemmas()[:1]
    else:
        for word in wordnet.words():
            yield word.lemma()


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


WORDNET = Source(
    add_lemmas,
    reads_wordnets,
    should_have=lambda inputs: inputs.lang in OMW_LEXICONS,
    remedy="run: python -m wn download omw:2.0, and set metadata.installed_wordnets = true; or set"
    " metadata.wordnets.CODE = FILE",
)
