"""How many unigrams, bigrams and titles become entries, against a plain version: caps and shares count new entries."""

from __future__ import annotations

import gzip
import itertools
import math
import tempfile
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from worldclip.core.execute import Shard
from worldclip.language.segment import scheme_of
from worldclip.metadata import counting, ngrams
from worldclip.metadata.config import RULES, MetadataConfig, WikipediaRules
from worldclip.metadata.source import Inputs, build_entries

WORDS = [f"w{n}" for n in range(9)]


def build(
    folder: Path, wiki: str, lemmas: list[str], texts: list[str], views: dict[str, int], rules: dict[str, Any]
) -> dict[str, list[str]]:
    """Return the entries of each source, as the stage builds them."""
    (folder / "wn.tab").write_text("".join(f"{n}-n\tlemma\t{lemma}\n" for n, lemma in enumerate(lemmas)))
    (folder / "views.gz").write_bytes(gzip.compress("".join(f"{wiki} {t} {n} 0\n" for t, n in views.items()).encode()))
    sources = ("wordnet", "unigram", "bigram", "title")
    config = MetadataConfig(
        sources=("number", *sources), wordnets={wiki: str(folder / "wn.tab")} if lemmas else {}, overrides=rules
    )
    runs = ngrams.count_to_file(folder / "runs", [texts], scheme_of(wiki))
    shard = Shard(name="0", path=str(folder / "views.gz"), fingerprint={})
    counting.count_page_views(shard, folder=folder, wikis=[wiki], min_line_views={})
    counted = counting.WikipediaCounts(
        wiki=wiki,
        rules=config.wikipedia_rules,
        counts=ngrams.merge(runs, folder / "merged"),
        joiner=" ",
        views=(folder / "views" / "0",),
        namespaces=frozenset({"File"}) if config.wikipedia_rules.title_rule == "namespaces" else None,
    )
    table = build_entries(Inputs(lang=wiki, config=config, counts=[counted])).table().to_pydict()
    return {
        source: [entry for entry, s in zip(table["entry"], table["source"], strict=True) if s == source]
        for source in sources
    }


def plain(lemmas: list[str], texts: list[str], views: dict[str, int], rules: WikipediaRules) -> dict[str, list[str]]:
    """Return the entries of each source by the rules' text: rank all candidates, drop old ones, take so many."""
    entries = list(dict.fromkeys(lemmas))
    result = {"wordnet": list(entries)}

    def take(source: str, ranked: list[str], number: int) -> None:
        result[source] = [candidate for candidate in ranked if candidate not in entries][:number]
        entries.extend(result[source])

    def share(fraction: float, total: int) -> int:
        exact = Decimal(str(fraction)) * total
        return math.floor(exact) if rules.share_rounding == "down" else math.ceil(exact)

    words = Counter(word for text in texts for word in text.split())
    pairs = Counter(pair for text in texts for pair in itertools.pairwise(text.split()))
    ranked = sorted(words, key=lambda word: (-words[word], word))
    take("unigram", ranked, min(rules.max_unigrams, share(rules.unigram_top_fraction, len(words))))

    def quotient(pair: tuple[str, str]) -> float:
        return pairs[pair] / (words[pair[0]] * words[pair[1]])

    frequent = [pair for pair in pairs if pairs[pair] >= rules.bigram_min_count]
    frequent.sort(key=lambda pair: (-quotient(pair), -pairs[pair], pair))
    number = min(rules.max_bigrams, share(rules.bigram_fraction, len(result["unigram"])))
    take("bigram", [" ".join(pair) for pair in frequent], number)
    titles = [title for title in views if not title.startswith("File:")]
    if rules.title_rule == "colon":
        titles = [title for title in titles if ":" not in title]
    titles.sort(key=lambda title: (-views[title], title))
    take("title", titles, min(rules.max_titles, share(rules.title_top_fraction, len(titles))))
    return result


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_lists_equal_plain_version(data: st.DataObject) -> None:
    texts = data.draw(
        st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=8).map(" ".join), min_size=1, max_size=5)
    )
    names = st.sampled_from([*WORDS, "w0:w1", "File:w0", "t0", "t1", "t2", "t3"])
    views = data.draw(st.dictionaries(names, st.integers(1, 5)))
    lemmas = data.draw(st.lists(st.sampled_from([*WORDS, "w0 w1", "w1 w2", "t0"]), unique=True))
    fractions, caps = st.sampled_from([0.0, 0.07, 0.1, 0.29, 0.4, 0.5, 0.76, 1.0]), st.integers(0, 9)
    rules = {
        "unigram_top_fraction": data.draw(fractions),
        "max_unigrams": data.draw(caps),
        "bigram_fraction": data.draw(st.sampled_from([0.0, 0.4, 1.0, 2.5])),
        "bigram_min_count": data.draw(st.integers(1, 2)),
        "max_bigrams": data.draw(caps),
        "title_top_fraction": data.draw(fractions),
        "max_titles": data.draw(caps),
        "share_rounding": data.draw(st.sampled_from(["up", "down"])),
        "title_rule": data.draw(st.sampled_from(["namespaces", "colon"])),
    }
    with tempfile.TemporaryDirectory() as folder:
        built = build(Path(folder), "sw", lemmas, texts, views, rules)
    assert built == plain(lemmas, texts, views, WikipediaRules(**rules))


def test_shares_are_of_the_fraction_as_written() -> None:
    """0.07 and 0.29 are no binary fractions: in floating point 0.07 x 100 is above 7, and 0.29 x 100 below 29."""
    for rounding in ("up", "down"):
        rules = WikipediaRules(share_rounding=rounding)
        assert [rules.share(fraction, 100) for fraction in (0.07, 0.29, 0.1, 0.76)] == [7, 29, 10, 76]
        assert rules.share(0.1, 15) == (2 if rounding == "up" else 1)
    assert WikipediaRules().share(0.1, 15) == 2
    assert RULES["reference"].share(0.1, 15) == 1
