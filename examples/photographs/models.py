"""Keep what models answered, and make the first table of docs/photographs.md of it, in seconds and without a model.

    python examples/photographs/models.py docs/photographs/models --keep EVALUATED TITLE SAMPLES
    python examples/photographs/models.py docs/photographs/models
    python examples/photographs/models.py docs/photographs/models --page docs/photographs.md

EVALUATED is RUN/evaluate, or the folder that `worldclip evaluate MODEL` wrote, with the dataset `photos` and perhaps
cifar10, or the file of supervised.py.  --keep writes NAME.npz, where NAME is TITLE in small letters; of N photographs
that are asked in L languages it has

    record          JSON: title, samples, and the digest of the model
    langs (L,)      the languages
    asked, right    (L, ceil(N / 8)) uint8, bits packed by row: the language names the thing; that name is first
    cifar10         (1,250) uint8, bits: right of CIFAR-10's test; empty where it was not asked
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from worldclip.evaluate.engine import images_path, ranks_path
from worldclip.evaluate.interval import mean_interval
from worldclip.report.metrics import CLASSIFICATION

sys.path.insert(0, str(Path(__file__).parents[1] / "ablation"))

from page_tables import to_markdown

BEGIN, END = "<!-- models: written by examples/photographs/models.py -->", "<!-- end of models -->"
HEADER = ("model", "samples", "English", "mean of languages", "languages at 16% or more", "CIFAR-10, English")
AIM = 0.16
CLASSES = "classes"  # in place of a language: a supervised model has no names


def read_evaluated(folder: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file, from what an evaluation left."""
    lines = (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    finished = json.loads((folder / "report.json").read_text(encoding="utf-8"))["records"]
    records = [record for record in records if record["digest"] in finished and record["task"] == CLASSIFICATION]
    langs = []
    asked = []
    right = []
    cifar10 = np.zeros(0, bool)
    for record in records:
        is_right = np.load(ranks_path(folder, record, "acc")) == 0
        if record["dataset"] == "cifar10":
            cifar10 = is_right
            continue
        images = np.load(images_path(folder, record, "acc"))
        langs.append(record["lang"])
        asked.append(images)
        right.append(images[is_right])
    size = max(int(images.max()) for images in asked) + 1
    return {
        "model_digest": np.array(records[0]["model_digest"]),
        "langs": np.array(langs),
        "asked": np.packbits([np.isin(np.arange(size), images) for images in asked], axis=1),
        "right": np.packbits([np.isin(np.arange(size), images) for images in right], axis=1),
        "cifar10": np.packbits(cifar10),
    }


def read_supervised(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file, from that of supervised.py: one row, of classes without names."""
    answered = json.loads(path.read_text(encoding="utf-8"))
    right = np.array(answered["right"], bool)
    return {
        "model_digest": np.array(""),
        "langs": np.array([CLASSES]),
        "asked": np.packbits(np.ones((1, len(right)), bool), axis=1),
        "right": np.packbits(right[None], axis=1),
        "cifar10": np.zeros(0, np.uint8),
    }


def keep(evaluated: Path, title: str, samples: int, folder: Path) -> None:
    arrays = read_evaluated(evaluated) if evaluated.is_dir() else read_supervised(evaluated)
    record = {"title": title, "samples": samples, "model_digest": str(arrays.pop("model_digest"))}
    folder.mkdir(parents=True, exist_ok=True)
    name = "_".join(title.lower().replace(",", "").split())
    np.savez_compressed(folder / f"{name}.npz", record=np.array(json.dumps(record)), **arrays)


def row_of(path: Path) -> tuple[int, list[str]]:
    """Return a model's samples, and its row of the table."""
    with np.load(path) as arrays:
        record = json.loads(str(arrays["record"]))
        langs = arrays["langs"].tolist()
        asked = np.unpackbits(arrays["asked"], axis=1).astype(bool)
        right = np.unpackbits(arrays["right"], axis=1).astype(bool)
        cifar10 = np.unpackbits(arrays["cifar10"]).astype(bool)
    cells = [record["title"], f"{record['samples']:,}"]
    if langs == [CLASSES]:
        return record["samples"], [*cells, show(right[asked]), "", "", ""]
    english = langs.index("en")
    accuracy = right.sum(axis=1) / asked.sum(axis=1)
    cells.append(show(right[english][asked[english]]))
    cells.append(f"{100 * accuracy.mean():.1f}% of {len(langs)}")
    cells.append(str((accuracy >= AIM).sum()))
    cells.append(show(cifar10) if len(cifar10) else "")
    return record["samples"], cells


def table(folder: Path) -> str:
    rows = sorted(row_of(path) for path in folder.glob("*.npz"))
    return to_markdown(HEADER, [cells for _, cells in rows])


def show(right: np.ndarray) -> str:
    """Return the share with its 95% interval."""
    low, high = mean_interval(right)
    return f"{100 * right.mean():.1f}% ({100 * low:.1f} to {100 * high:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of what models answered")
    parser.add_argument("--keep", nargs=3, metavar=("EVALUATED", "TITLE", "SAMPLES"))
    parser.add_argument("--page", type=Path, help="the page whose table is renewed")
    options = parser.parse_args()
    if options.keep:
        evaluated, title, samples = options.keep
        keep(Path(evaluated), title, int(samples), options.folder)
        return
    if not options.page:
        print(table(options.folder))
        return
    page = options.page.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    options.page.write_text(f"{before}{BEGIN}\n\n{table(options.folder)}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
