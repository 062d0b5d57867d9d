"""Embed and classify with optimum's ONNX Runtime models: FOLDER FILE TEXTS.json IMAGE OUT.npz SHAPE ...

FILE: a joint graph (model*.onnx) of FOLDER/onnx.  SHAPE: numbers of images and texts, 2x1.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from optimum.onnxruntime import ORTModelForCustomTasks, ORTModelForZeroShotImageClassification, pipeline
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer

folder, file, texts_file, image, out, *shapes = sys.argv[1:]
texts = json.loads(Path(texts_file).read_text(encoding="utf-8"))
model = ORTModelForZeroShotImageClassification.from_pretrained(folder, subfolder="onnx", file_name=file)
processor = AutoProcessor.from_pretrained(folder)
rows = {}
for shape in shapes:
    num_images, num_texts = map(int, shape.split("x"))
    pictures = [Image.open(image)] * num_images
    inputs = processor(text=texts[:num_texts], images=pictures, return_tensors="pt", padding=True, truncation=True)
    outputs = model(**inputs)
    rows |= {f"{shape}_text": outputs.text_embeds, f"{shape}_image": outputs.image_embeds}
encoder = ORTModelForCustomTasks.from_pretrained(
    folder, subfolder="onnx", file_name=file.replace("model", "text_model", 1)
)
inputs = processor(text=texts, return_tensors="pt", padding=True, truncation=True)
text = encoder(**{name: inputs[name] for name in ("input_ids", "attention_mask")})["text_embeds"]
np.savez(out, text=text, **rows)

classify = pipeline(
    "zero-shot-image-classification",
    model=model,
    tokenizer=AutoTokenizer.from_pretrained(folder),
    image_processor=AutoImageProcessor.from_pretrained(folder),
)
labels = classify(image, candidate_labels=texts[:3], hypothesis_template="{}")
others = ", ".join(f"{name} {version(name)}" for name in ("optimum", "transformers", "onnxruntime"))
print(json.dumps({"versions": [f"optimum-onnx {version('optimum-onnx')} ({others})"], "labels": labels}))
