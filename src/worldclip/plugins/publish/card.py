"""The card of a published dataset: front matter for the hub, how to load it, what was removed and why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worldclip.contracts import layout
from worldclip.contracts.reasons import REASONS, Reason
from worldclip.core.regular_file import read_regular
from worldclip.curate.data_card import config_name
from worldclip.report.table import Column, Table, text_column, to_markdown

FILES_OF = {"list": "data/**/*.parquet", "tars": "data/*.tar", "parquet": "data/*.parquet"}
"""The files that `datasets` loads, by what is published."""
ROW_OF = {
    "list": "A row has `key`, `text_idx`, `text`, `lang` and `keep_prob`, the probability by which it was kept.",
    "parquet": "A row has `image`, `key`, `text` (the first kept text), `texts` and `lang`.",
    "tars": "A sample has its image, `txt` (the first kept text) and `json` (`key`, `texts`, `text_idx`, `lang`).",
}
"""The fields of a row, by what is published."""


def card(run_dir: Path, facts: Mapping[str, Any]) -> str:
    """Return README.md: front matter of the hub, how to load it, what was removed, and curate's data card."""
    data_card = read_regular(layout.data_card(run_dir)).decode().removeprefix("# Data card").strip()
    unit = "keys and texts of image-text pairs" if facts["data"] == "list" else "image-text pairs"
    code = f'from datasets import load_dataset\n\npairs = load_dataset("{facts["repository"]}", split="train")'
    removed = []  # by the first reason that applies to each pair
    for reason in REASONS:
        number = facts["total"][reason.column]
        if number or reason is Reason.KEPT:
            share = number / max(1, facts["total"]["pairs_in"])
            removed.append([reason.label, number, share, reason.meaning])
    columns = [text_column("reason"), Column("pairs", "{:,}".format), Column("share", "{:.2%}".format)]
    front_matter = ["---", f"pretty_name: {json.dumps(facts['name'])}"]
    if facts["languages"]:
        front_matter.append("language:")
        front_matter += [f"- {json.dumps(code)}" for code in facts["languages"]]
    front_matter += [
        f"license: {facts['license']}",
        "task_categories:",
        "- zero-shot-image-classification",
        "tags:",
        "- worldclip",
        "- multilingual",
        "configs:",
        f"- config_name: {config_name(facts['digest'])}",
        "  data_files:",
        "  - split: train",
        f'    path: "{FILES_OF[facts["data"]]}"',
        "---",
    ]
    parts = [
        "\n".join(front_matter),
        f"# {facts['name']}",
        f"{facts['num_rows']:,} {unit} in {facts['num_languages']} languages, {facts['num_bytes']:,} bytes.",
        f"```python\n{code}\n```",
        ROW_OF[facts["data"]],
        "## What was removed, and why",
        to_markdown(Table([*columns, text_column("meaning")], removed)),
        "## How it was made",
        data_card.replace("\n## ", "\n### "),
    ]
    return "\n\n".join(parts) + "\n"
