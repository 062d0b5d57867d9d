"""Datasets of the Hugging Face hub as pools: hf://datasets/OWNER/NAME[@REVISION][/FOLDER, FILE or PATTERN].

The revision is resolved to a commit when the pool is listed, and files are read at that commit.  They cannot change, so
the hub is asked once: for the commit, and for the files with their hashes (`blob_id`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote

import fsspec
from fsspec.utils import glob_translate

from worldclip.core.errors import UserError, require
from worldclip.core.hub_errors import explain
from worldclip.core.safe_path import is_safe_name
from worldclip.pool.files import PoolFile
from worldclip.pool.listing import HIDDEN, Listing

_DATASET = re.compile(r"hf://datasets/([^/@]+/[^/@]+)(?:@(refs/(?:convert|pr)/[^/]+|[^/]+))?(?:/(.*))?")
# Words in a path that say its split, where the dataset's card says nothing: the rule of the library datasets.
_SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_WORDS = re.compile(r"[A-Za-z]+")
_IS_PATTERN = re.compile(r"[*?\[]")


class DatasetUrl(NamedTuple):
    """The parts of hf://datasets/OWNER/NAME@REVISION/WITHIN."""

    repository: str
    revision: str | None
    within: str
    """Folder, file or pattern; empty: the whole dataset."""


def is_dataset(path: str) -> bool:
    """Return whether a pool's path is a dataset of the hub."""
    return path.startswith("hf://datasets/")


def parse(url: str) -> DatasetUrl:
    """Return the parts of an address.  Raises UserError for one that names no dataset."""
    match = _DATASET.fullmatch(url.rstrip("/"))
    if match is None:
        raise UserError(f"{url!r}: a dataset of the hub is hf://datasets/OWNER/NAME, @REVISION and /FOLDER may follow")
    return DatasetUrl(match[1], unquote(match[2]) if match[2] else None, match[3] or "")


def list_dataset(url: str, suffixes: tuple[str, ...], config: str | None, split: str | None) -> Listing:
    """Return the files of a dataset at the present commit of its revision.

    A whole dataset gives the data files of one config and one split: `config`, or the only or default one; `split`, or
    `train`.  A folder, a file or a pattern gives the files there.

    Raises UserError for what the hub refuses, and for a config or split that is not there or not chosen.
    """
    hub: Any = require("huggingface_hub", extra="hub")
    parts = parse(url)
    if parts.within and (config or split):
        raise UserError(f"{url!r}: names files, so that pool.config and pool.split have no meaning; remove either")
    files, _ = fsspec.url_to_fs(url)
    api = hub.HfApi(files.endpoint, token=files.token)
    info = _ask(url, lambda: api.dataset_info(parts.repository, revision=parts.revision))
    root = f"datasets/{parts.repository}@{info.sha}"
    names = [place.removeprefix(f"{root}/") for place in _ask(url, lambda: files.find(root))]
    listing = Listing()
    folder = ""
    if _IS_PATTERN.search(parts.within):
        wanted = _matching(names, [parts.within])
    elif parts.within:
        folder = parts.within
        wanted = [name for name in names if name == folder or name.startswith(f"{folder}/")]
    else:
        data = [name for name in names if name.endswith(suffixes)]
        config, splits = _splits_of(url, data, _configs(info), config)
        wanted = splits.pop(_split_of(url, config, list(splits), split))
        for other, left_out in splits.items():
            listing.skipped[f"split {other}"] = f"{len(left_out):,} files; pool.split chooses one"
    for name in wanted:
        below = name.removeprefix(folder).lstrip("/") or name.rpartition("/")[2]
        if is_safe_name(below) and not any(part.startswith(".") for part in below.split("/")):
            listing.files.append(PoolFile(below, f"hf://{root}/{name}"))
        elif name.endswith(suffixes):
            listing.skipped[name] = HIDDEN
    return listing


def _ask(url: str, question: Any) -> Any:
    try:
        return question()
    except UserError:
        raise
    except Exception as error:  # those of the hub's HTTP library, without a network for example, have no common class
        raise UserError(f"{url!r}: {explain(error)}") from error


def _configs(info: Any) -> list[Mapping[str, Any]]:
    """Return the entries `configs` of the dataset's card that name data files; others wrote them."""
    card = info.card_data.to_dict() if info.card_data is not None else {}
    configs = card.get("configs")
    return [entry for entry in (configs if isinstance(configs, list) else []) if _is_config(entry)]


def _is_config(entry: Any) -> bool:
    is_named = isinstance(entry, dict) and isinstance(entry.get("config_name"), str)
    return is_named and bool({"data_files", "data_dir"} & set(entry))


def _splits_of(
    url: str, data: Sequence[str], configs: Sequence[Mapping[str, Any]], config: str | None
) -> tuple[str, dict[str, list[str]]]:
    """Return (the config, its files by split).  Raises UserError if it is not there, or not chosen."""
    names = [entry["config_name"] for entry in configs] or ["default"]
    if config is not None and config not in names:
        raise UserError(f"{url!r}: no config {config!r}; pool.config is one of {', '.join(names)}")
    default = [entry["config_name"] for entry in configs if entry.get("default") is True]
    default += ["default"] if "default" in names else []
    if config is None and len(names) > 1 and not default:
        raise UserError(f"{url!r}: has {len(names)} configs; set pool.config to one of {', '.join(names)}")
    config = config or (default or names)[0]
    entry = next((entry for entry in configs if entry["config_name"] == config), {})
    folder = str(entry.get("data_dir") or "").strip("/")
    prefix = f"{folder}/" if folder else ""
    if "data_files" not in entry:
        return config, _by_words([name for name in data if name.startswith(prefix)])
    files = {}
    for split, patterns in _patterns(entry["data_files"]):
        files[split] = _matching(data, [prefix + pattern for pattern in patterns])
    return config, files


def _patterns(data_files: Any) -> Iterator[tuple[str, list[str]]]:
    """Yield (split, patterns) of `data_files` of a card: a pattern, a list of them, or a list of splits."""
    if not any(isinstance(entry, dict) for entry in _as_list(data_files)):
        yield "train", [entry for entry in _as_list(data_files) if isinstance(entry, str)]
        return
    for entry in _as_list(data_files):
        if isinstance(entry, dict) and isinstance(entry.get("split"), str):
            yield entry["split"], [pattern for pattern in _as_list(entry.get("path")) if isinstance(pattern, str)]


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _by_words(names: Sequence[str]) -> dict[str, list[str]]:
    """Return files by the split that a word of their path names; all are `train` where no path names any."""
    splits: dict[str, list[str]] = {split: [] for split in _SPLIT_WORDS}
    for name in names:
        words = [word.lower() for word in _WORDS.findall(name)]
        split = next((split for split, known in _SPLIT_WORDS.items() if set(known) & set(words)), None)
        if split is not None:
            splits[split].append(name)
    return {split: files for split, files in splits.items() if files} or {"train": list(names)}


def _split_of(url: str, config: str, names: Sequence[str], split: str | None) -> str:
    """Return the chosen split.  Raises UserError if it is not there, or not chosen."""
    if not names:
        raise UserError(f"{url!r}: config {config} has no data files")
    if split is not None and split not in names:
        raise UserError(f"{url!r}: config {config} has no split {split!r}; pool.split is one of {', '.join(names)}")
    if split is None and "train" not in names and len(names) > 1:
        raise UserError(
            f"{url!r}: config {config} has {len(names)} splits; set pool.split to one of {', '.join(names)}"
        )
    return split or ("train" if "train" in names else names[0])


def _matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """Return the names that match any pattern, as a shell does: `*` within a folder, `**` across folders."""
    matches = [re.compile(glob_translate(pattern.lstrip("/"))) for pattern in patterns]
    return [name for name in names if any(match.match(name) for match in matches)]
