"""The commands `pool check` and `pool hash`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from worldclip import check
from worldclip.core.command import Command, SetFlag, ShardsFlag, read_slice
from worldclip.core.execute import Executor
from worldclip.core.marks import Metavar


@Command
def check_pool(
    pool: str,
    out: Path,
    *,
    config: Annotated[str | None, Metavar("TOML")] = None,
    set: SetFlag = (),
    shards: ShardsFlag = None,
    executor: Executor,
) -> tuple[Any, str]:
    """Find duplicates, decontaminate, apply rules; list the valid pairs.

    With `shards`, only scan the images of some shards.

    out: folder to write; its valid_keys.parquet is the value of pool.valid_keys.
    config: file of rules (default: drop near duplicates and images that do not decode);
        docs/pool_check.md lists its keys.
    set: override a key of the rules, key=value, for example radius=6 or texts.min_chars=3; repeatable.

    Examples:
        worldclip pool check pool --out checked
        worldclip pool check pool --out checked --config rules.toml --set radius=2
    """
    rules = check.load_config(config or {}, set)
    if shards:
        check.scan_shards(check.open_pool(pool), out, read_slice(shards), rules, executor=executor)
        return None, ""
    report = check.check(check.open_pool(pool), out, rules, executor=executor)
    counts = report["counts"]
    lines = [f"{counts['valid']:,} of {counts['pairs_in']:,} pairs are valid: {out / 'valid_keys.parquet'}"]
    lines += [f"  {rule:<24} {count:>12,}" for rule, count in counts["removed"].items()]
    lines.append(f"report: {out / 'report.html'}")
    return report, "\n".join([*lines, f'valid_keys = "{(out / "valid_keys.parquet").resolve()}"'])


@Command
def hash_images(source: Path, out: Path, *, set: SetFlag = (), executor: Executor) -> tuple[Any, str]:
    """Hash a set of images into one file, to decontaminate pools against it.

    source: folder of images, tars or Parquet files with images, or one .tar or .parquet.
    out: file to write (.parquet).
    set: hash=embedding and embedding_model=MODEL, if the check uses them; repeatable.

    Examples:
        worldclip pool hash pool --out hashes.parquet
        worldclip pool hash evaluation_images --out hashes.parquet --workers 8
    """
    counts = check.hash_images(source, out, executor, config=check.load_config({}, set))
    numbers = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items())
    return {"out": str(out), **counts}, f"{out}: {numbers}"
