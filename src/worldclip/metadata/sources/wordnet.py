"""Lemmas of WordNets in three forms: OMW's tab files, WN-LMF files, and lexicons installed by the package wn.

A line of a tab file is `synset <TAB> type <TAB> lemma`, plain or gzipped.  The type is `<lang>:lemma`, in some files
plain `lemma`.  Arabic has two more: `arb:lemma:brokenplural`, plurals that do not follow from the lemma, are kept;
`arb:lemma:root`, three bare consonants that are no word, are skipped.  Definitions (`<lang>:def`) and examples
(`<lang>:exe`) are skipped.  Files: https://github.com/omwn/omw-data.  WN-LMF: wordnet_lmf.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from worldclip.core.errors import BadShard
from worldclip.language import table as languages
from worldclip.metadata.config import is_lexicon
from worldclip.metadata.sources import wordnet_lmf
from worldclip.metadata.sources.lists import iter_lines
from worldclip.metadata.sources.wordnet_lmf import WordnetHeader


def read_headers(wordnet: str) -> list[WordnetHeader]:
    """Return what a WordNet says of itself; a WN-LMF file may hold several WordNets."""
    if is_lexicon(wordnet):
        return [wordnet_lmf.read_installed_header(wordnet)]
    if is_lmf(wordnet):
        return wordnet_lmf.read_headers(Path(wordnet))
    return [_read_tab_header(Path(wordnet))]


def read_wordnet(wordnet: str, lang: str) -> Iterator[tuple[str, None]]:
    """Yield each lemma in the WordNet's order, with `_` replaced by a blank and `+` removed; there are no scores.

    wordnet: path of a file, or a lexicon of the package wn such as `omw-fr:1.4`.  English follows version 1 of the
    recipe (arXiv:2309.16671): only the first lemma of each synset, lower-cased.  Raises BadShard for a WordNet of
    another language, without lemmas, or unreadable.
    """
    if is_lexicon(wordnet):
        lemmas = wordnet_lmf.read_installed(wordnet, lang)
    elif is_lmf(wordnet):
        lemmas = wordnet_lmf.read_file(Path(wordnet), lang)
    else:
        lemmas = _read_tab(Path(wordnet), lang)
    for lemma in lemmas:
        entry = lemma.replace("_", " ").replace("+", "").strip()
        yield entry.lower() if lang == "en" else entry, None


def is_lmf(wordnet: str) -> bool:
    """Return whether a WordNet's name is that of a WN-LMF file."""
    return wordnet.lower().endswith((".xml", ".xml.gz"))


def _read_tab_header(path: Path) -> WordnetHeader:
    """Read the first line of a tab file, `# name <TAB> lang <TAB> url <TAB> licence`; empty if it is no header."""
    first = next(iter_lines(path), "")
    if not first.startswith("#"):
        return WordnetHeader()
    fields = [field.strip() for field in first.lstrip("# ").split("\t")] + [""] * 4
    return WordnetHeader(name=fields[0], lang=fields[1], url=fields[2], licence=fields[3])


def _read_tab(path: Path, lang: str) -> Iterator[str]:
    header_lang = _read_tab_header(path).lang
    by_wordnet_code = {code: language.code for language in languages.all_languages() for code in language.wordnet}
    file_lang = by_wordnet_code.get(header_lang)
    if file_lang is not None and file_lang != lang:
        name = languages.get(file_lang).name
        raise BadShard(f"{path}: WordNet of {file_lang} ({name}; {header_lang!r} in its header), not of {lang}")
    message = f"{path}: no lemma line (synset, tab, {lang}:lemma, tab, lemma); is it a WordNet?"
    return wordnet_lmf.require_lemmas(_iter_tab(path, is_first_only=lang == "en"), message)


def _iter_tab(path: Path, *, is_first_only: bool) -> Iterator[str]:
    seen_synsets: set[str] = set()
    for line in iter_lines(path):
        fields = line.split("\t")
        if len(fields) < 3 or line.startswith("#") or not _is_lemma(fields[1]):
            continue
        if is_first_only and fields[0] in seen_synsets:
            continue
        seen_synsets.add(fields[0])
        yield fields[2]


def _is_lemma(kind: str) -> bool:
    parts = kind.split(":")
    return parts[-1] == "lemma" or parts[-2:] == ["lemma", "brokenplural"]
