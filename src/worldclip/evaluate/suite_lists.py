"""Suites by name: their datasets, by their names in the catalog."""

from __future__ import annotations

IMAGENETS = ("imagenet1k", "imagenetv2", "imagenet_sketch", "imagenet-a", "imagenet-r", "objectnet")
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
SELECTION = ("sugar_crepe", "winoground")

SUITES: dict[str, tuple[str, ...]] = {
    "imagenet": IMAGENETS,
    "slip26": SLIP26,
    "datacomp38": DATACOMP38,
    "multilingual": MULTILINGUAL,
    "geography": GEOGRAPHY,
    "selection": SELECTION,
    "paper": tuple(dict.fromkeys([*SLIP26, *DATACOMP38, *MULTILINGUAL, *GEOGRAPHY])),
}
