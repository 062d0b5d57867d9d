"""Check that every source of a recipe has a file for each language that should have one, before any work."""

from __future__ import annotations

from collections.abc import Sequence

from worldclip.metadata.config import MetadataConfig
from worldclip.metadata.source import Inputs, Source, used_sources

MAX_NAMED = 40  # languages in a message


def find_gaps(inputs: Sequence[Inputs], config: MetadataConfig) -> dict[str, tuple[str, ...]]:
    """Return the languages without a file, for each source of the recipe that should have one of them."""
    gaps = {}
    for source in used_sources(config):
        if langs := tuple(of_lang.lang for of_lang in inputs if source.is_missing(of_lang)):
            gaps[source.name] = langs
    return gaps


def gap_problems(gaps: dict[str, tuple[str, ...]], config: MetadataConfig) -> list[str]:
    """Report the gaps that metadata.allow_missing does not allow; sources without the same languages together."""
    sources_of: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for source in used_sources(config):
        if source.name in gaps and source.name not in config.allow_missing:
            place = (source.remedy, gaps[source.name])
            sources_of.setdefault(place, []).append(f'"{source.name}"')
    problems = []
    for (remedy, langs), names in sources_of.items():
        only = f" --langs {','.join(langs)}" if len(langs) <= MAX_NAMED else ""
        fetch = f"run: worldclip fetch metadata RECIPE{only}"
        if not config.dumps:
            fetch = f'set metadata.dumps = "dumps" and {fetch}'
        problems.append(
            f"metadata.sources has {' and '.join(names)}, and there is no file for {name_all(langs)};"
            f" {remedy.format(fetch=fetch, lang=langs[0])}. To go on without:"
            f" metadata.allow_missing = [{', '.join(names)}]"
        )
    return problems


def wordless_problems(inputs: Sequence[Inputs], config: MetadataConfig) -> list[str]:
    """Report all languages without a source of words, unless numbers are the only source."""
    if set(config.sources) == {"number"}:
        return []
    sources = used_sources(config)
    missing = [of_lang.lang for of_lang in inputs if not _has_words(of_lang, sources)]
    if not missing:
        return []
    pack = f" (nor has {config.pack} a list)" if config.pack else ""
    lang = missing[0]
    return [
        f"metadata.sources = {list(config.sources)}: no source has words of {name_all(missing)}, and no file of them is"
        f" set{pack}; set a list (metadata.lists.{lang} = FILE) or a WordNet (metadata.wordnets.{lang} = FILE) of each,"
        " or remove them from languages.codes"
    ]


def _has_words(inputs: Inputs, sources: Sequence[Source]) -> bool:
    return any(source.has_words(inputs) for source in sources)


def name_all(langs: Sequence[str]) -> str:
    """Return the codes as text, the first MAX_NAMED of many."""
    more = len(langs) - MAX_NAMED
    return ", ".join(langs[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
