"""Load a CLIP from anything that holds one, recognised by the files that are there, in this order.

    run           train/step_*                                       its best checkpoint, else its newest
    open_clip     open_clip_config.json and weights, or one .pt, .pth, .bin, .safetensors (the MetaCLIP reference's too)
    onnx          vision_model*.onnx and text_model*.onnx in onnx/, without model*.safetensors
    huggingface   config.json with a model_type, and its weights

The source decides on the preprocessing (preprocess = "source"): a Hugging Face folder by its own processor, an
open_clip folder by its open_clip_config.json, a bare checkpoint by open_clip's default for a local file, which is the
reference's transform.  `reference` is the paper's, whatever the source states.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from worldclip.contracts.layout import TRAINER, best_checkpoint, report_json, stage_dir, train_dir, trainer_state
from worldclip.core import artifacts
from worldclip.core.errors import UserError, require
from worldclip.core.hub_errors import is_unreachable
from worldclip.core.job_files import read_record, refuse_newer_run
from worldclip.core.local_path import nearest_path
from worldclip.core.preflight import missing_packages
from worldclip.core.printable import command_line
from worldclip.model import published, weights
from worldclip.model.clip import pick_device
from worldclip.model.formats import huggingface_folder, onnx_folder, open_clip_folder
from worldclip.model.formats.interface import TORCH, LoadOptions
from worldclip.model.formats.onnx_backend import OnnxBackend
from worldclip.model.formats.other_clips import OtherBackend
from worldclip.model.inference import Clip, TorchBackend
from worldclip.model.precision import DTYPES, pick_precision
from worldclip.model.preprocess import RULES, Rule, processor_problems, reference
from worldclip.model.weights import library_faults

AUTO = "auto"
RUNS = "runs"  # the folder in which recipes put their runs
MAX_LISTED = 5  # names of a folder's files in an error message


def load(
    source: str | Path,
    device: str = "auto",
    *,
    arch: str | None = None,
    tokenizer: str | Path | None = None,
    precision: str | None = None,
    preprocess: Rule = "source",
    tells_language: bool = False,
) -> Clip:
    """Load a run, a checkpoint folder, a Hugging Face folder or hub id, an open_clip checkpoint, an ONNX folder.

    device: auto, cpu, cuda, cuda:N or mps.  arch: what a bare file does not say: a published name
    (`ViT-H-14-worldwide-quickgelu`), or the path of an open_clip file.
    tokenizer: a folder or hub id, for weights without one.  precision: fp32, fp16 or bf16 in torch; auto is bf16
    where the device has hardware for it, else fp32 (model/precision.py); of an ONNX folder fp32, fp16
    or int8.
    preprocess: source (what the folder states) or reference (the paper's: bicubic, shortest side, central square, EXIF
    orientation ignored).  tells_language: the caller tells NLLB-CLIP the language of each text, as evaluate does.

    Raises UserError where the source holds no model, and for NLLB-CLIP without tells_language.
    """
    if preprocess not in RULES:
        raise UserError(f"preprocess = {preprocess!r}: must be one of {', '.join(RULES)}")
    model_source = find(source, precision)
    options = LoadOptions(
        device=device,
        arch=arch,
        tokenizer=None if tokenizer is None else str(tokenizer),
        precision=choose_precision(precision, model_source, device),
        tells_language=tells_language,
    )
    clip = read(model_source, options)
    if preprocess == "source":
        return clip
    is_numpy = isinstance(clip.backend, OnnxBackend)
    return dataclasses.replace(clip, processor=reference(clip.processor, is_numpy=is_numpy), applies_exif=False)


def choose_precision(precision: str | None, source: Source, device: str) -> str | None:
    """Return what `auto` stands for: bf16 or fp32 by the device; None for an ONNX folder."""
    if precision != AUTO:
        return precision
    if source.layout == "onnx" or missing_of(source, LoadOptions(device=device)):
        return None
    return pick_precision(pick_device(device))


@dataclass(frozen=True, slots=True)
class Source:
    """A folder, or a single checkpoint file, and its layout."""

    layout: str
    """huggingface, open_clip or onnx."""
    path: Path

    def digest(self) -> str:
        """Return 32 hex digits of what decides the embeddings: all files but cards and trainer state.

        Of a single file these are the file itself and the configuration and tokenizer next to it.
        Of the hub's cache the repository and the commit: which files are there depends on what was downloaded so far.
        """
        if self.path.is_file():
            place = self.path.parent
            files = [self.path, *(place / name for name in open_clip_folder.FILES_NEXT_TO_WEIGHTS)]
            here = [artifacts.fingerprint(path, place) for path in files if path.exists()]
            return artifacts.digest([*here, *open_clip_folder.named_tokenizer(place)])
        *_, repository, folder, commit = ("", "", *self.path.resolve().parts)
        if repository.startswith("models--") and folder == "snapshots":
            return artifacts.digest([repository, commit])
        fingerprints = []
        for path in files_of(self.path):
            is_card = path.suffix == ".md"
            is_trainer_state = path.relative_to(self.path).parts[0] == TRAINER
            if not is_card and not is_trainer_state:
                fingerprints.append(artifacts.fingerprint(path, self.path))
        return artifacts.digest([*fingerprints, *open_clip_folder.named_tokenizer(self.path)])


def files_of(folder: Path) -> list[Path]:
    """Return the files below a model's folder, sorted; also those of folders that are links, which the readers open."""
    paths: list[Path] = []
    for path in [folder, *folder.rglob("*")]:
        if path == folder or (path.is_symlink() and path.is_dir()):
            paths += path.rglob("*")
    return sorted(path for path in paths if path.is_file())


def digests_of_files(arch: str | None, tokenizer: str | Path | None) -> dict[str, str]:
    """Return the digests of an architecture and a tokenizer that are local: their paths may hold others later."""
    digests = {}
    for name, source in (("arch", arch), ("tokenizer", tokenizer)):
        if source is not None and Path(source).exists():
            digests[f"{name}_digest"] = Source("files", Path(source)).digest()
    return digests


def read(source: Source, options: LoadOptions) -> Clip:
    """Load a recognised source.  Raises UserError for missing packages and options that its layout does not use."""
    problems = missing_of(source, options)
    if options.arch is not None and source.layout != "open_clip":
        problems.append(f"arch = {options.arch!r}: only used for open_clip checkpoints; omit it")
    if problems:
        raise UserError(problems)
    readers = {"onnx": onnx_folder.read, "open_clip": open_clip_folder.read, "huggingface": huggingface_folder.read}
    dtype = None
    if options.precision is not None and source.layout != "onnx":
        import torch

        if options.precision not in DTYPES:
            names = ", ".join(DTYPES)
            raise UserError(f"precision = {options.precision!r}: this model runs in torch, in one of {names}")
        dtype = getattr(torch, DTYPES[options.precision])
    remedy = "do its weights and its configuration match? Copy or download it whole"
    with library_faults(f"{source.path} does not load as a model in the layout {source.layout}", remedy):
        clip = readers[source.layout](source.path, options)
        problems = [f"{source.path}: {problem}" for problem in processor_problems(clip.processor)]
        if problems:
            raise UserError(problems)
    if dtype is not None and isinstance(clip.backend, TorchBackend | OtherBackend):
        clip.backend.model.to(dtype)
    if getattr(clip.tokenizer, "nllb", None) is not None and not options.tells_language:
        raise UserError(
            f"{source.path} is an NLLB-CLIP, which must be told the language of each text; only worldclip evaluate does"
        )
    return clip


def missing_of(source: Source, options: LoadOptions) -> list[str]:
    """Return a problem for each extra that a source needs and that is not installed."""
    needs = {
        "huggingface": (TORCH,),
        "open_clip": (TORCH, open_clip_folder.REQUIRES),
        "onnx": onnx_folder.needs(source.path, options),
    }
    name = f"a model in the layout {source.layout!r}"
    problems: list[str] = []
    for requirement in needs[source.layout]:
        problems += missing_packages(name, requirement.modules, extra=requirement.extra)
    return problems


def find(source: str | Path, precision: str | None = None) -> Source:
    """Recognise a source; a hub repository is downloaded, of an ONNX one only the encoders of `precision`.

    Raises UserError where it is nothing that worldclip loads.
    """
    if not isinstance(source, str | os.PathLike) or not str(source):
        raise UserError(f"model {source!r}: must be a path or a hub id, for example runs/emoji or owner/name")
    path = _local_path(source, None if precision == AUTO else precision)
    if path.is_file():
        if path.suffix not in weights.SUFFIXES:
            raise UserError(f"{path} is not a checkpoint; checkpoint files end in {', '.join(weights.SUFFIXES)}")
        return Source("open_clip", path)
    if train_dir(path).is_dir():  # a folder of others may have any run.json
        refuse_newer_run(path)
    path = best_checkpoint(path) or path
    read_record(trainer_state(path))
    weights.refuse_foreign_code(path)
    if (path / open_clip_folder.CONFIG_FILE).exists():
        return Source("open_clip", path)
    if (path / "onnx").is_dir() and not any(path.glob("model*.safetensors")):
        return Source("onnx", path)
    if "model_type" in huggingface_folder.read_config_json(path):
        return Source("huggingface", path)
    names = sorted(item.name for item in path.iterdir())
    listed = ", ".join(names[:MAX_LISTED]) or "nothing"
    if len(names) > MAX_LISTED:
        listed += f" and {len(names) - MAX_LISTED} more"
    raise UserError(
        f"{path} is not a model: give a run (train it first: {command_line('train', path)}), a folder of Hugging Face, "
        f"open_clip or ONNX, or a checkpoint file and its arch; it holds {listed}"
    )


def checkpoint_of(run_dir: Path) -> Source:
    """Return the best checkpoint of a run, else its last one.  Raises UserError if it has none."""
    checkpoint = best_checkpoint(run_dir)
    if checkpoint is None:
        remedy = f"{command_line('train', run_dir)}, or of a recipe {command_line('run', 'RECIPE', '--out', run_dir)}"
        raise UserError(f"{train_dir(run_dir)} holds no checkpoint; run first: {remedy}")
    return Source("huggingface", checkpoint)


def outdated_results(run_dir: Path) -> dict[str, str]:
    """Return {stage: why} of evaluate and export, where what is finished is of another model than the run has now.

    Where the weights of a finished training are not there, as in a copy without them, nothing says so.
    """
    outdated: dict[str, str] = {}
    digest = None
    if best_checkpoint(run_dir) is not None:
        digest = checkpoint_of(run_dir).digest()
    elif not (train_dir(run_dir) / "config.json").exists() or artifacts.read_manifest(train_dir(run_dir)) is not None:
        return outdated
    for stage in ("evaluate", "export"):
        folder = stage_dir(run_dir, stage)
        manifest = artifacts.read_manifest(folder)
        if manifest is None:
            continue
        report = read_record(report_json(folder)) or {}
        # The digest of a report is also one of options, as of `export RUN --out RUN/export --tokenizer X`.
        if manifest["inputs"].get("checkpoint", report.get("model_digest")) != digest:
            name = report.get("model", "another model")
            outdated[stage] = f"it is of {name}, not of the checkpoint that the run has now"
    return outdated


def _local_path(source: str | Path, precision: str | None) -> Path:
    """Return the path itself, or the local copy of a hub repository, downloaded if needed."""
    path = Path(str(source).removeprefix("local-dir:"))  # open_clip writes folders and hub ids with prefixes
    if path.exists():
        return path
    name = None if isinstance(source, Path) else hub_id(source)
    if name is None:
        hint = ""
        row = published.find(str(source).removeprefix("hf-hub:"))
        if row is not None:
            hint = f"; the hub id of this model is {row.hub_id}"
        raise UserError(
            f"{source} does not exist; {nearest_path(str(source))}give a run, a model's folder or file, or a hub id "
            f"(owner/name){hint}"
        )
    if _is_missing_folder(str(source)):
        raise UserError(
            f"{source}: no such folder here; {nearest_path(name)}give a run, a model's folder or file, or a hub id "
            "(hf-hub:owner/name)"
        )
    return _download(name, precision or "fp32")


def hub_id(source: str) -> str | None:
    """Return the hub id that a source is, without open_clip's prefix; None for a local path."""
    name = source.removeprefix("hf-hub:")
    is_path = name.count("/") != 1 or name.startswith((".", "~", "/", "local-dir:")) or Path(name).exists()
    return None if is_path else name


def _is_missing_folder(source: str) -> bool:
    """Return whether owner/name is rather a path: below runs/ or a folder that is here, and no model known here.

    A published model is known, and one that was downloaded before.
    """
    owner = source.partition("/")[0]
    if owner != RUNS and not Path(owner).is_dir():
        return False
    if published.find(source) is not None:
        return False
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return True
    for name in ("config.json", open_clip_folder.CONFIG_FILE):
        try:
            if isinstance(try_to_load_from_cache(source, name), str):
                return False
        except ValueError:  # no name of a repository
            break
    return True


def _download(hub_id: str, precision: str) -> Path:
    """Download the small files first, then the weights of the layout that they describe, and no others."""
    require("huggingface_hub", extra="train")
    from huggingface_hub import snapshot_download

    small_files = ["*.json", "*.txt", "*.model", "README.md"]
    problem = f"{hub_id} is neither a local path nor a repository that the hub gives"
    with library_faults(problem, "give a run, a model's folder or file, or a hub id (owner/name); check the network"):
        try:
            folder = Path(snapshot_download(hub_id, allow_patterns=small_files))
            patterns = ["model*.safetensors"]
            if (folder / open_clip_folder.CONFIG_FILE).exists():
                patterns = list(open_clip_folder.WEIGHT_FILES)
            elif onnx_folder.SCALE in huggingface_folder.read_config_json(folder):  # only in our ONNX folders
                files = onnx_folder.encoders(folder, precision)
                patterns = [f"{path.relative_to(folder).as_posix()}*" for path in files]
            return Path(snapshot_download(hub_id, allow_patterns=[*small_files, *patterns]))
        except Exception as error:
            if not is_unreachable(error):
                raise
            raise UserError(
                f"no network, or the hub is busy or down: {hub_id} was not downloaded before, and is no folder here; "
                f"connect (unset HF_HUB_OFFLINE); or on a computer with a network: hf download {hub_id} --local-dir "
                "MODEL, copy the folder MODEL here and give its path (docs/start_use.md, Without a network)"
            ) from error
