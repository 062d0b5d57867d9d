"""The datasets that have a name here (datasets.csv): layout, metric, source, licence, and where a copy is.

datasets.csv, one row per dataset:
    name       of the dataset and of its folder below evaluate.data
    layout     of the folder, one of layouts.NAMES
    metric     the number that represents it, see suites.value; several are separated by ;
    languages  how many, or which
    classes    `imagenet` if names and templates are OpenAI's of ImageNet-1k
    fields     the meaning of the numbers in a .npy beside .cls, in order (DataComp's copies)
    parts      the fields whose groups are reported as parts; `region!5` leaves group 5 out (FMoW's "other")
    hub        dataset repository on the Hugging Face hub with a copy in CLIP_benchmark's layout
    address    the authors' page
    by_hand    what a person must fetch, because of a licence or a log-in
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).with_name("datasets.csv")


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetInfo:
    """A row of the table; a dataset that is not in it has the defaults."""

    name: str
    title: str = ""
    layout: str = "webdataset"
    metrics: tuple[str, ...] = ("acc1",)
    languages: str = ""
    classes: str = "given"
    fields: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    hub: str = ""
    source: str = ""
    licence: str = ""
    address: str = ""
    by_hand: str = ""


_TEXT_COLUMNS = ("name", "title", "layout", "languages", "hub", "source", "licence", "address", "by_hand")


def read_catalog() -> dict[str, DatasetInfo]:
    """Return {name: row}, in the order of the table."""
    with open(TABLE, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        row["name"]: DatasetInfo(
            **{key: row[key] for key in _TEXT_COLUMNS},
            metrics=tuple(row["metric"].split(";")),
            classes=row["classes"] or "given",
            fields=tuple(row["fields"].split()),
            parts=tuple(row["parts"].split()),
        )
        for row in rows
    }


CATALOG = read_catalog()
