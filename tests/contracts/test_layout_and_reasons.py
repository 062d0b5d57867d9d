"""Every path of RUN is spelled in contracts/layout; reasons have the order of the identity in docs and reports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import worldclip
from worldclip.contracts import layout
from worldclip.contracts.reasons import REASONS, Reason
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
    options = {"label": "x", "done_dir": layout.done_dir(tmp_path, "index"), "key": {}}
    LocalExecutor(quiet=True).map(lambda shard: {"pairs": 1}, [Shard(name="a/0.tar", path="")], **options)
    assert layout.marker(tmp_path, "a/0.tar", "index").is_file()
    assert layout.marker(tmp_path, "0.tar") == tmp_path / "done" / "0.tar.json"


def test_reasons_stand_in_the_order_in_which_they_apply():
    assert [reason.label for reason in REASONS] == [
        *("bad_pair", "duplicate", "no_text", "no_language", "no_match"),
        *("not_valid", "excluded", "sampled_out", "kept"),
    ]
    assert [int(reason) for reason in REASONS] == list(range(len(REASONS)))
    assert Reason.KEPT.column == "pairs_out"


def test_reasons_are_codes_of_int8_columns():
    column = np.array([Reason.KEPT, Reason.NO_TEXT], np.int8)
    assert (column == Reason.KEPT).tolist() == [True, False]
    assert REASONS[column[1]] is Reason.NO_TEXT


def test_every_reason_has_its_own_colour_and_meaning():
    assert len({reason.colour for reason in REASONS}) == len({reason.meaning for reason in REASONS}) == len(REASONS)
