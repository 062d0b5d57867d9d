"""Commands on models, ours or anyone's: evaluate, export, classify; and the data sets that they are measured on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.markup import escape

from worldclip.cli.flags import read_report
from worldclip.core.errors import UserError
from worldclip.export import ExportConfig

Layout = Literal["huggingface", "open_clip", "timm", "onnx"]  # as interop.sources has it, which reads models


@dataclass(frozen=True, kw_only=True)
class SourceFlags:
    """What a model is."""

    model: Annotated[str, tyro.conf.Positional]
    """A run, a folder (checkpoint, Hugging Face, open_clip, timm, ONNX), a checkpoint file, a hub id."""
    layout: Layout | None = None
    """Of a folder that holds a model twice: which one."""
    arch: Annotated[str | None, tyro.conf.arg(metavar="NAME|FILE")] = None
    """What a checkpoint file does not say: a published name, or the path of an open_clip configuration."""
    tokenizer: Annotated[str | None, tyro.conf.arg(metavar="FOLDER|ID")] = None
    """Tokenizer of a checkpoint that has none beside it."""


@dataclass(frozen=True, kw_only=True)
class ModelFlags(SourceFlags):
    """A model to run."""

    precision: Literal["fp32", "fp16", "int8"] | None = None
    """Of an ONNX folder."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""

    def loading(self) -> dict[str, Any]:
        """What worldclip.load is told beside model and device."""
        return {name: getattr(self, name) for name in ("layout", "arch", "tokenizer", "precision")}


@dataclass(frozen=True, kw_only=True)
class EvaluateModelCommand:
    """Any model on data sets; a recipe or a run as the first word measures that run's checkpoint."""

    model: Annotated[str, tyro.conf.Positional]
    """A checkpoint's folder, a Hugging Face folder or hub id, or what else `worldclip classify` takes."""
    out: str
    """Folder to write: results.jsonl, results.csv, table.md, table.tex, report.html."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the report as JSON."""


def names_model(rest: Sequence[str]) -> bool:
    """Whether the first word is a model rather than a recipe or a run."""
    first = rest[0] if rest else ""
    is_recipe = first.endswith(".toml") or (Path(first) / "recipe.toml").exists()
    return bool(first) and not first.startswith("-") and not is_recipe


def evaluate_any_model(rest: Sequence[str]) -> int:
    """The stage's flags over their defaults, for a model that no recipe of ours made."""
    from worldclip.evaluate.config import EvaluateConfig
    from worldclip.evaluate.stage import evaluate_model
    from worldclip.report import write_evaluation

    config: Any = field(default=EvaluateConfig())
    command_type = dataclasses.make_dataclass(
        "EvaluateCommand",
        [("config", tyro.conf.OmitArgPrefixes[EvaluateConfig], config)],
        bases=(EvaluateModelCommand,),
        frozen=True,
        kw_only=True,
    )
    command: Any = tyro.cli(command_type, args=rest, prog="worldclip evaluate")
    out = Path(command.out)
    report = evaluate_model(command.model, command.config, out)
    page = write_evaluation(out)
    print(json.dumps(report, ensure_ascii=False) if command.json else (out / "table.md").read_text(encoding="utf-8"))
    Console(stderr=True, highlight=False).print(f"report: {page}", soft_wrap=True)
    return 0


@dataclass(frozen=True, kw_only=True)
class PushFlags:
    push: Annotated[str | None, tyro.conf.arg(metavar="OWNER/NAME")] = None
    """Repository of the hub that the export goes to; further formats go to OWNER/NAME-<format>."""
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False
    """With --push: say what would go where, and upload nothing."""


@dataclass(frozen=True, kw_only=True)
class ExportModelCommand(PushFlags, SourceFlags):
    """A model that no run of ours made, in other libraries' formats."""

    out: str
    """Folder to write; each format is a folder in it."""
    config: tyro.conf.OmitArgPrefixes[ExportConfig] = field(default_factory=ExportConfig)
    """What to export to."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the report as JSON."""


def exports_model(rest: Sequence[str]) -> bool:
    """Whether what `export` is given is a model rather than a recipe or a run."""
    if not rest or rest[0].startswith("-") or rest[0].endswith(".toml"):
        return False
    return not (Path(rest[0]) / "recipe.toml").exists()


def export_any_model(rest: Sequence[str]) -> int:
    command = tyro.cli(ExportModelCommand, args=rest, prog="worldclip export")
    from worldclip.export import export_model

    report = export_model(
        command.model,
        command.out,
        command.config,
        layout=command.layout,
        arch=command.arch,
        tokenizer=command.tokenizer,
    )
    if command.json:
        print(json.dumps(report, ensure_ascii=False))
    else:
        for name, found in report["formats"].items():
            checked = ", ".join(f"{key} {value}" for key, value in found.items() if key != "bytes")
            print(f"{Path(command.out) / name}: {found['bytes']:,} bytes, {checked}")
    if command.push:
        push_exports(Path(command.out), command.push, command.dry_run)
    return 0


def push_exports(out: Path, repository: str, dry_run: bool) -> None:
    """The formats of an export's report to the hub; what is told goes to standard error."""
    from worldclip.export.push import plan, push

    written = read_report(out)["formats"]
    uploads = plan([out / name for name in written], repository)
    console = Console(stderr=True, highlight=False)
    for line in (line for upload in uploads for line in upload.lines()):
        console.print(escape(line), soft_wrap=True)
    if dry_run:
        console.print("dry run: nothing was uploaded")
        return
    for address in push(uploads):
        console.print(address, soft_wrap=True)


@dataclass(frozen=True, kw_only=True)
class FetchDatasetCommand:
    """Download an evaluation data set into the layout that `worldclip evaluate --data DIR` reads."""

    name: Annotated[str, tyro.conf.Positional]
    """Name in the catalog (docs/datasets.md)."""
    out: str
    """Folder of data sets; the files go into OUT/NAME."""
    mirror: str = ""
    """A server that holds the files of HOST under /HOST/."""
    with_train: tyro.conf.FlagCreatePairsOff[bool] = False
    """The train split too, for linear probes."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print what was fetched as JSON."""


def _fetch_dataset(command: FetchDatasetCommand) -> int:
    from worldclip.evaluate.catalog import CATALOG
    from worldclip.tools.fetch_dataset import fetch_dataset

    fetched = fetch_dataset(command.name, Path(command.out), mirror=command.mirror, with_train=command.with_train)
    told = f"{fetched['files']:,} files, {fetched['bytes']:,} bytes, {fetched['there_already']:,} there already"
    print(json.dumps(fetched) if command.json else f"{Path(command.out) / command.name}: {told}")
    if by_hand := CATALOG[command.name].by_hand:
        Console(stderr=True, highlight=False).print(escape(f"left to you: {by_hand}"), soft_wrap=True)
    return 0


@dataclass(frozen=True, kw_only=True)
class ConsolidateCommand:
    """One model.safetensors from a checkpoint that several processes wrote in shards."""

    checkpoint: Annotated[str, tyro.conf.Positional]
    """Folder of the checkpoint (RUN/train/step_...), or a run, whose newest is taken."""


def _consolidate(command: ConsolidateCommand) -> int:
    from worldclip.core.layout import latest_checkpoint
    from worldclip.train.checkpoint import consolidate

    folder = latest_checkpoint(Path(command.checkpoint)) or Path(command.checkpoint)
    if not (folder / "trainer").is_dir():
        raise UserError(f"{folder} is no checkpoint of a training; give RUN/train/step_... or a run")
    consolidate(folder)
    print(folder / "model.safetensors")
    return 0


@dataclass(frozen=True, kw_only=True)
class ClassifyCommand(ModelFlags):
    """Probabilities of labels for images."""

    images: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Image files."""
    labels: tuple[str, ...]
    """Labels, in any language."""
    templates: tuple[str, ...] = ()
    """Sentences around a label, {} is the label; default: the label alone."""
    prompts: Annotated[str | None, tyro.conf.arg(metavar="JSON")] = None
    """Templates by language instead, {"de": ["ein Foto von {}", ...], ...}; --langs says the labels' languages."""
    langs: tuple[str, ...] = ()
    """Language of all labels, or of each."""
    allow_urls: tyro.conf.FlagCreatePairsOff[bool] = False
    """Images may be addresses (http, https)."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print JSON."""


def _classify(command: ClassifyCommand) -> int:
    from worldclip.model.inference import read_templates
    from worldclip.model.load import load

    if command.prompts is not None and command.templates:
        raise UserError("--templates and --prompts are both given; templates come from one of them")
    templates = command.templates or ("{}",) if command.prompts is None else read_templates(Path(command.prompts))
    langs = command.langs[0] if len(command.langs) == 1 else command.langs or None
    clip = load(command.model, device=command.device, **command.loading())
    probabilities = clip.classify(
        list(command.images), list(command.labels), templates, langs, allow_urls=command.allow_urls
    )
    if command.json:
        rows = [
            {"image": image, "probabilities": dict(zip(command.labels, map(float, row), strict=True))}
            for image, row in zip(command.images, probabilities, strict=True)
        ]
        print(json.dumps(rows, ensure_ascii=False))
        return 0
    for image, row in zip(command.images, probabilities, strict=True):
        print(image)
        for label, probability in sorted(zip(command.labels, row, strict=True), key=lambda item: -item[1]):
            print(f"  {probability:7.2%}  {label}")
    return 0


COMMANDS: dict[str, Callable[[Any], int]] = {
    "fetch dataset": _fetch_dataset,
    "consolidate": _consolidate,
    "classify": _classify,
}
