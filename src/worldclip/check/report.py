"""report.html of a check: removals by rule, and some of the removed images next to what they copy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip.check.images import places_of
from worldclip.contracts.schemas import REMOVED
from worldclip.core.artifacts import read_table
from worldclip.core.coin import sample_numbers
from worldclip.core.errors import BadShard
from worldclip.core.execute import Report, Shard
from worldclip.model.decode import BadImage
from worldclip.pool.read import EVERY_KEY, image_places, read_images, read_member
from worldclip.report.html import Html, join, tag
from worldclip.report.images import data_uri, shrink
from worldclip.report.numbers import count
from worldclip.report.page import Card, Section, cards, figure, grid, skipped_sections, write_page
from worldclip.report.table import Column, Table, text_column, to_html

MAX_GROUPS = 24  # groups with pictures, chosen by hash
MAX_COPIES = 11  # removed images shown in a group
THUMBNAIL_PX = 112
AGAINST = "against:"  # how rules of decontamination begin; the name of the set follows

Places: TypeAlias = dict[str, tuple[str, int, int]]
"""File, offset and size of images by key."""


def write_report(
    folder: Path, report: Report, run_dir: Path, shards: Sequence[Shard], units: Mapping[str, Sequence[Shard]]
) -> None:
    """Write folder/report.html from the report and the files in the folder.

    run_dir, shards: those of the pool.  units: those of each evaluation set.  The pictures are read where these are
    now: pool and sets may have moved since their images were hashed.
    """
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
    sections = [summary, *skipped_sections(report["skipped"]), *_groups(folder, run_dir, shards, units)]
    write_page(folder / "report.html", "Pool check", "Made with worldclip.", sections)


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f}%" if whole else ""


# --- pictures ---------------------------------------------------------------------------------------------------------


def _groups(
    folder: Path, run_dir: Path, shards: Sequence[Shard], units: Mapping[str, Sequence[Shard]]
) -> list[Section]:
    """Return sampled groups: the pair that stays, or the evaluation image, then those removed for it."""
    removed = read_table(folder / "removed.parquet", REMOVED)
    removed = removed.filter(removed["other_key"].is_valid())
    # Images of two sets, or of a set and the pool, may have one name: they are different images.
    rules = removed["rule"].cast(pa.string())
    removed = removed.append_column("set", pc.if_else(pc.starts_with(rules, AGAINST), rules, ""))
    others = removed.group_by(["set", "other_key"], use_threads=False).aggregate([])
    if not len(others):
        return []
    shown = np.argsort(sample_numbers(others["other_key"]), kind="stable")[:MAX_GROUPS]
    groups = []
    for other in others.take(pa.array(shown)).to_pylist():
        is_copy = pc.and_(pc.equal(removed["set"], other["set"]), pc.equal(removed["other_key"], other["other_key"]))
        groups.append(removed.filter(is_copy).to_pylist())
    keys: set[str] = set()
    for group in groups:
        keys.add(group[0]["other_key"])
        keys.update(row["key"] for row in group[:MAX_COPIES])
    tables = (image_places(shard, read_images(run_dir, shard.name, EVERY_KEY)) for shard in shards)
    of_pool = _places(tables, keys)
    places = {}
    for name, of_set in units.items():
        in_files = (places_of(unit) for unit in of_set if unit.path)  # images of a dataset have no place
        places[f"{AGAINST}{name}"] = _places(in_files, keys)
    figures = []
    for group in groups:
        other = group[0]["other_key"]
        caption = f"{len(group):,} removed for it"
        if len(group) > MAX_COPIES:
            caption += f"; {MAX_COPIES} are shown"
        pictures = [_thumbnail(places.get(group[0]["set"], of_pool), other)]
        lines = []
        for row in group[:MAX_COPIES]:
            pictures.append(_thumbnail(of_pool, row["key"]))
            lines.append(tag("p", f"{row['key']}: {row['rule'].replace('_', ' ')}, distance {row['distance']}"))
        figures.append(figure(other, caption, join([*pictures, *lines])))
    which = f"{len(figures)} of {count(len(others))}, chosen by hash"
    lead = f"{which}. The pair that stays, or the evaluation image, comes first."
    return [Section("Groups of copies", lead, tag("div", grid(figures), class_="pictures"))]


def _places(tables: Iterable[pa.Table], keys: set[str]) -> Places:
    """Return the places of the images of these keys, from tables of key, file, offset and size."""
    wanted = pa.array(sorted(keys), pa.string())
    places: Places = {}
    for table in tables:
        for row in table.filter(pc.is_in(table["key"].cast(pa.string()), wanted)).to_pylist():
            places.setdefault(row["key"], (row["file"], row["offset"], row["size"]))
    return places


def _thumbnail(places: Places, key: str) -> Html:
    """Return an image; nothing if it has no place, as those of a dataset, or is not there any more."""
    if key not in places:
        return Html()
    try:
        return tag("img", src=data_uri(shrink(read_member(*places[key]), THUMBNAIL_PX)), alt=key)
    except (OSError, BadShard, BadImage):
        return Html()
