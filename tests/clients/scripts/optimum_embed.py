"""Embed and classify with optimum's ONNX Runtime models: FOLDER FILE TEXTS.json IMAGE OUT.npz.

FILE: a joint graph (model*.onnx) of FOLDER/onnx.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from optimum.onnxruntime import ORTModelForCustomTasks, ORTModelForZeroShotImageClassification, pipeline
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer

folder, file, texts_file, image, out = sys.argv[1:]
texts = json.loads(Path(texts_file).read_text(encoding="utf-8"))
model = ORTModelForZeroShotImageClassification.from_pretrained(folder, subfolder="onnx", file_name=file)
processor = AutoProcessor.from_pretrained(folder)
inputs = processor(text=texts, images=Image.open(image), return_tensors="pt", padding=True, truncation=True)
outputs = model(**inputs)
encoder = ORTModelForCustomTasks.from_pretrained(
    folder, subfolder="onnx", file_name=file.replace("model", "text_model", 1)
)
text_inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
text = encoder(**text_inputs)["text_embeds"]
np.savez(out, joint_text=outputs.text_embeds, joint_image=outputs.image_embeds, text=text)

classify = pipeline(
    "zero-shot-image-classification",
    model=model,
    tokenizer=AutoTokenizer.from_pretrained(folder),
    image_processor=AutoImageProcessor.from_pretrained(folder),
)
labels = classify(image, candidate_labels=texts[:3], hypothesis_template="{}")
others = ", ".join(f"{name} {version(name)}" for name in ("optimum", "transformers", "onnxruntime"))
print(json.dumps({"versions": [f"optimum-onnx {version('optimum-onnx')} ({others})"], "labels": labels}))
