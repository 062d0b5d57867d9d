"""Paths are joined with constants and with names of our own; what others wrote goes through `safe_join`.

The test reads the source.  A new join must be one with a constant, go through `safe_join`, or be added to OWN_NAMES
with the reason why nobody else chooses the name.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import worldclip

SOURCES = Path(worldclip.__file__).parent
# Names of variables, attributes and functions that hold a folder.
IS_FOLDER = re.compile(
    r"(?!pairs_)(.*_)?(dir|folder|path|root|home|out|source|target|run|cache|place|scratch|partial|done|markers|parts|dumps|"
    r"Path|expanduser|resolve|parent|files|curated_tars|built_pairs|ROOT|cwd)"
)
JOINING = ("joinpath", "with_name", "with_stem")
IS_CONSTANT = re.compile(r"(\w+\.)*_?[A-Z][A-Z0-9_]*(\[\w+\])?")

SHARD = "a shard or unit of work; names of pool files are checked when they are listed (pool/files.py)"
STAGE = "a stage of recipe.py"
LIST = "a language of language/table.csv"
OWN = "chosen by this code from its own constants"
USER = "of the user's own config, whose names are checked (core/settings.py)"
LISTED = "found by listing that folder"
NUMBER = "a number"
OWN_NAMES = {
    "check/against.py": {"f'{name}.parquet'": USER, "f'{unit.name}.parquet'": SHARD},
    "check/context.py": {"step": USER, "f'{shard.name}.parquet'": SHARD},
    "check/duplicates.py": {
        "f'{unit.name}.npy'": SHARD,
        "f'{chunk.name}.npy'": SHARD,
        "f'{orders.start:05}'": NUMBER,
        "f'{choice:05}'": NUMBER,
    },
    "check/images.py": {
        "f'{unit.name}.parquet'": SHARD,
        "name": LISTED,
        "f'.{out.name}.parts'": OWN,
    },
    "check/pair_rules.py": {"f'{set_name}.parquet'": USER},
    "check/removed.py": {"'removed.parquet'": OWN},
    "check/report.py": {"f'{name}.parquet'": USER},
    "check/shown.py": {"f'{name}.parquet'": USER},
    "check/stage.py": {"step": USER},
    "check/write.py": {
        "_tar_name(shard)": SHARD,
        "f'{name}.parquet'": OWN,
        "f\"{name.name.split('.')[0]}.png\"": "the name of a member of a tar, not of a file",
        "f\"{name.name.split('.')[0]}.json\"": "the name of a member of a tar, not of a file",
    },
    "config.py": {"f'{name}.toml'": "one part of a path that the user gives, looked up among our recipes"},
    "export/push.py": {"name": LISTED},
    "plugins/publish.py": {"f'.{folder.name}.new'": OWN},
    "cli/models.py": {"flags.name": USER, "name": "a format of model/formats"},
    "cli/stages.py": {"stage": STAGE},
    "core/artifacts.py": {
        "stage": STAGE,
        "f'.{path.name}.{platform.node()}.{os.getpid()}.tmp'": OWN,
        "f'.{path.name}.{platform.node()}.{os.getpid()}.removed'": OWN,
    },
    "core/download.py": {"f'{download.path.name}.part'": OWN},
    "contracts/entry_counts.py": {
        "f'{unit.name}.npy'": OWN,
        "part": OWN,
        "name": SHARD,
    },
    "core/execute/ray.py": {"f'.{uuid.uuid4().hex}.token'": OWN},
    "core/job.py": {"name": STAGE},
    "contracts/layout.py": {
        "stage": STAGE,
        "relative": OWN,
        "relative.format(name)": f"{SHARD}, or {LIST}",
        "f'{list_name}.matcher'": LIST,
        "profile": OWN,
        "f'step_{step:09}'": NUMBER,
        "checkpoint.name": NUMBER,
    },
    "core/job_files.py": {"step": OWN, "f'{shard_name}.json'": SHARD, "name": OWN},
    "core/safe_path.py": {"name": "safe_join itself"},
    "core/settings.py": {"path": "a path of the user's own recipe"},
    "curate/caps.py": {"f'{shard.name}.parquet'": SHARD},
    "curate/stage.py": {"f'{shard.name}.parquet'": SHARD},
    "curate/write_parquet.py": {"shard.name": SHARD},
    "curate/write_tars.py": {"output.name": SHARD},
    "evaluate/catalog.py": {"name": OWN},
    "evaluate/config.py": {"name": "a dataset of the catalog"},
    "evaluate/datasets/common/images.py": {"name": "the name of a member of a tar, not of a file"},
    "evaluate/datasets/folders.py": {"split": OWN, "class_folder": LISTED},
    "evaluate/datasets/lines.py": {"file": OWN},
    "evaluate/datasets/mvl_sib.py": {"lang": LISTED, "f'{file}.parquet'": OWN, "f'{name}.parquet'": OWN},
    "evaluate/datasets/sugar_crepe.py": {"f'{kind}.json'": OWN},
    "evaluate/datasets/webdataset.py": {"split": OWN, "f'{i}.tar'": NUMBER},
    "evaluate/image_features.py": {
        "f'{start:09}.npy'": NUMBER,
        "digest([model_digest, images, preprocessing, CHUNK_IMAGES])": "a digest",
    },
    "evaluate/slip.py": {"'slip.toml'": OWN},
    "evaluate/stage.py": {"stage": STAGE, "name": OWN},
    "evaluate/tables.py": {"f'{name}.json'": "made of letters, digits and _ alone"},
    "export/model_card.py": {"stage": STAGE},
    "export/stage.py": {"name": "a format of model/formats", "f'.{folder.name}.tmp'": OWN},
    "kernels/unicode_table.py": {"'unicode_table.npz'": OWN},
    "metadata/counting.py": {"wiki": LIST, "shard.name": SHARD},
    "metadata/dump_files.py": {"wiki": LIST},
    "metadata/ngrams/runs.py": {
        "f'merged_{num_merged:05}'": NUMBER,
        "f'{shard_name}.counts'": SHARD,
        "f'{shard_name}.json'": SHARD,
    },
    "metadata/matchers.py": {"f'.{final.name}.{os.getpid()}.tmp'": OWN},
    "metadata/sources/titles.py": {"f'word_{name}.npy'": OWN},
    "metadata/sources/wordnet.py": {"inputs.lang": LIST},
    "model/formats/huggingface_folder.py": {"name": OWN},
    "plugins/immich.py": {"name": OWN},
    "model/formats/peft_folder.py": {"name": OWN},
    "model/formats/onnx_folder.py": {
        "f'{tower}{SUFFIXES[precision]}.onnx'": OWN,
        "f'{path.name}_data'": OWN,
        "image.name.replace(IMAGE, TEXT, 1)": LISTED,
    },
    "model/formats/open_clip_folder.py": {"name": OWN},
    "model/formats/timm_folder.py": {"name": OWN},
    "model/load.py": {"checkpoints[0]": LISTED},
    "model/weights.py": {"name": OWN, "f'{name}.index.json'": OWN, "shard": "refused just above unless a plain name"},
    "plugins/browser/web_folder.py": {"name": OWN},
    "pool/embedded.py": {"of": OWN, "self.of": OWN},
    "plugins/drawings.py": {"file": "a file of an installed package"},
    "plugins/emoji/build.py": {"name": OWN, "folder": OWN, "f'{number:06}.tar'": NUMBER},
    "pool/stage.py": {"f'{shard.name}.parquet'": SHARD, "name": OWN},
    "plugins/world/build.py": {
        "name": OWN,
        "item.folder": OWN,
        "shard.name": SHARD,
        "f'{shard_name}.jsonl'": SHARD,
    },
    "recipe.py": {"path.stem": "the name of the user's own recipe", "stage": STAGE},
    "report/next_steps.py": {
        "f'{run_dir.resolve().name}_seed_1'": "of the user's own folder",
        "f'{run_dir.resolve().name}_explorer'": "of the user's own folder",
    },
    "report/__init__.py": {"stage": STAGE},
    "tools/branch.py": {"stage": STAGE, "f'.{target.name}.tmp'": OWN},
    "tools/dedup.py": {"f'{shard.name}.arrow'": SHARD, "name": NUMBER},
    "tools/embed.py": {
        "kind": OWN,
        "f'{shard.name}.{end}'": SHARD,
        "f'{name}.parquet'": SHARD,
        "f'{name}.npy'": SHARD,
        "f'{shard.name}.npy'": SHARD,
        "name": LISTED,
    },
    "plugins/world/fetch_cldr.py": {
        "f'core-{version}.zip'": "digits and dots alone, checked just above",
        "name": OWN,
        "path.name": LISTED,
    },
    "tools/fetch_dataset.py": {"source.unpack": "a folder of sources.csv, which is part of this package"},
    "tools/inspect_run.py": {"f'{shard.name}.parquet'": SHARD},
    "tools/pack.py": {"Path(source).stem": "the name of the file that the user gave"},
    "tools/search.py": {"f'{embedded.of}.faiss'": OWN},
    "tools/status.py": {"stage": STAGE},
    "plugins/crawl/wat.py": {"f'{shard.name}.links'": SHARD, "f'{number:05}.parquet'": NUMBER},
    "train/checkpoint.py": {
        "f'.{step_folder(self.train_dir, step).name}.tmp'": NUMBER,
        "f'{rank:05}_of_{world.size:05}.json'": NUMBER,
        "f'{stem}.json'": OWN,
        "f'{stem}.safetensors'": OWN,
        "f'{folder.name}.corrupt'": OWN,
    },
    "train/distill.py": {"name": USER},
    "train/epoch_counts.py": {
        "f'{epoch:06}.npy'": NUMBER,
        "self._share_name(epoch, self.world.rank)": NUMBER,
        "self._share_name(epoch, rank)": NUMBER,
    },
    "train/loop.py": {"artifacts.digest(decided_by)": OWN},
    "train/pool_join.py": {
        "part": OWN,
        "f'{tar.name}.json'": SHARD,
        "f'{shard.name}.parquet'": SHARD,
        "f'{shard.name}.arrow'": SHARD,
    },
    "train/tokenizer.py": {"f'.{folder.name}.tmp'": OWN},
    "plugins/explorer/chunks.py": {"name": OWN},
    "plugins/explorer/explore.py": {"f'.{out.name}.{platform.node()}.tmp'": "of the user's own folder"},
    "plugins/server/app.py": {"name": OWN},
}  # fmt: skip


def joins(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, joined name as source) of each join with something else than a string or a constant."""
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and is_folder(node.left):
            names = [node.right]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in JOINING:
            names = node.args if not isinstance(node.func.value, ast.Constant) else []
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "os.path.join":
            names = node.args[1:]
        else:
            continue
        for name in names:
            source = ast.unparse(name)
            if not (isinstance(name, ast.Constant) or IS_CONSTANT.fullmatch(source)):
                yield node.lineno, source


def normal(source: str) -> str:
    """Return an expression as `ast.unparse` of this Python writes it: quotes in f-strings depend on the version."""
    return ast.unparse(ast.parse(source, mode="eval"))


def is_folder(node: ast.expr) -> bool:
    """Return whether an operand of / looks like a folder rather than a number."""
    match node:
        case ast.BinOp(op=ast.Div()):
            return is_folder(node.left) or (
                isinstance(node.right, ast.Constant | ast.JoinedStr) and is_text(node.right)
            )
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return IS_FOLDER.fullmatch(name) is not None
        case ast.Call(func=function):
            return is_folder(function)
    return False


def is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def test_names_of_others_are_joined_by_safe_join_alone() -> None:
    unknown = []
    for path in sorted(SOURCES.rglob("*.py")):
        module = path.relative_to(SOURCES).as_posix()
        own = set(map(normal, OWN_NAMES.get(module, {})))
        unknown += [
            f"{module}:{line}: {name}"
            for line, name in joins(ast.parse(path.read_text(encoding="utf-8")))
            if name not in own
        ]
    assert not unknown, (
        "join these by core.safe_path.safe_join, or say in OWN_NAMES who chooses the name:\n" + "\n".join(unknown)
    )


def test_the_list_of_own_names_has_nothing_stale() -> None:
    stale = []
    for module, own in OWN_NAMES.items():
        path = SOURCES / module
        present = {name for _, name in joins(ast.parse(path.read_text(encoding="utf-8")))} if path.exists() else set()
        stale += [f"{module}: {name}" for name in map(normal, own) if name not in present and name[0] != "'"]
    assert not stale


def test_joins_of_every_form_are_found() -> None:
    code = """
folder / record["path"]
Path(folder) / name
folder / "a" / name / f"{x}.npy"
self.folder.joinpath(name)
os.path.join(folder, name)
folder / "constant" / RECORD / layout.BEST
safe_join(folder, name)
total / count
"""
    expected = ["record['path']", "name", "name", "f'{x}.npy'", "name", "name"]
    assert sorted(name for _, name in joins(ast.parse(code))) == sorted(expected)
