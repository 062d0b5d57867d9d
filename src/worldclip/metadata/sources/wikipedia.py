"""Words, pairs of words and page titles of Wikipedias, or of corpora in their place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from worldclip.core.artifacts import digest
from worldclip.core.execute import Shard
from worldclip.core.inputs import fingerprint_of
from worldclip.language import segment
from worldclip.language.table import OTHER
from worldclip.metadata.counting import Record, WikipediaCounts
from worldclip.metadata.entry_list import EntryList
from worldclip.metadata.source import Inputs, Source, describe_path, fingerprint_file

TEXT_LICENCE = "CC BY-SA 4.0 (text of Wikipedia; older revisions also GFDL)"
VIEWS_LICENCE = "CC0 1.0 (page views of Wikimedia)"


class WikipediaSource(Source):
    """A source that every language with a Wikipedia should have."""

    def is_missing(self, inputs: Inputs) -> bool:
        # `other` is the union of the Wikipedias that no label reaches.
        has_wikipedia = inputs.lang == OTHER or bool(inputs.language.wikipedia)
        return has_wikipedia and not self.has_words(inputs)


class TextSource(WikipediaSource):
    """A source that reads the text of Wikipedias; both such sources share the files and their record."""

    input_name = "wikipedia"
    remedy = "{fetch}; or set metadata.wikipedia.{lang} = FILE"

    def has_words(self, inputs: Inputs) -> bool:
        return any(wiki in inputs.files.texts for wiki in inputs.wikis)

    def fingerprint(self, inputs: Inputs) -> Record:
        texts = inputs.files.texts
        files = {wiki: [shard.fingerprint for shard in texts[wiki]] for wiki in inputs.wikis if wiki in texts}
        if not files:
            return {}
        record: Record = {"files": files, "icu": segment.icu_version()}
        licences = inputs.config.text_licences
        if own := {wiki: licences[wiki] for wiki in files if wiki in licences}:
            record["licences"] = own
        return record

    def describe(self, inputs: Inputs, known: Any) -> list[Record]:
        records: list[Record] = []
        for wiki in known["files"]:
            licence = inputs.config.text_licences.get(wiki, TEXT_LICENCE)
            files = [describe_shard(shard, licence) for shard in inputs.files.texts[wiki]]
            records += [{"source": self.input_name, **file} for file in files]
        return records


class Unigrams(TextSource):
    """The most frequent words."""

    name = "unigram"
    meaning = "one of the most frequent words of the Wikipedia"
    score = "occurrences in the Wikipedia"

    def add_to(self, entries: EntryList, inputs: Inputs) -> None:
        for wikipedia in _with_text(inputs):
            self.add_words(entries, wikipedia, inputs.config.max_chars)

    def add_words(self, entries: EntryList, wikipedia: WikipediaCounts, max_chars: int) -> int:
        """Append the words of one Wikipedia; return the number of new entries."""
        candidates, num_wanted = wikipedia.unigrams()
        return entries.add(self.name, candidates, max_chars, num_wanted)


class Bigrams(TextSource):
    """Pairs of words that follow each other more often than by chance."""

    name = "bigram"
    meaning = "two words that follow each other in the Wikipedia more often than by chance"
    score = "pointwise mutual information of its words, log2"

    def add_to(self, entries: EntryList, inputs: Inputs) -> None:
        num_unigrams = self._num_unigrams(entries, inputs)
        for wikipedia, number in zip(_with_text(inputs), num_unigrams, strict=True):
            num_wanted = wikipedia.max_bigrams(number)
            candidates = wikipedia.bigrams(num_wanted, len(entries.entries))
            entries.add(self.name, candidates, inputs.config.max_chars, num_wanted)

    def _num_unigrams(self, entries: EntryList, inputs: Inputs) -> list[int]:
        """Return the number of unigrams kept of each Wikipedia; the cap on its bigrams is a share of them.

        If unigrams are no source: of those that would be kept of the Wikipedia in a list of their own.
        """
        if UNIGRAM.name in inputs.config.sources:
            return [kept for source, kept in entries.sources if source == UNIGRAM.name]
        max_chars = inputs.config.max_chars
        return [UNIGRAM.add_words(EntryList(), wikipedia, max_chars) for wikipedia in _with_text(inputs)]


class Titles(WikipediaSource):
    """Titles of the most viewed articles."""

    name = "title"
    meaning = "one of the Wikipedia's most viewed pages"
    score = "views of the page"
    remedy = "{fetch}; or set metadata.pageviews = DIR"

    def has_words(self, inputs: Inputs) -> bool:
        return bool(inputs.wikis and inputs.files.views)

    def is_missing(self, inputs: Inputs) -> bool:
        return super().is_missing(inputs) and not inputs.files.views

    def add_to(self, entries: EntryList, inputs: Inputs) -> None:
        for wikipedia in inputs.counts:
            if titles := wikipedia.titles():
                candidates, num_wanted = titles
                entries.add(self.name, candidates, inputs.config.max_chars, num_wanted)

    def fingerprint(self, inputs: Inputs) -> Record:
        if not self.has_words(inputs):
            return {}
        views = inputs.files.views
        record: Record = {
            "files": len(views),
            "digest": digest([shard.fingerprint for shard in views]),
            "siteinfo": [fingerprint_of(str(path), path.name) for path in _siteinfo(inputs)],
        }
        if inputs.lang == OTHER:  # its Wikipedias depend on the labels and on languages.add; page views hold them all
            record["wikis"] = list(inputs.wikis)
        return record

    def describe(self, inputs: Inputs, known: Any) -> list[Record]:
        views = {"page_view_files": known["files"], "digest": known["digest"], "licence": VIEWS_LICENCE}
        records = [{"source": self.name, **views}]
        # Dumps that are texts of the list are described there, with the licence of their text.
        texts = {shard.path for wiki in inputs.wikis for shard in inputs.files.texts.get(wiki, ())}
        for path in _siteinfo(inputs):
            if str(path) not in texts:
                site = {**describe_path(path), **fingerprint_file(path), "licence": VIEWS_LICENCE}
                records.append({"source": "siteinfo", **site})
        return records


def describe_shard(shard: Shard, licence: str) -> Record:
    """Return a file of text or of page views as the manifest names it."""
    return {**describe_path(Path(shard.path)), **shard.fingerprint, "licence": licence}


def _with_text(inputs: Inputs) -> list[WikipediaCounts]:
    return [wikipedia for wikipedia in inputs.counts if len(wikipedia.counts.words)]


def _siteinfo(inputs: Inputs) -> list[Path]:
    return [inputs.files.siteinfo[wiki] for wiki in inputs.wikis if wiki in inputs.files.siteinfo]


UNIGRAM = Unigrams()
BIGRAM = Bigrams()
TITLE = Titles()
