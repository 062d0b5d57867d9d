"""Paths are joined with constants and with names of our own; what others wrote goes through `safe_join`.

The test reads the source.  A new join must be one with a constant, be made of SAFE parts and numbers, go through
`safe_join`, or be added to OWN_NAMES below the reason why nobody else chooses the name.
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
# Stages of recipe.py; this machine and process; names of shards, which are checked when they are listed.
SAFE = re.compile(
    r"stage|shard_name|(\w+\.)*(shard|unit|chunk|tar|output)\.name"
    r"|platform\.node\(\)|os\.getpid\(\)|uuid\.uuid4\(\)\.hex|step_folder\(.*\)\.name"
)
# As parts of a name only: a path's own name has no separator, but may be `..`.
SAFE_PART = re.compile(r"(\w+\.)*(path|folder|out|final|target|run_dir)(\.resolve\(\))?\.name")
NUMBER = re.compile(r"f?'0\d'")  # a format that only numbers take

OWN_NAMES = {
    "chosen by this code from its own constants": {
        "name": "contracts/entry_counts.py core/job.py core/job_files.py evaluate/catalog.py evaluate/stage.py "
        "model/formats/huggingface_folder.py model/formats/open_clip_folder.py model/formats/peft_folder.py "
        "model/formats/timm_folder.py model/weights.py plugins/browser/web_folder.py plugins/emoji/build.py "
        "plugins/explorer/chunks.py plugins/immich.py plugins/pack_files.py plugins/server/app.py "
        "plugins/world/build.py plugins/world/fetch_cldr.py pool/stage.py tools/dedup.py tools/embed.py",
        "part": "contracts/entry_counts.py train/pool_join.py",
        "step": "core/job_files.py",
        "relative": "contracts/layout.py",
        "profile": "contracts/layout.py",
        "file": "evaluate/datasets/lines.py",
        "split": "evaluate/datasets/folders.py evaluate/datasets/webdataset.py",
        "f'{i}.tar'": "evaluate/datasets/webdataset.py",
        "f'{file}.parquet'": "evaluate/datasets/mvl_sib.py",
        "f'{name}.parquet'": "check/write.py evaluate/datasets/mvl_sib.py tools/embed.py",
        "f'{name}.npy'": "tools/embed.py",
        "f'{shard.name}.{end}'": "tools/embed.py",
        "f'{kind}.json'": "evaluate/datasets/sugar_crepe.py",
        "f'word_{name}.npy'": "metadata/sources/titles.py",
        "f'{name}.index.json'": "model/weights.py",
        "f'{tower}{SUFFIXES[precision]}.onnx'": "model/formats/onnx_graphs.py",
        "folder": "plugins/emoji/build.py",
        "item.folder": "plugins/world/build.py",
        "kind": "tools/embed.py",
        "of": "pool/embedded.py",
        "self.of": "pool/embedded.py",
        "f'{embedded.of}.faiss'": "tools/search.py",
        "f'{stem}.json'": "train/checkpoint_writer.py",
        "f'{stem}.safetensors'": "train/checkpoint_writer.py",
        "self._share_name(epoch, rank)": "train/epoch_counts.py",
        "self._share_name(epoch, self.world.rank)": "train/epoch_counts.py",
    },
    "of the user's own config, whose names are checked (core/settings.py), or of the user's own file": {
        "step": "check/context.py check/stage.py",
        "name": "train/distill.py",
        "f'{name}.parquet'": "check/against.py check/report.py check/shown.py",
        "f'{set_name}.parquet'": "check/pair_rules.py",
        "f'{name}.toml'": "config.py",
        "flags.name": "tools/fetch_dataset.py",
        "path": "core/marks.py",
        "path.stem": "recipe.py",
        "Path(source).stem": "tools/pack.py",
    },
    "found by listing that folder": {
        "name": "check/images.py export/push.py",
        "class_folder": "evaluate/datasets/folders.py",
        "lang": "evaluate/datasets/mvl_sib.py",
        "checkpoints[0]": "model/load.py",
        "image.name.replace(IMAGE, TEXT, 1)": "model/formats/onnx_folder.py",
        "path.name": "plugins/world/fetch_cldr.py",
    },
    "a language of language/table.csv, or a shard": {
        "f'{list_name}.matcher'": "contracts/layout.py",
        "relative.format(name)": "contracts/layout.py",
        "wiki": "metadata/counting.py metadata/dump_files.py",
        "inputs.lang": "metadata/sources/wordnet.py",
        "_tar_name(shard)": "check/write.py",
    },
    "a dataset of the catalog, or a format of model/formats": {
        "name": "evaluate/config.py tools/models.py export/stage.py",
        "source.unpack": "tools/fetch_dataset.py",
    },
    "a digest, a number, or made of letters, digits, dots and _ only": {
        "artifacts.digest(decided_by)": "train/loop.py",
        "digest([model_digest, images, preprocessing, CHUNK_IMAGES])": "evaluate/image_features.py",
        "checkpoint.name": "contracts/layout.py",
        "f'core-{version}.zip'": "plugins/world/fetch_cldr.py",
        "f'{name}.json'": "evaluate/tables.py",
    },
    "the name of a member of a tar, not of a file": {
        "f\"{name.name.split('.')[0]}.png\"": "check/write.py",
        "f\"{name.name.split('.')[0]}.json\"": "check/write.py",
        "name": "evaluate/datasets/common/images.py",
    },
    "refused just above unless a plain name, safe_join itself, or a file of an installed package": {
        "name": "core/safe_path.py",
        "shard": "model/weights.py",
        "file": "plugins/drawings.py",
    },
}


def joins(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, joined name as source) of each join with something else than a string, a constant or SAFE parts."""
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and is_folder(node.left):
            names = [node.right]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in JOINING:
            names = node.args if not isinstance(node.func.value, ast.Constant) else []
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "os.path.join":
            names = node.args[1:]
        else:
            continue
        yield from ((node.lineno, ast.unparse(name)) for name in names if not is_safe(name))


def is_safe(node: ast.expr) -> bool:
    """Return whether a name is made of constants, numbers and SAFE parts."""
    if isinstance(node, ast.JoinedStr):
        return all(map(is_safe, node.values))
    if isinstance(node, ast.FormattedValue):
        is_number = node.format_spec is not None and NUMBER.fullmatch(ast.unparse(node.format_spec)) is not None
        return is_number or SAFE_PART.fullmatch(ast.unparse(node.value)) is not None or is_safe(node.value)
    source = ast.unparse(node)
    return isinstance(node, ast.Constant) or any(rule.fullmatch(source) for rule in (IS_CONSTANT, SAFE))


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
    own = {
        (module, normal(name))
        for names in OWN_NAMES.values()
        for name, modules in names.items()
        for module in modules.split()
    }
    found = {}
    for path in sorted(SOURCES.rglob("*.py")):
        module = path.relative_to(SOURCES).as_posix()
        for line, name in joins(ast.parse(path.read_text(encoding="utf-8"))):
            found[module, name] = f"{module}:{line}: {name}"
    unknown = [found[place] for place in found if place not in own]
    remedy = "join these by core.safe_path.safe_join, or say in OWN_NAMES who chooses the name:\n"
    assert not unknown, remedy + "\n".join(unknown)
    assert own <= found.keys(), "the list of own names has something stale"


def test_joins_of_every_form_are_found() -> None:
    code = """
folder / record["path"]
Path(folder) / name
folder / "a" / name / f"{x}.npy"
self.folder.joinpath(name)
os.path.join(folder, name)
folder / "constant" / RECORD / layout.BEST / f"{shard.name}_{number:05}.{RECORD}"
folder / f"{number}"
safe_join(folder, name)
total / count
"""
    expected = ["record['path']", "name", "name", "f'{x}.npy'", "f'{number}'", "name", "name"]
    assert sorted(name for _, name in joins(ast.parse(code))) == sorted(expected)
