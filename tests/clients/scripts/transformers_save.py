"""Save each folder of SOURCE with this version of transformers: SOURCE OUT.

OUT/<folder>/<weights> for weights in fp32 (one file), sharded, bf16 and fp16.
"""

import json
import sys
from pathlib import Path

import torch
import transformers

source, out = map(Path, sys.argv[1:])
transformers.utils.logging.set_verbosity_error()
KINDS = {
    "fp32": (torch.float32, {}),
    "sharded": (torch.float32, {"max_shard_size": "200KB"}),
    "bf16": (torch.bfloat16, {}),
    "fp16": (torch.float16, {}),
}
for folder in sorted(source.iterdir()):
    processor = transformers.AutoProcessor.from_pretrained(folder)
    for name, (dtype, options) in KINDS.items():
        model = transformers.AutoModel.from_pretrained(folder, dtype=dtype)
        model.save_pretrained(out / folder.name / name, **options)
        processor.save_pretrained(out / folder.name / name)
print(json.dumps({"versions": [f"transformers {transformers.__version__}"], "kinds": list(KINDS)}))
