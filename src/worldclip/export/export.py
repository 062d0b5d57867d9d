"""The stage: a run's checkpoint, or anyone's model, to the formats asked for; nothing unchecked takes its name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldclip import formats, languages
from worldclip.errors import UserError
from worldclip.export import card as cards
from worldclip.export import huggingface, onnx, open_clip, probe, prune, timm
from worldclip.export.config import ExportConfig
from worldclip.interop import sources

if TYPE_CHECKING:
    from worldclip.config import Recipe
    from worldclip.execute import Executor
    from worldclip.inference import Clip

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
        "checkpoint": formats.fingerprint(checkpoint / "model.safetensors", run_dir),
        "results": formats.fingerprint(results, run_dir) if results.exists() else None,
    }
    if recipe.export.languages:
        corpus = [Path(name) for name in recipe.export.corpus] or prune.run_corpus(run_dir)
        found["corpus"] = [formats.fingerprint(path, path.parent) for path in corpus if path.exists()]
    return found


def run(recipe: Recipe, run_dir: Path, executor: Executor) -> Report:
    """Write RUN/export/<format>; returns the report.  Raises UserError where what was written differs when loaded."""
    checkpoint = _checkpoint(run_dir)
    source = sources.Source("huggingface", checkpoint)
    config, out = recipe.export, run_dir / "export"
    corpus = [Path(name) for name in config.corpus]
    if config.languages and not corpus:
        corpus = prune.run_corpus(run_dir)
    written = _export(source, out, config, corpus, cards.of_run(recipe, run_dir, checkpoint), run_dir / "recipe.toml")
    report: Report = {"checkpoint": checkpoint.name, **written}
    formats.write_json(out / "report.json", report)
    formats.write_manifest(
        out, config=relevant_config(recipe), inputs=inputs(recipe, run_dir), counts=written["formats"]
    )
    return report


def export_model(source: str | Path, out: str | Path, config: ExportConfig | None = None) -> Report:
    """Any model that `worldclip.load` takes, to OUT/<format>; returns the report.

    Raises UserError where the configuration has problems, or what was written differs when loaded.
    """
    config = config or ExportConfig()
    problems = config.problems()
    if config.languages and not config.corpus:
        problems.append("export.languages is set and export.corpus is not; only a run has texts of its own")
    if problems:
        raise UserError(problems)
    found = sources.find(source)
    corpus = [Path(name) for name in config.corpus]
    report = {"source": str(source)} | _export(
        found, Path(out), config, corpus, cards.of_model(str(source), found.layout), None
    )
    formats.write_json(Path(out) / "report.json", report)
    return report


def _export(
    source: sources.Source, out: Path, config: ExportConfig, corpus: list[Path], card: cards.Card, recipe: Path | None
) -> Report:
    from worldclip.inference import Clip

    loaded = sources.load(source, "cpu", None, None, None)
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
        is_copied = name == source.layout == "huggingface" and not config.languages
        write, check = _format(name, clip, config, source.path if is_copied else None)
        report["formats"][name] = _write_checked(out / name, write, check, card, name, recipe)
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


Writer = Callable[[Path], None]
Check = Callable[[Path], Report]


def _format(name: str, clip: Clip, config: ExportConfig, copied: Path | None) -> tuple[Writer, Check]:
    """How a format is written into a folder, and what its own library then measures."""
    if name == "huggingface":
        write: Writer = lambda folder: huggingface.write(clip, folder)  # noqa: E731
        if copied is not None:
            write = lambda folder: huggingface.copy(copied, folder)  # noqa: E731
        return write, lambda folder: _bounded(huggingface.compare(clip, folder), "transformers")
    if name == "vision":
        return (
            lambda folder: huggingface.write_vision(clip, folder),
            lambda folder: _bounded(huggingface.compare_vision(clip, folder), "transformers"),
        )
    if name == "open_clip":
        return (
            lambda folder: open_clip.write(clip, folder),
            lambda folder: (
                _bounded(open_clip.compare(clip, folder), "open_clip") | {"own_name": open_clip.own_name(folder)}
            ),
        )
    if name == "timm":
        return (
            lambda folder: timm.write(clip, folder),
            lambda folder: _bounded(timm.compare(clip, folder), "timm"),
        )
    return (
        lambda folder: onnx.write(clip, folder, config.onnx_precisions),
        lambda folder: _checked_onnx(clip, folder, config),
    )


def _checked_onnx(clip: Clip, folder: Path, config: ExportConfig) -> Report:
    found = onnx.compare(clip, folder, config.onnx_precisions)
    return _bounded(found.get("fp32", 0.0), "onnxruntime") | {"checked": found}


def _bounded(difference: float, library: str) -> Report:
    if not difference <= probe.TOLERANCE:
        raise UserError(
            f"embeddings of the written model differ by {difference:.1e} when {library} loads it, more than "
            f"{probe.TOLERANCE:.0e}; nothing was exported"
        )
    return {"max_difference": difference}


def _write_checked(
    folder: Path, write: Writer, check: Check, card: cards.Card, name: str, recipe: Path | None
) -> Report:
    """Fill a folder aside, load it with the other library, then give it its name; an older export stays if it fails."""
    aside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        write(aside)
        found = check(aside)
        formats.write_text(aside / "README.md", cards.render(card, name, found))
        if recipe is not None and recipe.exists():
            shutil.copy(recipe, aside / "recipe.toml")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(aside, folder)
    except UserError as error:
        raise UserError([f"export to {folder}: {problem}" for problem in error.problems]) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return {**found, "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())}


def _checkpoint(run_dir: Path) -> Path:
    from worldclip.train.checkpoint import best_checkpoint

    found = best_checkpoint(run_dir)
    if found is None:
        raise UserError(f"{run_dir / 'train'} holds no checkpoint; run first: worldclip train {run_dir}")
    return found
