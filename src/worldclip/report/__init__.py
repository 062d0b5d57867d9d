"""report.html of a run and of its stages: self-contained pages, drawn from the stages' report.json files alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worldclip.core.artifacts import read_json, read_manifest, write_text
from worldclip.report import curation, data, entries, evaluation, model
from worldclip.report.page import Section, cards, count, document, percent, short

Report = dict[str, Any]

STAGES = ("metadata", "match", "balance", "curate", "train", "evaluate")


def write_report(run_dir: Path) -> Path:
    """RUN/report.html, and RUN/<stage>/report.html of each stage with a part of it.  Returns the former's path.

    Drawn from what stands in RUN; stages that have not run are left out.
    """
    reports = read_reports(run_dir)
    log = read_log(run_dir / "train" / "log.jsonl")
    of_stage = _sections(reports, log)
    title, subtitle = f"Run {run_dir.resolve().name}", _subtitle(run_dir)
    path = run_dir / "report.html"
    whole = [_summary(reports, log), *(section for sections in of_stage.values() for section in sections)]
    write_text(path, document(title, subtitle, whole))
    for stage, sections in of_stage.items():
        if sections and (run_dir / stage).is_dir():
            write_text(run_dir / stage / "report.html", document(f"{title}: {stage}", subtitle, sections))
    return path


def evaluation_sections(report: Report) -> list[Section | None]:
    """What an evaluation found, those parts that it has."""
    return [
        evaluation.results_section(report),
        evaluation.published_section(report),
        evaluation.languages_section(report),
        model.accuracy_section(report),
        model.gallery_section(report),
    ]


def write_evaluation(folder: Path) -> Path:
    """FOLDER/report.html of an evaluation outside a run, from FOLDER/report.json.  Returns its path."""
    report = read_json(folder / "report.json")
    sections = [section for section in evaluation_sections(report) if section is not None]
    write_text(folder / "report.html", document(f"Evaluation of {report['model']}", "Made with worldclip.", sections))
    return folder / "report.html"


def write_comparison(path: Path, rows: Sequence[Mapping[str, Any]], first: str, second: str) -> None:
    """Two evaluations side by side (rows of evaluate.compare) as a page of its own."""
    section = evaluation.comparison_section(rows, first, second)
    write_text(path, document("Comparison", "Made with worldclip.", [section]))


def read_reports(run_dir: Path) -> dict[str, Report]:
    """stage -> its report.json, for the stages that have one; `estimate`, where it is about the present matches."""
    paths = {stage: run_dir / stage / "report.json" for stage in STAGES}
    reports = {stage: read_json(path) for stage, path in paths.items() if path.exists()}
    sizes, manifest = run_dir / "estimate.json", read_manifest(run_dir / "match")
    if sizes.exists() and manifest is not None and (found := read_json(sizes))["match"] == manifest["digest"]:
        reports["estimate"] = found
    return reports


def read_log(path: Path) -> list[Report]:
    """The steps of a log.jsonl; a line that is still being written is left for the next time."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def _sections(reports: dict[str, Report], log: list[Report]) -> dict[str, list[Section]]:
    """The parts of each stage, results first: what a reader comes for."""
    drawn: dict[str, list[Section | None]] = {}
    if "evaluate" in reports:
        report = reports["evaluate"]
        drawn["evaluate"] = evaluation_sections(report)
    drawn["train"] = [model.train_section(reports.get("train"), log)]
    if "curate" in reports:
        report = reports["curate"]
        drawn["curate"] = [
            data.curate_section(report),
            curation.shares_section(report),
            curation.effect_section(report),
            curation.examples_section(report),
        ]
    if "balance" in reports:
        report = reports["balance"]
        drawn["balance"] = [
            data.balance_section(report),
            curation.size_section(reports.get("estimate")),
            data.head_section(report),
        ]
    if "match" in reports:
        drawn["match"] = [curation.rates_section(reports["match"]), data.match_section(reports["match"])]
    if "metadata" in reports:
        drawn["metadata"] = [entries.metadata_section(reports["metadata"])]
    return {stage: [section for section in sections if section is not None] for stage, sections in drawn.items()}


def _summary(reports: dict[str, Report], log: list[Report]) -> Section:
    """The run in a handful of figures."""
    figures: list[tuple[str, str, str]] = []
    if "evaluate" in reports:
        for name, found in reports["evaluate"]["datasets"].items():
            if (of_task := found["tasks"].get("zeroshot_classification")) is not None:
                figures.append(_accuracy_card(name, of_task["mean"]))
    if "curate" in reports:
        rows = reports["curate"]["languages"].values()
        pairs_in, pairs_out = (sum(row[key] for row in rows) for key in ("pairs_in", "pairs_out"))
        share = f"{percent(pairs_out / pairs_in)} of {count(pairs_in)}" if pairs_in else ""
        figures.append((short(pairs_out), "pairs kept", share))
        num_languages = sum(1 for row in rows if row["pairs_out"])
        figures.append((count(num_languages), "languages", "with pairs to train on"))
    elif "match" in reports:
        matched, pairs = reports["match"]["num_matched_texts"], reports["match"]["pairs"]
        figures.append((short(matched), "texts with a match", f"of {count(pairs)}"))
    if "metadata" in reports:
        rows = reports["metadata"]["lists"]
        total = sum(row["entries"] for row in rows.values())
        figures.append((short(total), "entries", f"in {len(rows)} languages"))
    if log:
        losses = [row["loss"] for row in log if row["loss"] is not None]
        remark = f"loss {losses[-1]:.3g} at the end" if losses else "no finite loss"
        figures.append((short(log[-1]["samples_seen"]), "samples seen", remark))
    order = ", ".join(stage for stage in STAGES if stage in reports) or "no stage yet"
    return Section(anchor="summary", heading="Summary", lead=f"Finished so far: {order}.", body=cards(figures))


def _accuracy_card(name: str, mean: Report) -> tuple[str, str, str]:
    shown, k = ("acc5", 5) if "acc5" in mean["metrics"] else ("acc1", 1)
    over = f"{len(mean['languages'])} languages"
    remark = f"mean over {over}; chance {percent(mean['chance'][shown])}; top-1 {percent(mean['metrics']['acc1'])}"
    return percent(mean["metrics"][shown]), f"top-{k} on {name}", remark


def _subtitle(run_dir: Path) -> str:
    """Versions and the revision that made the run."""
    path = run_dir / "run.json"
    if not path.exists():
        return "Image-text pairs in every language, curated, trained on, measured."
    run = read_json(path)
    made_with = f"worldclip {run['versions'].get('worldclip', '?')}"
    revision = f", revision {run['git_revision'][:10]}" if run.get("git_revision") else ""
    return f"Made with {made_with}{revision}; recipe in <code>recipe.toml</code> beside this page."
