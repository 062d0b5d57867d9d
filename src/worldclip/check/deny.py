"""Deny opted-out and taken-down pairs: by key, by image address or host, or by an opt-out in the pair's own fields."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from worldclip import pool as pools
from worldclip.check.config import DenyRules
from worldclip.check.text_rules import read_lines
from worldclip.core.arrow import one_array
from worldclip.core.errors import BadShard, UserError
from worldclip.core.execute import Shard
from worldclip.core.inputs import Stamp, stamps_of
from worldclip.core.keys import KeyTable, read_keys
from worldclip.pool.columns import missing_column
from worldclip.pool.config import PoolConfig, bare
from worldclip.pool.formats import format_of
from worldclip.pool.formats.columns_format import ColumnsFormat

REFUSALS = ("denied_key", "denied_url", "denied_host", "opt_out")  # rules of this module
# Directives of the X-Robots-Tag header and of the robots meta tag that forbid training.  img2dataset honours the same
# four (--disallowed_header_directives) and names the one it met in error_message.
OPT_OUT_DIRECTIVES = frozenset({"noai", "noimageai", "noindex", "noimageindex"})
MAX_PROBED_SHARDS = 16
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:(?=//)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class DenyLists:
    """The deny lists, ready for lookup."""

    keys: KeyTable | None
    urls: frozenset[str]
    hosts: frozenset[str]

    def match_url(self, url: Any) -> tuple[str, str] | None:
        """Return (rule, detail) if an address or its host is denied, else None."""
        if not isinstance(url, str) or not (self.urls or self.hosts):
            return None
        if bare_url(url) in self.urls:
            return "denied_url", url
        labels = host_of(url).split(".")
        for first in range(len(labels)):
            parent = ".".join(labels[first:])
            if parent in self.hosts:
                return "denied_host", parent
        return None


def read_deny_lists(rules: DenyRules) -> DenyLists:
    """Read the lists, once per process while they stay the same.  Raises UserError for a list that cannot be read."""
    return _read_deny_lists(rules, stamps_of([*rules.keys, *rules.urls, *rules.hosts]))


@functools.lru_cache(maxsize=4)
def _read_deny_lists(rules: DenyRules, stamps: Sequence[Stamp]) -> DenyLists:
    keys = [_read_key_list(file) for file in rules.keys]
    return DenyLists(
        keys=KeyTable(pa.concat_arrays(keys)) if keys else None,
        urls=frozenset(bare_url(line) for file in rules.urls for line in read_lines(file)),
        hosts=frozenset(
            host_of(line).removeprefix("*.").strip(".")  # `example.org`, `*.example.org`, or an address
            for file in rules.hosts
            for line in read_lines(file)
        ),
    )


def _read_key_list(file: str) -> pa.Array:
    if Path(file).suffix in (".npy", ".parquet"):
        keys = one_array(read_keys(Path(file)).cast(pa.large_string()))
        if file.endswith(".parquet") and "shard" in pq.read_schema(file).names:
            # A list of `pool dedup`; a check removes a key from all shards, so its first copy would go as well.
            raise UserError(
                f"deny.keys names {file!r}, whose column `shard` limits each row to one shard's pair; "
                "name the file in pool.deny_keys, or write its keys to a file without that column"
            )
        return keys
    return pa.array(read_lines(file), pa.large_string())


def bare_url(url: str) -> str:
    """Return the address without scheme, `www.`, fragment and final slash, and with the host in lower case."""
    rest = url.strip().split("#")[0]
    scheme = _SCHEME.match(rest)
    rest = (rest[scheme.end() :] if scheme else rest).removeprefix("//")
    host, slash, path = rest.partition("/")
    return (host.lower().removeprefix("www.") + slash + path).rstrip("/")


def host_of(url: str) -> str:
    """Return the host in lower case, "" if the address has none."""
    try:
        return (urlsplit(url if _SCHEME.match(url) else f"//{url.removeprefix('//')}").hostname or "").rstrip(".")
    except ValueError:  # a broken IPv6 address
        return ""


def opts_out(value: Any) -> bool:
    """Return whether a field's value is an opt-out: true, or text or a list with one of OPT_OUT_DIRECTIVES."""
    if isinstance(value, str):
        words = value.lower().replace(":", ",").replace(";", ",").replace(" ", ",").split(",")
        return not OPT_OUT_DIRECTIVES.isdisjoint(words)
    if isinstance(value, Sequence):
        return any(opts_out(item) for item in value)
    return value is True


def missing_fields(rules: DenyRules, shards: Sequence[Shard], pool: PoolConfig) -> list[str]:
    """Return what is wrong with the names of fields: rules of a field that no pair has would deny nothing.

    A JSON record may have an opt-out's field only where there is an opt-out, so only columns of tables are looked for.
    """
    url_field = {"deny.url_field": bare(rules.url_field)} if rules.urls or rules.hosts else {}
    columns = {f"deny.opt_out_fields: {name}": bare(name) for name in rules.opt_out_fields}
    missing: list[str] = []
    names: list[str] = []
    for shard in shards[:: max(1, len(shards) // MAX_PROBED_SHARDS)]:
        pool_format = format_of(shard.name)
        try:
            names += pool_format.field_names(shard, pool)
        except BadShard:  # reported when it is read
            continue
        wanted = url_field | columns if isinstance(pool_format, ColumnsFormat) else url_field
        shown = list(dict.fromkeys(names))
        missing = [missing_column(setting, name, shown) for setting, name in wanted.items() if name not in names]
        if not missing:
            break
    return missing


def find_denied(keys: pa.Array, shard: Shard, pool: PoolConfig, rules: DenyRules) -> tuple[np.ndarray, np.ndarray]:
    """Return the rule that denies each key and its detail: two (n,) object arrays, None if no rule does."""
    rule, detail = np.full(len(keys), None, object), np.full(len(keys), None, object)
    lists = read_deny_lists(rules)
    if lists.keys is not None:
        rule[lists.keys.find(keys) >= 0] = "denied_key"
    if not (lists.urls or lists.hosts or rules.opt_out_fields):
        return rule, detail
    url_field, opt_out_fields = bare(rules.url_field), tuple(map(bare, rules.opt_out_fields))
    records = _read_records(shard, pool, (url_field, *opt_out_fields))
    for row, key in enumerate(keys.to_pylist()):
        record = records.get(key)
        if record is None or rule[row] is not None:
            continue
        denial = lists.match_url(record[url_field]) or _find_opt_out(record, opt_out_fields)
        if denial is not None:
            rule[row], detail[row] = denial
    return rule, detail


def _read_records(shard: Shard, pool: PoolConfig, fields: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return these fields of each key's record; the first of repeated keys counts."""
    records: dict[str, dict[str, Any]] = {}
    for key, record in zip(*pools.read_records(shard, pool, fields), strict=True):
        if isinstance(record, dict):
            records.setdefault(key, {field: record.get(field) for field in fields})
    return records


def _find_opt_out(record: dict[str, Any], fields: Sequence[str]) -> tuple[str, str] | None:
    for name in fields:
        if opts_out(record[name]):
            return "opt_out", f"{name} is {record[name]!r}"
    return None
