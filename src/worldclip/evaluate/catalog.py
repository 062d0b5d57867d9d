"""The data sets that have a name here (datasets.csv): layout, metric, source, licence, and where a copy is.

datasets.csv, one row a data set:
    name       of the data set and of its folder below evaluate.data
    layout     how the folder is laid out, one of config.LAYOUTS
    metric     the number that stands for it, see suites.value; several with ; between them
    languages  how many, or which
    classes    `imagenet` where names and templates are OpenAI's of ImageNet-1k
    fields     what the numbers in a .npy beside .cls mean, in order (DataComp's copies)
    parts      the fields whose groups are reported as parts; `region!5` leaves group 5 out (FMoW's "other")
    hub        dataset repository on the Hugging Face hub with a copy in CLIP_benchmark's layout
    address    the authors' page
    by_hand    what fetching leaves to a person, since a licence or a log-in asks one
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).with_name("datasets.csv")


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetInfo:
    """A row of the table; a data set of one's own has defaults alone."""

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


_AS_THEY_ARE = ("name", "title", "layout", "languages", "hub", "source", "licence", "address", "by_hand")


def read_catalog() -> dict[str, DatasetInfo]:
    """name -> row, in the table's order."""
    with open(TABLE, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        row["name"]: DatasetInfo(
            **{key: row[key] for key in _AS_THEY_ARE},
            metrics=tuple(row["metric"].split(";")),
            classes=row["classes"] or "given",
            fields=tuple(row["fields"].split()),
            parts=tuple(row["parts"].split()),
        )
        for row in rows
    }


CATALOG = read_catalog()
