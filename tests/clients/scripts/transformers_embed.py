"""Embed with transformers' own classes: FOLDER TEXTS.json PIXELS.npy IMAGE OUT.npz.

Runs under transformers 4.57 and 5.
"""

import functools
import json
import sys

import numpy as np
import torch
import transformers

folder, texts_file, pixels_file, image, out = sys.argv[1:]
transformers.utils.logging.set_verbosity_error()
with open(texts_file, encoding="utf-8") as file:
    texts = json.load(file)
processor = transformers.AutoProcessor.from_pretrained(folder)
model = transformers.AutoModel.from_pretrained(folder).eval()
inputs = processor(text=texts, return_tensors="pt", padding=True, truncation=True)
with torch.inference_mode():
    outputs = model(**inputs, pixel_values=torch.from_numpy(np.load(pixels_file)))
np.savez(out, text=outputs.text_embeds.numpy(), image=outputs.image_embeds.numpy())
classify = transformers.pipeline("zero-shot-image-classification", model=folder)
labels = classify(image, candidate_labels=texts[:3], hypothesis_template="{}")
# the pipeline itself does not truncate: the advice of docs/7_export.md
classify.tokenizer = functools.partial(classify.tokenizer, truncation=True)
assert len(classify(image, candidate_labels=["x " * 200, texts[0]], hypothesis_template="{}")) == 2
print(json.dumps({"versions": [f"transformers {transformers.__version__}"], "labels": labels}))
