"""Write the valid keys of a pool without near duplicates by meaning, as SemDeDup finds them (arXiv:2303.09540).

    worldclip embed MODEL POOL --out embedded
    python examples/dedup_by_meaning/semdedup.py embedded valid_keys.parquet --max-cosine 0.95

k-means groups the images; of a group, an image goes if one that is farther from the centre is nearer to it than
--max-cosine.  A pair of images is compared only within a group: about N / clusters comparisons per image.  Default of
--clusters: the square root of N.

N images, K clusters, D dimensions of an embedding, M images of a cluster.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("embedded", type=Path)
parser.add_argument("out", type=Path)
parser.add_argument("--clusters", type=int)
parser.add_argument("--max-cosine", type=float, default=0.95)
options = parser.parse_args()
if not (options.embedded / "manifest.json").is_file():
    parser.error(f"{options.embedded} is not finished; give a folder that `worldclip embed` wrote to its end")

files = sorted((options.embedded / "images").rglob("*.parquet"))
if not files:
    parser.error(f"{options.embedded} holds no embedded images; give a folder that `worldclip embed` wrote")
vectors_ND = np.concatenate([np.load(file.with_suffix(".npy")) for file in files])
keys = pa.concat_tables(pq.read_table(file, columns=["key"]) for file in files)
num_clusters = options.clusters or max(1, math.isqrt(len(vectors_ND)))
if num_clusters > len(vectors_ND):
    parser.error(f"--clusters {num_clusters}: there are {len(vectors_ND)} images; leave it out")
chosen = np.random.default_rng(0).choice(len(vectors_ND), num_clusters, replace=False)
centres_KD = vectors_ND[chosen]
for _ in range(10):
    parts = np.array_split(vectors_ND, 1 + len(vectors_ND) // 10_000)
    cluster_N = np.concatenate([(part @ centres_KD.T).argmax(axis=1) for part in parts])
    ends_K = np.cumsum(np.bincount(cluster_N, minlength=len(centres_KD)))
    rows_of = np.split(np.argsort(cluster_N, kind="stable"), ends_K[:-1])
    for k, rows in enumerate(rows_of):
        if len(rows):
            centre_D = vectors_ND[rows].sum(axis=0)
            centres_KD[k] = centre_D / np.linalg.norm(centre_D)

is_valid_N = np.ones(len(vectors_ND), bool)
for centre_D, rows in zip(centres_KD, rows_of, strict=True):
    rows = rows[np.argsort(vectors_ND[rows] @ centre_D, kind="stable")]  # the farthest first: it stays
    cosine_MM = np.triu(vectors_ND[rows] @ vectors_ND[rows].T, k=1)
    is_valid_N[rows] = cosine_MM.max(axis=0, initial=-1) <= options.max_cosine
pq.write_table(keys.filter(pa.array(is_valid_N)), options.out)
