"""Other software on what worldclip writes; `make clients` makes its environments in .clients and runs these tests.

A test whose client or environment does not exist is skipped.  tests/export/test_export_formats.py has timm and peft.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import worldclip
from pages import REPOSITORY
from plain_recipe import LISTS, make_recipe, make_shards, run_stages, write_metadata, write_pool
from small_models import HOSTILE, SPECIAL, TEXTS, UNLIKE_IN_JS, random_pixels, save_xlm_v
from worldclip.contracts.layout import latest_checkpoint
from worldclip.core.execute import LocalExecutor
from worldclip.curate import read_curated
from worldclip.export import ExportConfig, export_model
from worldclip.model.tokenizer import train_tokenizer

CLIENTS = REPOSITORY / ".clients"
EQUAL = (*TEXTS, *HOSTILE, *UNLIKE_IN_JS)
"""Texts that have the same embedding in every library."""


def run(program: str | Path | None, *words: str | Path) -> Any:
    """Run a script of this folder by a program and return the JSON of its last line."""
    if program is None or not Path(program).exists():
        pytest.skip(f"{program} does not exist; run: make clients")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHONPATH", "PYTEST"))}
    environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [str(program), *map(str, words)]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, env=environ, check=False)
    assert done.returncode == 0, f"{done.stdout[-2000:]}{done.stderr[-4000:]}"
    print(done.stdout)
    return json.loads(done.stdout.splitlines()[-1])


def write_pictures(folder: Path, shapes: dict[str, tuple[int, int]]) -> list[Image.Image]:
    random = np.random.default_rng(0)
    pictures = []
    for name, shape in shapes.items():
        pictures.append(Image.fromarray(random.integers(0, 256, (*shape, 3), dtype=np.uint8)))
        pictures[-1].save(folder / name)
    return pictures


# --- transformers, Sentence Transformers ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(toy_run, published_model, tmp_path_factory) -> Path:
    """Folders NAME of a checkpoint, its exports with the whole and a smaller vocabulary, and of published models."""
    place = tmp_path_factory.mktemp("exported")
    checkpoint = latest_checkpoint(toy_run)
    xlm_v = shutil.copytree(published_model("metaclip-2-worldwide-b32"), place / "source")
    save_xlm_v(xlm_v, model_max_length=int(1e30))
    (place / "captions.txt").write_text("a red circle\nein Bild: Kreis\n", encoding="utf-8")
    export_model(checkpoint, place / "ours")
    export_model(checkpoint, place / "pruned", ExportConfig(languages=("en",), corpus=(str(place / "captions.txt"),)))
    export_model(published_model("metaclip-2-worldwide-b32"), place / "xlm_v_512")
    export_model(xlm_v, place / "xlm_v_1e30")
    export_model(published_model("metaclip-2-mt5-worldwide-s16"), place / "mt5_64")
    (place / "checkpoint").mkdir()
    (place / "checkpoint" / "huggingface").symlink_to(checkpoint)
    (place / "texts.json").write_text(json.dumps([*EQUAL, *SPECIAL]), encoding="utf-8")
    return place


@pytest.mark.slow
@pytest.mark.parametrize("python", [sys.executable, CLIENTS / "transformers-4.57/bin/python"], ids=["this", "4.57"])
@pytest.mark.parametrize("name", ["checkpoint", "ours", "pruned", "xlm_v_512", "xlm_v_1e30", "mt5_64"])
def test_transformers_and_sentence_transformers_embed_as_worldclip(name, python, place, tmp_path):
    folder = place / name / "huggingface"
    clip = worldclip.load(folder, device="cpu")
    size = clip.model.config.vision_config.image_size
    pictures = write_pictures(tmp_path, {"0.png": (size, size), "1.png": (50, 40)})
    pixels = random_pixels(size)
    np.save(tmp_path / "pixels.npy", pixels.numpy())
    arguments = (folder, place / "texts.json", tmp_path / "pixels.npy", tmp_path, tmp_path / "out.npz")
    scores = run(python, "embed.py", *arguments)
    rows = np.load(tmp_path / "out.npz")
    for library in ("text", "sentence_text"):
        np.testing.assert_allclose(rows[library][: len(EQUAL)], clip.encode_text(EQUAL), atol=1e-5)
        assert np.isfinite(rows[library]).all()  # special strings are special there: any embedding, no failure
    np.testing.assert_allclose(rows["pixels"], clip.backend.encode_pixels(pixels), atol=1e-5)
    of_size, other = clip.encode_image(pictures)
    np.testing.assert_allclose(rows["sentence_image"][0], of_size, atol=1e-5)
    # version 4 of transformers resizes PIL images, version 5 tensors: pixels differ by a level
    np.testing.assert_allclose(rows["sentence_image"][1], other, atol=1e-5 if python == sys.executable else 1e-3)
    expected = clip.classify(pictures[0], TEXTS[:3])[0]
    np.testing.assert_allclose([scores[text] for text in TEXTS[:3]], expected, atol=1e-3)


# --- open_clip, datasets ----------------------------------------------------------------------------------------------


def test_open_clip_tokenises_curly_quotes_alike_and_no_text_fails(hugging_face, tmp_path):
    """open_clip repairs texts (ftfy, entities, white space), so hostile ones have another embedding, and no failure."""
    open_clip = pytest.importorskip("open_clip")
    quotes = ["flag: Côte d’Ivoire", "“red” ‘apple’", 'it\'s a "dog"', "“", "红苹果", ""]
    tokenizer = train_tokenizer([*quotes, "it's", '"dog"'] * 3, vocab_size=60, context_length=16)
    tokenizer.save(tmp_path / "tokenizer")
    theirs = open_clip.tokenizer.HFTokenizer(str(tmp_path / "tokenizer"), context_length=16)(quotes).numpy()
    ours = tokenizer.encode(quotes).padded()
    np.testing.assert_array_equal(theirs[:, : ours.shape[1]], ours)
    assert (theirs[:, ours.shape[1] :] == tokenizer.pad_id).all()
    export_model(hugging_face, tmp_path / "exported", ExportConfig(formats=("open_clip",)))
    name = f"local-dir:{tmp_path / 'exported/open_clip'}"
    model, _, transform = open_clip.create_model_and_transforms(name)
    texts = open_clip.get_tokenizer(name)([*HOSTILE, *SPECIAL])
    assert model.eval().encode_text(texts).isfinite().all()
    picture = write_pictures(tmp_path, {"0.png": (50, 40)})[0]
    clip = worldclip.load(tmp_path / "exported/open_clip", device="cpu")
    rows = model.encode_image(transform(picture)[None], normalize=True).detach().numpy()
    np.testing.assert_allclose(rows, clip.encode_image([picture]), atol=1e-5)


@pytest.mark.slow
def test_datasets_loads_lists_and_tars_of_curate(tmp_path):
    datasets = pytest.importorskip("datasets")
    shards = make_shards(seed=2)
    write_pool(tmp_path / "pool", shards)
    run_dir = tmp_path / "run"
    write_metadata(run_dir, LISTS)
    recipe = make_recipe(tmp_path / "pool", curate={"write": "tars", "samples_per_tar": 7})
    report = run_stages(recipe, run_dir, LocalExecutor(workers=1, quiet=True))
    rows = [row for name in sorted(shards) for row in read_curated(run_dir, name).to_pylist()]
    cache = str(tmp_path / "cache")
    lists = datasets.load_dataset(str(run_dir / "curate"), split="train", cache_dir=cache)
    assert sorted((row["key"], row["text"]) for row in lists) == sorted((row["key"], row["text"]) for row in rows)
    tars = datasets.load_dataset(str(run_dir / "curate" / "tars"), split="train", cache_dir=cache)
    assert len(tars) == report["curate"]["tars"]["samples"]
    assert {row["key"] for row in tars["json"]} == {row["key"] for row in rows}


# --- mteb -------------------------------------------------------------------------------------------------------------

LABELS = ["a red picture", "a green picture", "a blue picture"]
ANSWERS = [0, 1, 2, 2]


def colours() -> list[Image.Image]:
    return [Image.new("RGB", (8, 8), rgb) for rgb in [(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 255, 10)]]


def miniature(name: str) -> Any:
    """Return a zero-shot task of mteb with its metadata and four pictures."""
    import mteb
    from datasets import Dataset, DatasetDict
    from mteb.abstasks.zeroshot_classification import AbsTaskZeroShotClassification

    real = mteb.get_tasks(tasks=[name])[0]
    changes = {"name": f"Miniature{name}", "dataset": {"path": "none", "revision": "0"}, "eval_splits": ["test"]}

    class Miniature(AbsTaskZeroShotClassification):
        metadata = real.metadata.model_copy(update=changes)

        def load_data(self, **kwargs):
            self.dataset = DatasetDict({"test": Dataset.from_dict({"image": colours(), "label": ANSWERS})})
            self.data_loaded = True

        def get_candidate_labels(self):
            return LABELS

    return Miniature()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Precision is ill-defined")
def test_mteb_finds_the_accuracies_of_worldclip(hugging_face, clip, tmp_path):
    mteb = pytest.importorskip("mteb")
    from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper

    export_model(hugging_face, tmp_path)
    model = SentenceTransformerEncoderWrapper(str(tmp_path / "huggingface"))  # as docs/6_evaluate.md says
    model.mteb_model_meta = model.mteb_model_meta.model_copy(update={"modalities": ["text", "image"]})

    def scores_of(name: str) -> dict[str, float]:
        result = mteb.evaluate(model, miniature(name), cache=None, show_progress_bar=False)
        return result.task_results[0].scores["test"][0]

    similarities = clip.encode_text(LABELS) @ clip.encode_image(colours()).T
    accuracy = (similarities.argmax(axis=0) == ANSWERS).mean()
    # the two orders of the modalities in mteb's zero-shot tasks: one uses our similarity, the other mteb's own
    for name, modalities in (("CIFAR10ZeroShot", ["text", "image"]), ("MNISTZeroShot", ["image", "text"])):
        assert mteb.get_tasks(tasks=[name])[0].metadata.modalities == modalities
        assert scores_of(name)["accuracy"] == pytest.approx(accuracy)


# --- transformers.js --------------------------------------------------------------------------------------------------


def check_cosines(rows: Any, expected_BD: np.ndarray, min_cosine: float) -> None:
    rows_BD = np.asarray(rows, np.float32)
    rows_BD /= np.linalg.norm(rows_BD, axis=1, keepdims=True)
    assert rows_BD.shape == expected_BD.shape
    assert (rows_BD * expected_BD).sum(axis=1).min() >= min_cosine


@pytest.mark.slow
@pytest.mark.parametrize("environment", ["node", "node-newest"])
def test_transformers_js_embeds_and_classifies_as_worldclip_in_every_shape(environment, hugging_face, clip, tmp_path):
    export_model(hugging_face, tmp_path, ExportConfig(formats=("onnx",)))
    modules, image = CLIENTS / environment / "node_modules", tmp_path / "image.png"
    if not modules.exists():
        pytest.skip(f"{modules} does not exist; run: make clients")
    write_pictures(tmp_path, {"image.png": (64, 64)})  # as the model reads it: no library has to resize
    texts = (*TEXTS, "a red apple " * 50, *HOSTILE)
    (tmp_path / "texts.json").write_text(json.dumps([*texts, *UNLIKE_IN_JS, *SPECIAL]), encoding="utf-8")
    shapes = [(1, 1), (1, 2), (2, 1), (5, 7), (16, 2), (20, 20)]  # images x texts: equal, unequal, one of each
    names = [f"{num_images}x{num_texts}" for num_images, num_texts in shapes]
    for precision, min_cosine in (("fp32", 1 - 1e-6), ("fp16", 0.999), ("q8", 0.999)):
        words = (modules, tmp_path / "onnx", image, tmp_path / "texts.json", precision, json.dumps(names))
        answer = run(shutil.which("node"), "transformers_js.mjs", *words)
        assert np.isfinite(np.asarray(answer["text"], np.float32)).all()
        check_cosines(answer["text"][: len(texts)], clip.encode_text(texts), min_cosine)
        check_cosines(answer["image"], clip.encode_image([image]), min_cosine)
        scores = [label["score"] for text in texts[:3] for label in answer["labels"] if label["label"] == text]
        np.testing.assert_allclose(
            scores, clip.classify(image, texts[:3])[0], atol=1e-4 if precision == "fp32" else 0.05
        )
        for name, (num_images, num_texts) in zip(names, shapes, strict=True):
            rows = answer["joint"][name]
            check_cosines(rows["image"], clip.encode_image([image] * num_images), min_cosine)
            check_cosines(rows["text"], clip.encode_text(texts[:num_texts]), min_cosine)
