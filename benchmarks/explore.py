"""The explorer in headless Chromium: size of the folder, first paint, and the slider's redraw.

    python benchmarks/explore.py [FOLDER] [--languages 330] [--entries 27000000] [--write]

FOLDER is what `worldclip explore` wrote; beside it stands a made-up run of as many languages and entries.  Paints,
marks and measures are Chromium's own performance entries.  --write renews benchmarks/results/explore.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from head import make_head

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/helpers"))
from chromium import open_page
from worldclip.contracts import layout, schemas
from worldclip.contracts.reasons import Reason
from worldclip.core import artifacts
from worldclip.language import table as languages
from worldclip.plugins.explorer import explore, lists, slider
from worldclip.plugins.explorer.chunks import Chunks

LOADS = 5  # of the first view; the median counts
MOVES = 200  # of the slider, over its whole range
TEXT = "12345678 987654 31415926 271828 a photo of 55555 on 1000000"
RESULTS = Path(__file__).parent / "results" / "explore.md"
MOVE_SLIDER = f"""(() => {{
  performance.clearMeasures("redraw");
  const times = [];
  for (let i = 0; i < {MOVES}; i++) {{
    const start = performance.now();
    place.value = (Number(place.max) * i) / {MOVES};
    place.dispatchEvent(new Event("input"));
    document.body.offsetHeight; // the layout, too
    times.push(performance.now() - start);
  }}
  return [performance.getEntriesByName("redraw").map((entry) => entry.duration), times];
}})()"""
FIRST_REDRAW = "performance.getEntriesByName('redraw').map((entry) => entry.startTime + entry.duration)[0]"
MATCH = f"""(async () => {{
  const start = performance.now();
  await matchText(0, {TEXT!r});
  return performance.now() - start;
}})()"""


def write_made_up(folder: Path, num_languages: int, num_entries: int) -> float:
    """Write an explorer of made-up languages and lists; return the seconds that the lists took."""
    random = np.random.default_rng(0)
    names = [language.code for language in languages.all_languages()][:num_languages]
    names += [f"x{i:03}" for i in range(num_languages - len(names))]
    chunks = Chunks(folder)
    explore._write_page(chunks)
    per_list = num_entries // num_languages
    row = {"threshold": 300, "tail_fraction": 0.06, "num_entries": per_list, "num_matched_entries": per_list // 3}
    values = np.geomspace(0.001, 1, slider.NUM_VALUES).round(6)
    pairs = random.integers(0, 10**8, (num_languages, len(Reason)))
    run = {
        "name": "made up",
        "run": "runs/made_up",
        "text_policy": "all",
        "seed": "0",
        "reasons": [[reason.label, reason.colour, reason.meaning] for reason in Reason],
        "sources": lists.source_names(),
        "languages": [
            {"code": name, "name": name, "list": i, "counts": counts}
            for i, (name, counts) in enumerate(zip(names, pairs.tolist(), strict=True))
        ],
        "lists": [{"name": name, **row, "num_matches": 10**9} for name in names],
    }  # fmt: skip
    chunks.write("run", run)
    expected = random.uniform(0, 1e8, (num_languages, 1)) * values
    curves: dict[str, Any] = {
        "key": "tail_fraction",
        "values": values.tolist(),
        "own": 20,
        "total": expected.sum(axis=0).tolist(),
        "expected": expected.tolist(),
        "thresholds": [list(range(1, slider.NUM_VALUES + 1))] * num_languages,
        "effective": expected.tolist(),
    }
    chunks.write("slider", curves)
    chunks.write("profile", lists.profile_record("unicode"))
    start = time.perf_counter()
    for i, name in enumerate(names):
        _write_list(chunks, i, name, per_list, random)
    return time.perf_counter() - start


def _write_list(chunks: Chunks, number: int, name: str, num_entries: int, random: np.random.Generator) -> None:
    """Write a list of numbers, half of them two words."""
    with tempfile.TemporaryDirectory() as place:
        run_dir = Path(place)
        first = pa.array(random.choice(10**8, num_entries, replace=False)).cast(pa.string())
        second = pa.array(random.integers(0, 1000, num_entries)).cast(pa.string())
        two = pc.binary_join_element_wise(first, second, " ")
        entries = pc.if_else(pa.array(np.arange(num_entries) % 2 == 0), first, two)
        columns = {"entry_id": np.arange(num_entries, dtype=np.int32), "entry": entries}
        more = {"source": pa.array(["title"] * num_entries), "score": pa.nulls(num_entries, pa.float64())}
        artifacts.write_table(layout.entries(run_dir, name), pa.table({**columns, **more}), schemas.METADATA)
        counts = (random.pareto(0.8, num_entries) * (np.arange(num_entries) % 3 == 0)).clip(0, 1e9).astype(np.uint64)
        artifacts.write_array(layout.entry_counts(run_dir, name), counts)
        lists.write_list(chunks, number, run_dir, name, threshold=300, profile="unicode", max_entries=lists.MAX_ENTRIES)


def measure(folder: Path) -> dict[str, float]:
    """Return milliseconds by performance entries, and the folder's size."""
    paints, shown, drawn = [], [], []
    with open_page() as page:
        page.resize(1400, 1000)
        for _ in range(LOADS):
            page.open("about:blank")
            page.open(folder / "index.html", "performance.getEntriesByName('redraw').length && place")
            page.wait("performance.getEntriesByName('first-contentful-paint').length")
            paints.append(page.run("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
            shown.append(page.run("performance.getEntriesByName('shown')[0].startTime"))
            drawn.append(page.run(FIRST_REDRAW))
        redraws, with_layout = page.run(MOVE_SLIDER)
        page.wait("typeof matchText === 'function'")
        matching = page.run(MATCH)
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        "files": len(files),
        "MiB": sum(path.stat().st_size for path in files) / 2**20,
        "first contentful paint, ms": statistics.median(paints),
        "slider drawn, ms": statistics.median(drawn),
        "view shown, ms": statistics.median(shown),
        "redraw, median ms": statistics.median(redraws),
        "redraw, 95%, ms": float(np.percentile(redraws, 95)),
        "redraw and layout, median ms": statistics.median(with_layout),
        "redraw and layout, 95%, ms": float(np.percentile(with_layout, 95)),
        "matching a text of ten words, ms": matching,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--languages", type=int, default=330)
    parser.add_argument("--entries", type=int, default=27_000_000)
    parser.add_argument("--write", action="store_true")
    flags = parser.parse_args()
    columns = {}
    if flags.folder:
        columns[flags.folder.name] = measure(flags.folder)
    with tempfile.TemporaryDirectory() as place:
        seconds = write_made_up(Path(place), flags.languages, flags.entries)
        columns[f"{flags.languages} languages, {flags.entries:,} entries"] = measure(Path(place))
    lines = [f"| | {' | '.join(columns)} |", f"| --- |{' ---: |' * len(columns)}"]
    lines += [
        f"| {name} | {' | '.join(f'{column[name]:,.1f}' for column in columns.values())} |"
        for name in next(iter(columns.values()))
    ]
    lines.append(f"\nThe made-up lists were written in {seconds:.0f} s.")
    print("\n".join(lines))
    if flags.write:
        head = make_head(("src/worldclip/plugins/explorer",), ("numpy", "pyarrow"))
        head = f"# The explorer\n\n{head}\n\nHeadless Chromium, pages opened from disk.\n\n"
        RESULTS.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
