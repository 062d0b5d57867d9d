"""Every path of RUN is spelled in contracts/layout, so that a folder is renamed in one place."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import worldclip
from worldclip.contracts import layout
from worldclip.core.execute import LocalExecutor, Shard

SRC = Path(worldclip.__file__).parent
LAYOUT = (SRC / "contracts" / "layout.py", SRC / "core" / "job_files.py")
RUNS = {"run_dir", "run.dir"}  # how a run's folder is called


def spelled_paths(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of a path below a run's folder, and of a name of the folders of markers and of the trainer."""
    for node in ast.walk(tree):
        is_join = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
        if is_join and ast.unparse(node.left) in RUNS and isinstance(node.right, ast.Constant | ast.JoinedStr):
            yield node.lineno, ast.unparse(node)
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_text and node.value.split("/")[0] in (layout.DONE, layout.TRAINER):
            yield node.lineno, repr(node.value)


def test_paths_of_a_run_are_spelled_in_layout_only() -> None:
    spelled = [
        f"{path.relative_to(SRC)}:{line} {text}"
        for path in sorted(SRC.rglob("*.py"))
        if path not in LAYOUT
        for line, text in spelled_paths(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert spelled == []


@pytest.mark.parametrize(
    "code", ['run_dir / "curate"', 'run.dir / f"{name}.json"', 'folder / "done" / name', '"trainer/x.json"']
)
def test_spelled_path_is_found(code: str) -> None:
    assert len(list(spelled_paths(ast.parse(code)))) == 1


def test_marker_is_where_the_executor_writes_it(tmp_path: Path) -> None:
    done = layout.done_dir(tmp_path, "index")
    LocalExecutor(workers=1, quiet=True).map(
        one_pair, [Shard(name="a/0.tar", path="")], label="x", done_dir=done, key={}
    )
    assert layout.marker(tmp_path, "a/0.tar", "index").is_file()
    assert layout.marker(tmp_path, "0.tar") == tmp_path / "done" / "0.tar.json"


def one_pair(shard: Shard) -> dict[str, int]:
    return {"pairs": 1}
