"""report.html of a check: removals by rule and by language, distances, and the removed images beside what they copy."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from worldclip.check.deny import REFUSALS
from worldclip.check.duplicates import BYTE_DUPLICATE, DUPLICATE_RULES
from worldclip.check.hashing import UNDECODABLE, open_image
from worldclip.check.pair_rules import ELSEWHERE
from worldclip.core.artifacts import write_text
from worldclip.core.coin import sample_numbers
from worldclip.core.errors import BadShard, require
from worldclip.pool.read import read_member

SAMPLES_OF_RULE = 24  # removals of a rule, and groups of duplicates, in the gallery, chosen by hash
COPIES_OF_GROUP = 11  # shown beside the pair that stays
THUMBNAIL_PX = 112
NUM_DISTANCES = 65  # 0 to 64 bits
REFUSED = (*REFUSALS, ELSEWHERE)  # a key that is removed elsewhere may be refused there

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1b1f24}
table{border-collapse:collapse;margin:.6rem 0}
td,th{padding:.15rem .7rem;border-bottom:1px solid #d8dee4;text-align:right}
td:first-child,th:first-child{text-align:left}figure{display:inline-block;margin:.4rem;vertical-align:top;width:15.5rem}
figure img{height:112px;max-width:7.4rem;object-fit:contain;background:#f2f4f6;margin-right:.2rem}
.wide{overflow-x:auto}figure.group{width:auto;display:block}
figcaption{font-size:12px;overflow-wrap:anywhere;color:#57606a}rect{fill:#4a78b5}text{font-size:11px;fill:#57606a}
"""


def write_report(
    folder: Path, report: Mapping[str, Any], readers: Mapping[str, Callable[[str], bytes]] | None = None
) -> None:
    """Draw folder/report.html from the report's numbers and the lists in the folder.

    readers: what gives an image by its name, of evaluation sets whose files of hashes do not say where images lie.
    """
    counts = report["counts"]
    removed = _Removed.read(folder / "removed.parquet")
    images = _Images.find(folder, removed, report["against"], readers or {})
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
        *_decontamination(folder, report, removed),
        *_groups(report, removed, images),
        *_gallery(counts["removed"], removed, images),
    ]
    write_text(folder / "report.html", "\n".join(parts))


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f}%" if whole else "-"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"<tr>{''.join(f'<th>{html.escape(cell)}</th>' for cell in head)}</tr>"]
    lines += [f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows]
    return f"<div class=wide><table>{''.join(lines)}</table></div>"


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


def _distances(report: Mapping[str, Any], removed: _Removed) -> list[str]:
    parts = []
    if report["pairs_by_distance"]:
        parts.append(f"<h2>Pairs of different hashes by distance (radius {report['radius']})</h2>")
        parts.append(_bars(report["pairs_by_distance"]) if any(report["pairs_by_distance"]) else "<p>none</p>")
    for rule, counts in sorted(removed.distances.items()):
        if rule != BYTE_DUPLICATE:
            parts += [
                f"<h2>{html.escape(rule)}: removed by distance to what stays</h2>",
                _bars(np.trim_zeros(counts, "b").tolist()),
            ]
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


def _decontamination(folder: Path, report: Mapping[str, Any], removed: _Removed) -> list[str]:
    """What was taken for each evaluation set."""
    against = report["against"]
    if not against:
        return []
    rows = []
    for name in sorted(against):
        num_images = pq.read_metadata(folder / "against" / f"{name}.parquet").num_rows
        num_removed = report["counts"]["removed"].get(f"against:{name}", 0)
        copied = len(removed.copied.get(f"against:{name}", ()))
        rows.append((name, against[name], f"{num_images:,}", f"{num_removed:,}", f"{copied:,}"))
    head = ("set", "from", "its images", "pairs removed", "images of it that they show")
    return ["<h2>Decontamination</h2>", _table(head, rows)]


def _groups(report: Mapping[str, Any], removed: _Removed, images: _Images) -> list[str]:
    """Sampled groups of duplicates: the pair that stays, then those that go for it."""
    if not removed.groups:
        return []
    parts = [f"<h2>Groups of duplicates: {len(removed.groups)} of {report['duplicate_groups']:,}</h2>"]
    for stays, group in removed.groups.items():
        goes = group.sample.to_pylist()
        shown = [images.of_pair(stays), *(images.of_pair(row["key"]) for row in goes)]
        more = f" and {group.num_rows - len(goes):,} more" if group.num_rows > len(goes) else ""
        keys = ", ".join(html.escape(row["key"]) for row in goes)
        caption = f"{html.escape(stays)} stays; for it go {keys}{more}"
        parts.append(f"<figure class=group>{''.join(shown)}<figcaption>{caption}</figcaption></figure>")
    return parts


def _gallery(counts: Mapping[str, int], removed: _Removed, images: _Images) -> list[str]:
    """Sampled removals of each rule, beside the image that stays or the evaluation image."""
    parts = []
    for rule, sample in sorted(removed.samples.items()):
        parts.append(f"<h2>{html.escape(rule)}: {sample.num_rows} of {counts[rule]:,}</h2>")
        for row in sample.to_pylist():
            shown = [images.of_pair(row["key"])]
            if row["other_key"] is not None:
                name = _set_of(rule)
                shown.append(images.of_reference(name, row["other_key"]) if name else images.of_pair(row["other_key"]))
            words = [row["key"], row["detail"], row["other_key"]]
            words += [f"distance {row['distance']}"] if row["distance"] is not None else []
            caption = " · ".join(html.escape(word) for word in words if word)
            parts.append(f"<figure>{''.join(shown)}<figcaption>{caption}</figcaption></figure>")
    if refused := [rule for rule in counts if rule in REFUSED]:
        parts.append(f"<p>Not shown, since nobody wants it to be: {', '.join(refused)}.</p>")
    return parts


def _set_of(rule: str) -> str | None:
    """The evaluation set of a rule of decontamination."""
    return rule.removeprefix("against:") if rule.startswith("against:") else None


# --- what is shown ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Group:
    """Duplicates of one pair that stays."""

    sample: pa.Table
    num_rows: int = 0


@dataclass(slots=True)
class _Removed:
    """What the report says of the removed pairs: some of each rule, chosen by the hashes of their keys."""

    samples: dict[str, pa.Table]
    """SAMPLES_OF_RULE rows of each rule, in the order of hashes."""
    distances: dict[str, np.ndarray]
    """Removals of a rule by distance from 0 to 64."""
    copied: dict[str, set[str]]
    """Evaluation images that removed pairs show, by rule."""
    groups: dict[str, _Group]
    """By the key that stays."""

    @classmethod
    def read(cls, path: Path) -> _Removed:
        """In two passes and in memory that does not grow with the file, but for the evaluation images' names."""
        found, stays = cls({}, {}, {}, {}), pa.table({"other_key": pa.array([], pa.string()), **_NO_ORDER})
        for table in _batches(path):
            for rule in pc.unique(table["rule"]).to_pylist():
                of_rule = table.filter(pc.equal(table["rule"], rule))
                found._add(rule, of_rule)
                if rule in DUPLICATE_RULES:
                    stays = _first(stays, _with_order(pa.table({"other_key": pc.unique(of_rule["other_key"])})))
        found.groups = {key: _Group(table.slice(0, 0)) for key in stays["other_key"].to_pylist()}
        for table in _batches(path) if found.groups else ():
            is_copy = pc.is_in(table["rule"], pa.array(DUPLICATE_RULES))
            copies = table.filter(pc.and_(is_copy, pc.is_in(table["other_key"], pa.array(list(found.groups)))))
            for key in pc.unique(copies["other_key"]).to_pylist():
                group, more = found.groups[key], copies.filter(pc.equal(copies["other_key"], key))
                group.sample, group.num_rows = _first(group.sample, more, COPIES_OF_GROUP), group.num_rows + len(more)
        return found

    def _add(self, rule: str, rows: pa.Table) -> None:
        if rule not in REFUSED:
            self.samples[rule] = _first(self.samples.get(rule, rows.slice(0, 0)), rows)
        counts = np.bincount(rows["distance"].drop_null().to_numpy(), minlength=NUM_DISTANCES)
        if counts.any():
            self.distances[rule] = self.distances.get(rule, 0) + counts
        if _set_of(rule):
            self.copied.setdefault(rule, set()).update(pc.unique(rows["other_key"]).to_pylist())

    def names(self) -> tuple[set[str], dict[str, set[str]]]:
        """Pairs, and images of each evaluation set, that are shown."""
        pairs, of_set = set(self.groups), dict[str, set[str]]()
        for rule, sample in self.samples.items():
            pairs.update(sample["key"].to_pylist())
            others = set(sample["other_key"].drop_null().to_pylist())
            if name := _set_of(rule):
                of_set[name] = others
            else:
                pairs |= others
        for group in self.groups.values():
            pairs.update(group.sample["key"].to_pylist())
        return pairs, of_set


_NO_ORDER = {"order": pa.array([], pa.uint64())}


def _batches(path: Path) -> Iterator[pa.Table]:
    """removed.parquet in parts, each row with the hash of its key."""
    names = ["key", "rule", "detail", "other_key", "distance"]
    for batch in pq.ParquetFile(path).iter_batches(columns=names):
        table = pa.Table.from_batches([batch])
        plain = [column.cast(pa.int16() if name == "distance" else pa.string()) for name, column in
                 zip(names, table.columns, strict=True)]  # fmt: skip
        yield _with_order(pa.table(plain, names))


def _with_order(table: pa.Table) -> pa.Table:
    return table.append_column("order", pa.array(sample_numbers(table.column(0))))


def _first(sample: pa.Table, more: pa.Table, number: int = SAMPLES_OF_RULE) -> pa.Table:
    """The rows of both that come first in the order of hashes, each value of the first column once."""
    both = pa.concat_tables([sample, more]).sort_by("order")
    column = both.column(0).combine_chunks().dictionary_encode().indices.to_numpy()
    return both.take(pa.array(np.sort(np.unique(column, return_index=True)[1])[:number]))


@dataclass(frozen=True, slots=True)
class _Images:
    """Thumbnails of pairs and evaluation images, as far as their files are still there."""

    readers: Mapping[str, Callable[[str], bytes]]
    pairs: Mapping[str, Place]
    references: Mapping[str, Mapping[str, Place]]

    @classmethod
    def find(
        cls,
        folder: Path,
        removed: _Removed,
        against: Mapping[str, str],
        readers: Mapping[str, Callable[[str], bytes]],
    ) -> _Images:
        pairs, of_set = removed.names()
        references = {
            name: _places([folder / "against" / f"{name}.parquet"], of_set.get(name, set()))
            for name in against
            if name not in readers
        }
        return cls(readers, _places(sorted((folder / "images").rglob("*.parquet")), pairs), references)

    def of_pair(self, key: str) -> str:
        return _shown(self.pairs.get(key))

    def of_reference(self, set_name: str, name: str) -> str:
        if set_name in self.readers:
            return thumbnail(self.readers[set_name](name))
        return _shown(self.references[set_name].get(name))


Place = tuple[str, int, int]  # file, offset, size


def _places(files: Sequence[Path], names: set[str]) -> dict[str, Place]:
    """Where the images of these names lie, of equal names the first."""
    found: dict[str, Place] = {}
    wanted = pa.array(sorted(names), pa.string())
    for file in files if names else ():
        table = pq.read_table(file, columns=["name", "file", "offset", "size"])
        for row in table.filter(pc.is_in(table["name"], wanted)).to_pylist():
            found.setdefault(row["name"], (row["file"], row["offset"], row["size"]))
    return found


def _shown(place: Place | None) -> str:
    if place is None:
        return ""
    try:
        return thumbnail(read_member(*place))
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
