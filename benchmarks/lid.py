"""Language identification: speed beside fasttext-predict on the same texts, one core; accuracy by language and length.

    python benchmarks/lid.py [--model FILE] [--write]

--write renews benchmarks/results/lid.md.

Texts are captions (Multi30K, XTD10) and the Universal Declaration of Human Rights from the folder of real data
(WORLDCLIP_SHARED, or `shared` beside the repository).  Both methods must give the same label on 99.9% of each set.
"""

from __future__ import annotations

import argparse
import bisect
import collections
import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import fasttext
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from head import make_head

from worldclip.language import table as languages
from worldclip.language.identify import Identifier, model_path

ROUNDS = 5
MAX_TEXTS = 30_000  # a set, every n-th text where it has more
LENGTHS, WIDE_LENGTHS = (10, 20, 40, 80, 160), (20, 80)  # bounds of bands, in characters
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

Sets: TypeAlias = dict[str, tuple[pa.Array, list[str]]]  # name -> texts, our code of each text's language


def read_sets() -> Sets:
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


def cpu_s(call: Callable[[], object]) -> float:
    """CPU seconds of this process: other work on the machine may slow it down, but is not counted in."""
    started_at = time.process_time()
    call()
    return time.process_time() - started_at


def speed_rows(sets: Sets, model: Path) -> list[list[str]]:
    """One row a set: microseconds a text of both, in turns; ratio, agreement."""
    identifier, library, rows = Identifier(model), fasttext.load_model(str(model)), []
    for name, (texts, _) in sets.items():
        lines = texts.to_pylist()
        calls = [lambda lines=lines: [library.predict(line) for line in lines]]
        calls.append(lambda texts=texts: identifier.predict_ids(texts))
        spans = np.array([[cpu_s(call) for call in calls] for _ in range(ROUNDS)])
        us = np.median(spans, axis=0) / len(lines) * 1e6
        labels, probs = identifier.predict(texts)
        answers = calls[0]()
        same = np.mean(
            [label == answer[0][0].removeprefix("__label__") for label, answer in zip(labels, answers, strict=True)]
        )
        off = max(abs(prob - min(answer[1][0], 1.0)) for prob, answer in zip(probs, answers, strict=True))
        if same < 0.999 or off > 1e-3:
            raise SystemExit(f"{name}: same label on {same:.4%}, probability off by {off}")
        numbers = f"{len(lines):,}", f"{sum(map(len, lines)) / len(lines):.0f}"
        speed = f"{us[0]:.1f}", f"{us[1]:.2f}", f"{us[0] / us[1]:.1f}"
        rows.append([name, *numbers, *speed, f"{same:.3%}", f"{off:.0e}"])
        print(" | ".join(rows[-1]), flush=True)
    return rows


@dataclass
class Accuracy:
    """Of texts whose language a label of the model means."""

    by_length: dict[tuple[str, int], list[bool]]  # (set, band of LENGTHS) -> right?
    by_lang: dict[str, collections.Counter[str]]  # true language -> what its texts were taken for
    by_lang_and_length: dict[tuple[str, int], list[bool]]  # (true language, band of WIDE_LENGTHS) -> right?


def accuracy(sets: Sets, model: Path) -> Accuracy:
    identifier = Identifier(model)
    code_of = [languages.from_lid(label, identifier.scheme) for label in identifier.labels] + ["und"]
    reachable = set(code_of) - {languages.OTHER}
    found = Accuracy(*(collections.defaultdict(kind) for kind in (list, collections.Counter, list)))
    for name, (texts, truth) in sets.items():
        label_ids, _ = identifier.predict_ids(texts)
        for text, label_id, lang in zip(texts.to_pylist(), label_ids, truth, strict=True):
            if lang in reachable:
                is_right = code_of[label_id] == lang
                found.by_length[name.split(",")[0], bisect.bisect_right(LENGTHS, len(text))].append(is_right)
                found.by_lang_and_length[lang, bisect.bisect_right(WIDE_LENGTHS, len(text))].append(is_right)
                found.by_lang[lang][code_of[label_id]] += 1
    return found


def share(hits: list[bool]) -> str:
    return f"{np.mean(hits):.1%} ({len(hits):,})" if hits else ""


def length_table(found: Accuracy) -> str:
    kinds = dict.fromkeys(kind for kind, _ in found.by_length)
    rows = [[kind, *(share(found.by_length.get((kind, i), [])) for i in range(len(LENGTHS) + 1))] for kind in kinds]
    return table(["texts", *bands(LENGTHS)], rows)


def recall(found: Accuracy, lang: str) -> float:
    return found.by_lang[lang][lang] / found.by_lang[lang].total()


def language_table(found: Accuracy) -> str:
    """Recall of each language, worst first, and what its texts are taken for."""
    rows = []
    for lang in sorted(found.by_lang, key=lambda lang: (recall(found, lang), lang)):
        taken = found.by_lang[lang].most_common(5)
        lost = ", ".join(f"{code} {count:,}" for code, count in taken if code != lang)
        by_length = [share(found.by_lang_and_length.get((lang, i), [])) for i in range(len(WIDE_LENGTHS) + 1)]
        rows.append([f"{lang} {languages.get(lang).name}", f"{recall(found, lang):.1%}", *by_length, lost])
    return table(["language", "recall", *bands(WIDE_LENGTHS), "lost to"], rows)


def bands(lengths: tuple[int, ...]) -> list[str]:
    inner = [f"{low} to {high - 1}" for low, high in itertools.pairwise((0, *lengths))]
    return [*inner, f"{lengths[-1]} and more"]


def table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


def page(speed: list[list[str]], found: Accuracy, model: Path) -> str:
    paths = ("src/worldclip/language/identify.py", "src/worldclip/language/fasttext")
    return f"""# Language identification

{make_head(paths, ("fasttext-predict", "numba", "numpy"))}

Model: {model.name}. CPU time of one core, median of {ROUNDS} rounds in turns; nothing is remembered from one call to
the next.

## Speed

{table(SPEED_HEADER, speed)}

## Recall by text length

In characters; number of texts in brackets. Texts of languages that no label of the model means are left out.

{length_table(found)}

## Recall by language and text length

Captions and UDHR together, {len(found.by_lang)} languages, worst first; mean over languages {mean_recall(found):.1%}.

{language_table(found)}
"""


def mean_recall(found: Accuracy) -> float:
    return float(np.mean([recall(found, lang) for lang in found.by_lang]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=model_path(), help="a fastText model; the default is lid.176")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    sets = read_sets()
    found = accuracy(sets, arguments.model)
    text = page(speed_rows(sets, arguments.model), found, arguments.model)
    print(text)
    if arguments.write:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
