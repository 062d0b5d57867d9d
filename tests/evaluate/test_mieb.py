"""Any model of ours in mteb: a miniature zero-shot task of its own kind, checked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from worldclip.evaluate.mieb import mteb_model

mteb = pytest.importorskip("mteb")
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class ColourModel:
    """Sees the mean colour of an image, and the colour that a text names."""

    def encode_image(self, images):
        return unit(np.stack([np.asarray(image).reshape(-1, 3).mean(axis=0) for image in images]))

    def encode_text(self, texts):
        return unit(np.array([next(rgb for name, rgb in COLOURS.items() if name in text) for text in texts]))


def unit(rows):
    rows = rows.astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def miniature_task():
    from datasets import Dataset, DatasetDict
    from PIL import Image

    class Colours(mteb.abstasks.zeroshot_classification.AbsTaskZeroShotClassification):
        metadata = mteb.TaskMetadata(
            name="MiniatureColours",
            description="Which colour is it?",
            reference="https://example.org",
            dataset={"path": "none", "revision": "0"},
            type="ZeroShotClassification",
            category="i2t",
            modalities=mteb.get_tasks(tasks=["CIFAR10ZeroShot"])[0].metadata.modalities,
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="accuracy",
            date=("2026-01-01", "2026-01-02"),
            domains=[],
            task_subtypes=[],
            license="cc0-1.0",
            annotations_creators="derived",
            dialect=[],
            sample_creation="created",
            bibtex_citation="",
        )

        def load_data(self, **kwargs):
            images = [Image.new("RGB", (8, 8), rgb) for rgb in [*COLOURS.values(), (0, 255, 10)]]
            rows = Dataset.from_dict({"image": images, "label": [0, 1, 2, 2]})  # the last is green and says blue
            self.dataset = DatasetDict({"test": rows})
            self.data_loaded = True

        def get_candidate_labels(self):
            return [f"a {name} picture" for name in COLOURS]

    return Colours()


def test_mteb_evaluates_our_model():
    pytest.importorskip("datasets")
    result = mteb.evaluate(mteb_model(ColourModel()), miniature_task(), cache=None, show_progress_bar=False)
    scores = result.task_results[0].scores["test"][0]
    assert scores["accuracy"] == pytest.approx(3 / 4)


def test_image_with_text_gives_one_embedding():
    from PIL import Image

    model = mteb_model(ColourModel())
    batch = {"image": [Image.new("RGB", (2, 2), COLOURS["red"])], "text": ["green"]}
    found = model.encode([batch])
    np.testing.assert_allclose(found, [[0.5**0.5, 0.5**0.5, 0]], atol=1e-6)
