"""Language identification: speed beside fasttext-predict on the same texts, one core; accuracy by language and length.

    python benchmarks/lid.py [--model FILE] [--write]      --write renews benchmarks/results/lid.md

Texts are captions (Multi30K, XTD10) and the Universal Declaration of Human Rights from the folder of real data
(WORLDCLIP_SHARED, or `shared` beside the repository).  Both methods must give the same label on 99.9% of each set.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path

import fasttext
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from worldclip import languages
from worldclip.match.lid import Identifier, model_path

ROUNDS = 5
MAX_TEXTS = 30_000  # a set, every n-th text where it has more
LENGTHS = (0, 10, 20, 40, 80, 160, 1 << 30)  # characters
SPEED_HEADER = [
    "texts",
    "number",
    "characters",
    "fasttext-predict, us",
    "worldclip, us",
    "ratio",
    "same label",
    "off by",
]
RESULTS = Path(__file__).parent / "results" / "lid.md"
SHARED = Path(os.environ.get("WORLDCLIP_SHARED", Path(__file__).parents[1].parent / "shared")) / "data"


def read_sets() -> dict[str, tuple[pa.Array, list[str]]]:
    """Name -> texts, our code of each text's language."""
    if not SHARED.is_dir():
        raise SystemExit(f"no folder of real data at {SHARED}; set WORLDCLIP_SHARED")
    multi30k = pq.read_table(SHARED / "captions/multi30k_train.parquet")
    sets = {f"Multi30K captions, {lang}": _captions(multi30k, lang) for lang in ("en", "de", "fr", "cs")}
    xtd10 = pq.read_table(SHARED / "captions/xtd10.parquet")
    sets |= {f"XTD10 captions, {lang}": _captions(xtd10, lang) for lang in ("en", "es", "it", "ko", "ru", "zh")}
    udhr = pq.read_table(SHARED / "udhr/udhr.parquet", columns=["text", "iso639_3", "script"])
    pairs = zip(udhr["iso639_3"].to_pylist(), udhr["script"].to_pylist(), strict=True)
    codes = [languages.from_lid(f"{iso}_{script}", "glotlid") for iso, script in pairs]
    sets["UDHR, all languages"] = (udhr["text"].combine_chunks().cast(pa.large_string()), codes)
    return sets


def _captions(table: pa.Table, lang: str) -> tuple[pa.Array, list[str]]:
    texts = table.filter(pa.compute.equal(table["lang"], lang))["caption"].combine_chunks()
    texts = texts.take(pa.array(np.arange(0, len(texts), max(1, len(texts) // MAX_TEXTS))))
    return texts.cast(pa.large_string()), [lang] * len(texts)


def seconds(call: Callable[[], object]) -> float:
    """Median of ROUNDS calls after one that is not counted."""
    call()
    spans = []
    for _ in range(ROUNDS):
        started_at = time.perf_counter()
        call()
        spans.append(time.perf_counter() - started_at)
    return statistics.median(spans)


def speed_rows(sets: dict[str, tuple[pa.Array, list[str]]], model: Path) -> list[list[str]]:
    """One row a set: microseconds a text of both, ratio, agreement."""
    identifier, library, rows = Identifier(model), fasttext.load_model(str(model)), []
    for name, (texts, _) in sets.items():
        lines = texts.to_pylist()
        ours_s = seconds(lambda texts=texts: identifier.predict_ids(texts))
        theirs_s = seconds(lambda lines=lines: [library.predict(line) for line in lines])
        labels, probs = identifier.predict(texts)
        answers = [library.predict(line) for line in lines]
        same = np.mean(
            [label == answer[0][0].removeprefix("__label__") for label, answer in zip(labels, answers, strict=True)]
        )
        off = max(abs(prob - min(answer[1][0], 1.0)) for prob, answer in zip(probs, answers, strict=True))
        if same < 0.999 or off > 1e-3:
            raise SystemExit(f"{name}: same label on {same:.4%}, probability off by {off}")
        chars = sum(map(len, lines)) / len(lines)
        us = [span / len(lines) * 1e6 for span in (theirs_s, ours_s)]
        rows.append(
            [
                name,
                f"{len(lines):,}",
                f"{chars:.0f}",
                f"{us[0]:.1f}",
                f"{us[1]:.2f}",
                f"{us[0] / us[1]:.1f}",
                f"{same:.3%}",
                f"{off:.0e}",
            ]
        )
    return rows


def accuracy(sets: dict[str, tuple[pa.Array, list[str]]], model: Path) -> tuple[list[list[str]], list[list[str]]]:
    """Recall by text length over captions and UDHR, and by language with what the lost texts became."""
    identifier = Identifier(model)
    code_of = [languages.from_lid(label, identifier.scheme) for label in identifier.labels] + ["und"]
    reachable = set(code_of) - {languages.OTHER}
    by_length: dict[tuple[str, int], list[bool]] = collections.defaultdict(list)
    by_lang: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for name, (texts, truth) in sets.items():
        label_ids, _ = identifier.predict_ids(texts)
        for text, label_id, lang in zip(texts.to_pylist(), label_ids, truth, strict=True):
            if lang not in reachable:
                continue
            bucket = next(i for i in range(len(LENGTHS) - 1) if LENGTHS[i] <= len(text) < LENGTHS[i + 1])
            by_length[name.split(",")[0], bucket].append(code_of[label_id] == lang)
            by_lang[lang][code_of[label_id]] += 1
    length_rows = []
    for kind in dict.fromkeys(kind for kind, _ in by_length):
        row = [kind]
        for bucket in range(len(LENGTHS) - 1):
            hits = by_length.get((kind, bucket), [])
            row.append(f"{np.mean(hits):.1%} ({len(hits):,})" if hits else "")
        length_rows.append(row)
    lang_rows = []
    for lang, found in sorted(by_lang.items(), key=lambda item: item[1][item[0]] / item[1].total()):
        lost = ", ".join(f"{code} {count:,}" for code, count in found.most_common(4) if code != lang)
        lang_rows.append(
            [lang, languages.get(lang).name, f"{found.total():,}", f"{found[lang] / found.total():.1%}", lost]
        )
    return length_rows, lang_rows


def table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


def page(model: Path) -> str:
    sets = read_sets()
    speed = speed_rows(sets, model)
    length_rows, lang_rows = accuracy(sets, model)
    lengths = [
        f"{low} to {high - 1}" if high < 1 << 30 else f"{low} and more" for low, high in itertools.pairwise(LENGTHS)
    ]
    versions = ", ".join(f"{package} {version(package)}" for package in ("fasttext-predict", "numba", "numpy"))
    machine = f"{processor()}, one core of {os.cpu_count()}, shared with other work"
    recall = np.mean([float(row[3].rstrip("%")) for row in lang_rows])
    return f"""# Language identification

{date.today()}; {machine}; Python {platform.python_version()}, {versions}.
Model: {model.name}. Median of {ROUNDS} rounds; both methods in the same run.

## Speed

{table(SPEED_HEADER, speed)}

## Recall by text length

In characters; number of texts in brackets. Texts of languages that no label of the model means are left out.

{table(["texts", *lengths], length_rows)}

## Recall by language

Captions and UDHR together, {len(lang_rows)} languages, worst first; mean over languages {recall:.1f}%.

{table(["language", "name", "texts", "recall", "lost to"], lang_rows)}
"""


def processor() -> str:
    """The processor's name where /proc says it, else the architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=model_path(), help="a fastText model; the default is lid.176")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    text = page(arguments.model)
    print(text)
    if arguments.write:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
