"""examples/notebook: it is stored without outputs, and runs from top to bottom on the toy world."""

from __future__ import annotations

from pathlib import Path

import pytest

from toy import ToyWorld

NOTEBOOK = Path(__file__).parents[2] / "examples" / "notebook" / "worldclip.ipynb"
nbformat = pytest.importorskip("nbformat")


def test_notebook_is_valid_and_has_no_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) <= 10
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


@pytest.mark.slow
def test_notebook_runs_on_the_toy_world(toy_world: ToyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code[0].source.startswith('recipe = "emoji"')
    code[0].source = f"recipe, out, changes = {str(toy_world.recipe)!r}, 'runs/notebook', ['train.device=cpu']\n"
    code[0].source += 'texts = ["a photo of a red circle", "红色"]'
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = [
        "".join(output.get("text", "") for output in cell.outputs if output.get("name") == "stdout") for cell in code
    ]
    assert "th" in said[2]
    assert "in" in said[2]
    assert "kept" in said[2]
    assert said[3].count("\n") == 8
    assert "loss" in said[4]
    assert said[5].startswith("a photo of a red circle [(")
    assert "<img" in code[6].outputs[0]["data"]["text/html"]
