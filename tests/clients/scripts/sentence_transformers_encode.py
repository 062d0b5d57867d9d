"""Encode with Sentence Transformers: FOLDER TEXTS.json IMAGES OUT.npz.

IMAGES: a folder of PNG files.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image
from sentence_transformers import SentenceTransformer

folder, texts_file, images, out = sys.argv[1:]
texts = json.loads(Path(texts_file).read_text(encoding="utf-8"))
pictures = [Image.open(path) for path in sorted(Path(images).glob("*.png"))]
model = SentenceTransformer(folder, device="cpu")
np.savez(out, text=model.encode(texts), image=model.encode(pictures))
others = ", ".join(f"{name} {version(name)}" for name in ("transformers",))
print(json.dumps({"versions": [f"sentence-transformers {version('sentence-transformers')} ({others})"]}))
