"""README.md of an exported model: what it is, how to use it, training data, results, licences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

from worldclip.contracts import layout
from worldclip.core import artifacts
from worldclip.core.errors import require
from worldclip.core.job import Record, Report, Run
from worldclip.core.printable import counted
from worldclip.core.regular_file import read_regular
from worldclip.core.settings import to_dict
from worldclip.language.config import LanguagesConfig
from worldclip.language.table import INSTALLED, Languages
from worldclip.model.load import Source, hub_id
from worldclip.report.metrics import CLASSIFICATION, metric_name
from worldclip.report.sources import sources_table
from worldclip.report.table import Table, columns_of, text_column, to_markdown

TAGS = ["clip", "metaclip_2", "multilingual", "worldclip"]
ORIGIN = "exported by worldclip, an open implementation of the Meta CLIP 2 recipe (arXiv:2507.22062)."
ABOUT = f"A CLIP that embeds images and texts of all its languages in one space, {ORIGIN}"
ABOUT_PAGE = (
    f"A page that runs a CLIP in the browser, {ORIGIN} Texts in its languages find pictures, a picture finds names; "
    "nothing is sent anywhere."
)
LIBRARIES = {"huggingface": "transformers", "open_clip": "open_clip", "onnx": "transformers.js"}
USE = {
    "huggingface": """from transformers import pipeline

classify = pipeline("zero-shot-image-classification", model="THIS FOLDER")
classify("apple.png", candidate_labels=["red apple", "赤いリンゴ"], hypothesis_template="{}")""",
    "open_clip": """import open_clip

model, _, preprocess = open_clip.create_model_and_transforms("local-dir:THIS FOLDER")
tokenizer = open_clip.get_tokenizer("local-dir:THIS FOLDER")
texts = model.encode_text(tokenizer(["red apple", "赤いリンゴ"]), normalize=True)""",
    "onnx": """import worldclip

clip = worldclip.load("THIS FOLDER", precision="int8")
clip.classify("apple.png", ["red apple", "赤いリンゴ"])""",
    "web": """import functools, http.server

handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory="THIS FOLDER")
http.server.ThreadingHTTPServer(("127.0.0.1", 8000), handler).serve_forever()  # http://127.0.0.1:8000""",
}
INTENDED = (
    "Intended use: search and sorting of pictures by texts in the languages above, zero-shot classification with names "
    "of your choice, research. Not intended: decisions about people, and other languages. The biases of the pool's "
    "pictures and texts are in the model; this training neither measures nor removes them."
)
NOT_EVALUATED = (
    "This checkpoint was not evaluated. `worldclip evaluate RUN` measures it; `worldclip export RUN` then adds the "
    "results to this card."
)
LICENCE = (
    "Licence: worldclip states none for these weights (`license: unknown`). Their publisher chooses one, with regard "
    "to the licences of the sources below."
)


@dataclass(frozen=True, slots=True)
class Card:
    """The content of a card in addition to what its format says."""

    title: str
    languages: Sequence[str]
    """Codes that the hub accepts."""
    body: Sequence[str] = ()
    results: Sequence[Record] = ()
    """Records of the model's evaluation; the cards of pages show none."""


def render(card: Card, name: str, report: Record) -> str:
    """Return README.md of an export; name: of its format.  report: what its check measured."""
    about = ABOUT_PAGE if name == "web" else ABOUT
    measured = []
    if "max_difference" in report:
        measured.append(f"embeddings differ by at most {report['max_difference']:.1e} in any element")
    for precision, value in report.get("checked", {}).items():
        text = f"largest difference {value:.2g}" if precision == "fp32" else f"smallest cosine {value - 5e-6:.5f}"
        measured.append(f"{precision} in onnxruntime: {text}")  # cosines rounded down
    if "joint_bytes" in report:
        measured.append(f"`onnx/model*.onnx`, both encoders in one graph, take {report['joint_bytes']:,} bytes")
    if "page_bytes" in report:
        measured.append(f"the first search loads {report['page_bytes']['first search']:,} bytes")
    for what, number in (report.get("left_out") or {}).items():
        measured.append(f"{number:,} {what} of the embedded folder are left out")
    lines = [
        "---",
        _front_matter(card, name).to_yaml(),
        "---",
        f"# {card.title}",
        "",
        about,
        "",
        "```python",
        USE[name],
        "```",
        "",
        f"Checked against the source model: {', '.join(measured)}.",
        *card.body,
    ]
    return "\n".join([*lines, ""])


def _front_matter(card: Card, name: str) -> Any:
    """Return the data that the hub reads: of a page those of a Space, else of a model with its results.

    Results are the metrics that know their chance, in percent as in table.md.
    """
    cards = require("huggingface_hub", extra="train")
    if name == "web":
        return cards.SpaceCardData(title=card.title, sdk="static", app_file="index.html", tags=TAGS)
    evaluation: dict[str, Any] = {}
    results: list[Any] = []
    for record in card.results:
        task_type = record["task"].replace("_", "-")
        if record["task"] == CLASSIFICATION:
            task_type = "zero-shot-image-classification"
        for metric in record["chance"]:
            if metric not in record["metrics"]:
                continue
            value = record["metrics"][metric]
            digits = 2 if value < 0.01 else 1
            result = cards.EvalResult(
                task_type=task_type,
                dataset_type=record["dataset"],
                dataset_name=f"{record['dataset']} ({record['lang']})",
                dataset_config=record["lang"],
                metric_type=metric,
                metric_name=metric_name(metric),
                metric_value=round(100 * value, digits),
            )
            results.append(result)
    if results:
        evaluation = {"model_name": card.title, "eval_results": results}
    return cards.ModelCardData(
        language=list(card.languages) or None,
        library_name=LIBRARIES[name],
        pipeline_tag="zero-shot-image-classification",
        license="unknown",
        tags=TAGS,
        **evaluation,
    )


def recipe_of(run: Run) -> Record:
    """Return the sections of a run's recipe, of which each export has a copy."""
    sections: dict[str, Any] = {}
    for name, value in run.sections.items():
        sections[name] = to_dict(value) if is_dataclass(value) else value
    return sections


def of_run(run: Run, checkpoint: Path, kept_languages: Sequence[str]) -> Card:
    """Return the card of a run's checkpoint: recipe, training pairs by language, results, use, limits, licences.

    kept_languages: the languages whose tokens the exported model keeps, empty for all.  Results are those of this
    checkpoint, by digest.
    """
    run_dir = run.dir
    recipe = recipe_of(run)
    languages = run.section(LanguagesConfig).table
    curated = _read_report(run_dir, "curate").get("languages", {})
    codes: Sequence[str] = kept_languages or sorted(lang for lang, row in curated.items() if row.get("pairs_out", 0))
    codes = codes or recipe["languages"].get("codes", [])
    summary = f"Checkpoint: {checkpoint.name}"
    path = layout.train_dir(run_dir) / "config.json"
    if path.exists():  # the schedule of the training: train.scale may have derived it
        schedule = artifacts.read_json(path)["schedule"]
        batch = schedule["global_batch_size"]
        pairs = layout.step_of(checkpoint) * batch
        summary += f" of {schedule['num_steps']:,} steps, {pairs:,} pairs seen in batches of {batch:,}"
    summary += (
        f". Recipe: preset {recipe['train']['model']['preset']}, matching profile `{recipe['match']['profile']}`, "
        f"balance rule `{recipe['balance']['rule']}`. The whole recipe is in `recipe.toml`."
    )
    table, records = _results_of(run_dir, checkpoint)
    if table and kept_languages:
        records = [record for record in records if record["lang"] in kept_languages]
        table = f"Measured before the vocabulary was reduced.\n\n{table}"
    sections = {
        "Languages": _codes_text(codes, languages),
        "Recipe": summary,
        "Training pairs": _pairs(curated, checkpoint),
        "Results": table or NOT_EVALUATED,
        "Use, limits and licence": f"{INTENDED}\n\n{LICENCE}",
        "Sources of the metadata": sources_table(artifacts.read_manifest(layout.stage_dir(run_dir, "metadata")) or {}),
        "Sources of the pool": _read_text(layout.attribution(run_dir)),
    }
    body: list[str] = []
    for heading, text in sections.items():
        if text:
            body += ["", f"## {heading}", "", text]
    title = f"{run_dir.resolve().name}: a CLIP for {counted(len(codes), 'language')}"
    return Card(title, _hub_codes(codes, languages), body, records)


def of_model(source: str, layout: str, kept_languages: Sequence[str]) -> Card:
    """Return the card of a model from elsewhere: its hub id, or the name of its file or folder."""
    origin = hub_id(source) or Path(source).name
    text = (
        f"Converted from `{origin}` ({layout}). Its publisher states its languages, training data, intended use, "
        "limits and licence; check them before use."
    )
    other_codes = _codes_text(kept_languages, INSTALLED)
    body = ["", "## Source", "", text]
    if other_codes:
        body += ["", other_codes]
    return Card(f"{Path(source).name}, converted", _hub_codes(kept_languages, INSTALLED), body)


def _hub_codes(codes: Sequence[str], languages: Languages) -> list[str]:
    """Return the codes that the hub accepts, each once, of the languages that have one."""
    return list(dict.fromkeys(filter(None, map(languages.hub_code, codes))))


def _codes_text(codes: Sequence[str], languages: Languages) -> str:
    """Return a sentence about the languages that the hub knows by another code or by none; "" without any."""
    texts = []
    for code in codes:
        hub_code = languages.hub_code(code)
        if hub_code == code:
            continue
        text = f"`{code}`"
        if code in languages.by_code():
            text += f" {languages.by_code()[code].name}"
        texts.append(f"{text} ({hub_code or 'none'})")
    if not texts:
        return ""
    return f"Languages with another code in ISO 639, or none: {', '.join(texts)}."


def _results_of(run_dir: Path, checkpoint: Path) -> tuple[str, list[Record]]:
    """Return the table and the records of the finished evaluation of a checkpoint; ("", []) if it has none.

    A table has no digest: report.json of the stage, which is written with it, says of which model it is.
    """
    digest = Source("huggingface", checkpoint).digest()
    report = _read_report(run_dir, "evaluate")
    is_finished = artifacts.read_manifest(layout.stage_dir(run_dir, "evaluate")) is not None
    if not is_finished or report.get("model_digest") != digest:
        return "", []
    records: list[Record] = []
    for dataset in report["datasets"].values():
        for task in dataset["tasks"].values():
            records += task["languages"].values()
    return _read_text(layout.results_table(run_dir)), records


def _pairs(curated: Report, checkpoint: Path) -> str:
    """Return a table of pairs in, kept and seen by the checkpoint, by language; training may have gone on after it."""
    if not curated:
        return ""
    seen: Report = {}
    path = layout.trainer_state(checkpoint)
    if path.exists():
        seen = artifacts.read_json(path).get("seen", {})
    columns = [text_column("language"), *columns_of(("pairs in", "kept", "seen"), "{:,}".format)]
    rows = []
    for lang, row in sorted(curated.items()):
        rows.append([lang, row.get("pairs_in", 0), row.get("pairs_out", 0), seen.get(lang, 0)])
    return to_markdown(Table(columns, rows))


def _read_report(run_dir: Path, stage: str) -> Report:
    path = run_dir / stage / "report.json"
    return artifacts.read_json(path) if path.exists() else {}


def _read_text(path: Path) -> str:
    return read_regular(path).decode().strip() if path.exists() else ""
