"""report.html of a run and of an evaluation: self-contained pages, drawn only from the stages' report.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from worldclip.contracts import layout
from worldclip.contracts.records import outdated_stages, skipped_shards
from worldclip.contracts.summary import account
from worldclip.core.artifacts import read_json, read_manifest
from worldclip.core.printable import command_line
from worldclip.language.config import languages_of
from worldclip.language.table import INSTALLED, Languages
from worldclip.report import balance, curate, evaluate, match, metadata, train
from worldclip.report.html import tag
from worldclip.report.page import Card, Section, cards, skipped_sections, write_page

STAGES = ("metadata", "match", "balance", "curate", "train", "evaluate")  # those with a part of the page
FIRST_GROUP = "Model"
GROUPS = {
    FIRST_GROUP: ("evaluate", "train"),
    "Pairs": ("account", "curate", "pool"),
    "Entries": ("balance", "match", "metadata"),
}
"""Heading of links -> the stages whose parts they lead to; results come first, as a reader comes for them."""
_SECTIONS: dict[str, Callable[[Any, Languages], list[Section]]] = {
    "evaluate": evaluate.sections,
    "curate": curate.sections,
    "balance": balance.sections,
    "match": match.sections,
    "metadata": metadata.sections,
}
"""Stage -> its parts of the page, from its report."""


def write_report(run_dir: Path) -> Path:
    """Write RUN/report.html, without the stages that have not run; return its path."""
    reports: dict[str, Any] = {}
    for stage in STAGES:
        path = layout.report_json(run_dir / stage)
        if path.exists() and read_manifest(run_dir / stage) is not None:
            reports[stage] = read_json(path)
    left_out = ""
    if "evaluate" in reports:
        from worldclip.model.load import outdated_results

        reason = outdated_results(run_dir).get("evaluate")
        if reason is not None:
            del reports["evaluate"]
            left_out = f" Left out: evaluate ({reason}); run: {command_line('evaluate', run_dir)}"
    log = train.read_log(layout.train_log(run_dir))
    outdated = outdated_stages(run_dir)
    if outdated:
        remedy = f"run: {command_line('run', run_dir)}"
        reason = next(iter(outdated.values()))
        left_out += f" Left out: {', '.join(outdated)}, made before a change ({reason}); {remedy}"
    for stage in outdated:
        reports.pop(stage, None)
    if "train" in outdated:
        log = []
    by_stage = {
        "train": train.sections(reports.get("train"), log),  # an unfinished training has curves and no report yet
        "pool": skipped_sections(skipped_shards(run_dir)),
    }
    steps = [tag("li", step) for step in account(run_dir)]  # the sentences of the log, of status and of the data card
    if steps:
        lead = (
            "A row is a row of a table, or the members of a tar with one name. A sample has a key, and one pair per "
            "stored text; one without text is one pair."
        )
        by_stage["account"] = [Section("From rows to kept pairs", lead, tag("ul", *steps))]
    languages = languages_of(run_dir)
    for stage, sections_of in _SECTIONS.items():
        if stage in reports:
            by_stage[stage] = sections_of(reports[stage], languages)
    parts: list[Section] = []
    for group, stages in GROUPS.items():
        members: list[Section] = []
        if group == FIRST_GROUP:
            members.append(_summary(reports, log, left_out))
        for stage in stages:
            members += by_stage.get(stage, [])
        parts += [dataclasses.replace(section, group=group) for section in members]
    subtitle = "Image-text pairs in every language: curated, trained on, evaluated."
    record = layout.run_record(run_dir)
    if record.exists():
        run = read_json(record)
        version = run["versions"].get("worldclip", "?")
        if run.get("git_revision"):
            version += f", revision {run['git_revision'][:10]}"
        subtitle = f"Made with worldclip {version}. The recipe is recipe.toml in the run's folder."
    return write_page(layout.report_html(run_dir), f"Run {run_dir.resolve().name}", subtitle, parts)


def write_evaluation(folder: Path) -> Path:
    """Write FOLDER/report.html of an evaluation outside a run, from FOLDER/report.json; return its path."""
    report = read_json(folder / "report.json")
    summary = Section("Summary", f"Model: {report['model']}.", evaluate.cards_and_datasets(report))
    sections = [summary, *evaluate.sections(report, INSTALLED)]
    return write_page(folder / "report.html", f"Evaluation of {report['model']}", "Made with worldclip.", sections)


def _summary(reports: Mapping[str, Any], log: Sequence[train.LogRow], left_out: str) -> Section:
    """Return the run in a handful of figures; left_out: a sentence on results that are of another checkpoint."""
    figures: list[Card] = []
    if "curate" in reports:
        figures += curate.cards(reports["curate"])
    elif "match" in reports:
        figures += match.cards(reports["match"])
    if "metadata" in reports:
        figures += metadata.cards(reports["metadata"])
    figures += train.cards(log)
    finished = ", ".join(stage for stage in STAGES if stage in reports) or "no stage yet"
    body = cards(figures)
    if "evaluate" in reports:
        body = evaluate.cards_and_datasets(reports["evaluate"], figures)
    return Section("Summary", f"Finished: {finished}.{left_out}", body)
