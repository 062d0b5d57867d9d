"""The commands by group, their summaries, the overview that `worldclip --help` prints, and the nearest known name.

The stages are not listed here: recipe.steps() names them.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from worldclip.core.errors import UserError
from worldclip.recipe import stage_names, steps


@dataclass(frozen=True, slots=True)
class Group:
    """Commands of one module of worldclip.cli."""

    title: str
    module: str
    summaries: dict[str, str]
    """Command -> what it does, in one line.  MODEL in a name stands for any model in place of a recipe or a run."""


GROUPS = (
    Group("Recipe (RECIPE is a .toml file or the folder of a run)", "stages", {
        "run": "Run a whole recipe; skip finished and unchanged stages",
        "init": "Look at a pool and write a commented recipe for it",
        "status": "Show what a run has done, what it kept, and whether it runs now",
    }),
    Group("Pools", "pools", {
        "pool emoji": "Draw the emoji pool: 3,944 images with names in 14 languages, and two held-out sets",
        "pool world": "Draw the world pool: pictures with texts in more than 200 languages, and held-out sets",
        "fetch cldr": "Download names and keywords of the emoji, CLDR's annotations, for `pool world`",
        "pool wat": "Extract image links and their texts from Common Crawl WAT files, ready for img2dataset",
        "pool check": "Find duplicates, decontaminate, apply rules and deny lists; list the valid pairs",
        "pool hash": "Hash a set of images into one file, to decontaminate pools against it",
        "publish": "Upload the kept pairs of a run to the hub, with a dataset card and a Croissant record",
        "pool dedup": "List the pairs whose key an earlier shard has, for pool.deny_keys",
    }),
    Group("Entry lists", "lists", {
        "fetch metadata": "Download the dumps and page views of Wikipedias that a recipe needs into metadata.dumps",
        "pack": "Write all entry lists of a run to one file, with sources, licences and digests",
        "unpack": "Make a run with finished metadata from packed entry lists",
    }),
    Group("Models (MODEL is a run, a checkpoint, a folder of another library, or a hub id)", "models", {
        "classify": "Print the probabilities of labels for images",
        "evaluate MODEL": "Evaluate any model on datasets",
        "export MODEL": "Export any model to the formats of other libraries",
        "fetch dataset": "Download an evaluation dataset into the layout that `worldclip evaluate` reads",
        "consolidate": "Write one model.safetensors from a checkpoint in several shards",
        "tokenizer train": "Train a tokenizer on the curated texts of a run, balanced by language",
        "tokenizer compare": "Compare tokens per word and truncated captions by language",
    }),
    Group("Looking", "looking", {
        "languages": "List the languages with their codes, labels and entry lists",
        "doctor": "Check this installation: extras, devices, BLAS kernels, memory, disk",
        "estimate": "Estimate by language what other thresholds would keep; write nothing",
        "inspect": "Explain why a pair was kept or dropped and where an entry is from; show a file",
        "explore": "Write pages that show every decision, and what another threshold would keep",
        "compare": "Compare evaluations query by query, with confidence intervals over images and seeds",
        "leaderboard": "Show the evaluations of many models in one table, of mteb too",
        "embed": "Embed the images or texts of a pool into a folder to search",
        "index": "Choose how embeddings are searched: exactly, or by an index for millions",
        "search": "Find the nearest images or texts for texts in any language and for images",
    }),
    Group("Server", "serving", {
        "serve": "Serve a search page and an API in OpenAI's shape; the model stays loaded",
    }),
)  # fmt: skip


def find_group(command: str) -> Group | None:
    """Return the group of a command; None if it is a stage or unknown."""
    return next((group for group in GROUPS if command in group.summaries), None)


def to_text() -> str:
    """Return the overview: all commands by group, in aligned columns."""
    rows = {group.title: dict(group.summaries) for group in GROUPS}
    rows[GROUPS[0].title] |= {step.stage: step.help for step in steps()}
    width = max(len(name) for summaries in rows.values() for name in summaries)
    lines = [
        "usage: worldclip COMMAND ...",
        "",
        "worldclip COMMAND --help lists the flags of a command.",
        "--quiet shows errors alone, --verbose each shard too; a run keeps all lines in RUN/log.txt.",
    ]
    for title, summaries in rows.items():
        lines += ["", f"{title}:"]
        lines += [f"  {name:<{width}}  {summary}" for name, summary in summaries.items()]
    return "\n".join([*lines, "", f"  {'--version':<{width}}  Print versions, extras and device"])


def see_also(stage: str) -> str:
    """Return a paragraph of help with the commands that begin with a stage's name, "" if there are none."""
    lines = commands_of(stage)
    return (
        "\n\n" + "\n".join([f"Commands that begin with {stage} (worldclip COMMAND --help):", *lines]) if lines else ""
    )


def commands_of(first: str) -> list[str]:
    """Return a line per command that begins with the word `first`, in aligned columns."""
    rows = {
        f"{name}{' --out DIR' if name.endswith(' MODEL') else ''}": summary
        for group in GROUPS
        for name, summary in group.summaries.items()
        if name.startswith(f"{first} ")
    }
    width = max(map(len, rows), default=0)
    return [f"  {name:<{width}}  {summary}" for name, summary in rows.items()]


def refuse_misspelt(stage: str, rest: Sequence[str]) -> None:
    """Raise UserError where `worldclip pool chek` means the command `pool check`, not the stage on a recipe."""
    words = [name.removeprefix(f"{stage} ") for name in _names() if name.startswith(f"{stage} ")]
    if (
        rest
        and rest[0] not in words
        and not Path(rest[0]).exists()
        and (near := difflib.get_close_matches(rest[0], words, 1))
    ):
        raise UserError(f"unknown command {stage} {rest[0]}; did you mean {stage} {near[0]}?")


def refuse_unknown(arguments: Sequence[str]) -> NoReturn:
    """Raise UserError with the nearest command, of two words or of one."""
    first = arguments[0]
    if second_words := [name.partition(" ")[2] for name in _names() if name.startswith(f"{first} ")]:
        name = " ".join(arguments[:2])
        near = difflib.get_close_matches(name, _names(), 1)
        remedy = f"did you mean {near[0]}?" if near and len(arguments) > 1 else f"{first} has {', '.join(second_words)}"
        raise UserError(f"unknown command {name}; {remedy}")
    for name in (" ".join(arguments[:2]), first):
        if near := difflib.get_close_matches(name, _names(), 1):
            raise UserError(f"unknown command {name}; did you mean {near[0]}?")
    raise UserError(f"unknown command {first}; worldclip --help lists all commands")


def _names() -> list[str]:
    names = [name for group in GROUPS for name in group.summaries if not name.endswith("MODEL")]
    return [*stage_names(), *names]
