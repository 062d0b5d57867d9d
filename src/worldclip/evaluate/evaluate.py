"""The stage: RUN's checkpoint on the recipe's data sets -> RUN/evaluate/{results.jsonl, table.md, report.json}."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worldclip import languages
from worldclip.config import Recipe
from worldclip.errors import UserError
from worldclip.evaluate import datasets, engine, report
from worldclip.evaluate.config import EvaluateConfig
from worldclip.evaluate.gallery import gallery
from worldclip.evaluate.tasks import LOCAL, Dataset
from worldclip.execute import Executor, Report, say
from worldclip.formats import digest, fingerprint, read_manifest, write_json, write_manifest, write_text

GALLERY_LANGUAGES = 6
MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json")


def run(recipe: Recipe, run_dir: Path, executor: Executor) -> Report:
    """Evaluate the run's last checkpoint, in this process; what stands in results.jsonl already is kept."""
    checkpoint = checkpoint_folder(run_dir)
    model_id = {"model": checkpoint.relative_to(run_dir).as_posix(), "model_digest": model_digest(checkpoint)}
    loaded = [datasets.load(name, recipe.evaluate, run_dir) for name in recipe.evaluate.datasets]
    folder = run_dir / "evaluate"
    summary = _measure(checkpoint, model_id, loaded, recipe.evaluate, _languages(recipe, loaded), folder)
    num_records = len(engine.read_results(folder / "results.jsonl"))
    counts = {"records": num_records, "datasets": len(loaded)}
    write_manifest(folder, config=relevant_config(recipe), inputs=inputs(recipe, run_dir), counts=counts)
    return summary


def evaluate_model(source: str | Path, config: EvaluateConfig, out: Path) -> Report:
    """Any model that inference.load takes, on the data sets of `config` -> out/{results.jsonl, table.md, report.json}.

    config.languages empty: all that a data set has.  The emoji sets are read from out/pool.  A folder is known by its
    files, a hub id by its name.  A call that was cut goes on where it stopped.
    """
    folder = Path(source)
    known_by = model_digest(folder) if folder.is_dir() else digest(str(source))
    loaded = [datasets.load(name, config, out) for name in config.datasets]
    model_id = {"model": str(source), "model_digest": known_by}
    return _measure(source, model_id, loaded, config, list(config.languages), out)


def _measure(
    source: str | Path,
    model_id: dict[str, str],
    loaded: Sequence[Dataset],
    config: EvaluateConfig,
    asked: Sequence[str],
    folder: Path,
) -> Report:
    """Records, table and report of `loaded` in the languages `asked` (empty: all) in `folder`."""
    from worldclip.inference import load

    records: list[engine.Record] = []
    found: Report = {**model_id, "datasets": {}, "gallery": []}
    if loaded:
        model = load(source, device=config.device)
        records, features, encode_text = engine.evaluate(
            model, model_id, loaded, asked, folder / "results.jsonl", batch_size=config.batch_size
        )
        found["datasets"] = _summary(records, loaded, features)
        for dataset in loaded:
            of_gallery = _gallery_languages(asked or dataset.languages)
            image_ND = features[dataset.name].features_ND
            found["gallery"] += gallery(dataset, image_ND, encode_text, of_gallery, config.gallery_size)
    else:
        say("evaluate", "evaluate.datasets names no data set: nothing to measure")
        write_text(folder / "results.jsonl", "")
    write_text(folder / "table.md", report.markdown_table(records))
    write_json(folder / "report.json", found)
    return found


def inputs(recipe: Recipe, run_dir: Path) -> dict[str, Any]:
    """The checkpoint's digest, and the manifests that the data sets of a run hang on."""
    found: dict[str, Any] = {"checkpoint": model_digest(checkpoint_folder(run_dir))}
    for stage in ("pool", "match"):
        if (manifest := read_manifest(run_dir / stage)) is not None:
            found[stage] = manifest["digest"]
    for name in recipe.evaluate.datasets:
        if name in recipe.evaluate.folders:
            found[name] = datasets.load(name, recipe.evaluate, run_dir).digest
    return found


def relevant_config(recipe: Recipe) -> dict[str, Any]:
    config = recipe.evaluate
    return {
        "evaluate": {
            "datasets": list(config.datasets),
            "folders": {name: config.folders[name] for name in config.datasets if name in config.folders},
            "captions": config.captions,
            "prompts": config.prompts,
            "languages": list(config.languages),
            "gallery_size": config.gallery_size,
        },
        "languages": {"codes": list(recipe.languages.codes)},
    }


def checkpoint_folder(run_dir: Path) -> Path:
    """The last checkpoint of a run; UserError where it has none."""
    found = sorted(path for path in (run_dir / "train").glob("step_*") if (path / "model.safetensors").exists())
    if not found:
        raise UserError(f"{run_dir / 'train'} holds no checkpoint; run first: worldclip train {run_dir}")
    return found[-1]


def model_digest(folder: Path) -> str:
    """32 hex digits of what decides a model's features."""
    return digest([fingerprint(folder / name, folder) for name in MODEL_FILES if (folder / name).exists()])


def _languages(recipe: Recipe, loaded: Sequence[Dataset]) -> list[str]:
    """evaluate.languages, else the run's own as far as a data set has them, else (empty) all."""
    if recipe.evaluate.languages:
        return list(recipe.evaluate.languages)
    there = {lang for dataset in loaded for lang in dataset.languages}
    asked = [code for code in recipe.languages.codes if code in there]
    return [*asked, LOCAL] if asked and LOCAL in there else asked


def _gallery_languages(codes: Sequence[str]) -> list[str]:
    """English first where asked, then one language a script, so that a reader sees them all."""
    of_script: dict[str, str] = {}
    for code in sorted(codes, key=lambda code: code != "en"):
        try:
            of_script.setdefault(languages.get(code).script, code)
        except KeyError:
            continue  # a data set's own code, which our table does not have
    return list(of_script.values())[:GALLERY_LANGUAGES]


def _summary(
    records: Sequence[engine.Record], loaded: Sequence[Dataset], features: dict[str, engine.ImageFeatures]
) -> dict[str, Any]:
    grouped = report.by_dataset(records)
    found = {}
    for dataset in loaded:
        bad = features[dataset.name].bad
        found[dataset.name] = {
            "num_images": len(dataset.image_keys),
            "num_bad_images": len(bad),
            "bad_images": bad[:20],
            "tasks": {
                task: {"mean": report.mean_over_languages(list(of_task.values())), "languages": of_task}
                for task, of_task in grouped[dataset.name].items()
            },
        }
    return found
