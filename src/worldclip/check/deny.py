"""Opt-out and take-down: keys, addresses and hosts that no later artifact may hold."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa

from worldclip import pool as pools
from worldclip.check.config import DenyRules
from worldclip.check.text_rules import read_lines
from worldclip.core.execute import Shard
from worldclip.core.keys import KeyTable, read_keys
from worldclip.pool.config import PoolConfig

# Directives of the X-Robots-Tag header and meta tag by which a site refuses use in training; img2dataset honours the
# same four (its --disallowed_header_directives) and writes the refusal into error_message.
OPT_OUT_DIRECTIVES = frozenset({"noai", "noimageai", "noindex", "noimageindex"})


REFUSALS = ("denied_key", "denied_url", "denied_host", "opt_out")  # rules of this module


@dataclass(frozen=True, slots=True)
class DenyLists:
    """The lists, read once a process."""

    keys: KeyTable | None
    urls: frozenset[str]
    hosts: frozenset[str]

    def of_url(self, url: Any) -> tuple[str, str] | None:
        """(rule, detail) where the address or its host is denied."""
        if not isinstance(url, str) or not (self.urls or self.hosts):
            return None
        if bare_url(url) in self.urls:
            return "denied_url", url
        host = host_of(url)
        labels = host.split(".")
        for at in range(len(labels)):
            if (suffix := ".".join(labels[at:])) in self.hosts:
                return "denied_host", suffix
        return None


@functools.cache
def read_deny_lists(rules: DenyRules) -> DenyLists:
    """Raises UserError for a list that cannot be read."""
    keys = [_keys_of(file) for file in rules.keys]
    return DenyLists(
        keys=KeyTable(pa.concat_arrays(keys)) if keys else None,
        urls=frozenset(bare_url(line) for file in rules.urls for line in read_lines(file)),
        hosts=frozenset(line.lower().strip(".") for file in rules.hosts for line in read_lines(file)),
    )


def _keys_of(file: str) -> pa.Array:
    if Path(file).suffix in (".npy", ".parquet"):
        keys = read_keys(Path(file)).cast(pa.large_string())
        return keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys
    return pa.array(read_lines(file), pa.large_string())


def bare_url(url: str) -> str:
    """The address without what does not change where it leads: scheme, `www.`, host's case, fragment, last slash."""
    rest = url.strip().split("#")[0]
    rest = rest.split("://", 1)[-1].removeprefix("//")
    host, slash, path = rest.partition("/")
    return (host.lower().removeprefix("www.") + slash + path).rstrip("/")


def host_of(url: str) -> str:
    """Lower-case host name; "" where there is none."""
    try:
        return (urlsplit(url if "://" in url else f"//{url.removeprefix('//')}").hostname or "").rstrip(".")
    except ValueError:  # a broken IPv6 address
        return ""


def opts_out(value: Any) -> bool:
    """Whether a field of a sample's .json holds a refusal: true, or directives with one of OPT_OUT_DIRECTIVES."""
    if isinstance(value, str):
        words = value.lower().replace(":", ",").replace(";", ",").replace(" ", ",").split(",")
        return not OPT_OUT_DIRECTIVES.isdisjoint(words)
    if isinstance(value, Sequence):
        return any(opts_out(item) for item in value)
    return value is True


def read_fields(shard: Shard, pool: PoolConfig, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """{key: {name: value}} of a shard's pairs, from their .json or columns; the first of equal keys counts."""
    keys, records = pools.read_records(shard, pool, names)
    found: dict[str, dict[str, Any]] = {}
    for name, record in zip(keys, records, strict=True):
        if isinstance(record, dict):
            found.setdefault(name, {field: record.get(field) for field in names})
    return found


def denied(keys: pa.Array, shard: Shard, pool: PoolConfig, rules: DenyRules) -> tuple[np.ndarray, np.ndarray]:
    """The rule that denies each key, and its detail: two (n,) object arrays, None where none does."""
    reason, detail = np.full(len(keys), None, object), np.full(len(keys), None, object)
    lists = read_deny_lists(rules)
    if lists.keys is not None:
        reason[lists.keys.find(keys) >= 0] = "denied_key"
    if not (lists.urls or lists.hosts or rules.opt_out_fields):
        return reason, detail
    fields = read_fields(shard, pool, (rules.url_field, *rules.opt_out_fields))
    for row, key in enumerate(keys.to_pylist()):
        record = fields.get(key)
        if record is None or reason[row] is not None:
            continue
        if verdict := lists.of_url(record[rules.url_field]):
            reason[row], detail[row] = verdict
        elif refusals := [f"{name} is {record[name]!r}" for name in rules.opt_out_fields if opts_out(record[name])]:
            reason[row], detail[row] = "opt_out", refusals[0]
    return reason, detail
