"""Write tests/released/<version>.tar.gz: a small run of the present worldclip, which every later version must read.

    PYTHONPATH=src:tests/helpers python tests/released/make.py

Call it once per release and never again for the same one.  All pictures, texts and weights are drawn here.  Nothing in
the manifests depends on packages or on the processor: entries and the LID model are files, no text is segmented, and
training is in float32.  Frozen towers have no moments, which keeps the archive small.

    recipe.toml, pool/, lists/, lid.bin, pictures/   what the run reads
    run/                                             RUN, from pool to evaluate, with one checkpoint
    embedded/                                        the texts of the pool
    expected.npz                                     `images` of pictures/ and `texts` of TEXTS, embedded by the run

TEXT_FILES have PLACE in place of the folder that `unpack` writes.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import tempfile
from pathlib import Path

import numpy as np

import worldclip
from fasttext_files import Kind, write_model
from tars import write_tar
from toy import TOY_CAPTIONS, TOY_WORDS, draw_shape
from worldclip.cli import main

HERE = Path(__file__).parent
PLACE = "/place/of/the/archive"
TEXTS = ["a photo of a red circle", "一张蓝色方形的照片"]
RGB = np.array([(220, 30, 30), (30, 160, 60), (40, 60, 220), (235, 205, 30), (15, 15, 15)], np.uint8)
LANGS = ("en", "zh")
MAX_BYTES = 200_000  # of an archive
TEXT_FILES = (".json", ".jsonl", ".toml", ".txt", ".md")
LEFT_OUT = ("report.html", "tensorboard")  # written anew
RECIPE = """
[pool]
path = "pool"
lang = "json:langs"
[languages]
codes = ["en", "zh"]
lid_model = "lid.bin"
[metadata]
sources = ["number"]
lists = { en = "lists/en.txt", zh = "lists/zh.txt" }
[balance]
english_threshold = 2
[curate]
text_policy = "all"
[train]
samples_seen = 64
global_batch_size = 8
warmup_samples = 8
lr = 1e-2
checkpoint_every_samples = 64
keep_last = 1
device = "cpu"
freeze = ["vision", "text"]
[train.model]
preset = "tiny"
image_size = 16
vision_layers = 1
vision_width = 32
text_layers = 1
text_width = 32
embed_dim = 8
context_length = 12
[train.tokenizer]
vocab_size = 64
[evaluate]
datasets = ["pictures"]
folders = { pictures = "folders:pictures" }
languages = ["en"]
device = "cpu"
"""


def draw(folder: Path) -> None:
    """Write what the run reads: 24 pictures with captions in two languages, one without a match; five to evaluate."""
    words = {lang: [part.split() for part in TOY_WORDS[lang]] for lang in LANGS}
    (folder / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    (folder / "lists").mkdir()
    for lang, (colours, shapes) in words.items():
        (folder / "lists" / f"{lang}.txt").write_text("\n".join([*colours, *shapes]) + "\n", encoding="utf-8")
    for shard in range(2):
        members: list[tuple[str, bytes]] = []
        for n in range(12 * shard, 12 * shard + 12):
            colour, shape = n % 5, n // 5 % 5
            texts = [TOY_CAPTIONS[lang].format(words[lang][0][colour], words[lang][1][shape]) for lang in LANGS]
            texts = texts if n else ["a photo of something", texts[1]]
            members.append((f"{n:05}.png", draw_shape(shape, RGB[colour], n % 7 - 3, 16)))
            members.append((f"{n:05}.json", json.dumps({"texts": texts, "langs": LANGS}, ensure_ascii=False).encode()))
        write_tar(folder / "pool" / f"{shard:05}.tar", members)
    for colour, name in enumerate(words["en"][0]):
        (folder / "pictures" / name).mkdir(parents=True)
        (folder / "pictures" / name / "0.png").write_bytes(draw_shape(1, RGB[colour], 0, 16))
    write_model(folder / "lid.bin", Kind(dim=4, bucket=20), ["a"], {"en": 2, "zh": 1})


def embeddings(model: Path, pictures: Path) -> dict[str, np.ndarray]:
    """Return the embeddings that every version must give, to 1e-4."""
    clip = worldclip.load(model, device="cpu")
    return {"images": clip.encode_image(sorted(pictures.rglob("*.png"))), "texts": clip.encode_text(TEXTS)}


def make(folder: Path) -> None:
    """Write the folder that becomes the archive."""
    draw(folder)
    run, pool = folder / "run", folder / "pool"
    of_texts = ["--of", "texts", "--precision", "fp32", "--device", "cpu"]
    for words in (
        ["run", folder / "recipe.toml", "--out", run, "--until", "evaluate"],
        ["embed", run, pool, "--out", folder / "embedded", *of_texts],
    ):
        assert main([str(word) for word in words]) == 0
    np.savez(folder / "expected.npz", **embeddings(run, folder / "pictures"))


def pack(folder: Path, archive: Path) -> None:
    """Write the files of a folder as an archive."""
    with tarfile.open(archive, "w:gz") as tar:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder)
            if path.is_file() and not {*LEFT_OUT} & {*name.parts}:
                content = replace(path, str(folder), PLACE)
                assert str(folder).encode() not in content, f"{name} states where it lies, and is no text"
                header = tarfile.TarInfo(name.as_posix())
                header.size = len(content)
                tar.addfile(header, io.BytesIO(content))
    size = archive.stat().st_size
    assert size < MAX_BYTES, f"{archive} has {size:,} bytes"
    print(f"{archive}: {size:,} bytes")


def unpack(archive: Path, folder: Path) -> Path:
    """Write the files of an archive into a new folder, whose path they then state; return it."""
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(replace(path, PLACE, str(folder)))
    return folder


def replace(path: Path, old: str, new: str) -> bytes:
    """Return the content of a file, of a text file with another place in it."""
    content = path.read_bytes()
    return content.replace(old.encode(), new.encode()) if path.suffix in TEXT_FILES else content


if __name__ == "__main__":
    released = HERE / f"{worldclip.__version__}.tar.gz"
    assert not released.exists(), f"{released} is there; the archive of a release is never written again"
    scratch = Path(tempfile.mkdtemp())
    try:
        make(scratch)
        pack(scratch, released)
    finally:
        shutil.rmtree(scratch)
