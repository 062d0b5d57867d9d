"""Evaluate a checkpoint on datasets: results.jsonl, results.csv, table.md, report.json, features/."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from worldclip.contracts import layout
from worldclip.contracts.layout import best_checkpoint
from worldclip.contracts.records import IDENTITY_TYPES, STAGES, read_results
from worldclip.core.artifacts import Json, read_json, read_manifest, write_text
from worldclip.core.changes import Change, changed_inputs
from worldclip.core.console import say
from worldclip.core.errors import BadShard, StageFailed, UserError
from worldclip.core.job import Job, Record, Result, Run, lock_folder
from worldclip.core.preflight import missing_packages, problems_of
from worldclip.core.settings import deciding
from worldclip.evaluate import datasets, engine, report, suites, tables
from worldclip.evaluate.catalog import CATALOG
from worldclip.evaluate.config import NO_DATASET, EvaluateConfig
from worldclip.evaluate.gallery import gallery
from worldclip.evaluate.measures import PROBED
from worldclip.evaluate.tasks import Dataset
from worldclip.language.config import LanguagesConfig, languages_of
from worldclip.language.table import Language, Languages
from worldclip.model import decode
from worldclip.model import load as model_load
from worldclip.model.clip import device_problems
from worldclip.model.formats.interface import TORCH
from worldclip.pool.builders import read_held_out
from worldclip.pool.config import PoolConfig, held_out_names
from worldclip.pool.files import check_own
from worldclip.report.metrics import CLASSIFICATION
from worldclip.report.results import LOCAL, NO_LANGUAGE, ResultRecord, by_dataset

GALLERY_LANGUAGES = 10
FILES = ("results.jsonl", "slice_*.jsonl", "results.csv", "table.md")


def evaluate(run: Run) -> None:
    """Measure the best checkpoint on the recipe's datasets: RUN/evaluate/results.jsonl, tables, features."""
    config = _deciding(run.section(EvaluateConfig), run.deciding("evaluate"))
    job = run.job("evaluate", _inputs, config, functools.partial(_changes, run))
    run.stage(job, problems=_problems, work=_evaluate)


def _problems(run: Run) -> Iterator[str]:
    config = run.section(EvaluateConfig)
    absent = list(missing_packages("evaluate", TORCH.modules, extra=TORCH.extra))
    yield from absent or device_problems("evaluate", config.device)
    yield from _missing_of_probes(config)
    held_out = held_out_names()
    for name in config.dataset_names:
        if name in held_out and run.section(PoolConfig).build != held_out[name]:
            drawn_by = f'pool.build = "{held_out[name]}"'
            yield f'evaluate.datasets names "{name}", a part of the pool that {drawn_by} draws; remove it'
    yield from problems_of(_load_own, run)
    if run.above_is_done:
        yield from problems_of(_check_languages, run)


def _check_languages(run: Run) -> None:
    """Raise UserError for a language that no dataset has."""
    config = run.section(EvaluateConfig)
    if config.languages:
        loaded = _load_all(config.dataset_names, config, run.dir, run.section(LanguagesConfig).table)
        engine.list_pairs(loaded, config.languages)


def _deciding(config: EvaluateConfig, keys: Json) -> Json:
    """Return the keys that decide an evaluation; of folders only those of its datasets."""
    keys["evaluate"] |= {
        "datasets": list(config.dataset_names),
        "folders": {name: config.folders[name] for name in config.dataset_names if name in config.folders},
        "protocol": "paper" if config.is_paper else "own",
        "against": config.against if config.suite == "paper" else "",
    }
    return keys


def _inputs(run: Run) -> Json:
    """Return the checkpoint's digest, and the manifests that the datasets of a run depend on."""
    inputs: Json = {"checkpoint": model_load.checkpoint_of(run.dir).digest()}
    for stage in ("pool", "match"):
        manifest = read_manifest(run.dir / stage)
        if manifest is not None:
            inputs[stage] = manifest["digest"]
    for dataset in _load_own(run):
        name = f"dataset {dataset.name}" if dataset.name in (*STAGES, "checkpoint") else dataset.name
        inputs[name] = dataset.digest
    return inputs


def _changes(run: Run, before: Record, now: Record) -> list[Change]:
    """Return the changed inputs; records of another protocol or decoder, which each record states, count as one."""
    changes = changed_inputs(before, now)
    present = {"version": engine.PROTOCOL_VERSION, "decoder": decode.VERSION}
    finished = read_json(layout.stage_report(run.dir, "evaluate")).get("records", [])
    for record in read_results(layout.results(run.dir), IDENTITY_TYPES):
        measured_by = {name: record["protocol"].get(name) for name in present}
        if record["digest"] in finished and measured_by != present:
            return [*changes, Change("protocol", measured_by, present, is_value=False)]
    return changes


def _evaluate(run: Run, job: Job) -> Result:
    config = run.section(EvaluateConfig)
    section = run.section(LanguagesConfig)
    source = model_load.checkpoint_of(run.dir)
    loaded = _load_all(config.dataset_names, config, run.dir, section.table)
    name = source.path.relative_to(run.dir).as_posix()
    return _result(_measure(source, name, config, loaded, run.dir, job.folder, section.codes))


def _result(report: Json) -> Result:
    return Result(report=report, counts={"records": len(report["records"]), "datasets": len(report["datasets"])})


def evaluate_model(
    model: str | Path, config: EvaluateConfig, out: Path, *, part: tuple[int, int] | None = None
) -> Json:
    """Evaluate any model that worldclip.load accepts on the datasets of `config`, and return the report.

    `out` gets the files of RUN/evaluate.  Without config.languages a dataset is evaluated in all its languages.  The
    held-out sets of a drawn pool are those of the run.  A model folder is identified by its files, a run by its best
    checkpoint, a hub id by its commit.  An interrupted call resumes; records of other models and data stay in
    results.jsonl, and tables and report are about this call.  part: (I, N): measure only slice I of N, and return {}; a
    call without it finishes.
    Raises UserError with all problems of `config`, and for a folder with files of others.
    """
    problems = [*config.problems(), *_missing_of_probes(config)]
    if problems:
        raise UserError(problems)
    if not config.dataset_names:
        if config.suite:
            raise UserError(f"none of suite {config.suite} is below evaluate.data = {config.data!r}; {NO_DATASET}")
        raise UserError(NO_DATASET)
    pool_dir = out if best_checkpoint(Path(model)) is None else Path(model)
    loaded = _load_all(config.dataset_names, config, pool_dir, languages_of(pool_dir))
    engine.list_pairs(loaded, config.languages)  # refuses languages that no dataset has
    check_own(out, "evaluate", (*FILES, "features", "ranks"))
    with lock_folder(out, is_shared=part is not None):
        source = model_load.find(model)
        if part is not None:
            return _measure(source, str(model), config, loaded, pool_dir, out, part=part)
        inputs = {"model": source.digest()} | {dataset.name: dataset.digest for dataset in loaded}
        job = Job("evaluate", out, _deciding(config, {"evaluate": deciding(config, "evaluate")}), lambda: inputs)
        return job.run(lambda: _result(_measure(source, str(model), config, loaded, pool_dir, out)))


def _missing_of_probes(config: EvaluateConfig) -> Iterator[str]:
    if "linear_probe" in config.also:
        yield from missing_packages('evaluate.also = "linear_probe"', ("sklearn",), extra="train")


@contextmanager
def _naming_bad_images() -> Iterator[None]:
    """Raise StageFailed for images that cannot be read or changed: the bracket (core/job.py) tries again."""
    try:
        yield
    except BadShard as error:
        remedy = "wait until nothing writes to the datasets, then run the same command"
        raise StageFailed("evaluate", {"images of a dataset": str(error)}, remedy) from error


@_naming_bad_images()
def _measure(
    source: model_load.Source,
    model: str,
    config: EvaluateConfig,
    loaded: Sequence[Dataset],
    run_dir: Path,
    folder: Path,
    codes: Sequence[str] = (),
    part: tuple[int, int] | None = None,
) -> Json:
    """Write records, tables and report of a model on datasets into `folder`, and return the report.

    model: its name in records.  run_dir: the folder with the held-out sets.  codes: see _languages.  part: see
    engine.evaluate; with it only records are written, and {} is returned.
    """
    model_id = {"model": model, "model_digest": source.digest()}
    records: list[ResultRecord] = []
    summary: Json = {**model_id, "records": [], "datasets": {}, "gallery": []}
    if loaded:
        langs = _languages(config, codes, loaded)
        records, features, encode_text = engine.evaluate(
            model_load.load(source.path, device=config.device, preprocess=config.preprocess_rule, tells_language=True),
            model_id,
            loaded,
            langs,
            folder / "results.jsonl",
            batch_size=config.batch_size,
            cache=folder / "features",
            part=part,
            say=lambda message: say("evaluate", message),
        )
        if part is not None:
            return {}
        summary["records"] = [record["digest"] for record in records]
        grouped = by_dataset(records)
        by_lang_of: dict[str, dict[str, ResultRecord]] = {}  # records of classification
        for dataset in loaded:
            if dataset.name not in features:
                continue
            images = features[dataset.name]
            tasks: Json = {}
            for task, by_lang in grouped.get(dataset.name, {}).items():
                tasks[task] = report.task_result(dataset.name, task, by_lang)
                if task == CLASSIFICATION:
                    by_lang_of[dataset.name] = by_lang
            summary["datasets"][dataset.name] = {
                **_about(dataset.name, run_dir),
                "num_images": len(dataset.image_keys),
                "num_bad_images": len(images.bad),
                "bad_images": images.bad[:20],
                "tasks": tasks,
            }
            wanted = [lang for lang in dataset.languages if not langs or lang in langs]
            shown_langs = _gallery_languages(wanted, languages_of(run_dir))
            summary["gallery"] += gallery(dataset, images.features_ND, encode_text, shown_langs)
        combinations = report.held_out_combinations(by_lang_of)
        if combinations:
            summary["held_out"] = combinations
    else:
        say("evaluate", "evaluate.datasets is empty: nothing is evaluated")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.jsonl").touch()  # results of other calls stay
    summary |= _write_tables(folder, records, config)
    return summary


def _about(name: str, run_dir: Path) -> Json:
    """Return `about` of a held-out set or of a dataset of the catalog; nothing of a folder's."""
    held_out = read_held_out(run_dir)
    if name in held_out:
        return {"about": held_out[name].about}
    if name not in CATALOG:
        return {}
    about = CATALOG[name].title or name
    if CATALOG[name].source:
        about += f" ({CATALOG[name].source})"
    return {"about": f"{about}."}


def _load_own(run: Run) -> list[Dataset]:
    """Return the datasets that are no held-out sets of a drawn pool; the manifest of the pool covers those."""
    config = run.section(EvaluateConfig)
    held_out = held_out_names()
    names = [name for name in config.dataset_names if name not in held_out]
    return _load_all(names, config, run.dir, run.section(LanguagesConfig).table)


def _load_all(names: Sequence[str], config: EvaluateConfig, run_dir: Path, languages: Languages) -> list[Dataset]:
    """Return these datasets.  Raises UserError with the problems of all of them, before any work."""
    loaded: list[Dataset] = []
    problems: list[str] = []
    for name in names:
        try:
            loaded.append(datasets.load(name, config, run_dir, languages))
        except UserError as error:
            problems += [f"dataset {name}: {problem}" for problem in error.problems]
        except BadShard as error:
            problems.append(f"dataset {name}: {error}")
    if problems:
        raise UserError(problems)
    return loaded


def _write_tables(folder: Path, records: Sequence[ResultRecord], config: EvaluateConfig) -> Json:
    """Write table.md and results.csv; return the report's fields about them."""
    protocol = tables.protocol_text(records)
    parts = [tables.markdown_table(records), protocol]
    fields: Json = {}
    if protocol:
        fields["protocol"] = protocol.strip()
    if config.suite:
        parts.append(tables.suite_text(config.suite, records))
        if config.suite in suites.AVERAGED:
            mean, missing = suites.suite_mean(config.suite, records)
            fields["suite"] = {"name": config.suite, "mean": mean, "missing": missing}
    if config.suite == "paper":
        rows = suites.beside(records, config.against)
        parts.append(tables.beside_text(rows, config.against))
        fields["published"] = {"against": config.against, "rows": rows}
    write_text(folder / "table.md", "\n".join(parts))
    place = folder.resolve()
    if place.name == "evaluate":
        place = place.parent  # the run; others wrote into any folder
    write_text(folder / "results.csv", tables.csv_text(place.name, records))
    return fields


def _languages(config: EvaluateConfig, codes: Sequence[str], loaded: Sequence[Dataset]) -> list[str]:
    """Return evaluate.languages, or the run's `codes` that a dataset has; [] stands for all, as a suite asks for.

    Probes have no language: where evaluate.also asks for them, they are measured next to any languages.
    """
    available: set[str] = set()
    for dataset in loaded:
        available.update(dataset.languages)
    if config.languages or config.suite:
        langs = list(config.languages)
        has_probes = NO_LANGUAGE in available and not PROBED.keys().isdisjoint(config.also)
        if langs and has_probes and NO_LANGUAGE not in langs:
            langs.append(NO_LANGUAGE)
        return langs
    langs = [code for code in codes if code in available]
    if langs:
        langs += [name for name in (LOCAL, NO_LANGUAGE) if name in available]
    return langs


def _gallery_languages(codes: Sequence[str], languages: Languages) -> list[str]:
    """Return English, if it is in `codes`, then one language per script, so that the gallery shows many scripts.

    Scripts come in the order of the languages that use them, most first; of a script, the language with most resources.
    """
    rows: list[Language] = []
    in_script = Counter[str]()
    for code in codes:
        if code in languages.by_code():  # datasets have own codes too
            rows.append(languages.by_code()[code])
            in_script[rows[-1].script] += 1

    def place(row: Language) -> tuple[bool, int, int, str]:
        return row.code != "en", -in_script[row.script], report.LEVELS.index(row.resource_level), row.code

    lang_of_script: dict[str, str] = {}
    for row in sorted(rows, key=place):
        lang_of_script.setdefault(row.script, row.code)
    return list(lang_of_script.values())[:GALLERY_LANGUAGES]
