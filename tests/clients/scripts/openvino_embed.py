"""Embed with OpenVINO's runtime: FOLDER SUFFIX INPUTS.npz OUT.npz.

SUFFIX: of the encoders' names (`_quantized`), or empty.  INPUTS: input_ids, attention_mask and pixel_values.
"""

import json
import sys

import numpy as np
import openvino

folder, suffix, inputs_file, out = sys.argv[1:]
inputs = np.load(inputs_file)
core = openvino.Core()
embeds = {}
for tower, names in (("text", ("input_ids", "attention_mask")), ("image", ("pixel_values",))):
    graph = "vision_model" if tower == "image" else "text_model"
    model = core.read_model(f"{folder}/onnx/{graph}{suffix}.onnx")
    # on processors with AMX the default is bfloat16
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    embeds[tower] = compiled({name: inputs[name] for name in names})[f"{tower}_embeds"]
np.savez(out, **embeds)
print(json.dumps({"versions": [f"openvino {openvino.__version__.partition('-')[0]}"]}))
