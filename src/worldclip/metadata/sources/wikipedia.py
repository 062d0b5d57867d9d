"""Words, pairs of words and page titles of Wikipedias, or of corpora in their place."""

from __future__ import annotations

from worldclip.core.artifacts import digest
from worldclip.core.inputs import fingerprint_of
from worldclip.language.table import OTHER
from worldclip.metadata.counting import NOT_STATED, Record, WikipediaCounts
from worldclip.metadata.entry_list import EntryList
from worldclip.metadata.source import Inputs, Source

TEXT_LICENCE = "CC BY-SA 4.0 (text of Wikipedia; older revisions also GFDL)"
VIEWS_LICENCE = "CC0 1.0 (page views of Wikimedia)"
_FETCH = "set metadata.dumps = DIR and run: worldclip fetch metadata RECIPE"


def has_wikipedia(inputs: Inputs) -> bool:
    """Return whether a language has a Wikipedia; `other` is the union of those that no label reaches."""
    return inputs.lang == OTHER or bool(inputs.language.wikipedia)


def reads_text(inputs: Inputs) -> list[Record]:
    """Return a record per file of text.  Whether a file that the recipe names is Wikipedia's is not known."""
    records: list[Record] = []
    for wiki in inputs.wikis:
        licence = NOT_STATED if wiki in inputs.config.wikipedia else TEXT_LICENCE
        shards = inputs.files.texts.get(wiki, ())
        records += [{"source": "wikipedia", "wiki": wiki, **shard.fingerprint, "licence": licence} for shard in shards]
    return records


def add_unigrams(entries: EntryList, inputs: Inputs) -> None:
    """Append the most frequent words of each Wikipedia, with their occurrences."""
    for wikipedia in _with_text(inputs):
        _add_words(entries, wikipedia, inputs)


def _add_words(entries: EntryList, wikipedia: WikipediaCounts, inputs: Inputs) -> int:
    """Append the words of one Wikipedia; return the number of new entries."""
    candidates, num_wanted = wikipedia.unigrams()
    return entries.add("unigram", candidates, num_wanted)


def add_bigrams(entries: EntryList, inputs: Inputs) -> None:
    """Append pairs of words that follow each other more often than by chance, with their mutual information, log2.

    The cap on the bigrams of a Wikipedia is a share of its unigrams: of those in the list, or if unigrams are no
    source, of those that would be kept in a list of their own.
    """
    num_unigrams = [number for source, number in entries.sources if source == "unigram"]
    if "unigram" not in inputs.config.sources:
        num_unigrams = [_add_words(EntryList(), wikipedia, inputs) for wikipedia in _with_text(inputs)]
    for wikipedia, number in zip(_with_text(inputs), num_unigrams, strict=True):
        num_wanted = wikipedia.max_bigrams(number)
        candidates = wikipedia.bigrams(num_wanted, len(entries.entries))
        entries.add("bigram", candidates, num_wanted)


def _with_text(inputs: Inputs) -> list[WikipediaCounts]:
    return [wikipedia for wikipedia in inputs.counts if len(wikipedia.counts.words)]


def reads_views(inputs: Inputs) -> list[Record]:
    """Return a record of all page views, and one per file that names the namespaces of a site."""
    views = inputs.files.views
    if not inputs.wikis or not views:
        return []
    all_views: Record = {"source": "title", "page_view_files": len(views)}
    all_views |= {"digest": digest([shard.fingerprint for shard in views]), "licence": VIEWS_LICENCE}
    if inputs.lang == OTHER:  # its Wikipedias depend on the labels and on languages.add; page views hold them all
        all_views["wikis"] = list(inputs.wikis)
    records = [all_views]
    texts = set()
    for wiki in inputs.wikis:
        texts |= {shard.path for shard in inputs.files.texts.get(wiki, ())}
    for wiki in inputs.wikis:
        path = inputs.files.siteinfo.get(wiki)
        if path is not None and str(path) not in texts:  # a dump that is text of the list has a record there
            site = fingerprint_of(str(path), path.name)
            records.append({"source": "siteinfo", "wiki": wiki, **site, "licence": VIEWS_LICENCE})
    return records


def add_titles(entries: EntryList, inputs: Inputs) -> None:
    """Append the titles of the most viewed articles of each Wikipedia, with their views."""
    for wikipedia in inputs.counts:
        titles = wikipedia.titles()
        if titles is not None:
            candidates, num_wanted = titles
            entries.add("title", candidates, num_wanted)


_TEXT_REMEDY = f"{_FETCH}; or set metadata.wikipedia.CODE = FILE"
UNIGRAM = Source(add_unigrams, reads_text, has_wikipedia, _TEXT_REMEDY)
BIGRAM = Source(add_bigrams, reads_text, has_wikipedia, _TEXT_REMEDY)
TITLE = Source(add_titles, reads_views, has_wikipedia, _FETCH)
