"""mteb evaluates any model of ours, on miniature tasks of its own kinds, checked by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from client_tools import installed, run_python
from fake_hub import hub as hub  # the fixture
from small_models import TEXTS
from worldclip.export import export_model
from worldclip.export.push import list_files
from worldclip.plugins.leaderboard.mieb import mteb_model

mteb = pytest.importorskip("mteb")
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
LABELS = [f"a {name} picture" for name in COLOURS]


class ColourModel:
    """Sees the mean colour of an image, and the colour that a text names."""

    def encode_image(self, images):
        return unit(np.stack([np.asarray(image).reshape(-1, 3).mean(axis=0) for image in images]))

    def encode_text(self, texts):
        return unit(np.array([next(rgb for name, rgb in COLOURS.items() if name in text) for text in texts]))


def unit(rows):
    rows = rows.astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def pictures():
    return [Image.new("RGB", (8, 8), rgb) for rgb in [*COLOURS.values(), (0, 255, 10)]]


def metadata_like(name: str):
    """Return the metadata of a miniature task: those of a real one, with another name and no dataset."""
    real = mteb.get_tasks(tasks=[name])[0].metadata
    changes = {"name": f"Miniature{name}", "dataset": {"path": "none", "revision": "0"}, "eval_splits": ["test"]}
    return real.model_copy(update=changes)


def zero_shot_task(name: str):
    from datasets import Dataset, DatasetDict

    class Colours(mteb.abstasks.zeroshot_classification.AbsTaskZeroShotClassification):
        metadata = metadata_like(name)

        def load_data(self, **kwargs):
            rows = Dataset.from_dict({"image": pictures(), "label": [0, 1, 2, 2]})  # the last is green and says blue
            self.dataset = DatasetDict({"test": rows})
            self.data_loaded = True

        def get_candidate_labels(self):
            return LABELS

    return Colours()


def retrieval_task(name: str):
    """Return a task that searches the pictures by text; the last of them is the answer to no text."""
    from datasets import Dataset

    class ColourSearch(mteb.abstasks.retrieval.AbsTaskRetrieval):
        metadata = metadata_like(name)

        def load_data(self, **kwargs):
            split = {
                "corpus": Dataset.from_dict({"id": [f"image{i}" for i in range(4)], "image": pictures()}),
                "queries": Dataset.from_dict({"id": [f"text{i}" for i in range(3)], "text": LABELS}),
                "relevant_docs": {f"text{i}": {f"image{i}": 1} for i in range(3)},
                "top_ranked": None,
            }
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    return ColourSearch()


def scores_of(clip, task):
    installed("mteb")
    result = mteb.evaluate(mteb_model(clip), task, cache=None, show_progress_bar=False)
    return result.task_results[0].scores["test"][0]


@pytest.mark.filterwarnings("ignore:Precision is ill-defined")
# the two orders of the modalities in mteb's zero-shot tasks: one uses our similarity, the other mteb's own
@pytest.mark.parametrize(
    ("name", "modalities"), [("CIFAR10ZeroShot", ["text", "image"]), ("MNISTZeroShot", ["image", "text"])]
)
def test_zero_shot_accuracy_is_ours(name, modalities, clip):
    task = zero_shot_task(name)
    assert task.metadata.modalities == modalities
    assert scores_of(ColourModel(), task)["accuracy"] == pytest.approx(3 / 4)
    answers = (clip.encode_image(pictures()) @ clip.encode_text(LABELS).T).argmax(axis=1)
    assert scores_of(clip, task)["accuracy"] == pytest.approx((answers == [0, 1, 2, 2]).mean())


def test_image_retrieval_by_text_is_ours(clip):
    task = retrieval_task("Flickr30kT2IRetrieval")
    assert scores_of(ColourModel(), task)["recall_at_1"] == 1
    similarities = clip.encode_text(LABELS) @ clip.encode_image(pictures()).T
    ranks = [int((row > row[i]).sum()) for i, row in enumerate(similarities)]
    scores = scores_of(clip, task)
    for k in (1, 3):
        assert scores[f"recall_at_{k}"] == pytest.approx(np.mean([rank < k for rank in ranks]), abs=1e-5)  # rounded


def test_image_with_text_gives_one_embedding():
    model = mteb_model(ColourModel())
    batch = {"image": [Image.new("RGB", (2, 2), COLOURS["red"])], "text": ["green"]}
    rows = model.encode([batch])
    np.testing.assert_allclose(rows, [[0.5**0.5, 0.5**0.5, 0]], atol=1e-6)


@pytest.mark.slow
def test_a_pushed_export_is_found_and_loaded(hub, hugging_face, clip, tmp_path):
    export_model(hugging_face, tmp_path / "export")
    exported = tmp_path / "export" / "huggingface"
    files = {name: (exported / name).read_bytes() for name, _ in list_files(exported)}
    commit = hub.commit("me/clip", files)
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS), encoding="utf-8")
    out = tmp_path / "out.npz"
    answer = run_python(None, "mteb_from_hub.py", hub.url, "me/clip", tmp_path / "cache", tmp_path / "texts.json", out)
    size = clip.model.config
    expected = {"name": "me/clip", "revision": commit, "modalities": ["image", "text"], "embed_dim": clip.embed_dim}
    expected |= {"max_tokens": size.text_config.max_position_embeddings, "languages": None, "license": None}
    assert answer["meta"] == expected | {"n_parameters": sum(p.numel() for p in clip.model.parameters())}
    assert answer["own"] == "me/clip"
    rows = np.load(out)
    np.testing.assert_allclose(rows["text"], clip.encode_text(TEXTS), atol=1e-5)
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    np.testing.assert_allclose(rows["image"], clip.encode_image([picture]), atol=1e-5)
