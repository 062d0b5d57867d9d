"""The pool's own texts: the most frequent words of each language, and pairs of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from worldclip.core.errors import BadShard
from worldclip.language import segment
from worldclip.metadata import ngrams
from worldclip.metadata.config import MetadataConfig
from worldclip.metadata.counting import Record
from worldclip.metadata.entry_list import EntryList
from worldclip.metadata.source import Inputs, Source, name_all, used_sources


class PoolWords(Source):
    """Words of the texts that are to be curated."""

    name = "pool"
    meaning = "one of the most frequent words, or pairs of words, of the pool's own texts in this language"
    score = "occurrences in the pool; of a pair, the pointwise mutual information of its words, log2"
    licence = "that of the pool's texts"

    def has_words(self, inputs: Inputs) -> bool:
        """Return True: whether the pool has words of a language is not known before they are counted."""
        return True

    def needs_packages(self, inputs: Inputs) -> bool:
        return False

    def add_to(self, entries: EntryList, inputs: Inputs) -> None:
        counts, config = inputs.pool_counts, inputs.config
        if counts is None:
            return
        least = config.pool_min_count
        unigrams = ngrams.iter_unigrams(counts, min_count=least)
        num_unigrams = entries.add(self.name, unigrams, config.max_chars, config.max_pool_unigrams)
        rules = config.wikipedia_rules
        num_wanted = rules.share(rules.bigram_fraction, num_unigrams)
        joiner = segment.scheme_of_code(inputs.lang, inputs.languages).joiner
        first = num_wanted + len(entries.entries)
        bigrams = ngrams.iter_bigrams_by_pmi(counts, joiner, first=first, min_count=least)
        entries.add(self.name, bigrams, config.max_chars, num_wanted)
        if not entries.rules[self.name]["in"]:
            self._require_words(inputs)

    def _require_words(self, inputs: Inputs) -> None:
        """Raise BadShard if no other source has words of the language, unless metadata.allow_missing allows it."""
        config = inputs.config
        others = [source for source in used_sources(config) if source.name != self.name]
        if self.name in config.allow_missing or any(source.has_words(inputs) for source in others):
            return
        raise BadShard(
            f"the pool has no word of {inputs.lang} that reaches metadata.pool_min_count = {config.pool_min_count}, and"
            f" no other source has words of it; remove {inputs.lang} from languages.codes, or to go on without:"
            ' metadata.allow_missing = ["pool"]'
        )

    def fingerprint(self, inputs: Inputs) -> Record:
        return {} if inputs.pool_digest is None else {"digest": inputs.pool_digest}

    def describe(self, inputs: Inputs, known: Any) -> list[Record]:
        return [{"source": self.name, **known, "licence": self.licence}]

    def notes(self, lists: Mapping[str, Record], built: Sequence[str], config: MetadataConfig) -> Iterator[str]:
        absent = [lang for lang in built if not lists[lang]["by_source"].get(self.name)]
        if absent:
            least = f"metadata.pool_min_count = {config.pool_min_count}"
            yield f"no entry from the pool for {name_all(absent)}: no other word reaches {least}"


POOL = PoolWords()
