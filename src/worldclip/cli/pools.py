"""Commands on pools."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from worldclip import check
from worldclip.cli.command import Command, Flags, SetFlag, ShardsFlag, read_slice
from worldclip.core.execute import Executor
from worldclip.core.preflight import require_packages
from worldclip.plugins.crawl.wat import build_wat
from worldclip.plugins.emoji.build import build_emoji
from worldclip.plugins.world.build import build_world
from worldclip.plugins.world.fetch_cldr import fetch_cldr
from worldclip.pool import open_pool
from worldclip.tools.dedup import dedup


def check_pool(
    pool: str,
    out: Path,
    *,
    config: Annotated[str | None, tyro.conf.arg(metavar="TOML")] = None,
    set: SetFlag = (),
    shards: ShardsFlag = None,
    executor: Executor,
) -> tuple[Any, str]:
    """Check a pool, or with `shards` only scan the images of some shards.

    out: folder to write; its valid_keys.parquet is the value of pool.valid_keys.
    config: file of rules (default: drop near duplicates and images that do not decode);
        docs/pool_check.md lists its keys.
    set: override a key of the rules, key=value, for example radius=6 or texts.min_chars=3; repeatable.
    """
    rules = check.load_config(config or {}, set)
    if shards:
        check.scan_shards(open_pool(pool), out, read_slice(shards), rules, executor=executor)
        return None, ""
    report = check.check(open_pool(pool), out, rules, executor=executor)
    counts = report["counts"]
    lines = [f"{counts['valid']:,} of {counts['pairs_in']:,} pairs are valid: {out / 'valid_keys.parquet'}"]
    lines += [f"  {rule:<24} {count:>12,}" for rule, count in counts["removed"].items()]
    return report, "\n".join([*lines, f"report: {out / 'report.html'}"])


def dedup_pool(pool: str, out: Path, *, key: str | None = None, executor: Executor) -> Mapping[str, Any]:
    """List the pairs whose key an earlier shard has.

    out: folder to write; its duplicates.parquet is a value of pool.deny_keys.
    """
    return dedup(open_pool(pool, key=key), out, executor=executor)


def _dedup_text(report: Mapping[str, Any], flags: Flags) -> str:
    path = flags.out / "duplicates.parquet"
    return (
        f"{report['copies']:,} of {report['pairs']:,} pairs repeat a key of an earlier shard: {path}\n"
        f"{report['repeated_in_shard']:,} repeat a key of their own shard (match drops them), "
        f"{report['no_identity']:,} have no key\n"
        f'to drop the copies: pool.deny_keys = ["{path}"]'
    )


def hash_images(source: Path, out: Path, *, set: SetFlag = (), executor: Executor) -> tuple[Any, str]:
    """Hash a set of images.

    source: folder of images, tars or Parquet files with images, or one .tar or .parquet.
    out: file to write (.parquet).
    set: hash=embedding and embedding_model=MODEL, if the check uses them; repeatable.
    """
    counts = check.hash_images(source, out, executor, config=check.load_config({}, set))
    numbers = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items())
    return {"out": str(out), **counts}, f"{out}: {numbers}"


def _cldr_text(counts: Mapping[str, int], flags: Flags) -> str:
    numbers = f"{counts['files']:,} files, {counts['bytes']:,} bytes, {counts['there_already']:,} exist already"
    return f"{flags.out}: {numbers}; next: worldclip pool world --cldr {flags.out} --out DIR"


def draw_world(
    out: Path,
    *,
    cldr: Path | None = None,
    fluent: Path | None = None,
    flags: Path | None = None,
    stamps: Path | None = None,
    appstream: Path | None = None,
    gcompris: Path | None = None,
    train_on_stamps: bool = False,
    image_px: int = 64,
    samples_per_shard: int = 500,
    executor: Executor,
) -> Mapping[str, Any]:
    """Draw the world pool.

    out: folder to write.
    cldr: folder with CLDR's annotations, as XML or JSON: names and keywords of the emoji in 142 languages.
    fluent: folder of the npm package @iconify-json/fluent-emoji-flat: second drawings.
    flags: folder of npm packages with flags by other artists.
    stamps: folder of Tux Paint's stamps (GPL-2), held out.
    appstream: folder of an AppStream catalogue: icons of programs, with noisy texts in 160 languages.
    gcompris: folder of GCompris' data (GPL-3): photographs, held out.
    train_on_stamps: put stamps and photographs into the pool instead of holding them out.
    image_px: side of a picture in pixels.
    samples_per_shard: samples per tar.
    """
    parts = {
        "cldr": cldr,
        "fluent": fluent,
        "flags": flags,
        "stamps": stamps,
        "appstream": appstream,
        "gcompris": gcompris,
    }
    return build_world(
        out,
        {name: folder for name, folder in parts.items() if folder is not None},
        train_on_stamps=train_on_stamps,
        image_px=image_px,
        samples_per_shard=samples_per_shard,
        executor=executor,
    )


def _world_text(report: Mapping[str, Any], flags: Flags) -> str:
    languages = report["languages"]
    many = sum(count >= 1000 for count in languages.values())
    pairs = report["pairs"]
    return (
        f"{pairs['samples']:,} pictures, {pairs['texts']:,} texts in {len(languages):,} languages, "
        f"{many:,} of them with at least 1,000: {flags.out}"
    )


def publish(
    run: Path,
    repository: Annotated[str, tyro.conf.arg(metavar="OWNER/NAME")],
    *,
    data: Literal["list", "tars"] = "list",
    license: str | None = None,
    private: bool = False,
    pull_request: bool = False,
    dry_run: bool = False,
) -> tuple[Any, str]:
    """Publish the kept pairs of a run as a dataset of the hub.

    run: a run whose stage curate is finished, or its folder curate.
    repository: dataset on the hub to create, or to bring to what the run keeps now.
    data: list (keys, texts, languages) or tars (the images too; curate.write = "tars").
    license: identifier of the hub for the card, for example cc-by-4.0 (default: unknown).
    private: create the dataset as private; refuse one that is public.
    pull_request: propose the upload to a dataset that exists.
    dry_run: write RUN/publish and list its files, and upload nothing.
    """
    from worldclip.export.push import push
    from worldclip.plugins.publish import prepare

    if not dry_run:
        require_packages("publish", extra="hub")
    upload = prepare(run, repository, data, license)
    lines = upload.lines()
    record: dict[str, Any] = {"folder": str(upload.folder), "files": dict(upload.files), "addresses": [], "removed": []}
    if dry_run:
        lines.append("dry run: nothing was uploaded")
        return record, "\n".join(lines)
    (pushed,) = push([upload], is_private=private, as_pull_request=pull_request)
    record |= {"addresses": [pushed.address], "removed": list(pushed.removed)}
    return record, "\n".join([*lines, *pushed.lines()])


COMMANDS = {
    "pool emoji": Command(build_emoji, lambda report, flags: str(flags.out)),
    "pool world": Command(draw_world, _world_text),
    "fetch cldr": Command(fetch_cldr, _cldr_text),
    "pool wat": Command(build_wat, lambda report, flags: json.dumps(report, ensure_ascii=False, indent=1)),
    "pool check": Command(check_pool),
    "pool hash": Command(hash_images),
    "pool dedup": Command(dedup_pool, _dedup_text),
    "publish": Command(publish),
}
