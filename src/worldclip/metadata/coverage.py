"""Check that every source of a recipe has a file for each language that should have one, before any work."""

from __future__ import annotations

from collections.abc import Sequence

from worldclip.language import table as languages
from worldclip.metadata.config import MetadataConfig, Source
from worldclip.metadata.counting import Sources
from worldclip.metadata.entries import has_words
from worldclip.metadata.sources.packages import PACKAGED
from worldclip.metadata.sources.wordnet import OMW_LEXICONS, wordnets_of

MAX_NAMED = 40  # languages in a message
REMEDIES: dict[Source, str] = {
    "wordnet": "set metadata.wordnets.{lang} = FILE",
    "unigram": "set metadata.wikipedia.{lang} = FILE",
    "bigram": "set metadata.wikipedia.{lang} = FILE",
    "title": "set metadata.pageviews = DIR",
}


def find_gaps(langs: Sequence[str], config: MetadataConfig, sources: Sources) -> dict[Source, tuple[str, ...]]:
    """Return the languages without a file, for each source of the recipe that should have one of them.

    Languages with a Wikipedia in language/table.csv should have its words and titles; the 31 languages of the Open
    Multilingual Wordnet should have a WordNet.
    """
    without_wikipedia = {lang for lang in langs if lang != languages.OTHER and not languages.get(lang).wikipedia}
    with_text = {lang for lang in langs if any(wiki in sources.texts for wiki in sources.wikis[lang])}
    with_text |= without_wikipedia
    covered: dict[Source, set[str]] = {
        "wordnet": {lang for lang in langs if lang not in OMW_LEXICONS or wordnets_of(lang, config)},
        "unigram": with_text,
        "bigram": with_text,
        "title": set(langs) if sources.views else without_wikipedia,
    }
    gaps = {source: tuple(lang for lang in langs if lang not in covered[source]) for source in covered}
    return {source: gaps[source] for source in gaps if source in config.sources and gaps[source]}


def gap_problems(gaps: dict[Source, tuple[str, ...]], config: MetadataConfig) -> list[str]:
    """Report the gaps that metadata.allow_missing does not allow; sources without the same languages together."""
    sources_of: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for source, langs in gaps.items():
        if source not in config.allow_missing:
            sources_of.setdefault((REMEDIES[source], langs), []).append(f'"{source}"')
    problems = []
    for (remedy, langs), names in sources_of.items():
        only = f" --langs {','.join(langs)}" if len(langs) <= MAX_NAMED else ""
        fetch = f"run: worldclip fetch metadata RECIPE{only}"
        if not config.dumps:
            fetch = f'set metadata.dumps = "dumps" and {fetch}'
        problems.append(
            f"metadata.sources has {' and '.join(names)}, and there is no file for {name_all(langs)}; {fetch}; or"
            f" {remedy.format(lang=langs[0])}. To go on without: metadata.allow_missing = [{', '.join(names)}]"
        )
    return problems


def wordless_problems(langs: Sequence[str], config: MetadataConfig, sources: Sources) -> list[str]:
    """Report all languages without a source of words, unless numbers are the only source."""
    if set(config.sources) == {"number"}:
        return []
    missing = [lang for lang in langs if not has_words(lang, config, sources.wikis[lang])]
    if not missing:
        return []
    packaged = [source for source in PACKAGED if source in config.sources]
    reason = f"{' and '.join(packaged)} ha{'s' if len(packaged) == 1 else 've'} no words of"
    reason = reason if packaged else "no source has words of"
    pack = f" (nor has {config.pack} a list)" if config.pack else ""
    lang = missing[0]
    return [
        f"metadata.sources = {list(config.sources)}: {reason} {name_all(missing)}, and no file of them is set{pack};"
        f" set a list (metadata.lists.{lang} = FILE) or a WordNet (metadata.wordnets.{lang} = FILE) of each, or remove"
        " them from languages.codes"
    ]


def name_all(langs: Sequence[str]) -> str:
    """Return the codes as text, the first MAX_NAMED of many."""
    more = len(langs) - MAX_NAMED
    return ", ".join(langs[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
