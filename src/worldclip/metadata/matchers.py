"""Compile the matchers of entry lists, each bound to the digest of its entries, and load them."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from worldclip.contracts import layout
from worldclip.contracts.schemas import METADATA
from worldclip.core.artifacts import MANIFEST, read_table, replace_folder, require_manifest
from worldclip.core.errors import BadShard, UserError, naming
from worldclip.core.execute import Report, Shard
from worldclip.core.job import Record, Run
from worldclip.kernels.unicode_table import UNICODE_VERSION
from worldclip.match.config import MatchConfig
from worldclip.match.matcher.matcher import FORMAT_VERSION, Matcher

STAGE = "metadata"
ENTRIES, MATCHERS = "entries", "matchers"  # the maps over lists, and over those that are matched


def matchers_version() -> Record:
    """Return what a compiled matcher depends on besides its entries; matchers of an older worldclip are recompiled."""
    return {"format": FORMAT_VERSION, "unicode": UNICODE_VERSION}


def compile_matchers(run: Run, codes: Sequence[str], lists: Mapping[str, Report]) -> dict[tuple[str, str], Report]:
    """Return the report of each (list, matcher name), for the lists that texts are matched against."""
    match = run.section(MatchConfig)
    matchers = [(name, match.matcher_name) for name in match.entry_lists.names(codes)]
    shards = []
    for name, matcher in matchers:
        fingerprint = {"digest": lists[name]["digest"]}
        shards.append(Shard(name=f"{name}/{matcher}", path="", fingerprint=fingerprint))
    compile_one = functools.partial(_compile_shard, run_dir=run.dir)
    done_dir = layout.done_dir(run.dir / STAGE, MATCHERS)
    reports = run.executor.map(compile_one, shards, label=MATCHERS, done_dir=done_dir, key=matchers_version())
    return dict(zip(matchers, reports, strict=True))


def _compile_shard(shard: Shard, *, run_dir: Path) -> Report:
    """Compile into a temporary folder, then rename it: a folder under its final name is whole."""
    name, matcher_name = shard.name.split("/")
    path = layout.entries(run_dir, name)
    entries = read_table(path, METADATA, ["entry"])["entry"]
    matcher = Matcher.build(entries, matcher_name)
    if matcher.digest != shard.fingerprint["digest"]:
        raise BadShard(f"{path} changed after it was written; {how_to_rebuild(path.parent)}")
    final = layout.matcher(run_dir, name, matcher_name)
    aside = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        with naming(final):
            matcher.save(aside)
        replace_folder(aside, final)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return {"dead": matcher.num_dead, "bytes": sum(path.stat().st_size for path in final.iterdir())}


def load_matcher(run_dir: Path, lang: str, matcher_name: str) -> Matcher:
    """Return the compiled matcher of a list, memory-mapped, after checking that it is of the manifest's entries."""
    manifest = require_manifest(run_dir, STAGE)
    if matcher_name not in manifest["dead"].get(lang, {}):
        raise UserError(
            f"{run_dir} has no matcher {matcher_name!r} of list {lang!r}; its recipe names languages (languages.codes)"
            f" and one profile (match.profile); run: worldclip metadata {run_dir}"
        )
    try:
        return Matcher.load(layout.matcher(run_dir, lang, matcher_name), digest=manifest["digests"][lang])
    except UserError as error:
        raise UserError([*error.problems, how_to_rebuild(run_dir / STAGE)]) from error


def how_to_rebuild(folder: Path) -> str:
    """Return what a user has to do to build the lists and matchers of RUN/metadata again; counts are kept."""
    entries, matchers = (layout.done_dir(folder, step) for step in (ENTRIES, MATCHERS))
    markers = f"{folder / MANIFEST}, {entries} and {matchers}"
    return f"remove {markers}, then run: worldclip metadata {folder.parent}"
