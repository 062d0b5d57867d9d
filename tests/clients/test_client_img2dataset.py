"""worldclip reads what img2dataset writes: pairs are the downloads that succeeded, in each output format."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from client_tools import run_python
from pools import encode
from served import server as server
from stages import run_stage
from worldclip import pool
from worldclip.config import load_recipe
from worldclip.core.artifacts import read_json
from worldclip.core.execute import LocalExecutor
from worldclip.core.job import Run
from worldclip.recipe import sections_of

pytestmark = pytest.mark.slow

NUM_IMAGES = 6
TABLE = {"key": "key", "texts": ["caption"]}  # `files` and `webdataset` leave a table beside the images too
SETTINGS = {"webdataset": {}, "parquet": TABLE, "files": TABLE}
NUM_POOL_IMAGES = {"webdataset": NUM_IMAGES, "parquet": NUM_IMAGES, "files": 0}


@pytest.fixture
def table(server, tmp_path):
    """Write a table of six images, one missing file and one that is no image."""
    for i in range(NUM_IMAGES):
        server.files[f"/{i}.png"] = encode(Image.new("RGB", (40, 30), (40 * i, 0, 0)))
    server.files["/text.png"] = b"not an image"
    names = [*(f"{i}.png" for i in range(NUM_IMAGES)), "missing.png", "text.png"]
    columns = {"url": [f"{server.url}/{name}" for name in names], "caption": [f"caption of {name}" for name in names]}
    pq.write_table(pa.table(columns), tmp_path / "table.parquet")
    return tmp_path / "table.parquet"


@pytest.mark.parametrize("output_format", SETTINGS)
def test_pairs_are_the_downloads_that_succeeded(output_format, table, tmp_path, caplog):
    folder = tmp_path / "pool"
    run_python("img2dataset", "img2dataset_download.py", table, folder, output_format)
    recipe = load_recipe({"pool": {"path": str(folder), **SETTINGS[output_format]}, "balance": {"tail_fraction": 0.1}})
    run_stage("pool", recipe, tmp_path / "run", LocalExecutor(quiet=True))
    report = read_json(tmp_path / "run" / "pool" / "report.json")
    assert (report["samples"], report.get("images", 0)) == (NUM_IMAGES, NUM_POOL_IMAGES[output_format])
    run = Run(dir=tmp_path / "run", sections=sections_of(recipe))
    texts = [
        text for shard in pool.indexed_shards(run) for text in pool.read_texts(shard, recipe.pool).text.to_pylist()
    ]
    assert sorted(texts) == [f"caption of {i}.png" for i in range(NUM_IMAGES)]
    is_told = f"{NUM_IMAGES} image files such as 00000/000000.jpg lie outside of tars" in caplog.text
    assert is_told == (output_format == "files")
