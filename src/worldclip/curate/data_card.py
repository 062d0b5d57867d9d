"""The data card: what someone who publishes the list of kept pairs should say about it, in Markdown."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worldclip.contracts import layout
from worldclip.contracts.reasons import Reason
from worldclip.core import artifacts
from worldclip.core.redact import shorten_paths
from worldclip.core.settings import read_toml
from worldclip.report.sources import sources_table
from worldclip.report.table import Column, Table, columns_of, text_column, to_markdown

_STAGES = ("pool", "metadata", "match", "balance")
_SETTINGS = {
    "pool": ("key", "lang", "text_weights", "valid_keys", "deny_keys"),
    "languages": ("lid_model",),
    "match": ("profile", "fold_case", "isolate", "min_lang_prob", "restrict_to_recipe_languages"),
    "balance": ("rule", "english_threshold", "tail_fraction", "min_threshold"),
    "curate": ("text_policy", "seed", "include", "exclude", "max_pairs"),
}


def data_card(run_dir: Path, report: Mapping[str, Any]) -> str:
    """Return the card: sources, settings, what was kept, digests to verify it by.  report: curate's."""
    manifests = {stage: artifacts.require_manifest(run_dir, stage) for stage in _STAGES}
    thresholds = artifacts.read_json(layout.thresholds(run_dir))
    unit = "images, with one text drawn for each" if report["text_policy"] == "one" else "image-text pairs"
    total = report["total"]
    reasons = [name for name in total if name not in ("pairs_in", "pairs_out", "expected_pairs")]
    whole = read_toml(run_dir)
    recipe = shorten_paths(whole)  # the card is published: no folder of this machine
    parts = [
        "# Data card",
        f"{total['pairs_out']:,} of {total['pairs_in']:,} {unit}, kept by substring matching against entry lists "
        f"in {len(manifests['match']['languages'])} languages and by balancing over their entries (the recipe of "
        f"Meta CLIP 2, arXiv:2507.22062, as implemented by worldclip). {_language_source(recipe)} "
        f"{_contents(recipe)} Rights in the images remain with their owners; requests for removal go into "
        "`pool.deny_keys`.",
        "## Filters before matching",
        _filters(whole, total.get(Reason.LEFT_OUT.column, 0)),
        "## Sources of the entries",
        sources_table(manifests["metadata"]) or "Not recorded.",
        "## Settings",
        _settings(recipe),
        "## Kept pairs by language",
        _languages(report, thresholds),
        f"Dropped, by the first reason that applies: {', '.join(f'{name} {total[name]:,}' for name in reasons)}.",
        "## Digests",
        _digests(run_dir, manifests),
    ]
    return "\n\n".join(parts) + "\n"


def write_readme(path: Path, data_files: str, card: str, digest: str) -> None:
    """Write a README.md by which `datasets.load_dataset` reads only these files of its folder.

    card: its path.  digest: of curate's manifest.
    """
    lines = ["---", "configs:", f"- config_name: {config_name(digest)}", f'  data_files: "{data_files}"', "---"]
    artifacts.write_text(path, "\n".join([*lines, f"What these files hold: [{card}]({card}).", ""]))


def config_name(digest: str) -> str:
    """Return a name by which `datasets` tells these files from those of another run, or of an earlier curation.

    Its cache knows a folder by README.md and by the folder's last name, and does not look at the files.
    """
    return f"curate-{digest}"


def _language_source(recipe: Mapping[str, Any]) -> str:
    """Say what decided the language, and thus the entry list, of each text."""
    if place := recipe["pool"].get("lang"):
        decided = f"The language of each text is the one that the pool states in `{place}`"
    else:
        decided = f"The language-identification model `{recipe['languages']['lid_model']}` chose each text's language"
    isolate = recipe["match"]["isolate"]
    return f"{decided}, and thus its entry list." if isolate == "language" else f"{decided}; all share one entry list."


def _contents(recipe: Mapping[str, Any]) -> str:
    if recipe["curate"]["write"] == "tars":
        return "The tars hold the images with the kept texts; the list holds keys and texts."
    return "The list holds keys and texts, not images."


def _filters(recipe: Mapping[str, Any], left_out: int) -> str:
    """Say which conditions and lists of keys were applied, and what made the lists, as far as their folders record it.

    left_out: pairs that pool.where leaves out.
    """
    pool = recipe["pool"]
    files = [("valid_keys", path) for path in filter(None, [pool.get("valid_keys")])]
    files += [("deny_keys", path) for path in pool.get("deny_keys", [])]
    lines = [f"- `pool.{key}` = `{shorten_paths(path)}`: {_maker(Path(path).parent)}" for key, path in files]
    if where := pool.get("where"):
        conditions = "; ".join(f"`{name}` {_condition(value)}" for name, value in where.items())
        lines.insert(0, f"- `pool.where` took only pairs with {conditions}; {left_out:,} left out.")
    elif left_out:
        lines.insert(0, f"- Rows of img2dataset's tables whose download failed: {left_out:,} left out.")
    own = "Matching, balancing and curating read texts and keys; they decoded no image and scored none with a model."
    before = "What the pool itself was filtered by before is not recorded here."
    return "\n".join([f"{own} {before}", *(["", *lines] if lines else [])])


def _condition(value: Any) -> str:
    """Return a condition of pool.where in words: `= "en"`, `= one of "de", "en"`, `>= 200 and < 4000`."""
    if isinstance(value, Mapping):
        return " and ".join(
            f"{compare} {json.dumps(operand, ensure_ascii=False)}" for compare, operand in value.items()
        )
    if isinstance(value, list):
        return f"= one of {', '.join(json.dumps(item, ensure_ascii=False) for item in value)}"
    return f"= {json.dumps(value, ensure_ascii=False)}"


def _maker(folder: Path) -> str:
    """Return what a list of keys is from: `pool check` with its model and removals, `pool dedup`, or unknown."""
    manifest = artifacts.read_manifest(folder)
    config = manifest["config"] if manifest is not None else {}
    if manifest is None or "check" not in config:
        is_dedup = manifest is not None and "copies" in manifest["counts"]
        return "copies that `worldclip pool dedup` found by their keys." if is_dedup else "its making is not recorded."
    removed = artifacts.read_json(folder / "report.json")["counts"]["removed"]
    counts = ", ".join(f"{rule} {count:,}" for rule, count in removed.items()) or "none"
    model = shorten_paths(config["check"]).get("embedding_model")
    looked = f"a model looked at the images (`{model}`)" if model else "no model looked at an image"
    return f"`worldclip pool check`; pairs removed by rule: {counts}; {looked}."


def _settings(recipe: Mapping[str, Any]) -> str:
    lines = []
    for section, keys in _SETTINGS.items():
        for key in keys:
            value = recipe[section].get(key)
            if value not in (None, [], ""):
                lines.append(f"- `{section}.{key}`: {value}")
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
    for path in layout.curated_keys(run_dir):
        name = path.relative_to(layout.stage_dir(run_dir, "curate")).as_posix()
        with open(path, "rb") as file:
            lines.append(f"- {name}, SHA-256: `{hashlib.file_digest(file, 'sha256').hexdigest()}`")
    return "\n".join([f"Versions: {versions}. Digests of the format, config and inputs of each stage:", "", *lines])
