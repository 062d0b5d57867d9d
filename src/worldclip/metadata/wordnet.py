"""Lemmas of the Open Multilingual Wordnet's tab files: `synset <TAB> type <TAB> lemma`, plain or gzip.

The type is `<lang>:lemma`, in some files plain `lemma`.  Arabic also has `arb:lemma:brokenplural`, plurals that texts
use and the lemma does not hint at, which are kept, and `arb:lemma:root`, three bare consonants, which are no words and
are left out.  Definitions and examples (`<lang>:def`, `<lang>:exe`) are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from worldclip import languages
from worldclip.errors import BadShard
from worldclip.metadata.lists import iter_lines


@dataclass(frozen=True, kw_only=True, slots=True)
class WordnetHeader:
    """The first line of a tab file: `# name <TAB> lang <TAB> url <TAB> licence`; empty where it has none."""

    name: str = ""
    lang: str = ""
    url: str = ""
    licence: str = ""


def read_header(path: Path) -> WordnetHeader:
    first = next(iter_lines(path), "")
    if not first.startswith("#"):
        return WordnetHeader()
    fields = [field.strip() for field in first.lstrip("# ").split("\t")] + [""] * 4
    return WordnetHeader(name=fields[0], lang=fields[1], url=fields[2], licence=fields[3])


def read_wordnet(path: Path, lang: str) -> Iterator[tuple[str, None]]:
    """Each lemma of `path` in the file's order, `_` as blank and `+` removed; no scores.

    English, as in version 1 of the recipe: only the first lemma of each synset, lower-cased.
    Raises BadShard for a file of another language, one without lemmas, and one that cannot be read.
    """
    _check_language(path, lang)
    seen_synsets: set[str] = set()
    num_lemmas = 0
    for line in iter_lines(path):
        fields = line.split("\t")
        if len(fields) < 3 or line.startswith("#") or not _is_lemma(fields[1]):
            continue
        num_lemmas += 1
        lemma = fields[2].replace("_", " ").replace("+", "").strip()
        if lang != "en":
            yield lemma, None
        elif fields[0] not in seen_synsets:
            seen_synsets.add(fields[0])
            yield lemma.lower(), None
    if not num_lemmas:
        raise BadShard(f"{path} has no lemma line (synset, a tab, {lang}:lemma, a tab, the lemma); is it a wordnet?")


def _is_lemma(kind: str) -> bool:
    parts = kind.split(":")
    return parts[-1] == "lemma" or parts[-2:] == ["lemma", "brokenplural"]


def _check_language(path: Path, lang: str) -> None:
    theirs = read_header(path).lang
    ours = {code: language.code for language in languages.all() for code in language.wordnet}.get(theirs)
    if ours is not None and ours != lang:
        name = languages.get(ours).name
        raise BadShard(f"{path} is the wordnet of {ours} ({name}; its header says {theirs!r}), not of {lang}")
