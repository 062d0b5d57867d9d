"""Compile the matchers of entry lists, each bound to the digest of its entries, and load them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

from worldclip.contracts import layout
from worldclip.contracts.schemas import METADATA
from worldclip.core.artifacts import folder_aside, read_table, replace_folder, require_manifest
from worldclip.core.errors import BadShard, UserError
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


def compile_matchers(run: Run, codes: Sequence[str], lists: Mapping[str, Report]) -> dict[str, Report]:
    """Compile the matcher of each list that texts are matched against; return its report by the list's name."""
    match = run.section(MatchConfig)
    names = match.entry_lists.names(codes)
    shards = []
    for name in names:
        fingerprint = {"digest": lists[name]["digest"]}
        shards.append(Shard(name=f"{name}/{match.matcher_name}", path="", fingerprint=fingerprint))
    compile_one = functools.partial(_compile_shard, run_dir=run.dir)
    done_dir = layout.done_dir(run.dir / STAGE, MATCHERS)
    reports = run.executor.map(compile_one, shards, label=MATCHERS, done_dir=done_dir, key=matchers_version())
    return dict(zip(names, reports, strict=True))


def _compile_shard(shard: Shard, *, run_dir: Path) -> Report:
    """Compile into a temporary folder, then rename it: a folder under its final name is whole."""
    name, profile = shard.name.split("/")
    path = layout.entries(run_dir, name)
    entries = read_table(path, METADATA, ["entry"])["entry"]
    matcher = Matcher.build(entries, profile)
    if matcher.digest != shard.fingerprint["digest"]:
        done = layout.done_dir(path.parent, ENTRIES)
        raise BadShard(f"{path} changed after it was written; remove {done}, then run: worldclip metadata {run_dir}")
    final = layout.matcher(run_dir, name, profile)
    with folder_aside(final) as aside:
        matcher.save(aside)
        replace_folder(aside, final)
    num_bytes = sum(path.stat().st_size for path in final.iterdir())
    return {"profile": profile, "dead": matcher.num_dead, "bytes": num_bytes}


def load_matcher(run_dir: Path, lang: str, matcher_name: str) -> Matcher:
    """Return the compiled matcher of a list, memory-mapped, after checking that it is of the manifest's entries."""
    manifest = require_manifest(run_dir, STAGE)
    if matcher_name not in manifest["dead"].get(lang, {}):
        raise UserError(
            f"{run_dir} has no matcher {matcher_name!r} of list {lang!r}; its recipe names languages (languages.codes)"
            f" and one profile (match.profile); run: worldclip metadata {run_dir}"
        )
    return Matcher.load(layout.matcher(run_dir, lang, matcher_name), digest=manifest["digests"][lang])
