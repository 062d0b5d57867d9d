"""Build the list of one language from the candidates of all its sources."""

from __future__ import annotations

from worldclip.core.errors import BadShard
from worldclip.metadata.entry_list import EntryList
from worldclip.metadata.source import Inputs, used_sources


def build_entries(inputs: Inputs) -> EntryList:
    """Return the list of one language, from the recipe's sources in the order of the registry.

    Raises BadShard if the files of a source, or all sources, hold nothing of the language.
    """
    config, lang = inputs.config, inputs.lang
    built = EntryList()
    sources = used_sources(config)
    for source in sources:
        source.add_to(built, inputs)
    if not built.entries:
        raise BadShard(f"no entry of {lang} from {', '.join(built.rules) or 'any source'}; set metadata.lists.{lang}")
    silent = [source.name for source in sources if source.has_words(inputs) and source.name not in built.rules]
    empty = [name for name in silent if name not in config.allow_missing]
    if empty:
        names = ", ".join(f'"{name}"' for name in empty)
        raise BadShard(
            f"the files hold no {' and no '.join(empty)} of {lang}; fetch them again, or to go on without:"
            f" metadata.allow_missing = [{names}]"
        )
    return built
