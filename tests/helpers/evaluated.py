"""Evaluations of made-up models: records, folders that evaluate wrote, and runs with a dataset to evaluate."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from miniature import Files, write_files
from worldclip.config import Recipe, load_recipe
from worldclip.evaluate import engine
from worldclip.evaluate.tasks import Dataset
from worlds import WordModel, vector, word_dataset


def record(
    lang: str = "en",
    dataset: str = "a",
    task: str = "zeroshot_classification",
    *,
    n: int = 10,
    chance: Mapping[str, float] | None = None,
    intervals: Mapping[str, Sequence[float]] | None = None,
    slices: Mapping[str, Mapping[str, float]] | None = None,
    **metrics: float,
) -> dict[str, Any]:
    """Return a line of results.jsonl with these numbers.  slices: {part: its metrics}, of 3 queries each."""
    parts = {part: {"n": 3, "metrics": dict(of_part)} for part, of_part in (slices or {}).items()}
    return {
        "model": "m", "model_digest": "0" * 32, "dataset": dataset, "dataset_digest": "d", "lang": lang, "task": task,
        "protocol": {}, "n": n, "metrics": metrics, "chance": dict(chance or {}),
        "interval_95": {name: list(bounds) for name, bounds in (intervals or {}).items()},
        **({"slices": parts} if parts else {}), "digest": f"{dataset} {lang} {task}",
    }  # fmt: skip


class Forgetful(WordModel):
    """Sees another word in some images.  forgotten: default: every third one."""

    def __init__(self, forgotten: Sequence[bytes] = ()) -> None:
        super().__init__()
        self.forgotten = forgotten

    def see(self, image: bytes) -> np.ndarray:
        is_forgotten = image in self.forgotten if self.forgotten else image[-1] in b"036"
        return vector(f"{image}?" if is_forgotten else image.decode())


def evaluated(
    model: WordModel, folder: Path, *datasets: Dataset, languages: Sequence[str] = (), **model_id: str
) -> Path:
    """Write the results of a model into `folder` and return it.  datasets: default: 60 words in two languages."""
    datasets = datasets or (word_dataset("a", [f"word{i}" for i in range(60)]),)
    model_id = {"model": folder.name, "model_digest": folder.name, **model_id}
    engine.evaluate(model, model_id, datasets, languages, folder / "results.jsonl")
    return folder


def caption_files(keys: Sequence[str], words: Sequence[str] = (), langs: Sequence[str] = ("en", "th")) -> Files:
    """Return a dataset of layout `captions` whose captions are the keys.  words: in the images (default: the keys)."""
    lines = [
        json.dumps({"image/key": key, **{lang: {"caption": [key if lang == "en" else f"x/{key}"]} for lang in langs}})
        for key in keys
    ]
    images = {f"images/{key}.png": word for key, word in zip(keys, words or keys, strict=True)}
    return {"captions.jsonl": "".join(f"{line}\n" for line in lines), **images}


def webdataset_files(keys: Sequence[str], words: Sequence[str] = (), template: str = "{c}") -> Files:
    """Return a dataset of layout `webdataset` with an image per class.  words: in the images (default: the keys)."""
    members = {}
    for label, word in enumerate(words or keys):
        members |= {f"{label}.png": word.encode(), f"{label}.cls": str(label).encode()}
    texts = {"classnames.txt": "\n".join(keys), "zeroshot_classification_templates.txt": template}
    return {**texts, "test/nshards.txt": "1\n", "test/0.tar": members}


def write_checkpoint(run_dir: Path, step: int = 10) -> Path:
    """Write something that counts as the checkpoint of a step; its weights are never read."""
    checkpoint = run_dir / "train" / f"step_{step:09}"
    write_files(checkpoint, {"model.safetensors": str(step), "config.json": '{"model_type": "metaclip_2"}'})
    return checkpoint


def recipe_to_evaluate(folders: Mapping[str, str], **evaluate: Any) -> Recipe:
    """Return a recipe that evaluates on datasets in folders, {name: "layout:path"}."""
    sections = {"datasets": list(folders), "folders": dict(folders)} | evaluate
    return load_recipe({"pool": {"path": "."}, "balance": {"tail_fraction": 0.1}, "evaluate": sections})
