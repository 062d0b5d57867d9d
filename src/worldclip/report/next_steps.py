"""Next steps: the commands that make sense after the stages that are finished."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from worldclip.report.html import tag
from worldclip.report.page import Section, code

ORDER = ("metadata", "match", "balance", "curate", "train", "evaluate")


class Step(NamedTuple):
    """A command, and what it is for."""

    purpose: str
    command: str


def sections(run_dir: Path, reports: Mapping[str, Any]) -> list[Section]:
    """Return the commands as a part of the page; none for a run without a finished stage."""
    steps = next_steps(run_dir, reports)
    if not steps:
        return []
    items = [tag("li", step.purpose, code(step.command)) for step in steps]
    lead = "POOL, PHOTO.jpg and the texts are yours to fill in; worldclip COMMAND --help lists the flags of a command."
    return [Section("What next", lead, tag("ul", *items, class_="steps"))]


def next_steps(run_dir: Path, reports: Mapping[str, Any]) -> list[Step]:
    """Return the commands that make sense after the stages in `reports`."""
    run = shlex.quote(str(run_dir))
    named = run_dir.resolve() if run_dir.name in ("", "..") else run_dir  # `.` has no name
    steps = []
    unfinished = [stage for stage in ORDER if stage not in reports]
    if reports and unfinished:
        steps.append(Step(f"Go on with the next stage ({unfinished[0]}).", f"worldclip run {run}"))
    if "match" in reports and "train" not in reports:
        steps.append(Step("See by language what other thresholds would keep.", f"worldclip estimate {run}"))
    if "curate" in reports:
        pages = shlex.quote(str(named.with_name(f"{run_dir.resolve().name}_explorer")))
        steps.append(
            Step("See every decision, and what another threshold would keep.", f"worldclip explore {run} --out {pages}")
        )
        why = f"worldclip inspect {run} --key {_example_key(reports['curate'])}"
        steps.append(Step("Ask why a pair was kept or dropped.", why))
    if "train" in reports:
        steps += _uses_of_a_model(run)
    if "evaluate" in reports:
        seed = shlex.quote(str(named.with_name(f"{run_dir.resolve().name}_seed_1")))
        again = f"worldclip run {run} --from-run {run} --out {seed} --set train.seed=1"
        steps.append(Step("Train again with another seed; the finished stages are shared.", again))
        comparison = f"worldclip compare {run} {seed}"
        steps.append(Step("Then compare both, query by query.", comparison))
    return steps


def _uses_of_a_model(run: str) -> list[Step]:
    labels = '"a dog" "ein Apfel" "一只猫"'
    return [
        Step("Classify a picture by words of any language.", f"worldclip classify {run} PHOTO.jpg --labels {labels}"),
        Step("Embed your pictures.", f"worldclip embed {run} POOL --out embedded"),
        Step("Then search them.", 'worldclip search embedded "一只猫" --html hits.html'),
        Step("Or search them in your browser.", f"worldclip serve {run} embedded"),
        Step("Write the model for other libraries.", f"worldclip export {run} --formats huggingface open_clip onnx"),
    ]


def _example_key(report: Mapping[str, Any]) -> str:
    """Return a key among the examples, quoted for a shell; KEY where there are none."""
    kept = report.get("samples", {}).get("pairs_out", [])
    keys = [str(sample["key"]) for sample in kept if not str(sample["key"]).startswith("-")]
    return shlex.quote(keys[0]) if keys else "KEY"
