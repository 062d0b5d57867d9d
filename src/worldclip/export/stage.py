"""The stage: a run's checkpoint, or anyone's model, to the formats asked for; nothing unchecked takes its name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldclip.core import artifacts
from worldclip.core.errors import UserError
from worldclip.export import huggingface_folder as huggingface
from worldclip.export import model_card as cards
from worldclip.export import onnx_folder as onnx
from worldclip.export import open_clip_folder as open_clip
from worldclip.export import probe, prune
from worldclip.export import timm_folder as timm
from worldclip.export.config import ExportConfig
from worldclip.language import table as languages
from worldclip.model import load as sources

if TYPE_CHECKING:
    from worldclip.config import Recipe
    from worldclip.core.execute import Executor
    from worldclip.model.inference import Clip

Report = dict[str, Any]


def relevant_config(recipe: Recipe) -> dict[str, Any]:
    config = recipe.export
    return {
        "export": {
            "formats": list(config.formats),
            "tower": config.tower,
            "onnx_precisions": list(config.onnx_precisions),
            "languages": list(config.languages),
            "corpus": list(config.corpus),
        }
    }


def inputs(recipe: Recipe, run_dir: Path) -> dict[str, Any]:
    """The checkpoint's weights, the results that the model card shows, the corpus of a pruned vocabulary."""
    checkpoint = _checkpoint(run_dir)
    results = run_dir / "evaluate" / "results.jsonl"
    found: Report = {
        "checkpoint": artifacts.fingerprint(checkpoint / "model.safetensors", run_dir),
        "results": artifacts.fingerprint(results, run_dir) if results.exists() else None,
    }
    if recipe.export.languages:
        corpus = [Path(name) for name in recipe.export.corpus] or prune.run_corpus(run_dir)
        found["corpus"] = [artifacts.fingerprint(path, path.parent) for path in corpus if path.exists()]
    return found


def run(recipe: Recipe, run_dir: Path, executor: Executor) -> Report:
    """Write RUN/export/<format>; returns the report.  Raises UserError where what was written differs when loaded."""
    checkpoint = _checkpoint(run_dir)
    source = sources.Source("huggingface", checkpoint)
    config, out = recipe.export, run_dir / "export"
    corpus = [Path(name) for name in config.corpus]
    if config.languages and not corpus:
        corpus = prune.run_corpus(run_dir)
    loaded = sources.load(source, "cpu", None, None, None)
    card = cards.of_run(recipe, run_dir, checkpoint)
    written = _export(source, loaded, out, config, corpus, card, run_dir / "recipe.toml")
    report: Report = {"checkpoint": checkpoint.name, **written}
    artifacts.write_json(out / "report.json", report)
    artifacts.write_manifest(
        out, config=relevant_config(recipe), inputs=inputs(recipe, run_dir), counts=written["formats"]
    )
    return report


def export_model(
    source: str | Path,
    out: str | Path,
    config: ExportConfig | None = None,
    *,
    layout: sources.Layout | None = None,
    arch: str | None = None,
    tokenizer: str | Path | None = None,
) -> Report:
    """Any model that `worldclip.load` takes, to OUT/<format>; returns the report.  layout, arch, tokenizer as there.

    Raises UserError where the configuration has problems, or what was written differs when loaded.
    """
    config = config or ExportConfig()
    problems = config.problems()
    if config.languages and not config.corpus:
        problems.append("export.languages is set and export.corpus is not; only a run has texts of its own")
    if problems:
        raise UserError(problems)
    found = sources.find(source, layout)
    loaded = sources.load(found, "cpu", arch, None if tokenizer is None else str(tokenizer), None)
    corpus = [Path(name) for name in config.corpus]
    report = {"source": str(source)} | _export(
        found, loaded, Path(out), config, corpus, cards.of_model(str(source), found.layout), None
    )
    artifacts.write_json(Path(out) / "report.json", report)
    return report


def _export(
    source: sources.Source,
    loaded: sources.Loaded,
    out: Path,
    config: ExportConfig,
    corpus: list[Path],
    card: cards.Card,
    recipe: Path | None,
) -> Report:
    from worldclip.model.inference import Clip

    clip = Clip(loaded.towers, loaded.tokenizer, loaded.processor)
    report: Report = {"formats": {}}
    if codes := _codes(config):
        whole = clip
        clip, report["vocabulary"] = prune.prune(whole, prune.read_corpus(corpus, codes))
        report["vocabulary"]["outside"] = prune.outside(whole, clip, [text for text in probe.LABELS if text])
        card = cards.Card(card.title, codes, [*card.body, *prune.card_lines(report["vocabulary"], codes)])
    names = ("vision",) if config.tower == "vision" else config.formats
    if clip.tokenizer is None and (lacking := [name for name in names if name not in ("timm", "vision")]):
        raise UserError(f"{source.path} is an image tower alone; it goes out to timm, not to {', '.join(lacking)}")
    for name in names:
        # an unchanged checkpoint of the same layout is copied, not written anew: its bytes stay
        copied = source.path if name == source.layout == "huggingface" and not config.languages else None
        with _aside(out / name) as folder:
            _write(name, clip, folder, config, copied)
            found = _measure(name, clip, folder, config)
            artifacts.write_text(folder / "README.md", cards.render(card, name, found))
            if recipe is not None and recipe.exists():
                shutil.copy(recipe, folder / "recipe.toml")
        size = sum(path.stat().st_size for path in (out / name).rglob("*") if path.is_file())
        report["formats"][name] = {**found, "bytes": size}
    return report


def _codes(config: ExportConfig) -> list[str]:
    """The languages that the model keeps, given apart or with commas between them.  UserError for an unknown one."""
    codes = [code for item in config.languages for code in item.split(",") if code]
    problems = []
    for code in codes:
        try:
            languages.get(code)
        except KeyError as error:
            problems.append(f"export.languages names {code!r}; {error.args[0]}")
    if problems:
        raise UserError(problems)
    return codes


@contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """A folder to fill and check, which then takes the name of `folder`; an older one stays where that fails."""
    aside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(aside, folder)
    except UserError as error:
        raise UserError([f"export to {folder}: {problem}" for problem in error.problems]) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write(name: str, clip: Clip, folder: Path, config: ExportConfig, copied: Path | None) -> None:
    match name:
        case "huggingface" if copied is not None:
            huggingface.copy(copied, folder)
        case "huggingface":
            huggingface.write(clip, folder)
        case "vision":
            huggingface.write_vision(clip, folder)
        case "open_clip":
            open_clip.write(clip, folder)
        case "timm":
            timm.write(clip, folder)
        case _:
            onnx.write(clip, folder, config.onnx_precisions)


def _measure(name: str, clip: Clip, folder: Path, config: ExportConfig) -> Report:
    """What the format's own library finds in the folder.  Raises UserError where embeddings differ too much."""
    match name:
        case "huggingface":
            return {"max_difference": _bounded(huggingface.compare(clip, folder), "transformers")}
        case "vision":
            return {"max_difference": _bounded(huggingface.compare_vision(clip, folder), "transformers")}
        case "open_clip":
            difference = _bounded(open_clip.compare(clip, folder), "open_clip")
            return {"max_difference": difference, "own_name": open_clip.own_name(folder)}
        case "timm":
            return {"max_difference": _bounded(timm.compare(clip, folder), "timm")}
        case _:
            found = onnx.compare(clip, folder, config.onnx_precisions)
            if "fp32" in found:
                _bounded(found["fp32"], "onnxruntime")
            return {"checked": found}


def _bounded(difference: float, library: str) -> float:
    if not difference <= probe.TOLERANCE:
        raise UserError(
            f"embeddings of the written model differ by {difference:.1e} when {library} loads it, more than "
            f"{probe.TOLERANCE:.0e}; nothing was exported"
        )
    return difference


def _checkpoint(run_dir: Path) -> Path:
    from worldclip.core.layout import best_checkpoint

    found = best_checkpoint(run_dir)
    if found is None:
        raise UserError(f"{run_dir / 'train'} holds no checkpoint; run first: worldclip train {run_dir}")
    return found
