"""Download a table of url and caption with img2dataset: TABLE.parquet OUT FORMAT."""

import json
import sys
from importlib.metadata import version

from img2dataset import download

if __name__ == "__main__":
    table, out, output_format = sys.argv[1:]
    download(
        url_list=table,
        input_format="parquet",
        url_col="url",
        caption_col="caption",
        output_folder=out,
        output_format=output_format,
        processes_count=1,
        thread_count=4,
        image_size=32,
        number_sample_per_shard=4,
        retries=0,
    )
    print(json.dumps({"versions": [f"img2dataset {version('img2dataset')}"]}))
