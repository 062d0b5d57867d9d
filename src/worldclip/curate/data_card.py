"""A data card: what someone who publishes the list of kept pairs would say beside it (Markdown)."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from worldclip.config import load_recipe
from worldclip.core import artifacts

_SETTINGS = (
    *("pool.key", "pool.valid_keys", "pool.deny_keys", "languages.lid_model", "match.profile", "match.fold_case"),
    *("match.isolate", "match.min_lang_prob", "match.restrict_to_recipe_languages", "balance.rule"),
    *("balance.english_threshold", "balance.tail_fraction", "balance.min_threshold"),
    *("curate.text_policy", "curate.seed", "curate.include", "curate.exclude", "curate.max_pairs"),
)


def write_card(run_dir: Path, report: dict[str, Any]) -> None:
    """RUN/curate/DATA_CARD.md from the manifests of all stages up to curate; `report` is curate's."""
    artifacts.write_text(run_dir / "curate" / "DATA_CARD.md", data_card(run_dir, report))


def data_card(run_dir: Path, report: dict[str, Any]) -> str:
    manifests = {
        stage: artifacts.require_manifest(run_dir, stage) for stage in ("pool", "metadata", "match", "balance")
    }
    thresholds = artifacts.read_json(run_dir / "balance" / "thresholds.json")
    unit = "images, of which one text each was drawn" if report["text_policy"] == "one" else "image-text pairs"
    total = report["total"]
    parts = [
        "# Data card",
        f"{total['pairs_out']:,} of {total['pairs_in']:,} {unit}, kept by substring matching against lists of entries "
        f"in {len(manifests['match']['languages'])} languages and by balancing over those entries (the recipe of "
        "Meta CLIP 2, arXiv:2507.22062, as worldclip implements it). No model looked at an image or judged a text; a "
        "language identification model chose each text's list. The list holds keys and texts, not images: their "
        "rights are their owners', and what an owner asks to remove belongs into `pool.deny_keys`.",
        "## Where the entries come from",
        _sources(manifests["metadata"].get("sources", {})),
        "## How it was made",
        _settings(run_dir),
        "## What was kept",
        _languages(report, thresholds),
        "The first reason that applies is counted: "
        + ", ".join(
            f"{name} {total[name]:,}" for name in total if name not in ("pairs_in", "pairs_out", "expected_pairs")
        )
        + ".",
        "## To check it by",
        _digests(run_dir, manifests),
    ]
    return "\n\n".join(parts) + "\n"


def _sources(sources: dict[str, list[dict[str, Any]]]) -> str:
    langs_of: dict[tuple[str, ...], list[str]] = {}
    for lang, rows in sorted(sources.items()):
        for row in rows:
            named = " ".join(str(row[key]) for key in ("package", "version", "file", "path") if row.get(key))
            about = (str(row["source"]), named, str(row.get("licence") or "not stated"))
            langs_of.setdefault(about, []).append(lang)
    if not langs_of:
        return "Not recorded."
    lines = [f"| {' | '.join(about)} | {' '.join(langs)} |" for about, langs in langs_of.items()]
    return "\n".join(["| source | from | licence | languages |", "|---|---|---|---|", *lines])


def _settings(run_dir: Path) -> str:
    recipe = load_recipe(run_dir)
    rows = []
    for name in _SETTINGS:
        section, key = name.split(".")
        value = getattr(getattr(recipe, section), key)
        if value not in (None, (), ""):
            rows.append(f"- `{name}`: {list(value) if isinstance(value, tuple) else value}")
    return "\n".join(rows)


def _languages(report: dict[str, Any], thresholds: dict[str, Any]) -> str:
    rows = [
        "| language | in | out | expected | threshold t | tail fraction | effective entries before | after |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for lang, row in sorted(report["languages"].items(), key=lambda item: (-item[1]["pairs_out"], item[0])):
        of_list = thresholds["lists"].get(lang, {})
        threshold = of_list.get("threshold")
        fraction = f"{of_list['tail_fraction']:.4f}" if threshold else ""
        rows.append(
            f"| {lang} | {row['pairs_in']:,} | {row['pairs_out']:,} | {row['expected_pairs']:,.1f} | "
            f"{f'{threshold:,}' if threshold else ''} | {fraction} | {' | '.join(_effective(report, lang))} |"
        )
    return "\n".join(rows)


def _effective(report: dict[str, Any], list_name: str) -> list[str]:
    """How many entries are in effect before and after, of a language that has a list of its own."""
    found = report["effect"].get(list_name)
    return [f"{value:,.0f}" for value in found["effective_entries"]] if found else ["", ""]


def _digests(run_dir: Path, manifests: dict[str, dict[str, Any]]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in manifests["match"]["versions"].items())
    rows = [f"- {stage}: `{manifest['digest']}`" for stage, manifest in manifests.items()]
    if (keys := run_dir / "curate" / "keys.npy").exists():
        with open(keys, "rb") as file:
            rows.append(f"- keys.npy, SHA-256: `{hashlib.file_digest(file, 'sha256').hexdigest()}`")
    return "\n".join([f"Versions: {versions}. Digests of each stage's format, config and inputs:", "", *rows])
