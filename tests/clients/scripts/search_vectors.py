"""Find the nearest row of row 0 with each tool of docs/inference.md: FOLDER TEMPORARY.

FOLDER: one shard, 00000.tar.npy and 00000.tar.parquet, as `worldclip embed --vectors-in-table` writes them.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import autofaiss
import duckdb
import faiss
import lancedb
import numpy as np
import pandas as pd
from usearch.index import Index

folder, temporary = map(Path, sys.argv[1:])
parquet = str(folder / "00000.tar.parquet")
vectors = np.concatenate([np.load(file) for file in sorted(folder.glob("*.npy"))])
query = vectors[0]
nearest = {}

index = faiss.IndexFlatIP(vectors.shape[1])
index.add(vectors)
nearest["faiss"] = int(index.search(query[None], 1)[1][0, 0])

index = Index(ndim=vectors.shape[1], metric="ip")
index.add(np.arange(len(vectors)), vectors)
nearest["usearch"] = int(index.search(query, 1).keys[0])

index, _ = autofaiss.build_index(
    str(folder),
    index_path=str(temporary / "knn.index"),
    index_infos_path=str(temporary / "infos.json"),
    index_key="Flat",
)
nearest["autofaiss"] = int(index.search(query[None], 1)[1][0, 0])

keys = duckdb.sql(f"SELECT key, vector FROM '{parquet}'").fetchall()
nearest["duckdb"] = int(np.argmax([np.dot(vector, query) for _, vector in keys]))
table = pd.read_parquet(parquet)
nearest["pandas"] = int(np.argmax(np.stack(table["vector"]) @ query))

place = lancedb.connect(temporary / "db").create_table("images", pd.read_parquet(parquet))
found = place.search(query).limit(1).to_list()[0]["key"]
nearest["lancedb"] = table["key"].tolist().index(found)
names = ("faiss-cpu", "usearch", "autofaiss", "duckdb", "pandas", "lancedb")
print(json.dumps({"versions": [f"{name} {version(name)}" for name in names], "nearest": nearest}))
