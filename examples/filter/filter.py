"""Write the valid keys of a pool: pairs whose best text is like its image, and whose image a linear head finds safe.

    worldclip embed MODEL POOL --out embedded --of images texts
    python examples/filter/filter.py embedded valid_keys.parquet --min-score 0.28 --head nsfw.npy

The score is the cosine of image and text.  --head: (D + 1,), weights and bias of a logistic regression on embeddings of
the same model: np.append(regression.coef_, regression.intercept_) in scikit-learn.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("embedded", type=Path)
parser.add_argument("out", type=Path)
parser.add_argument("--min-score", type=float, default=-1.0)
parser.add_argument("--head", type=Path)
options = parser.parse_args()
if not (options.embedded / "manifest.json").is_file():
    parser.error(f"{options.embedded} is not finished; give a folder that `worldclip embed` wrote to its end")

segments = json.loads((options.embedded / "manifest.json").read_text(encoding="utf-8"))["segments"]
valid = []
for shard, images in segments["images"].items():
    texts = segments["texts"][shard]
    files = [options.embedded / "images" / f"{images}.parquet", options.embedded / "texts" / f"{texts}.parquet"]
    image_ND, text_TD = (np.load(file.with_suffix(".npy")) for file in files)
    keys, key_of_text = (pq.read_table(file)["key"].cast(pa.string()).combine_chunks() for file in files)
    image_of_text = pc.index_in(key_of_text, keys).fill_null(-1).to_numpy()
    has_image = image_of_text >= 0  # False: there is none, or it does not decode
    image_of_text = image_of_text[has_image]
    best_N = np.full(len(keys), -2.0)
    np.maximum.at(best_N, image_of_text, np.einsum("td,td->t", image_ND[image_of_text], text_TD[has_image]))
    is_valid = best_N >= options.min_score
    if options.head is not None:
        weights = np.load(options.head)
        is_valid &= image_ND @ weights[:-1] + weights[-1] <= 0
    valid.append(pa.table({"key": keys.filter(pa.array(is_valid))}))
pq.write_table(pa.concat_tables(valid), options.out)
