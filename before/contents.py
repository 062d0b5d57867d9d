"""What every part of digests.py needs: digests of contents, the layouts of a run's tables, calls of worldclip."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import runpy
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
# One thread, since sums over several have no fixed order; set before numpy and torch are imported.
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "HF_HUB_OFFLINE"), "1")
os.environ |= {"PYTHONPATH": str(REPOSITORY / "src"), "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
sys.path[:0] = [str(REPOSITORY / "src"), str(REPOSITORY / "before")]

import numpy as np  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import small_data  # noqa: E402

CURATED = ("key", "text_idx", "text", "lang", "keep_prob")


# --- digests of contents


def sha(value: Any) -> str:
    """Return a digest of JSON values, bytes and arrays, in lists and dicts."""
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()[:32]


def plain(value: Any) -> Any:
    """Return a value as JSON; bytes become digests."""
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, np.ndarray):
        return [str(value.dtype), list(value.shape), plain(np.ascontiguousarray(value).tobytes())]
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def table(
    folder: Path, columns: Sequence[str], pattern: str = "*.parquet", without: Sequence[str] = ()
) -> list[list[Any]]:
    """Return the rows of all tables of a folder, in the order of their names; without: folders to leave out."""
    rows: list[list[Any]] = []
    for path in sorted(folder.rglob(pattern)):
        if not {".work", *without} & set(path.relative_to(folder).parts):
            values = pq.read_table(path, columns=list(columns)).to_pydict()
            rows += map(list, zip(*(values[name] for name in columns), strict=True))
    return rows


def tars(folder: Path) -> list[Any]:
    """Return name and content of the members of all tars of a folder, in their order."""
    members = []
    for path in sorted(folder.rglob("*.tar")):
        with tarfile.open(path) as tar:
            members += [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    return [[name, json.loads(data) if name.endswith(".json") else data] for name, data in members]


def arrays(folder: Path) -> dict[str, np.ndarray]:
    return {path.stem: np.load(path) for path in folder.glob("*.npy")}


def tensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(path)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def json_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def json_files(folder: Path) -> dict[str, Any]:
    """Return the JSON files of a folder, without versions."""
    return {path.relative_to(folder).as_posix(): without_versions(read_json(path)) for path in folder.rglob("*.json")}


def without_versions(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: without_versions(item) for key, item in value.items() if "version" not in key}
    return [without_versions(item) for item in value] if isinstance(value, list) else value


def graphs(folder: Path) -> dict[str, Any]:
    """Return ends, operations and weights of each ONNX file, without the names of inner values."""
    import onnx

    found = {}
    for path in folder.rglob("*.onnx"):
        graph = onnx.load(path).graph
        ends = [[(end.name, str(end.type)) for end in side] for side in (graph.input, graph.output)]
        weights = sorted(sha(onnx.numpy_helper.to_array(weight)) for weight in graph.initializer)
        found[path.name] = [ends, [node.op_type for node in graph.node], weights]
    return found


# --- the two layouts of a pool's tables


def images_of(out: Path) -> list[list[Any]]:
    """Return where the images of a run's pool are: RUN/pool/images, or RUN/pool/index before."""
    folder = out / "pool/images"
    return table(folder if folder.exists() else out / "pool/index", ("key", "member", "offset", "size"))


def texts_of(out: Path) -> list[list[Any]]:
    """Return the matched texts of a run; in the new layout key and text are in RUN/pool/pairs, by `row`."""
    of_pool = ("key", "text_idx", "place", "text")
    of_match = ("lang", "lang_prob", "entries_lang", "entry_ids")
    rows: list[list[Any]] = []
    for path in sorted((out / "match/texts").rglob("*.parquet")):
        matched = pq.read_table(path)
        pairs = matched
        if "row" in matched.column_names:
            name = path.relative_to(out / "match/texts")
            pairs = pq.read_table(out / "pool/pairs" / name, columns=list(of_pool)).take(matched["row"])
        columns = [pairs[column].to_pylist() for column in of_pool] + [
            matched[column].to_pylist() for column in of_match
        ]
        rows += map(list, zip(*columns, strict=True))
    return rows


def shards_of(out: Path) -> list[str]:
    """Return the names of the shards of a run's pool."""
    folder = out / "pool/images" if (out / "pool/images").exists() else out / "pool/index"
    return sorted(path.relative_to(folder).as_posix().removesuffix(".parquet") for path in folder.rglob("*.parquet"))


# --- running worldclip


class Part:
    """The scratch folder, and what a part has found there."""

    def __init__(self, folder: Path, name: str = "") -> None:
        self.folder, self.name = folder, name
        self.everywhere: dict[str, str] = {}
        self.here: dict[str, str | list[str]] = {}

    def same(self, name: str, value: Any) -> None:
        """Record the digest of what every machine must find."""
        self.everywhere[name] = sha(value)

    def local(self, name: str, value: Any) -> None:
        """Record the digest of what this processor finds."""
        self.here[name] = sha(value)

    def rows(self, name: str, values: Sequence[Any]) -> None:
        """Record the number of rows and their digest."""
        self.everywhere[name] = f"{len(values)} rows {sha(values)}"

    def says(self, name: str, text: str) -> None:
        """Record a message, to read; without the scratch folder."""
        self.everywhere[name] = text.replace(f"{self.folder}/", "").replace(str(self.folder), "")

    def numbers(self, name: str, values: Iterable[float]) -> None:
        """Record numbers that this processor finds: their bits, and to read."""
        self.here[name] = [f"{float(value).hex()} {value:.6g}" for value in values]

    def recipe(self, name: str, kind: str, **sections: Mapping[str, Any]) -> Path:
        """Write a recipe of the small pool in a format; sections replace those of the recipe."""
        prefix = "json:" if kind == "tar" else ""
        pool = small_data.write_pool(self.folder / "pools" / kind, kind)
        whole: dict[str, Mapping[str, Any]] = {
            "pool": {"path": str(pool), "key": f"{prefix}uid", "texts": [f"{prefix}alt", f"{prefix}caption"]},
            "languages": {"codes": list(small_data.LANGS)},
            "metadata": {"lists": small_data.write_entry_lists(self.folder / "lists")},
            "balance": {"tail_fraction": 0.1},
            **sections,
        }
        lines = [f"{section}.{key} = {toml(value)}" for section, keys in whole.items() for key, value in keys.items()]
        return small_data.write_lines(self.folder / f"{name}.toml", lines)


def toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{json.dumps(key)} = {toml(item)}' for key, item in value.items())} }}"
    return "none" if value is None else json.dumps(value, ensure_ascii=False)  # none: back to the default


class Refused(RuntimeError):
    """A command that failed: its exit code and its output."""

    def __init__(self, command: str, code: Any, output: str) -> None:
        super().__init__(f"{command}: exit code {code}\n{output[-3000:]}")
        lines = [line for line in output.splitlines() if not STAGE_LINE.match(line)]
        self.message = f"exit code {code}: " + without_tracebacks("\n".join(lines))


STAGE_LINE = re.compile(r"(?=.{9}  \S) *[a-z]+  ")  # what a stage says, after its name in nine columns


def without_tracebacks(text: str) -> str:
    """Return a message whose tracebacks are cut to their last lines, which name no line of the code."""
    return re.sub(r"Traceback \(most recent call last\):\n(?: .*\n)*", "Traceback: ", text)


def worldclip(*words: object) -> str:
    """Run a command of worldclip in this process; return its output.  Raises Refused if it fails."""
    output, arguments = io.StringIO(), sys.argv
    sys.argv = ["worldclip", *map(str, words)]
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            runpy.run_module("worldclip", run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise Refused(" ".join(sys.argv), end.code, output.getvalue()) from None
    finally:
        sys.argv = arguments
    return output.getvalue()


def run(recipe: Path, out: Path, until: str, num_ranks: int = 1, **keys: Any) -> Path:
    """Run a recipe until a stage, with other keys as section__key=value; return the folder of the run.

    num_ranks: 1 in this process, more under torchrun.
    """
    flags = ["run", str(recipe), "--out", str(out), "--until", until, "--workers", "1"]
    for key, value in keys.items():
        flags += ["--set", f"{key.replace('__', '.')}={toml(value)}"]
    if num_ranks == 1:
        worldclip(*flags)
        return out
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}"]
    done = subprocess.run([*torchrun, "-m", "worldclip", *flags], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"torchrun: exit code {done.returncode}\n{(done.stdout + done.stderr)[-4000:]}")
    return out


def add_curation(part: Part, out: Path, prefix: str = "") -> None:
    """Record what each stage up to curate hands over."""
    columns = ("entry_id", "entry", "source", "score")
    lists = {path.stem: table(path.parent, columns, path.name) for path in (out / "metadata").glob("*.parquet")}
    part.same(f"{prefix}index", images_of(out))
    part.same(f"{prefix}entries", lists)
    add_decisions(part, out, prefix)


def add_decisions(part: Part, out: Path, prefix: str = "") -> None:
    part.same(f"{prefix}texts", texts_of(out))
    part.same(f"{prefix}counts", arrays(out / "balance/counts"))
    part.same(f"{prefix}thresholds", read_json(out / "balance/thresholds.json"))
    part.same(f"{prefix}probabilities", arrays(out / "balance"))
    add_kept(part, out, prefix)


def add_kept(part: Part, out: Path, prefix: str = "") -> None:
    part.same(f"{prefix}kept", kept(out))
    part.same(f"{prefix}reasons", reasons(out))
    if (out / "curate/keys.npy").exists():
        part.same(f"{prefix}keys", np.load(out / "curate/keys.npy").view("u8"))


def kept(out: Path) -> list[list[Any]]:
    """Return the curated list; next to its tables lie those of dropped and written pairs."""
    return table(out / "curate", CURATED, without=("dropped", "parquet"))


def reasons(out: Path) -> dict[str, Any]:
    """Return what became of the pairs of each language, without reasons that no pair has."""
    languages = read_json(out / "curate/report.json")["languages"]
    return {lang: {reason: count for reason, count in counts.items() if count} for lang, counts in languages.items()}
