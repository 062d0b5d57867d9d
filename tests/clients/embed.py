"""Embed with transformers and with Sentence Transformers: FOLDER TEXTS.json PIXELS.npy IMAGES OUT.npz.

IMAGES: a folder of PNG files.  Prints the probability of each of the first three texts for the first image.
"""

import functools
import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image
from sentence_transformers import SentenceTransformer

folder, texts_file, pixels_file, images, out = sys.argv[1:]
transformers.utils.logging.set_verbosity_error()
texts = json.loads(Path(texts_file).read_text(encoding="utf-8"))
pictures = [Image.open(path) for path in sorted(Path(images).glob("*.png"))]
processor = transformers.AutoProcessor.from_pretrained(folder)
model = transformers.AutoModel.from_pretrained(folder).eval()
inputs = processor(text=texts, return_tensors="pt", padding=True, truncation=True)
with torch.inference_mode():
    outputs = model(**inputs, pixel_values=torch.from_numpy(np.load(pixels_file)))
sentence = SentenceTransformer(folder, device="cpu")
rows = {"text": outputs.text_embeds, "pixels": outputs.image_embeds}
np.savez(out, **rows, sentence_text=sentence.encode(texts), sentence_image=sentence.encode(pictures))
classify = transformers.pipeline("zero-shot-image-classification", model=folder)
labels = classify(pictures[0], candidate_labels=texts[:3], hypothesis_template="{}")
# the pipeline itself does not truncate: the advice of docs/7_export.md
classify.tokenizer = functools.partial(classify.tokenizer, truncation=True)
assert len(classify(pictures[0], candidate_labels=["x " * 200, texts[0]], hypothesis_template="{}")) == 2
print(version("transformers"), version("sentence-transformers"))
print(json.dumps({label["label"]: label["score"] for label in labels}))
