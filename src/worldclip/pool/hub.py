"""Datasets of the Hugging Face hub as pools: hf://datasets/OWNER/NAME[@REVISION][/FOLDER, FILE or PATTERN].

The revision is resolved to a commit when the pool is listed, and files are read at that commit.  They cannot change, so
the hub is asked once: for the commit, and for the files with their hashes (`blob_id`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import unquote

import fsspec
from fsspec.utils import glob_translate

from worldclip.core.errors import UserError, require
from worldclip.core.hub_errors import explain, is_unreachable
from worldclip.pool.config import HUB_DATASET
from worldclip.pool.files import PoolFile

_IS_PATTERN = re.compile(r"[*?\[]")
_TRAIN = re.compile(r"(?<![A-Za-z])train(ing)?(?![A-Za-z])", re.IGNORECASE)


def is_dataset(path: str) -> bool:
    """Return whether a pool's path is a dataset of the hub."""
    return path.startswith("hf://datasets/")


def list_dataset(url: str) -> list[PoolFile]:
    """Return the files of a dataset at the present commit of its revision.

    A folder, a file or a pattern gives the files there; a whole dataset its training files, as its card says, else as
    the word `train` in their paths does.  Raises UserError for what the hub refuses, and for a card of several configs.
    """
    hub: Any = require("huggingface_hub", extra="hub")
    match = HUB_DATASET.fullmatch(url.rstrip("/"))
    if match is None:
        raise UserError(f"{url!r}: a dataset of the hub is hf://datasets/OWNER/NAME, @REVISION and /FOLDER may follow")
    repository, revision, within = match.groups("")
    try:
        files, _ = fsspec.url_to_fs(url)
        api = hub.HfApi(files.endpoint, token=files.token)
        info = api.dataset_info(repository, revision=unquote(revision) or None)
        root = f"datasets/{repository}@{info.sha}"
        names = [place.removeprefix(f"{root}/") for place in files.find(root)]
    except Exception as error:  # those of the hub's HTTP library, without a network for example, have no common class
        unreached = "no network, or the hub is busy or down: " * is_unreachable(error)
        raise UserError(f"{url!r}: {unreached}{explain(error)}") from error
    patterns = [within] if within else _training_patterns(url, info)
    below = ""
    if within and not _IS_PATTERN.search(within):
        below = within
        names = [name for name in names if name == within or name.startswith(f"{within}/")]
    elif patterns:
        names = list(filter(matcher(patterns), names))
    else:
        names = [name for name in names if _TRAIN.search(name)] or names
    listed = []
    for name in names:
        name_below = name.removeprefix(below).lstrip("/") or name.rpartition("/")[2]
        listed.append(PoolFile(name_below, f"hf://{root}/{name}"))
    return listed


def _training_patterns(url: str, info: Any) -> list[str]:
    """Return the patterns of `data_files` in a dataset's card: of the default config's training split."""
    card = info.card_data.to_dict() if info.card_data is not None else {}
    configs = [entry for entry in _as_list(card.get("configs")) if isinstance(entry, dict) and "data_files" in entry]
    if not configs:
        return []
    default = [entry for entry in configs if entry.get("default") is True or entry.get("config_name") == "default"]
    if len(configs) > 1 and not default:
        named = "; ".join(f"{entry.get('config_name')}: {entry['data_files']}" for entry in configs)
        raise UserError(f"{url!r}: has {len(configs)} configs; add the path of one to the address: {named:.1000}")
    patterns: list[Any] = []  # those that name no split
    by_split: dict[str, list[Any]] = {}
    for item in _as_list((default or configs)[0]["data_files"]):
        if isinstance(item, dict):
            by_split.setdefault(str(item.get("split")), []).extend(_as_list(item.get("path")))
        else:
            patterns.append(item)
    if by_split:
        first_split = next(iter(by_split))
        patterns = by_split.get("train", by_split[first_split])
    return [pattern for pattern in patterns if isinstance(pattern, str)]


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def matcher(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Return whether a name, or a folder that it is in, matches any pattern.

    As in a shell, `*` is within a folder and `**` across folders.
    """
    expressions: list[re.Pattern[str]] = []
    for pattern in patterns:
        path = pattern.strip("/")
        expressions += [re.compile(glob_translate(path)), re.compile(glob_translate(f"{path}/**"))]
    return lambda name: any(expression.match(name) for expression in expressions)
