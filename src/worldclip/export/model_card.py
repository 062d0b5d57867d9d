"""README.md of an exported model: what it is, how to use it, training data, results, licences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from worldclip.contracts import layout
from worldclip.contracts.records import read_results
from worldclip.core import artifacts
from worldclip.core.job import Record, Report
from worldclip.core.settings import read_toml
from worldclip.export import card_results
from worldclip.model.formats.interface import CardFacts
from worldclip.model.load import hub_id
from worldclip.report.sources import sources_table
from worldclip.report.table import Table, columns_of, text_column, to_markdown


@dataclass(frozen=True, slots=True)
class Card:
    """The content of a card in addition to the lines of its format."""

    title: str
    languages: Sequence[str]
    body: Sequence[str] = ()
    results: Sequence[Record] = ()
    """Records of evaluate; cards of pages have none."""


def render(card: Card, facts: CardFacts, report: Record) -> str:
    """Return README.md of an export; facts: of its format.  report: what its check measured."""
    about_model = [
        f"library_name: {facts.library}",
        "pipeline_tag: zero-shot-image-classification",
        "license: unknown",
        *card_results.model_index(card.title, card.results),
    ]
    about_space = [f"title: {json.dumps(card.title)}", "sdk: static", "app_file: index.html"]
    languages = ["language:", *(f"- {json.dumps(code)}" for code in card.languages)] if card.languages else []
    lines = [
        "---",
        *(about_space if facts.is_page else about_model),
        "tags: [clip, metaclip_2, multilingual, worldclip]",
        *([] if facts.is_page else languages),
        "---",
        f"# {card.title}",
        "",
        facts.about,
        "",
        "```python",
        *facts.use,
        "```",
        "",
        f"Checked against the source model {facts.checked(report)}.",
        *card.body,
    ]
    return "\n".join([*lines, ""])


def of_run(run_dir: Path, checkpoint: Path) -> Card:
    """Return the card of a run: recipe, training pairs by language, results, use, limits, licences."""
    recipe = read_toml(run_dir)
    curated = _read_report(run_dir, "curate").get("languages", {})
    kept = sorted(lang for lang, row in curated.items() if row.get("pairs_out", 0))
    codes = kept or recipe["languages"].get("codes", [])
    summary = (
        f"Checkpoint: {checkpoint.name}{_seen(run_dir, checkpoint)}. Recipe: preset "
        f"{recipe['train']['model']['preset']}, matching profile `{recipe['match']['profile']}`, balance rule "
        f"`{recipe['balance']['rule']}`. "
        "The whole recipe is in `recipe.toml`."
    )
    results = read_results(layout.results(run_dir))
    sections = {
        "Recipe": summary,
        "Training pairs": _pairs(curated, _read_report(run_dir, "train").get("seen", {})),
        "Results": _read_text(layout.results_table(run_dir)),
        "Use, limits and licence": card_results.limits(results, codes),
        "Sources of the metadata": sources_table(artifacts.read_manifest(layout.stage_dir(run_dir, "metadata")) or {}),
        "Sources of the pool": _read_text(layout.attribution(run_dir)),
    }
    body = [line for heading, text in sections.items() if text for line in ("", f"## {heading}", "", text)]
    return Card(f"{run_dir.resolve().name}: a CLIP for {len(codes)} languages", codes, body, results)


def of_model(source: str, layout: str) -> Card:
    """Return the card of a model from elsewhere: its hub id, or the name of its file or folder."""
    origin = hub_id(source) or Path(source).name
    text = (
        f"Converted from `{origin}` ({layout}). Its publisher states its languages, training data, intended use, "
        "limits and licence; check them before use."
    )
    return Card(f"{Path(source).name}, converted", (), ["", "## Source", "", text])


def _seen(run_dir: Path, checkpoint: Path) -> str:
    """Return how long a checkpoint was trained, by the schedule of its training: train.scale may have derived it."""
    path = layout.train_dir(run_dir) / "config.json"
    if not path.exists():
        return ""
    schedule = artifacts.read_json(path)["schedule"]
    batch = schedule["global_batch_size"]
    pairs = layout.step_of(checkpoint) * batch
    return f" of {schedule['num_steps']:,} steps, {pairs:,} pairs seen in batches of {batch:,}"


def _pairs(curated: Report, seen: Report) -> str:
    """Return a table of pairs in, kept and seen in training, by language."""
    if not curated:
        return ""
    columns = [text_column("language"), *columns_of(("pairs in", "kept", "seen"), "{:,}".format)]
    rows = [
        [lang, row.get("pairs_in", 0), row.get("pairs_out", 0), seen.get(lang, 0)]
        for lang, row in sorted(curated.items())
    ]
    return to_markdown(Table(columns, rows))


def _read_report(run_dir: Path, stage: str) -> Report:
    path = run_dir / stage / "report.json"
    return artifacts.read_json(path) if path.exists() else {}


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""
