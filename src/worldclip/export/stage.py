"""Export a run's checkpoint, or any model, to other libraries' folders, each compared before it takes its name."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from worldclip.contracts import layout
from worldclip.contracts.layout import is_run
from worldclip.contracts.layout import recipe as recipe_of
from worldclip.contracts.records import outdated_stages
from worldclip.core import artifacts
from worldclip.core.changes import Change, changed_inputs
from worldclip.core.console import say
from worldclip.core.errors import UserError, naming
from worldclip.core.job import Job, Record, Report, Result, Run, lock_folder
from worldclip.core.job_files import report_json
from worldclip.core.preflight import missing_packages, problems_of
from worldclip.core.redact import shorten_paths
from worldclip.core.settings import deciding, read_toml, to_toml
from worldclip.export import model_card as cards
from worldclip.export import prune_vocabulary
from worldclip.export.config import ExportConfig
from worldclip.export.embedded import open_embedded
from worldclip.language.config import LanguagesConfig, languages_of
from worldclip.language.table import INSTALLED, Languages
from worldclip.model import load as model_load
from worldclip.model.formats.interface import TORCH, LoadOptions
from worldclip.model.inference import Clip
from worldclip.pool.files import check_own

# The page of format web needs tools above this room, so formats are imported by name.
MODULES = {
    "huggingface": "worldclip.model.formats.huggingface_folder",
    "open_clip": "worldclip.model.formats.open_clip_folder",
    "onnx": "worldclip.model.formats.onnx_folder",
    "web": "worldclip.plugins.browser.web_folder",
}
_ONNX = ("onnx", "onnx_ir", "onnxscript", "onnxruntime")
PACKAGES = {"huggingface": (), "open_clip": ("open_clip",), "onnx": _ONNX, "web": _ONNX}


def export(run: Run) -> None:
    """Write RUN/export/<format>.  Raises UserError if what was written differs when it is loaded again."""
    run.stage(
        run.job("export", _inputs, changes=functools.partial(_changes, run)), problems=_problems, work=_export_run
    )


def _problems(run: Run) -> Iterator[str]:
    config = run.section(ExportConfig)
    yield from missing_packages("export", TORCH.modules, extra=TORCH.extra)
    yield from _format_problems(config)
    if run.above_is_done:
        yield from problems_of(_refuse_other_recipe, run)
        yield from problems_of(_codes, config, run.section(LanguagesConfig).table)


def _refuse_other_recipe(run: Run) -> None:
    """Raise UserError where the run's recipe is not the one that its checkpoints were trained by.

    The card and recipe.toml would be of another model.
    """
    reason = outdated_stages(run.dir, cards.recipe_of(run)).get("train")
    if reason is not None:
        raise UserError(
            f"{layout.recipe(run.dir)} is not the recipe that {layout.train_dir(run.dir)} was trained by: {reason}; "
            "undo that, or export without the recipe: worldclip export CHECKPOINT --out FOLDER"
        )


def _format_problems(config: ExportConfig) -> Iterator[str]:
    """Yield why formats cannot be written in this installation."""
    for name in config.formats:
        yield from missing_packages(f"export to {name}", PACKAGES[name], extra="export")
        if name == "web":
            yield from import_module(MODULES[name]).problems()


def _inputs(run: Run) -> Report:
    source = model_load.checkpoint_of(run.dir)
    config = run.section(ExportConfig)
    codes = _codes(config, run.section(LanguagesConfig).table)
    inputs = _fingerprints(source, config, cards.of_run(run, source.path, codes), run.dir)
    return {**inputs, "recipe": artifacts.digest(shorten_paths(cards.recipe_of(run)))}


def _changes(run: Run, before: Record, now: Record) -> list[Change]:
    """Return the changed inputs; pictures that an earlier export could not read count as one."""
    changes = changed_inputs(before, now)
    manifest = artifacts.read_manifest(layout.stage_dir(run.dir, "export"))
    if manifest is not None and "web" in manifest["counts"]:
        unreadable = import_module(MODULES["web"]).UNREADABLE
        left_out = manifest["counts"]["web"].get("left_out") or {}
        number = left_out.get(unreadable, 0)
        if number:
            changes.append(Change(f"{number:,} {unreadable}", number, 0, is_value=False))
    return changes


def _fingerprints(source: model_load.Source, config: ExportConfig, card: cards.Card, run_dir: Path | None) -> Report:
    """Return digests of all that decides an export: the model, its card, a pruned vocabulary's corpus, a page."""
    untitled = replace(card, title="")  # a copy of a run under another name is the same model
    inputs: Report = {"checkpoint": source.digest(), "card": artifacts.digest(asdict(untitled))}
    if config.languages:
        corpus = list(map(Path, config.corpus))
        if not corpus and run_dir is not None:
            for shard in layout.matched_shards(run_dir):
                corpus += [layout.match_texts(run_dir, shard), layout.pool_pairs(run_dir, shard)]
        inputs["corpus"] = [artifacts.fingerprint(path, path.parent) for path in corpus if path.exists()]
    if config.embedded:
        inputs["embedded"] = open_embedded(config.embedded).manifest["digest"]
    if "web" in config.formats:
        inputs["page"] = import_module(MODULES["web"]).page_digest()
    return inputs


def _export_run(run: Run, job: Job) -> Result:
    source = model_load.checkpoint_of(run.dir)
    config = run.section(ExportConfig)
    clip = model_load.read(source, LoadOptions(device="cpu"))
    codes = _codes(config, run.section(LanguagesConfig).table)
    card = cards.of_run(run, source.path, codes)
    written = _export(clip, source.digest(), job.folder, config, card, codes, run.dir)
    return Result(report={"checkpoint": source.path.name, **written}, counts=written["formats"])


def export_model(
    source: str | Path,
    out: str | Path,
    config: ExportConfig | None = None,
    *,
    arch: str | None = None,
    tokenizer: str | Path | None = None,
) -> Report:
    """Export any model that `worldclip.load` takes to OUT/<format>; returns the report.

    Of a run, the best checkpoint is exported, with the run's model card and recipe.  arch, tokenizer as in
    worldclip.load.  Raises UserError where the configuration has problems, a folder of others or the model itself would
    be replaced, or what was written differs when loaded.
    """
    config = config or ExportConfig()
    problems = config.problems() or list(_format_problems(config))
    run_dir = Path(source) if is_run(Path(source)) else None
    if config.languages and not config.corpus and run_dir is None:
        problems.append("export.languages is set without export.corpus; only a run has texts of its own")
    if problems:
        raise UserError(problems)
    out = Path(out)
    check_own(out, "export", (*MODULES,))
    languages = INSTALLED if run_dir is None else languages_of(run_dir)
    codes = _codes(config, languages)
    if run_dir is not None:
        _refuse_other_recipe(Run.open(run_dir))
    if config.embedded:
        open_embedded(config.embedded, pictures_from=config.pictures_from or ())
    recognised = model_load.find(source)
    for format_name in MODULES:
        if recognised.path.resolve().is_relative_to((out / format_name).resolve()):
            raise UserError(
                f"{recognised.path} is in --out {out}, whose formats an export replaces; choose another --out"
            )
    name = None if tokenizer is None else str(tokenizer)
    clip = model_load.read(recognised, LoadOptions(device="cpu", arch=arch, tokenizer=name))
    if run_dir is None:
        card = cards.of_model(str(source), recognised.layout, codes)
    else:
        card = cards.of_run(Run.open(run_dir), recognised.path, codes)
    loading: Report = model_load.digests_of_files(arch, tokenizer)
    for option, value in (("arch", arch), ("tokenizer", name)):
        if value is not None:
            loading[option] = value
    job = Job(
        "export", out, deciding(config, "export"), lambda: _fingerprints(recognised, config, card, run_dir) | loading
    )

    def work() -> Result:
        digest = recognised.digest()
        if loading:
            digest = artifacts.digest([digest, loading])
        written = _export(clip, digest, out, config, card, codes, run_dir)
        return Result(report={"source": str(source), **written}, counts=written["formats"])

    with lock_folder(out):  # two exports into one folder would remove each other's files
        return job.run(work)


def _export(
    clip: Clip,
    digest: str,
    out: Path,
    config: ExportConfig,
    card: cards.Card,
    codes: list[str],
    run_dir: Path | None,
) -> Report:
    """Write each format; codes: the languages whose tokens are kept, empty for all.  run_dir: the source, if a run.

    digest: identifies the model in report.json.  Formats of an earlier export stay if they are of the same model.
    """
    older = report_json(out)
    is_same_model = older.exists() and artifacts.read_json(older).get("model_digest") == digest
    if not is_same_model:
        older.unlink(missing_ok=True)  # after a kill nothing says which model the other formats are of
    report: Report = {"model_digest": digest, "formats": {}}
    names = config.formats
    writers: dict[str, Any] = {name: import_module(MODULES[name]) for name in names}
    if "web" in names:
        # refuses a pool that another model embedded
        writers["web"] = writers["web"].writer(clip, config.embedded, config.pictures_from or ())
    if codes:
        clip, vocabulary = prune_vocabulary.prune(clip, prune_vocabulary.texts_of(config, run_dir, codes))
        report["vocabulary"] = vocabulary
        card = replace(card, body=[*card.body, *prune_vocabulary.card_lines(vocabulary, codes)])
    for name in names:
        with _aside(out / name) as folder:
            writers[name].write(clip, folder, config.onnx_precisions)
            checked = writers[name].compare(clip, folder, config.onnx_precisions)
            artifacts.write_text(folder / "README.md", cards.render(card, name, checked))
            if run_dir is not None and recipe_of(run_dir).exists():
                artifacts.write_text(folder / "recipe.toml", to_toml(shorten_paths(read_toml(recipe_of(run_dir)))))
        size = sum(path.stat().st_size for path in (out / name).rglob("*") if path.is_file())
        report["formats"][name] = {**checked, "bytes": size}
    if not is_same_model:
        for other_name in MODULES.keys() - set(names):
            artifacts.remove(out / other_name)
    say(
        "export",
        f"publish a folder of {out} with: hf upload OWNER/NAME FOLDER (--delete '*' removes files of others too; "
        "--private does not change a repository that exists)",
    )
    return report


def _codes(config: ExportConfig, languages: Languages) -> list[str]:
    """Return the languages that the model keeps; each item may hold several, separated by commas.

    Raises UserError for an unknown language, and for a corpus that does not exist.
    """
    codes = list(filter(None, ",".join(config.languages).split(",")))
    problems = []
    missing = [name for name in config.corpus if not Path(name).exists()]
    if missing:
        problems.append(f"export.corpus: {', '.join(missing)} does not exist; name files of texts")
    for code in codes:
        try:
            languages.get(code)
        except KeyError as error:
            problems.append(f"export.languages: {error.args[0]}")
    if problems:
        raise UserError(problems)
    return codes


@contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to fill and check, which then takes the name of `folder`; on failure an older one stays."""
    aside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        with naming(folder):
            yield aside
        artifacts.replace_folder(aside, folder)
    except UserError as error:
        raise UserError([f"export to {folder}: {problem}" for problem in error.problems]) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
