"""The formats of a pool: tars, Parquet, JSONL."""
