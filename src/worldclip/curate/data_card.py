"""The data card: what someone who publishes the list of kept pairs should say about it, in Markdown."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worldclip.contracts import layout
from worldclip.contracts.summary import account
from worldclip.core import artifacts
from worldclip.core.redact import shorten_paths
from worldclip.core.settings import read_toml, to_toml
from worldclip.report.sources import sources_table
from worldclip.report.table import Column, Table, columns_of, text_column, to_markdown

_STAGES = ("pool", "metadata", "match", "balance")
_SECTIONS = ("pool", "languages", "match", "balance", "curate")


def data_card(run_dir: Path, report: Mapping[str, Any]) -> str:
    """Return the card: sources, settings, what was kept, digests to verify it by.  report: curate's."""
    manifests = {stage: artifacts.require_manifest(run_dir, stage) for stage in _STAGES}
    thresholds = artifacts.read_json(layout.thresholds(run_dir))
    unit = "samples, with one text drawn for each" if report["text_policy"] == "one" else "image-text pairs"
    total = report["total"]
    recipe = shorten_paths(read_toml(run_dir))  # the card is published: no folder of this machine
    versions = ", ".join(f"{name} {version}" for name, version in manifests["match"]["versions"].items())
    digests = [f"- {stage}: `{manifest['digest']}`" for stage, manifest in manifests.items()]
    kept_keys = layout.kept_keys(run_dir)
    if kept_keys.exists():
        with open(kept_keys, "rb") as file:
            digests.append(f"- {kept_keys.name}, SHA-256: `{hashlib.file_digest(file, 'sha256').hexdigest()}`")
    parts = [
        "# Data card",
        f"{total['pairs_out']:,} of {total['pairs_in']:,} {unit}, kept by substring matching against entry lists "
        f"in {len(manifests['match']['languages'])} languages and by balancing over their entries (the recipe of "
        "Meta CLIP 2, arXiv:2507.22062, as implemented by worldclip). Matching, balancing and curating read texts and "
        "keys; they decoded no image. Rights in the images remain with their owners; requests for removal go into "
        "`pool.deny_keys`.",
        "## From the pool's rows to the kept pairs",
        "\n".join(f"- {step}" for step in account(run_dir, report)),
        "## Sources of the entries",
        sources_table(manifests["metadata"]) or "Not recorded.",
        "## Settings",
        f"```toml\n{to_toml({name: recipe[name] for name in _SECTIONS})}```",
        "## Kept pairs by language",
        _languages(report, thresholds),
        "## Digests",
        f"Versions: {versions}. Digests of the format, config and inputs of each stage:",
        "\n".join(digests),
    ]
    return "\n\n".join(parts) + "\n"


def write_readme(path: Path, data_files: Sequence[str], card: str, digest: str) -> None:
    """Write a README.md by which `datasets.load_dataset` reads only these files of its folder.

    card: path of the data card.  digest: the digest of curate's manifest.
    """
    patterns = [f"  - {json.dumps(pattern)}" for pattern in data_files]
    lines = ["---", "configs:", f"- config_name: {config_name(digest)}", "  data_files:", *patterns, "---"]
    artifacts.write_text(path, "\n".join([*lines, f"What these files hold: [{card}]({card}).", ""]))


def config_name(digest: str) -> str:
    """Return a name by which `datasets` tells these files from those of another run, or of an earlier curation.

    Its cache knows a folder by README.md and by the folder's last name, and does not look at the files.
    """
    return f"curate-{digest}"


def _languages(report: Mapping[str, Any], thresholds: Mapping[str, Any]) -> str:
    rows = []
    for lang, row in sorted(report["languages"].items(), key=lambda item: (-item[1]["pairs_out"], item[0])):
        entry_list = thresholds["lists"].get(lang, {})
        threshold = entry_list.get("threshold") or None
        tail_fraction = entry_list["tail_fraction"] if threshold else None
        curve = report["effect"].get(lang)  # only of languages with an entry list of their own
        effective = curve["effective_entries"] if curve else (None, None)
        rows.append(
            [lang, row["pairs_in"], row["pairs_out"], row["expected_pairs"], threshold, tail_fraction, *effective]
        )
    columns = [
        text_column("language"),
        *columns_of(("pairs in", "pairs out"), "{:,}".format),
        Column("expected", "{:,.1f}".format),
        Column("threshold", "{:,}".format),
        Column("tail fraction", "{:.4f}".format),
        *columns_of(("effective entries before", "after"), "{:,.0f}".format),
    ]
    return to_markdown(Table(columns, rows))
