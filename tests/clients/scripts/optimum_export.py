"""Export a Hugging Face folder with optimum: SOURCE OUT."""

import json
import sys
from importlib.metadata import version

from optimum.onnxruntime import ORTModelForZeroShotImageClassification
from transformers import AutoProcessor

source, out = sys.argv[1:]
ORTModelForZeroShotImageClassification.from_pretrained(source, export=True).save_pretrained(out)
AutoProcessor.from_pretrained(source).save_pretrained(out)
others = ", ".join(f"{name} {version(name)}" for name in ("optimum", "transformers", "torch"))
print(json.dumps({"versions": [f"optimum-onnx {version('optimum-onnx')} ({others})"]}))
