"""The command `pool check`."""

from __future__ import annotations

from typing import Annotated, Any

from worldclip import check
from worldclip import pool as pools
from worldclip.core.command import Command, OutFolder, SetFlag, ShardsFlag, read_slice
from worldclip.core.execute import Executor
from worldclip.core.marks import Metavar
from worldclip.core.settings import load_config
from worldclip.pool.stage import skipped_lines


@Command
def check_pool(
    pool: str,
    out: OutFolder,
    *,
    config: Annotated[str | None, Metavar("TOML")] = None,
    set: SetFlag = (),
    shards: ShardsFlag = None,
    executor: Executor,
) -> tuple[Any, str]:
    """Find undecodable images, duplicates and evaluation images; list the valid pairs.

    With `shards`, only scan the images of some shards.

    out: folder to write; its valid_keys.parquet is the value of pool.valid_keys.
    config: file of rules (default: drop near duplicates and images that do not decode);
        docs/pool_check.md lists its keys.
    set: override a key of the rules, key=value, for example radius=6 or duplicates=bytes; repeatable.

    Examples:
        worldclip pool check pool --out checked
        worldclip pool check pool --out checked --set against.mine=evaluation_images --set radius=2
    """
    rules = load_config(check.CheckConfig, config or {}, set)
    part = read_slice(shards) if shards else None
    report = check.check(pools.open_pool(pool), out, rules, part=part, executor=executor)
    if report is None:
        return None, ""
    counts = report["counts"]
    path = out / "valid_keys.parquet"
    lines = [f"{counts['valid']:,} of {counts['pairs_in']:,} pairs are valid: {path}"]
    lines += [f"  {rule:<24} {count:>12,}" for rule, count in counts["removed"].items()]
    lines += [f"report: {out / 'report.html'}", f'valid_keys = "{path.resolve()}"', *skipped_lines(report["skipped"])]
    return report, "\n".join(lines)
