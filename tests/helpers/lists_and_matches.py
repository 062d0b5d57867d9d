"""Build lists and matches of texts with characters of every Unicode version; print digests of what they hold.

    python tests/helpers/lists_and_matches.py

tests/test_interpreters.py runs it under each Python and compares what it prints.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import tempfile
from pathlib import Path

import pyarrow.parquet as pq

import worldclip
from worldclip.config import Recipe, load_recipe
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
LANGS = ("bo", "en", "tr", "zh")
WITH_TEXT = ("bo", "en", "zh")  # the words of `tr` are those of the pool
REDIRECTS = ("#REDIRECT [[x]]", "#重定向 [[x]]", "#\U0001e030 [[x]]", "#RE\u0cf3: [[x]]", "#REDIRECT\U00031350 [[x]]")


def write_world(folder: Path) -> Recipe:
    """Write a pool, dumps, page views, a WordNet and lists; return the recipe."""
    text = " ".join(WORDS) + "\n" + " ".join(reversed(WORDS))
    for lang in WITH_TEXT:
        (folder / "dumps" / lang).mkdir(parents=True)
        bodies = [text, *REDIRECTS, f"[[File\u0cf3:a]] [[\U0001e030:b|{WORDS[-1]}]] {text}"]
        pages = "".join(
            f"<page><title>{i}</title><ns>0</ns><revision><text>{body}</text></revision></page>"
            for i, body in enumerate(bodies)
        )
        site = '<siteinfo><namespaces><namespace key="6">\U0001e030</namespace></namespaces></siteinfo>'
        dump = folder / "dumps" / lang / f"{lang}wiki-20240101-pages-articles.xml"
        dump.write_text(f"<mediawiki>{site}{pages}</mediawiki>", encoding="utf-8")
        names = {"0": {"*": ""}, "6": {"*": "Fi\u0cf3\U00010d50"}, "7": {"*": "\U0001e030\ua7cb"}}
        namespaces = json.dumps({"query": {"namespaces": names, "namespacealiases": []}})
        (folder / "dumps" / lang / f"{lang}wiki-20240101-siteinfo-namespaces.json").write_text(namespaces)
    (folder / "views").mkdir()
    titles = [f"{prefix}{word}" for word in WORDS for prefix in ("", "fi\u0cf3\U00010d70:", "\U0001e030\u0264:")]
    views = "".join(f"{lang} {title} {9 + i} 0\n" for lang in LANGS for i, title in enumerate(titles))
    (folder / "views" / "pageviews-20240101-120000.gz").write_bytes(gzip.compress(views.encode()))
    synsets = "".join(f"{i:08}-n\ten:lemma\t{word}_A\n" for i, word in enumerate(WORDS))
    (folder / "en.tab").write_text(f"# made up\ten\turl\tlicence\n{synsets}", encoding="utf-8")
    (folder / "bo.txt").write_text("\n".join(WORDS), encoding="utf-8")
    (folder / "pool").mkdir()
    texts = [" ".join(WORDS[i : i + 3]) for i in range(len(WORDS))]
    records = [{"uid": f"{lang}{i}", "text": text, "lang": lang} for lang in LANGS for i, text in enumerate(texts)]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "pool" / "0.jsonl").write_text(lines, encoding="utf-8")
    return load_recipe(
        {
            "pool": {"path": str(folder / "pool"), "texts": ["text"], "key": "uid", "lang": "lang"},
            "languages": {"codes": LANGS},
            "metadata": {
                "dumps": str(folder / "dumps"),
                "sources": ["number", "wordnet", "unigram", "bigram", "title", "list", "pool"],
                "allow_missing": ["wordnet", "title", "unigram", "bigram", "list"],
                "wordnets": {"en": str(folder / "en.tab")},
                "pageviews": str(folder / "views"),
                "lists": {"bo": str(folder / "bo.txt")},
                "pool_min_count": 1,
                "overrides": {
                    "english_rule": "as_others", "bigram_min_count": 1, "unigram_top_fraction": 1.0,
                    "title_top_fraction": 1.0,
                },
            },
            "match": {"profile": "unicode", "fold_case": True, "compare_profiles": 100},
            "balance": {"tail_fraction": 0.06},
        }
    )  # fmt: skip


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
