"""A model format of another package: the numpy arrays that docs/plugins.md shows."""

from __future__ import annotations

import numpy as np
import pytest

from plugin_package import installed, page_code, write_package
from small_models import save_hugging_face
from worldclip.core.errors import UserError
from worldclip.export import ExportConfig, export_model
from worldclip.model.published import FAMILY

GROUP = {"worldclip.model_formats": "npz = npz_weights"}


def test_a_format_of_another_package_is_written_compared_and_described(tmp_path, monkeypatch) -> None:
    model = save_hugging_face(FAMILY[0], tmp_path / "model")
    package = write_package(tmp_path / "site", "npz_weights", page_code("npz_weights.py"), GROUP)
    with installed(monkeypatch, package):
        report = export_model(tmp_path / "model", tmp_path / "out", ExportConfig(formats=("npz",)))
    assert report["formats"]["npz"]["max_difference"] == 0
    with np.load(tmp_path / "out/npz/weights.npz") as weights:
        assert weights.files == list(model.state_dict())
    card = (tmp_path / "out/npz/README.md").read_text(encoding="utf-8")
    assert "library_name: numpy" in card
    assert "in numpy: embeddings differ by at most 0.0e+00" in card
    assert not list(tmp_path.glob("out/*/*.tmp"))


def test_without_the_package_its_format_is_unknown(tmp_path) -> None:
    with pytest.raises(UserError, match=r"export\.formats: .*unknown model format; "):
        export_model(tmp_path, tmp_path / "out", ExportConfig(formats=("npz",)))
