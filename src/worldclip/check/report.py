"""report.html of a check: removals by rule, and some of the removed images next to what they copy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from worldclip.contracts.schemas import REMOVED
from worldclip.core.artifacts import read_table
from worldclip.core.coin import sample_numbers
from worldclip.core.errors import BadShard
from worldclip.core.execute import Report
from worldclip.model.decode import BadImage
from worldclip.pool.read import read_member
from worldclip.report.html import Html, join, tag
from worldclip.report.images import data_uri, shrink
from worldclip.report.numbers import count
from worldclip.report.page import Card, Section, cards, figure, grid, skipped_sections, write_page
from worldclip.report.table import Column, Table, text_column, to_html

MAX_GROUPS = 24  # groups with pictures, chosen by hash
MAX_COPIES = 11  # removed images shown in a group
THUMBNAIL_PX = 112

Places: TypeAlias = dict[str, tuple[str, int, int]]
"""File, offset and size of images by key."""


def write_report(folder: Path, report: Report) -> None:
    """Write folder/report.html from the report and the files in the folder."""
    counts = report["counts"]
    images = report["images"]
    pairs_in = counts["pairs_in"]
    figures = [
        Card(count(counts["valid"]), "valid pairs", f"{_share(counts['valid'], pairs_in)} of {count(pairs_in)}"),
        Card(count(images["images"]), "images", f"{count(images['undecodable'])} undecodable"),
        Card(count(images["nearly_blank"]), "nearly blank images", "compared by their bytes only"),
    ]
    columns = [text_column("rule"), Column("pairs", count), Column("share")]
    rows = [[rule, number, _share(number, pairs_in)] for rule, number in counts["removed"].items()]
    lead = "Removed pairs by the first rule that applies. removed.parquet lists them, valid_keys.parquet the others."
    summary = Section("Summary", lead, join([cards(figures), to_html(Table(columns, rows))]))
    sections = [summary, *skipped_sections(report["skipped"]), *_groups(folder, report["against"])]
    write_page(folder / "report.html", "Pool check", "Made with worldclip.", sections)


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f}%" if whole else ""


# --- pictures ---------------------------------------------------------------------------------------------------------


def _groups(folder: Path, against: Iterable[str]) -> list[Section]:
    """Return sampled groups: the pair that stays, or the evaluation image, then those removed for it."""
    removed = read_table(folder / "removed.parquet", REMOVED)
    removed = removed.filter(removed["other_key"].is_valid())
    others = pc.unique(removed["other_key"])
    if not len(others):
        return []
    shown = others.take(pa.array(np.argsort(sample_numbers(others), kind="stable")[:MAX_GROUPS]))
    groups = [removed.filter(pc.equal(removed["other_key"], key)).to_pylist() for key in shown]
    keys: set[str] = set()
    for group in groups:
        keys.add(group[0]["other_key"])
        keys.update(row["key"] for row in group[:MAX_COPIES])
    of_pool = _places(folder / "images", keys)
    places = {f"against:{name}": _places(folder / "against" / name, keys) for name in against}
    figures = [_group(group, of_pool, places.get(group[0]["rule"], of_pool)) for group in groups]
    which = f"{len(figures)} of {count(len(others))}, chosen by hash"
    lead = f"{which}. The pair that stays, or the evaluation image, comes first."
    return [Section("Groups of copies", lead, tag("div", grid(figures), class_="pictures"))]


def _places(folder: Path, keys: set[str]) -> Places:
    """Return the places of the images of these keys below a folder of IMAGE_HASHES; the first of equal keys."""
    files = sorted(str(path) for path in folder.rglob("*.parquet"))
    wanted = pc.field("key").isin(pa.array(sorted(keys), pa.string())) & pc.field("offset").is_valid()
    rows = ds.dataset(files).to_table(["key", "file", "offset", "size"], filter=wanted).to_pylist()
    return {row["key"]: (row["file"], row["offset"], row["size"]) for row in reversed(rows)}


def _group(copies: Sequence[Mapping[str, Any]], of_pool: Places, of_other: Places) -> Html:
    """Return one image and those removed for it; of_other: where the former is."""
    other = copies[0]["other_key"]
    some = copies[:MAX_COPIES]
    pictures = [_thumbnail(of_other, other), *(_thumbnail(of_pool, row["key"]) for row in some)]
    lines = [tag("p", f"{row['key']}: {row['rule'].replace('_', ' ')}, distance {row['distance']}") for row in some]
    more = f"; {len(some)} are shown" if len(copies) > len(some) else ""
    return figure(other, f"{len(copies):,} removed for it{more}", join([*pictures, *lines]))


def _thumbnail(places: Places, key: str) -> Html:
    """Return an image; nothing if it has no place, as those of a dataset, or is not there any more."""
    if key not in places:
        return Html()
    try:
        return tag("img", src=data_uri(shrink(read_member(*places[key]), THUMBNAIL_PX)), alt=key)
    except (OSError, BadShard, BadImage):
        return Html()
