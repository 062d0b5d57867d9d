"""Build lists and matches of texts with characters of every Unicode version; print digests of what they hold.

    python tests/helpers/lists_and_matches.py

tests/test_every_machine.py runs it under each Python and compares what it prints.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

import pyarrow.parquet as pq

import worldclip
from entry_lists import recipe, write_dump, write_lines, write_lists, write_wordnet
from worldclip.config import Recipe
from worldclip.core.execute import LocalExecutor

# Letters of many scripts, with case, with several spellings in NFC.
OLDER = [
    *("Straße", "ǆungla", "İstanbul", "ΟΔΟΣ", "ὈΔΎΣΣΕΙΑ", "Ꭶꭰ", "ﬁne", "ŉ", "E\u0301t\u00e9", "\u1e9b\u0323"),
    *("한국어", "\u1112\u1161\u11ab", "猫", "ねこ", "ก\u0e33", "«»", "٣٤", "a‿b"),
]
# Unicode 15.0 and 15.1: letters with and without case, marks, punctuation, digits; 16.0: letters with case.
NEWER = (
    "\u0cf3\u0ece\U00031350\U0002ebf0\U0001e030\U00011b00\U00011f44\U00011f50\U0001e4d0"
    "\ua7cb\ua7dc\u1c89\U00010d50\U000105c9\U000116d0"
)
AROUND = [(head, tail) for head in ("", "x", "Σ", "!", "7") for tail in ("", "y", "Σ", "\u0301", "»")]
WORDS = [*OLDER, *(f"{head}{new}{tail}" for new in NEWER for head, tail in AROUND)]
LANGS = ("bo", "en", "sw", "tr", "zh")  # `sw` has a whole list, and the words of `tr` are those of the pool
WITH_TEXT = ("bo", "en", "zh")
REDIRECTS = ("#REDIRECT [[x]]", "#重定向 [[x]]", "#\U0001e030 [[x]]", "#RE\u0cf3: [[x]]", "#REDIRECT\U00031350 [[x]]")


def write_world(folder: Path) -> Recipe:
    """Write a pool, dumps, page views, a WordNet and lists; return the recipe."""
    text = " ".join(WORDS) + "\n" + " ".join(reversed(WORDS))
    bodies = [text, *REDIRECTS, f"[[File\u0cf3:a]] [[\U0001e030:b|{WORDS[-1]}]] {text}"]
    names = {"0": {"*": ""}, "6": {"*": "Fi\u0cf3\U00010d50"}, "7": {"*": "\U0001e030\ua7cb"}}
    for lang in WITH_TEXT:
        dump = folder / "dumps" / lang / f"{lang}wiki-20240101-pages-articles.xml.bz2"
        write_dump(dump, bodies, namespaces='<namespace key="6">\U0001e030</namespace>')
        namespaces = json.dumps({"query": {"namespaces": names, "namespacealiases": []}})
        dump.with_name(f"{lang}wiki-20240101-siteinfo-namespaces.json").write_text(namespaces)
    titles = [f"{prefix}{word}" for word in WORDS for prefix in ("", "fi\u0cf3\U00010d70:", "\U0001e030\u0264:")]
    views = [f"{lang} {title} {9 + i} 0" for lang in LANGS for i, title in enumerate(titles)]
    write_lines(folder / "dumps/pageviews/pageviews-20240101-120000.gz", *views)
    wordnet = write_wordnet(folder / "en.tab", "en", *(f"{word}_A" for word in WORDS))
    texts = [" ".join(WORDS[i : i + 3]) for i in range(len(WORDS))]
    records = [{"uid": f"{lang}{i}", "text": text, "lang": lang} for lang in LANGS for i, text in enumerate(texts)]
    write_lines(folder / "pool" / "0.jsonl", *map(json.dumps, records))
    sections = {
        "pool": {"path": str(folder / "pool"), "texts": ["text"], "key": "uid", "lang": "lang"},
        "match": {"profile": "unicode", "fold_case": True},
    }
    rules = {"english_rule": "as_others", "bigram_min_count": 1, "unigram_top_fraction": 1.0, "title_top_fraction": 1.0}
    config = {
        "dumps": str(folder / "dumps"),
        "sources": ["number", "wordnet", "unigram", "bigram", "title", "pool"],
        "wordnets": {"en": wordnet},
        "lists": write_lists(folder, sw=WORDS),
        "pool_min_count": 1,
        "overrides": rules,
    }
    return recipe(LANGS, sections, **config)


def digests_of(run_dir: Path) -> dict[str, str]:
    """Return a digest of the rows of each table of entries, matches and counts."""
    tables = sorted((run_dir / "metadata").glob("*.parquet")) + sorted((run_dir / "match").rglob("*.parquet"))
    rows = {path.relative_to(run_dir).as_posix(): pq.read_table(path).to_pylist() for path in tables}
    return {name: hashlib.sha256(ascii(values).encode()).hexdigest() for name, values in rows.items()}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        executor = LocalExecutor(workers=1, quiet=True)
        run = worldclip.run(write_world(Path(name)), out=Path(name) / "run", until="match", executor=executor)
        print(json.dumps(digests_of(run)))
