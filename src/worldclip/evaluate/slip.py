"""SLIP's own class names and templates (arXiv:2112.12750) for the datasets of its suite, in the paper's protocol.

They are a second English task of a dataset, next to that of the folder's names: the mean over SLIP-26 takes the former,
the mean over DataComp's datasets the latter.  slip.toml holds them, with their source.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from worldclip.core.artifacts import digest
from worldclip.core.errors import UserError
from worldclip.evaluate.tasks import Classification, Dataset
from worldclip.report.metrics import CLASSIFICATION, SLIP_CLASSIFICATION

SOURCE = "facebookresearch/SLIP"


@dataclass(frozen=True, kw_only=True, slots=True)
class SlipNames:
    """SLIP's names for the classes of a dataset, in SLIP's order, and its templates."""

    classes: list[list[str]]
    """The synonyms of each class."""
    templates: list[str]
    copies: list[str]
    """The name of each class in copies of the dataset; [] where copies have the first of its synonyms."""
    is_by_position: bool
    """Whether labels are in the order of `classes`, as folders have no names in common."""


@functools.cache
def names_by_dataset() -> dict[str, SlipNames]:
    """Read slip.toml: {dataset: names}."""
    text = Path(__file__).with_name("slip.toml").read_text(encoding="utf-8")
    names = {}
    for dataset, record in tomllib.loads(text).items():
        names[dataset] = SlipNames(
            classes=[[name] if isinstance(name, str) else name for name in record["classes"]],
            templates=record["templates"],
            copies=record.get("copies", []),
            is_by_position=record.get("by") == "position",
        )
    return names


def with_slip_names(dataset: Dataset) -> Dataset:
    """Return `dataset` with a second English task, whose classes have SLIP's names; unchanged if SLIP has none for it.

    Raises UserError if the classes of the dataset are not SLIP's.
    """
    names = names_by_dataset().get(dataset.name)
    if names is None or "en" not in dataset.languages:
        return dataset
    task_of_folder = next((task for task in dataset.tasks("en") if task.name == CLASSIFICATION), None)
    if not isinstance(task_of_folder, Classification):
        return dataset
    order = slip_order([synonyms[0] for synonyms in task_of_folder.class_names], names)
    classes = [names.classes[position] for position in order]
    protocol = {
        "templates": len(names.templates),
        "names": SOURCE,
        "names_digest": digest([classes, names.templates]),
    }
    slip_task = dataclasses.replace(
        task_of_folder, name=SLIP_CLASSIFICATION, class_names=classes, templates=names.templates, protocol=protocol
    )
    tasks = dataset.tasks
    return dataclasses.replace(dataset, tasks=lambda lang: [*tasks(lang), slip_task] if lang == "en" else tasks(lang))


def slip_order(class_names: Sequence[str], names: SlipNames) -> list[int]:
    """Return the position among SLIP's classes of each class of a dataset, in the order of its labels.

    Names are compared only by their letters and digits.  Raises UserError unless each class has exactly one partner.
    """
    positions = list(range(len(names.classes)))
    position_of = dict(zip(map(letters, names.copies), itertools.count()))
    for position, synonyms in enumerate(names.classes):
        position_of[letters(synonyms[0])] = position
    order = list(range(len(class_names)))
    if not names.is_by_position:
        order = [position_of.get(letters(name), -1) for name in class_names]
    if sorted(order) != positions:
        unknown = [name for name, position in zip(class_names, order, strict=True) if position not in positions]
        unused = [names.classes[position][0] for position in positions if position not in order]
        raise UserError(
            f"{len(class_names)} classes in the folder, {len(positions)} of SLIP's. Only in the folder: "
            f"{', '.join(unknown[:5]) or 'none'}. Only in SLIP's: {', '.join(unused[:5]) or 'none'}. Name the classes "
            "in classnames.txt as src/worldclip/evaluate/slip.toml does, in the order of the labels, or set "
            'evaluate.protocol = "own"'
        )
    return order


def letters(name: str) -> str:
    """Return the letters and digits of a name, in lower case."""
    return "".join(filter(str.isalnum, name.casefold()))
