"""report.html of a check: removals by rule and by language, distances, and the removed images beside what they copy."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from worldclip.coin import hash_keys
from worldclip.errors import BadShard, require
from worldclip.formats import write_text
from worldclip.pool.check.duplicates import DUPLICATE_RULES
from worldclip.pool.check.hashing import UNDECODABLE, open_image
from worldclip.pool.read import read_member

SAMPLES_OF_RULE = 24  # removals of a rule, and groups of duplicates, in the gallery, chosen by hash
COPIES_OF_GROUP = 11  # shown beside the pair that stays
THUMBNAIL_PX = 112

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1b1f24}
table{border-collapse:collapse;margin:.6rem 0}
td,th{padding:.15rem .7rem;border-bottom:1px solid #d8dee4;text-align:right}
td:first-child,th:first-child{text-align:left}figure{display:inline-block;margin:.4rem;vertical-align:top;width:15.5rem}
figure img{height:112px;max-width:7.4rem;object-fit:contain;background:#f2f4f6;margin-right:.2rem}
figure.group{width:auto;display:block}
figcaption{font-size:12px;overflow-wrap:anywhere;color:#57606a}rect{fill:#4a78b5}text{font-size:11px;fill:#57606a}
"""


def write_report(
    folder: Path, report: Mapping[str, Any], readers: Mapping[str, Callable[[str], bytes]] | None = None
) -> None:
    """Draw folder/report.html from the report's numbers and the lists in the folder.

    readers: what gives an image by its name, of evaluation sets whose files of hashes do not say where images lie.
    """
    counts = report["counts"]
    removed = pq.read_table(folder / "removed.parquet")
    parts = [
        f"<!doctype html><meta charset=utf-8><title>pool check</title><style>{STYLE}</style><h1>Pool check</h1>",
        f"<p>{counts['pairs_in']:,} pairs, {counts['valid']:,} valid "
        f"({_share(counts['valid'], counts['pairs_in'])}). {report['images']['images']:,} images, "
        f"{report['images']['undecodable']:,} undecodable, {report['images']['nearly_blank']:,} nearly blank (compared "
        "by bytes alone).</p>",
        "<h2>Removals by rule</h2>",
        _table(
            ("rule", "pairs", "share"),
            [(name, f"{n:,}", _share(n, counts["pairs_in"])) for name, n in counts["removed"].items()],
        ),
        _texts(report["texts"]),
        "<h2>By language</h2>",
        _by_language(counts["by_language"]),
        *_distances(report, removed),
        *_decontamination(folder, removed, report["against"]),
        *_gallery(removed, _Images(folder, report["against"], readers or {})),
    ]
    write_text(folder / "report.html", "\n".join(parts))


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f}%" if whole else "-"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"<tr>{''.join(f'<th>{html.escape(cell)}</th>' for cell in head)}</tr>"]
    lines += [f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows]
    return f"<table>{''.join(lines)}</table>"


def _texts(texts: Mapping[str, Any]) -> str:
    if not texts["rejected"]:
        return ""
    rows = [(name, f"{n:,}", _share(n, texts["read"])) for name, n in texts["rejected"].items()]
    note = '<p>A rejected text leaves the pool with its pair, or where write = "tars" writes the pool anew.</p>'
    return "<h2>Texts rejected</h2>" + _table(("rule", "texts", "share"), rows) + note


def _by_language(by_language: Mapping[str, Mapping[str, int]]) -> str:
    rules = sorted({rule for found in by_language.values() for rule in found} - {"valid"})
    rows = sorted(by_language.items(), key=lambda item: (-sum(item[1].values()), item[0]))
    cells = [
        (lang, f"{sum(found.values()):,}", *(f"{found.get(rule, 0):,}" for rule in ("valid", *rules)))
        for lang, found in rows
    ]
    return _table(("language", "pairs", "valid", *rules), cells)


def _distances(report: Mapping[str, Any], removed: pa.Table) -> list[str]:
    parts = []
    if report["pairs_by_distance"]:
        parts += [
            f"<h2>Pairs of different hashes by distance (radius {report['radius']})</h2>",
            _bars(report["pairs_by_distance"]),
        ]
    for rule in sorted(set(removed["rule"].to_pylist())):
        of_rule = removed.filter(pc.equal(removed["rule"].cast(pa.string()), rule))["distance"].drop_null().to_pylist()
        if rule != "byte_duplicate" and of_rule:
            histogram = [of_rule.count(distance) for distance in range(max(of_rule) + 1)]
            parts += [f"<h2>{html.escape(rule)}: removed by distance to what stays</h2>", _bars(histogram)]
    return parts


def _bars(counts: Sequence[int]) -> str:
    """A bar for each distance from 0 on."""
    bars = []
    for n, count in enumerate(counts):
        x, height = 30 + 44 * n, 100 * count / max(*counts, 1)
        bars.append(f'<rect x="{x}" y="{120 - height:.1f}" width="32" height="{height:.1f}"/>')
        bars.append(f'<text x="{x + 16}" y="{114 - height:.1f}" text-anchor="middle">{count:,}</text>')
        bars.append(f'<text x="{x + 16}" y="134" text-anchor="middle">{n}</text>')
    return f'<svg width="{60 + 44 * len(counts)}" height="140">{"".join(bars)}</svg>'


def _decontamination(folder: Path, removed: pa.Table, against: Mapping[str, str]) -> list[str]:
    """What was taken for each evaluation set."""
    if not against:
        return []
    rows = []
    for name in sorted(against):
        of_set = removed.filter(pc.equal(removed["rule"].cast(pa.string()), f"against:{name}"))
        num_images = pq.read_metadata(folder / "against" / f"{name}.parquet").num_rows
        copied = len(pc.unique(of_set["other_key"]))
        rows.append((name, against[name], f"{num_images:,}", f"{of_set.num_rows:,}", f"{copied:,}"))
    head = ("set", "from", "its images", "pairs removed", "images of it that they show")
    return ["<h2>Decontamination</h2>", _table(head, rows)]


def _groups(removed: pa.Table, images: _Images) -> list[str]:
    """Sampled groups of duplicates: the pair that stays, then those that go for it."""
    copies = removed.filter(pc.is_in(removed["rule"].cast(pa.string()), pa.array(DUPLICATE_RULES))).sort_by("order")
    if not copies.num_rows:
        return []
    stays, of_copy = np.unique(copies["other_key"].to_numpy(zero_copy_only=False), return_inverse=True)
    sampled = np.argsort(hash_keys(pa.array(stays, pa.string())))[:SAMPLES_OF_RULE]
    parts = [f"<h2>Groups of duplicates: {len(sampled)} of {len(stays):,}</h2>"]
    for group in sampled.tolist():
        rows = np.flatnonzero(of_copy == group)
        goes = copies.take(pa.array(rows[:COPIES_OF_GROUP])).to_pylist()
        shown = [images.of_pair(stays[group]), *(images.of_pair(row["key"]) for row in goes)]
        more = f" and {len(rows) - len(goes):,} more" if len(rows) > len(goes) else ""
        keys = ", ".join(html.escape(row["key"]) for row in goes)
        caption = f"{html.escape(stays[group])} stays; for it go {keys}{more}"
        parts.append(f"<figure class=group>{''.join(shown)}<figcaption>{caption}</figcaption></figure>")
    return parts


def _gallery(removed: pa.Table, images: _Images) -> list[str]:
    """Sampled removals of each rule, beside the image that stays or the evaluation image."""
    parts = []
    order = pa.array(hash_keys(removed["key"])) if removed.num_rows else pa.array([], pa.uint64())
    removed = removed.append_column("order", order)
    parts += _groups(removed, images)
    for rule in sorted(set(removed["rule"].to_pylist())):
        of_rule = removed.filter(pc.equal(removed["rule"].cast(pa.string()), rule)).sort_by("order")
        parts.append(f"<h2>{html.escape(rule)}: {min(SAMPLES_OF_RULE, of_rule.num_rows)} of {of_rule.num_rows:,}</h2>")
        for row in of_rule.slice(0, SAMPLES_OF_RULE).to_pylist():
            shown = [images.of_pair(row["key"])]
            if row["other_key"] is not None:
                set_name = rule.removeprefix("against:") if rule.startswith("against:") else None
                shown.append(
                    images.of_reference(set_name, row["other_key"]) if set_name else images.of_pair(row["other_key"])
                )
            words = [row["key"], row["detail"], row["other_key"]]
            words += [f"distance {row['distance']}"] if row["distance"] is not None else []
            caption = " · ".join(html.escape(word) for word in words if word)
            parts.append(f"<figure>{''.join(shown)}<figcaption>{caption}</figcaption></figure>")
    return parts


class _Images:
    """Thumbnails of pairs and evaluation images, as far as their files are still there."""

    def __init__(self, folder: Path, against: Mapping[str, str], readers: Mapping[str, Callable[[str], bytes]]) -> None:
        self.readers = readers
        self.pairs = self._places(sorted((folder / "images").rglob("*.parquet")))
        self.references = {
            name: self._places([folder / "against" / f"{name}.parquet"]) for name in against if name not in readers
        }

    @staticmethod
    def _places(files: Sequence[Path]) -> pa.Table:
        names = ["name", "file", "offset", "size"]
        empty = pa.table({"name": pa.array([], pa.string())})
        return pa.concat_tables([pq.read_table(file, columns=names) for file in files]) if files else empty

    def of_pair(self, key: str) -> str:
        return self._thumbnail(self.pairs, key)

    def of_reference(self, set_name: str, name: str) -> str:
        if set_name in self.readers:
            return thumbnail(self.readers[set_name](name))
        return self._thumbnail(self.references[set_name], name)

    def _thumbnail(self, places: pa.Table, name: str) -> str:
        at = pc.index(places["name"], name).as_py()
        if at < 0:
            return ""
        place = places.slice(at, 1).to_pylist()[0]
        try:
            return thumbnail(read_member(place["file"], place["offset"], place["size"]))
        except (OSError, BadShard):
            return ""  # a file of hashes outlives its images: the name alone is shown


def thumbnail(content: bytes) -> str:
    """An <img> of the image, "" where it cannot be decoded."""
    require("PIL.Image", extra="pool")
    try:
        image = open_image(content).convert("RGB")
    except UNDECODABLE:
        return ""
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return f'<img src="data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}">'
