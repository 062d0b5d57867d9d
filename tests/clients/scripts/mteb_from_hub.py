"""Find and load a pushed export as mteb does: ENDPOINT OWNER/NAME CACHE TEXTS.json OUT.npz.

TEXTS: a list.  The last line printed is a record of the model's metadata.
"""

import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image


def main(name: str, texts_file: str, out: str) -> None:
    import mteb

    from worldclip.plugins.leaderboard.mieb import mteb_meta

    meta = mteb_meta(name)
    own = mteb.get_model_meta(name, fetch_from_hf=True)
    model = meta.load_model(device="cpu")
    texts = json.loads(Path(texts_file).read_text(encoding="utf-8"))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    np.savez(out, text=model.model.encode(texts), image=model.model.encode([picture]))
    compile(meta.to_python(), "entry", "exec")
    facts = ("name", "revision", "modalities", "embed_dim", "max_tokens", "languages", "license", "n_parameters")
    record = {key: getattr(meta, key) for key in facts}
    others = ", ".join(f"{package} {version(package)}" for package in ("sentence-transformers", "transformers"))
    print(json.dumps({"versions": [f"mteb {version('mteb')} ({others})"], "meta": record, "own": own.name}))


endpoint, repository, cache, *files = sys.argv[1:]
os.environ |= {"HF_ENDPOINT": endpoint, "HF_HOME": cache}  # read when huggingface_hub is imported
os.environ.pop("HF_HUB_OFFLINE", None)
sys.path.insert(0, str(Path(__file__).parents[3] / "src"))
main(repository, *files)
