"""Paths are joined with constants and with names of our own; what others wrote goes through `safe_join`.

The test reads the source.  A joined name is our own where it is made of constants, of numbers with leading zeros, of
digests, of names that a loop takes from constants, of names of paths, and of names of shards, which `Shard` checks.
Any other join goes through `safe_join`, or stands in CHOSEN_BY with the reason why nobody else chooses the name.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Set
from pathlib import Path

import pytest

import worldclip
from worldclip.core.execute import Shard
from worldclip.core.safe_path import UnsafeName

SOURCES = Path(worldclip.__file__).parent
# Names of variables, attributes and functions that hold a folder.
IS_FOLDER = re.compile(
    r"(?!pairs_)(.*_)?(dir|folder|path|root|home|out|source|target|run|cache|place|scratch|partial|done|markers|parts|dumps|"
    r"Path|expanduser|resolve|parent|files|curated_tars|built_pairs|ROOT|cwd)"
)
# Names of what has a name that is one part of a path, or was checked: files and folders, and shards.
HAS_OWN_NAME = re.compile(r"(.*_)?(dir|folder|path|out|target|final|merged|resolve|Path|shard|unit|chunk|output|tar)")
JOINING = ("joinpath", "with_name", "with_stem")
IS_CONSTANT = re.compile(r"(\w+\.)*_?[A-Z][A-Z0-9_]*(\[\w+\])?")
OWN_CALLS = ("os.getpid", "platform.node", "digest", "artifacts.digest")

CHOSEN_BY = {
    "a stage of recipe.py": """
        cli/stages.py stage, core/artifacts.py stage, export/model_card.py stage,
        tools/branch.py stage, tools/status.py stage, core/job.py stage""",
    "a language or Wikipedia of the table": """
        metadata/counting.py wiki, metadata/dump_files.py wiki,
        contracts/layout.py f'{list_name}.matcher'""",
    "the name of a Shard": """
        contracts/entry_counts.py f'{name}.parquet',
        contracts/layout.py relative.format(name), core/execute/file_groups.py f'{name}{self.suffix}',
        core/execute/file_groups.py name, 
        train/pool_join.py f'{name}.parquet',
        core/job_files.py f'{shard_name}.json', metadata/ngrams/runs.py f'{shard_name}.counts',
        metadata/ngrams/runs.py f'{shard_name}.json', plugins/world/build.py f'{shard_name}.jsonl',
        tools/embed.py f'{name}.parquet', tools/embed.py f'{name}.npy'""",
    "of the user's own config, whose names are checked (core/settings.py)": """
        check/against.py name, check/report.py name, check/stage.py part,
        core/marks.py path, tools/fetch_dataset.py flags.name, train/distill.py name""",
    "chosen by this code from its own constants": """
        tools/models.py name, contracts/layout.py step, contracts/layout.py f'{unit}.npy',
        core/download.py f'.{part.stem}.source',
        core/keys.py f'{digest}.npy', pool/stage.py name, contracts/layout.py profile,
        contracts/layout.py relative, contracts/layout.py checkpoint.name,
        core/execute/ray.py f'.{uuid.uuid4().hex}.token', core/job.py name, core/job_files.py step,
        evaluate/catalog.py name, evaluate/config.py name, evaluate/datasets/webdataset.py split,
        evaluate/datasets/webdataset.py name, export/stage.py name,
        evaluate/engine.py f'slice_{index}_of_{number}.jsonl', model/weights.py name,
        model/formats/onnx_graphs.py f'{tower}{SUFFIXES[precision]}.onnx', model/weights.py f'{name}.index.json',
        plugins/browser/web_folder.py name, plugins/emoji/build.py folder, plugins/explorer/chunks.py name,
        plugins/pack_files.py name, plugins/server/app.py name,
        plugins/world/build.py item.folder, pool/embedded.py of,
        pool/embedded.py self.of, tools/dedup.py f'{shard}.parquet', tools/embed.py kind,
        tools/fetch_dataset.py source.unpack,
        train/checkpoint_writer.py f'{stem}.json',
        train/checkpoint_writer.py f'{stem}.safetensors', train/epoch_counts.py self._share_name(epoch, rank),
        train/epoch_counts.py self._share_name(epoch, self.world.rank), train/pool_join.py part,
        train/pool_join.py label, train/pool_join.py f'{label}_groups'""",
    "found by listing that folder": """
        check/images.py name, pool/shard_files.py file, evaluate/datasets/folders.py class_folder,
        evaluate/datasets/folders.py label,
        tools/embed.py name,
        core/restart.py aside.name.removeprefix('.').removesuffix(_SUFFIX)""",
    "checked just above, or by its reader": """
        core/safe_path.py name, model/weights.py shard,
        plugins/drawings.py file, plugins/world/fetch_cldr.py f'core-{version}.zip'""",
    "the name of a member of a tar, not of a file": """
        evaluate/datasets/common/images.py name""",
}


def normal(source: str) -> str:
    """Return an expression as `ast.unparse` of this Python writes it: quotes in f-strings depend on the version."""
    return ast.unparse(ast.parse(source, mode="eval"))


def own_names() -> set[tuple[str, str]]:
    """Return (module, expression) of each join of CHOSEN_BY."""
    entries = re.findall(r"([\w/]+\.py) (.+?)(?:,\s+(?=[\w/]+\.py )|$)", "\n".join(CHOSEN_BY.values()), re.MULTILINE)
    return {(module, normal(expression.rstrip(","))) for module, expression in entries}


def is_own(node: ast.expr | None, bound: Set[str]) -> bool:
    """Return whether an expression is a name of our own; bound: names that loops take from constants."""
    match node:
        case ast.Constant() | None:
            return True
        case ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.JoinedStr(values=parts):
            return all(is_own(part, bound) for part in parts)
        case ast.FormattedValue(value=value, format_spec=ast.JoinedStr(values=[ast.Constant(value=str(spec))])):
            return re.fullmatch(r"0\d+", spec) is not None or is_own(value, bound)
        case ast.FormattedValue(value=value) | ast.Starred(value=value):
            return is_own(value, bound)
        case ast.Name(id=name) if name in bound:
            return True
        case ast.Attribute(value=owner, attr="name" | "stem"):
            return HAS_OWN_NAME.fullmatch(last_name(owner)) is not None
        case ast.Call(func=function) if ast.unparse(function) in OWN_CALLS:
            return True
    return IS_CONSTANT.fullmatch(ast.unparse(node)) is not None


def last_name(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Call(func=function):
            return last_name(function)
    return ""


def is_folder(node: ast.expr) -> bool:
    """Return whether an operand of / looks like a folder rather than a number."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        right = node.right
        is_text = isinstance(right, ast.JoinedStr) or (isinstance(right, ast.Constant) and isinstance(right.value, str))
        return is_folder(node.left) or is_text
    return IS_FOLDER.fullmatch(last_name(node)) is not None


def joined_names(node: ast.AST) -> list[ast.expr]:
    """Return what a node joins to a folder; nothing where it is no join."""
    match node:
        case ast.BinOp(op=ast.Div(), left=left, right=right) if is_folder(left):
            return [right]
        case ast.Call(func=ast.Attribute(attr=name, value=value), args=args) if name in JOINING:
            return args if not isinstance(value, ast.Constant) else []
        case ast.Call(func=function, args=args) if ast.unparse(function) == "os.path.join":
            return args[1:]
    return []


def foreign_joins(node: ast.AST, bound: Set[str] = frozenset()) -> Iterator[tuple[int, str]]:
    """Yield (line, joined name as source) of each join with a name that is not our own."""
    for name in joined_names(node):
        if not is_own(name, bound):
            yield name.lineno, ast.unparse(name)
    loops = [node] if isinstance(node, ast.For) else getattr(node, "generators", [])
    for loop in loops:
        targets = {name.id for name in ast.walk(loop.target) if isinstance(name, ast.Name)}
        bound = bound | targets if is_own(loop.iter, bound) else bound - targets
    if isinstance(node, ast.FunctionDef):
        bound = bound - {argument.arg for argument in ast.walk(node.args) if isinstance(argument, ast.arg)}
    for child in ast.iter_child_nodes(node):
        yield from foreign_joins(child, bound)


def joins_of_the_package() -> dict[tuple[str, str], int]:
    """Return (module, joined name) -> line of all joins that the rules do not prove to be our own."""
    joins = {}
    for path in sorted(SOURCES.rglob("*.py")):
        module = path.relative_to(SOURCES).as_posix()
        for line, name in foreign_joins(ast.parse(path.read_text(encoding="utf-8"))):
            joins[module, name] = line
    return joins


def test_names_of_others_are_joined_by_safe_join_alone():
    joins = joins_of_the_package()
    unknown = [f"{module}:{joins[module, name]}: {name}" for module, name in sorted(joins.keys() - own_names())]
    assert not unknown, (
        "join these by core.safe_path.safe_join, or say in CHOSEN_BY who chooses the name:\n" + "\n".join(unknown)
    )
    assert not own_names() - joins.keys(), "stale in CHOSEN_BY"


def test_joins_of_every_form_are_found():
    code = """
folder / record["path"]
Path(folder) / name
folder / "a" / name / f"{x}.npy"
self.folder.joinpath(name)
os.path.join(folder, member.name)
folder / "constant" / RECORD / layout.BEST / f"{number:06}" / shard.name / digest(x)
safe_join(folder, name)
total / count
for part in ("a", NAME):
    folder / part
    for part in listing: folder / part
folder / part
[folder / part for part in ("a", "b")]
def f(part): folder / part
"""
    expected = ["record['path']", "name", "name", "f'{x}.npy'", "name", "member.name", "part", "part", "part"]
    assert sorted(name for _, name in foreign_joins(ast.parse(code))) == sorted(expected)


@pytest.mark.parametrize("name", ["../0.tar", "/0.tar", "", "a/../../0.tar", "x" * 300])
def test_shard_with_a_name_that_leads_out_of_a_folder_is_refused(name):
    with pytest.raises(UnsafeName, match="is not a path below"):
        Shard(name=name, path="0.tar")
