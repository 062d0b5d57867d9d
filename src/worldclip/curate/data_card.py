"""The data card: what someone who publishes the list of kept pairs should say about it, in Markdown."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worldclip.core import artifacts, layout
from worldclip.core.settings import read_toml
from worldclip.report.table import Column, Table, columns_of, text_column, to_markdown

_STAGES = ("pool", "metadata", "match", "balance")
_SETTINGS = (
    *("pool.key", "pool.valid_keys", "pool.deny_keys", "languages.lid_model", "match.profile", "match.fold_case"),
    *("match.isolate", "match.min_lang_prob", "match.restrict_to_recipe_languages", "balance.rule"),
    *("balance.english_threshold", "balance.tail_fraction", "balance.min_threshold"),
    *("curate.text_policy", "curate.seed", "curate.include", "curate.exclude", "curate.max_pairs"),
)


def data_card(run_dir: Path, report: Mapping[str, Any]) -> str:
    """Return the card: sources, settings, what was kept, digests to verify it by.  report: curate's."""
    manifests = {stage: artifacts.require_manifest(run_dir, stage) for stage in _STAGES}
    thresholds = artifacts.read_json(layout.thresholds(run_dir))
    unit = "images, with one text drawn for each" if report["text_policy"] == "one" else "image-text pairs"
    total = report["total"]
    reasons = [name for name in total if name not in ("pairs_in", "pairs_out", "expected_pairs")]
    parts = [
        "# Data card",
        f"{total['pairs_out']:,} of {total['pairs_in']:,} {unit}, kept by substring matching against entry lists "
        f"in {len(manifests['match']['languages'])} languages and by balancing over their entries (the recipe of "
        "Meta CLIP 2, arXiv:2507.22062, as implemented by worldclip). No model saw an image or scored a text; a "
        "language-identification model chose the entry list of each text. The list holds keys and texts, not images. "
        "Rights in the images remain with their owners; requests for removal go into `pool.deny_keys`.",
        "## Sources of the entries",
        _sources(manifests["metadata"].get("sources", {})),
        "## Settings",
        _settings(run_dir),
        "## Kept pairs by language",
        _languages(report, thresholds),
        f"Dropped, by the first reason that applies: {', '.join(f'{name} {total[name]:,}' for name in reasons)}.",
        "## Digests",
        _digests(run_dir, manifests),
    ]
    return "\n\n".join(parts) + "\n"


def _sources(sources: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    langs_by_source: dict[tuple[str, str, str], list[str]] = {}
    for lang, rows in sorted(sources.items()):
        for row in rows:
            origin = " ".join(str(row[key]) for key in ("package", "version", "file", "path") if row.get(key))
            source = (str(row["source"]), origin, str(row.get("licence") or "not stated"))
            langs_by_source.setdefault(source, []).append(lang)
    if not langs_by_source:
        return "Not recorded."
    columns = [text_column(title) for title in ("source", "from", "licence", "languages")]
    cells = [[*source, " ".join(langs)] for source, langs in langs_by_source.items()]
    return to_markdown(Table(columns, cells))


def _settings(run_dir: Path) -> str:
    recipe = read_toml(run_dir)
    lines = []
    for name in _SETTINGS:
        section, key = name.split(".")
        value = recipe[section].get(key)
        if value not in (None, [], ""):
            lines.append(f"- `{name}`: {value}")
    return "\n".join(lines)


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


def _digests(run_dir: Path, manifests: Mapping[str, Mapping[str, Any]]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in manifests["match"]["versions"].items())
    lines = [f"- {stage}: `{manifest['digest']}`" for stage, manifest in manifests.items()]
    keys = layout.curated_keys(run_dir)
    if keys.exists():
        with open(keys, "rb") as file:
            lines.append(f"- keys.npy, SHA-256: `{hashlib.file_digest(file, 'sha256').hexdigest()}`")
    return "\n".join([f"Versions: {versions}. Digests of the format, config and inputs of each stage:", "", *lines])
