"""mteb loads the folder of an export by itself: miniature tasks of its own kinds, checked against our embeddings."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from client_tools import installed
from worldclip.export import export_model

mteb = pytest.importorskip("mteb")
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 255, 10)]
LABELS = ["a red picture", "a green picture", "a blue picture"]
ANSWERS = [0, 1, 2, 2]


def pictures():
    return [Image.new("RGB", (8, 8), rgb) for rgb in COLOURS]


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
            rows = Dataset.from_dict({"image": pictures(), "label": ANSWERS})
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


@pytest.fixture(scope="module")
def exported(hugging_face, tmp_path_factory):
    """Return the folder of an export, loaded in mteb as docs/6_evaluate.md says."""
    from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper

    installed("mteb")
    out = tmp_path_factory.mktemp("mteb")
    export_model(hugging_face, out)
    model = SentenceTransformerEncoderWrapper(str(out / "huggingface"))
    model.mteb_model_meta = model.mteb_model_meta.model_copy(update={"modalities": ["text", "image"]})
    return model


def scores_of(model, task):
    result = mteb.evaluate(model, task, cache=None, show_progress_bar=False)
    return result.task_results[0].scores["test"][0]


@pytest.mark.filterwarnings("ignore:Precision is ill-defined")
# the two orders of the modalities in mteb's zero-shot tasks: one uses our similarity, the other mteb's own
@pytest.mark.parametrize(
    ("name", "modalities"), [("CIFAR10ZeroShot", ["text", "image"]), ("MNISTZeroShot", ["image", "text"])]
)
def test_zero_shot_accuracy_is_ours(name, modalities, clip, exported):
    task = zero_shot_task(name)
    assert task.metadata.modalities == modalities
    answers = (clip.encode_image(pictures()) @ clip.encode_text(LABELS).T).argmax(axis=1)
    assert scores_of(exported, task)["accuracy"] == pytest.approx((answers == ANSWERS).mean())


def test_image_retrieval_by_text_is_ours(clip, exported):
    similarities = clip.encode_text(LABELS) @ clip.encode_image(pictures()).T
    ranks = [int((row > row[i]).sum()) for i, row in enumerate(similarities)]
    scores = scores_of(exported, retrieval_task("Flickr30kT2IRetrieval"))
    for k in (1, 3):
        assert scores[f"recall_at_{k}"] == pytest.approx(np.mean([rank < k for rank in ranks]), abs=1e-5)  # rounded
