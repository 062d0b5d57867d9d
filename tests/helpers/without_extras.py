"""Run commands in a process that lacks packages, as an installation without extras does."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import traceback
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import worldclip
from programs import python
from worldclip.cli import main


class Ended(NamedTuple):
    """The end of a command."""

    code: int
    out: str
    error: str
    """Standard error, and the traceback of an exception that leaves `main`."""


def run_without(modules: Collection[str], commands: Sequence[Sequence[str]], folder: Path) -> list[Ended]:
    """Run the commands in the working directory `folder`, in one process that has none of the modules."""
    printed = python(__file__, cwd=folder, stdin=json.dumps(commands), **environment_without(modules))
    return [Ended(*json.loads(line)) for line in printed.splitlines()]


def environment_without(modules: Collection[str]) -> dict[str, str]:
    """Return what to add to the environment of a process that shall have none of the modules."""
    helpers, sources = Path(__file__).parent, Path(worldclip.__file__).parents[1]
    path = os.pathsep.join(map(str, [helpers / "hidden", helpers, sources]))
    return {"PYTHONPATH": path, "WORLDCLIP_HIDDEN": " ".join(modules)}


def _run_all(commands: Sequence[Sequence[str]]) -> Iterator[Ended]:
    for command in commands:
        out, error = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            try:
                code = main(command)
            except SystemExit as exit_:
                code = int(exit_.code or 0)
            except BaseException:  # noqa: BLE001  a test shows it
                traceback.print_exc()
                code = -1
        yield Ended(code, out.getvalue(), error.getvalue())


def write_stub_of_onnx(folder: Path) -> None:
    """Write the files by which an exported model is recognised."""
    (folder / "onnx").mkdir(parents=True)
    graphs = ("onnx/vision_model.onnx", "onnx/text_model.onnx")
    for name in (*graphs, "tokenizer.json", "preprocessor_config.json", "config.json"):
        (folder / name).write_text("{}", encoding="utf-8")


if __name__ == "__main__":
    for ended in _run_all(json.load(sys.stdin)):
        print(json.dumps(ended), flush=True)
