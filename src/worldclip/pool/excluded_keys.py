"""The lists of keys that a recipe names: valid keys and denied ones."""

from __future__ import annotations

from pathlib import Path

from worldclip.contracts import layout
from worldclip.core import artifacts, keys
from worldclip.core.changes import changed_inputs, changed_keys, name_changes
from worldclip.core.job import Run
from worldclip.core.printable import command_line
from worldclip.pool.config import PoolConfig
from worldclip.pool.shards_of_run import indexed_shards

LISTING_TOOLS = ("check", "dedup")  # tools whose folders have a list of keys and, in the manifest, its shards


def key_lists(run: Run) -> tuple[keys.KeyList, ...]:
    """Return the valid list and the deny lists of the recipe.  Raises UserError naming all other files."""
    config = run.section(PoolConfig)
    return keys.key_lists(config.valid_keys, config.deny_keys, layout.sorted_lists(run.dir))


def older_lists(run: Run) -> list[str]:
    """Return a line for each list of `pool check` and `pool dedup` that was made from other pairs than the pool has.

    A list of copies denies the last one where the shard of the first is gone, or `where` leaves the first out.
    """
    config = run.section(PoolConfig)
    lists = [("pool.deny_keys", path) for path in config.deny_keys]
    if config.valid_keys:
        lists.insert(0, ("pool.valid_keys", config.valid_keys))
    lines = []
    for setting, path in lists:
        manifest = artifacts.read_manifest(Path(path).parent) or {}
        tool = manifest.get("job")
        if tool not in LISTING_TOOLS:
            continue
        shards = {shard.name: shard.fingerprint for shard in indexed_shards(run)}
        changes = changed_inputs(manifest["inputs"]["shards"], shards)
        remedy = f"rerun: {command_line('pool', tool, run.dir, '--out', Path(path).parent)}"
        if changes:
            made_from = f"was made from other shards than the pool has now: {name_changes(changes)}"
            lines.append(f"{setting} {path!r} {made_from}; {remedy}")
        other_keys = changed_keys({"pool": manifest["config"]["pool"]}, {"pool": config.identity})
        if other_keys:
            lines.append(f"{setting} {path!r} was made under other keys: {name_changes(other_keys)}; {remedy}")
    return lines
