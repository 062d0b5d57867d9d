"""Lemmas of wordnets in three forms: OMW's tab files, WN-LMF files, and lexicons that the package wn has installed.

Tab files are `synset <TAB> type <TAB> lemma`, plain or gzip.  The type is `<lang>:lemma`, in some files plain `lemma`.
Arabic also has `arb:lemma:brokenplural`, plurals that texts use and the lemma does not hint at, which are kept, and
`arb:lemma:root`, three bare consonants, which are no words and are left out.  Definitions and examples (`<lang>:def`,
`<lang>:exe`) are left out.  WN-LMF: wordnet_lmf.py.
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
    """What a wordnet says of itself; a WN-LMF file may hold several."""
    if is_lexicon(wordnet):
        return [wordnet_lmf.read_installed_header(wordnet)]
    if is_lmf(wordnet):
        return wordnet_lmf.read_headers(Path(wordnet))
    return [_read_tab_header(Path(wordnet))]


def read_wordnet(wordnet: str, lang: str) -> Iterator[tuple[str, None]]:
    """Each lemma in the wordnet's order, `_` as blank and `+` removed; no scores.

    wordnet: a file by its path, or a lexicon of the package wn as `omw-fr:1.4`.  English, as in version 1 of the
    recipe: only the first lemma of each synset, lower-cased.  Raises BadShard for a wordnet of another language, one
    without lemmas, and one that cannot be read.
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
    """Whether a wordnet's name is that of a WN-LMF file."""
    return wordnet.lower().endswith((".xml", ".xml.gz"))


def _read_tab_header(path: Path) -> WordnetHeader:
    """The first line of a tab file: `# name <TAB> lang <TAB> url <TAB> licence`; empty where it has none."""
    first = next(iter_lines(path), "")
    if not first.startswith("#"):
        return WordnetHeader()
    fields = [field.strip() for field in first.lstrip("# ").split("\t")] + [""] * 4
    return WordnetHeader(name=fields[0], lang=fields[1], url=fields[2], licence=fields[3])


def _read_tab(path: Path, lang: str) -> Iterator[str]:
    theirs = _read_tab_header(path).lang
    ours = {code: language.code for language in languages.all_languages() for code in language.wordnet}.get(theirs)
    if ours is not None and ours != lang:
        name = languages.get(ours).name
        raise BadShard(f"{path} is the wordnet of {ours} ({name}; its header says {theirs!r}), not of {lang}")
    seen_synsets: set[str] = set()
    num_lemmas = 0
    for line in iter_lines(path):
        fields = line.split("\t")
        if len(fields) < 3 or line.startswith("#") or not _is_lemma(fields[1]):
            continue
        num_lemmas += 1
        if lang != "en":
            yield fields[2]
        elif fields[0] not in seen_synsets:
            seen_synsets.add(fields[0])
            yield fields[2]
    if not num_lemmas:
        raise BadShard(f"{path} has no lemma line (synset, a tab, {lang}:lemma, a tab, the lemma); is it a wordnet?")


def _is_lemma(kind: str) -> bool:
    parts = kind.split(":")
    return parts[-1] == "lemma" or parts[-2:] == ["lemma", "brokenplural"]
