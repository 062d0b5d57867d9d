"""Match rates of both profiles, with and without fold_case, with one list of entries for all.

    python benchmarks/match_rates.py            writes benchmarks/results/match_rates.md

Entries are the lists of the golden files, texts are captions, where a language has none the Universal Declaration of
Human Rights; both from the folder of real data (WORLDCLIP_SHARED, or `shared` beside the repository).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from match import SHARED, read_column

from worldclip.language.profiles import PROFILES
from worldclip.match import Matcher

RESULTS = Path(__file__).parent / "results" / "match_rates.md"
LANGS = ("en", "cs", "es", "it", "ru", "zh", "ko", "ja", "ar", "th")
UDHR_CODES = {"ja": "jpn", "ar": "arb", "th": "tha"}  # languages without captions
SHOWN = 5  # entries that one profile alone finds
INTRODUCTION = """# Match rates

Share of texts with a match, and matches per text, with one list of entries for all columns (50,000 to 60,000 words,
bigrams and titles per language). Then the entries that `unicode` finds in more texts than `reference`, and in fewer,
with the number of texts. Texts: COCO and Flickr captions; for ja, ar and th the paragraphs of the Universal Declaration
of Human Rights. `python benchmarks/match_rates.py` writes this page.
"""


def read_captions(lang: str) -> list[str]:
    if lang in UDHR_CODES:
        return read_column("udhr/udhr.parquet", "text", code=UDHR_CODES[lang])
    files = ("captions/multi30k_train.parquet", "captions/xtd10.parquet")
    return [text for name in files for text in read_column(name, "caption", lang=lang)]


def rate_row(lang: str, entries: list[str], texts: list[str]) -> list[str]:
    """Share of texts with a match and matches a text of each profile; entries that only one of the first two finds."""
    cells, counts = [], []
    for profile in PROFILES:
        ids, offsets = Matcher.build(entries, profile).match_batch(texts)
        cells.append(f"{np.mean(np.diff(offsets) > 0):.2%}, {ids.size / len(texts):.2f}")
        counts.append(np.bincount(ids, minlength=len(entries)))
    more = counts[1].astype(np.int64) - counts[0]
    order = np.argsort(more, kind="stable")
    gained, lost = ([i for i in side[:SHOWN] if more[i] * sign > 0] for side, sign in ((order[::-1], 1), (order, -1)))
    named = [", ".join(f"`{entries[i]}` {abs(more[i]):,}" for i in side) for side in (gained, lost)]
    return [lang, f"{len(texts):,}", *cells, *named]


def rates_table() -> str:
    table = pq.read_table(SHARED.parent / "golden" / "entries.parquet")
    lists = {lang: table.filter(pa.compute.equal(table["lang"].cast(pa.string()), lang)) for lang in LANGS}
    rows = [rate_row(lang, list(part["entry"].to_pylist()), read_captions(lang)) for lang, part in lists.items()]
    header = ["language", "texts", "reference", "unicode", "unicode, `fold_case`", "unicode alone finds", "loses"]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


def main() -> None:
    """Write the results page."""
    RESULTS.write_text(f"{INTRODUCTION}\n{rates_table()}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
