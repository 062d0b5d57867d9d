"""Write docs/datasets.md and the tables of docs/6_evaluate.md: python docs/catalog.py (a test compares them).

Facts come from the tables beside src/worldclip/evaluate/catalog.py, the description of a layout from the docstring of
its module in src/worldclip/evaluate/datasets/, trees from the miniatures that the tests load
(tests/helpers/upstream.py).
"""

from __future__ import annotations

import csv
import io
import os
import sys
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests/helpers"))

from upstream import Files, files_of, is_image, write_miniature  # noqa: E402
from worldclip.evaluate import datasets  # noqa: E402
from worldclip.evaluate.catalog import CATALOG, SUITES, DatasetInfo  # noqa: E402
from worldclip.evaluate.config import LAYOUTS, EvaluateConfig  # noqa: E402
from worldclip.evaluate.measures import PROBED  # noqa: E402
from worldclip.evaluate.suites import figures, published  # noqa: E402
from worldclip.evaluate.tasks import Dataset, Task  # noqa: E402
from worldclip.tools.fetch_dataset import HUB, names_to_fetch  # noqa: E402

AGAINST = "ViT-H/14 worldwide 2.3x"
NUM_SHOWN = 2  # images of a folder and samples of a tar; then dots
MAX_ADDRESSES = 2  # more files to fetch are shown by their folders
LINE = 56  # characters of a file's first line
HEAD = """# Datasets

Where each dataset of the catalog comes from, its licence, what it is asked, and how its folder looks. Written by
`python docs/catalog.py` from `src/worldclip/evaluate/datasets.csv` and `sources.csv`, from the docstrings of the
layouts and from the miniatures that the tests load: edit those.

    worldclip fetch dataset NAME --out ~/data
    worldclip evaluate MODEL --out DIR --datasets NAME --data ~/data

A dataset is in the folder DATA/NAME, with DATA from `--data`. If it is elsewhere, or in another of the layouts, use
`--folders.NAME LAYOUT:PATH`. If something in a folder is wrong, the error names the file, what it says and what it must
say. Trees show a miniature: beside a file is its first line, below a tar are its members. Each dataset has its own
licence: read it. [6 evaluate](6_evaluate.md) has the suites, metrics and published numbers.
"""


def layout_text(layout: str) -> str:
    """Return the docstring of a layout's module: first a sentence, then the folder."""
    return (LAYOUTS.load(layout).__doc__ or "").strip()


def datasets_by_layout() -> dict[str, list[DatasetInfo]]:
    """Return the catalog's datasets of each layout, the layout with the most first; equal ones by name."""
    by_layout: dict[str, list[DatasetInfo]] = {layout: [] for layout in LAYOUTS.names()}
    for info in CATALOG.values():
        by_layout[info.layout].append(info)
    return dict(sorted(by_layout.items(), key=lambda item: -len(item[1])))


def page() -> str:
    """Return docs/datasets.md."""
    table = [["layout", "datasets"]]
    sections = []
    for layout, infos in datasets_by_layout().items():
        links = ", ".join(f"[{info.name}](#{anchor(info)})" for info in infos) or "your own"
        table.append([f"[{layout}](#layout-{layout})", links])
        sections.append(f"## Layout {layout}\n\n```text\n{layout_text(layout)}\n```")
        examples: dict[str, DatasetInfo] = {}
        for info in infos:
            drawn = tree(files_of(info.name))
            example = examples.setdefault(drawn, info)
            folder = f"```text\n{info.name}/\n{drawn}\n```"
            if example is not info:
                folder = f"Its folder looks like that of [{example.name}](#{anchor(example)})."
            sections.append(f"### {heading(info)}\n\n{facts(info)}\n\n{folder}")
    return "\n\n".join([HEAD.strip(), _markdown(table), *sections]) + "\n"


def heading(info: DatasetInfo) -> str:
    return f"{info.title}: `{info.name}`"


def anchor(info: DatasetInfo) -> str:
    """Return GitHub's anchor of a heading: lower case, no punctuation, hyphens for blanks."""
    kept = "".join(char for char in heading(info).lower() if char.isalnum() or char in " -_")
    return kept.replace(" ", "-")


@cache
def miniature(name: str) -> tuple[Dataset, list[Task]]:
    """Return the dataset in miniature and all its tasks."""
    with tempfile.TemporaryDirectory() as data:
        write_miniature(name, Path(data))
        dataset = datasets.load(name, EvaluateConfig(datasets=(name,), data=data), Path(data))
        return dataset, [task for lang in dataset.languages for task in dataset.tasks(lang)]


def task_names(name: str) -> list[str]:
    return list(dict.fromkeys(task.name for task in miniature(name)[1]))


def facts(info: DatasetInfo) -> str:
    """Return what one must know of a dataset as a list."""
    dataset, tasks = miniature(info.name)
    slices = dict.fromkeys(key for task in tasks for key in getattr(task, "slices", {}))
    parts = dict.fromkeys(key.rpartition(" ")[0] or key for key in slices)
    probes = [label for label in dataset.labels if label in PROBED["few_shot"]]
    lines = [
        f"- from: {info.source}, {info.address}",
        f"- licence: {info.licence}",
        f"- task: {', '.join(f'`{name}`' for name in task_names(info.name))}"
        + (f"; parts by {', '.join(parts)}" if parts else "")
        + (f"; `few_shot` of {', '.join(probes)}" if probes else ""),
        f"- languages: {'English' if info.languages == '1' else info.languages}",
        f"- metric: {', '.join(f'`{metric}`' for metric in info.metrics)}",
        f"- suites: {', '.join(suites_of(info)) or 'none'}",
        f"- fetch: {fetch_line(info)}",
    ]
    if info.by_hand:
        lines.append(f"- by hand: {info.by_hand.replace('<', '&lt;')}")
    if info.classes == "imagenet":
        lines.append("- names: OpenAI's 1,000 with their 80 templates, from open_clip, whatever the folder says")
    if info.fields:
        lines.append(f"- each `.npy` holds: {', '.join(info.fields)}")
    return "\n".join(lines)


def suites_of(info: DatasetInfo) -> list[str]:
    return [suite for suite in SUITES if suite != "paper" and info.name in SUITES[suite]]


def fetch_line(info: DatasetInfo) -> str:
    if info.name not in names_to_fetch():
        return "no source that a program may fetch from"
    command = f"`worldclip fetch dataset {info.name} --out ~/data`"
    with open(REPOSITORY / "src/worldclip/evaluate/sources.csv", encoding="utf-8", newline="") as file:
        urls = [row["url"] for row in csv.DictReader(file) if row["dataset"] == info.name]
    if not urls:
        return f"{command}, from {HUB}/datasets/{info.hub}"
    folders = Counter(url.rpartition("/")[0] for url in urls)
    if len(folders) == len(urls):
        shared = os.path.commonpath([folder.removeprefix("https://") for folder in folders])
        folders = Counter({f"https://{shared}": len(urls)})
    if len(urls) <= MAX_ADDRESSES:
        return f"{command}, from {', '.join(urls)}"
    return f"{command}, {', '.join(f'{number} files below {folder}/' for folder, number in folders.items())}"


def tree(files: Files) -> str:
    """Return a dataset's files as a tree, folders and tars with what they hold."""
    root: dict[str, object] = {}
    for path, contents in files.items():
        *folders, name = path.split("/")
        place = root
        for folder in folders:
            place = place.setdefault(folder, {})  # type: ignore[assignment]
        place[name] = contents
    lines: list[tuple[str, str]] = []
    _branch(root, "", lines)
    width = max(len(line) for line, _ in lines) + 3
    return "\n".join(f"{line:{width}}{remark}".rstrip() for line, remark in lines)


def _branch(place: dict, indent: str, lines: list[tuple[str, str]]) -> None:
    entries = _shortened(place)
    for i, name in enumerate(entries):
        is_last = i == len(entries) - 1
        contents = place.get(name, "")
        is_folder = isinstance(contents, dict)
        shown = f"{name}/" if is_folder and not name.endswith(".tar") else name
        remark = "" if is_folder or name == "..." else first_line(name, contents)
        lines.append((f"{indent}{'└── ' if is_last else '├── '}{shown}", remark))
        if is_folder:
            _branch(contents, indent + ("    " if is_last else "│   "), lines)


def _shortened(place: dict) -> list[str]:
    """Return the names in order; of many images, folders of images or samples only the first NUM_SHOWN, then dots."""
    stems = dict.fromkeys(name.partition(".")[0] for name in place if _is_picture(name, place))
    if len(stems) <= NUM_SHOWN:
        return sorted(place)
    kept = list(stems)[:NUM_SHOWN]
    return [
        *sorted(name for name in place if name.partition(".")[0] in kept or name.partition(".")[0] not in stems),
        "...",
    ]


def _is_picture(name: str, place: dict) -> bool:
    contents = place[name]
    if isinstance(contents, dict):
        return len(place) > NUM_SHOWN and all(_is_picture(inner, contents) for inner in contents)
    return is_image(name)


def first_line(name: str, contents: str | bytes) -> str:
    """Return what the tree shows of a file's contents."""
    if is_image(name):
        return ""
    if name.endswith(".parquet"):
        line = f"columns {', '.join(pq.ParquetFile(io.BytesIO(as_bytes(contents))).schema_arrow.names)}"
    elif name.endswith(".npy"):
        line = str(np.load(io.BytesIO(as_bytes(contents))).tolist())
    else:
        line = as_bytes(contents).decode().split("\n", 1)[0]
    return line if len(line) <= LINE else f"{line[: LINE - 3]}..."


def as_bytes(contents: str | bytes) -> bytes:
    return contents if isinstance(contents, bytes) else contents.encode()


def catalog_table() -> str:
    """Return the table of all datasets; last the published model's number, * where the source is secondary."""
    numbers = {row.figure: row for row in published() if row.model == AGAINST}
    rows = [
        ["name", "dataset", "layout", "task", "languages", "metric", "suites", "fetch", "source", "licence", "paper"]
    ]
    fetched = names_to_fetch()
    for name, info in CATALOG.items():
        of_paper = [
            f"{numbers[figure.figure].value_pct}{'*' if numbers[figure.figure].is_secondary else ''}"
            for figure in figures().values()
            if figure.dataset == name and figure.figure in numbers
        ]
        about = [
            f"[`{name}`](datasets.md#{anchor(info)})",
            info.title,
            info.layout,
            ", ".join(task_names(name)).replace("_", " "),
            info.languages,
            ", ".join(info.metrics),
        ]
        where = [" ".join(suites_of(info)), "yes" if name in fetched else "", info.source, info.licence]
        rows.append([*about, *where, " / ".join(of_paper)])
    return _markdown(rows)


def layout_table() -> str:
    """Return the table of the layouts with their first sentence."""
    rows = [["layout", "what it is"]]
    for layout in datasets_by_layout():
        sentence = layout_text(layout).split("\n\n")[0].replace("\n", " ")
        rows.append([f"[`{layout}`](datasets.md#layout-{layout})", sentence.replace("<", "&lt;")])
    return _markdown(rows)


def _markdown(rows: list[list[str]]) -> str:
    escaped = [[cell.replace("|", "\\|") for cell in cells] for cells in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [escaped[0], ["---"] * len(rows[0]), *escaped[1:]])


def with_tables(text: str) -> str:
    """Return docs/6_evaluate.md with new tables, each between `<!-- NAME -->` and `<!-- end -->`."""
    for name, drawn in {"catalog": catalog_table(), "layouts": layout_table()}.items():
        head, _, rest = text.partition(f"<!-- {name} -->\n")
        text = f"{head}<!-- {name} -->\n\n{drawn}\n\n<!-- end -->{rest.partition('<!-- end -->')[2]}"
    return text


def main() -> None:
    (REPOSITORY / "docs/datasets.md").write_text(page(), encoding="utf-8")
    evaluate = REPOSITORY / "docs/6_evaluate.md"
    evaluate.write_text(with_tables(evaluate.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
