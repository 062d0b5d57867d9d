"""The datasets that have a name here (datasets.csv): layout, metric, source, licence, and where a copy is.

datasets.csv, one row per dataset:
    name       of the dataset and of its folder below evaluate.data
    layout     of the folder, a module of evaluate/datasets
    metric     the number that represents it, see suites.value; several are separated by ;
    languages  how many, or which
    classes    `imagenet` if names and templates are OpenAI's of ImageNet-1k
    fields     the meaning of the numbers in a .npy next to .cls, in order (DataComp's copies)
    parts      the fields whose groups are reported as parts; `region!5` leaves group 5 out (FMoW's "other")
    hub        dataset repository on the Hugging Face hub with a copy in CLIP_benchmark's layout
    address    the authors' page
    by_hand    what a person must fetch, because of a licence or a log-in
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path


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


def read_csv(name: str) -> list[dict[str, str]]:
    """Return the rows of a table in this folder."""
    with open(Path(__file__).with_name(name), encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


CATALOG: dict[str, DatasetInfo] = {}
"""{name: row}, in the order of the table."""
for _row in read_csv("datasets.csv"):
    CATALOG[_row["name"]] = DatasetInfo(
        metrics=tuple(_row.pop("metric").split(";")),
        classes=_row.pop("classes") or "given",
        fields=tuple(_row.pop("fields").split()),
        parts=tuple(_row.pop("parts").split()),
        **_row,
    )


# --- suites: datasets by their names in the catalog

# Mu et al. 2021 (arXiv:2112.12750), table 2.
SLIP26 = (
    "food101", "cifar10", "cifar100", "cub200", "sun397", "cars", "fgvc_aircraft", "dtd", "pets", "caltech101",
    "flowers", "mnist", "fer2013", "stl10", "eurosat", "resisc45", "gtsrb", "kitti", "country211", "pcam", "ucf101",
    "kinetics700", "clevr_count", "hateful_memes", "renderedsst2", "imagenet1k",
)  # fmt: skip
# Gadre et al. 2023 (arXiv:2304.14108), table of the evaluation sets.
DATACOMP38 = (
    "imagenet1k", "imagenet_sketch", "imagenetv2", "imagenet-a", "imagenet-o", "imagenet-r", "objectnet", "caltech101",
    "cifar10", "cifar100", "clevr_count", "clevr_distance", "country211", "dtd", "eurosat", "fgvc_aircraft", "food101",
    "gtsrb", "kitti", "mnist", "flowers", "pets", "voc2007", "pcam", "renderedsst2", "resisc45", "cars", "stl10",
    "sun397", "svhn", "iwildcam", "camelyon17", "fmow", "flickr30k", "mscoco", "winogavil", "dollar_street_datacomp",
    "geode_datacomp",
)  # fmt: skip
MULTILINGUAL = ("babel_imagenet", "xm3600", "cvqa", "flickr30k_200", "xtd10", "xtd200")
GEOGRAPHY = ("dollar_street", "geode", "gldv2")

SUITES: dict[str, tuple[str, ...]] = {
    "imagenet": ("imagenet1k", "imagenetv2", "imagenet_sketch", "imagenet-a", "imagenet-r", "objectnet"),
    "slip26": SLIP26,
    "datacomp38": DATACOMP38,
    "multilingual": MULTILINGUAL,
    "geography": GEOGRAPHY,
    "paper": tuple(dict.fromkeys([*SLIP26, *DATACOMP38, *MULTILINGUAL, *GEOGRAPHY])),
}
