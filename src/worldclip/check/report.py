"""report.html of a check: removals by rule and language, distances, and removed images beside what they copy."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from worldclip.check.deny import REFUSALS
from worldclip.check.duplicates import BYTE_DUPLICATE, DUPLICATE_RULES
from worldclip.check.images import images_at
from worldclip.check.pair_rules import ELSEWHERE
from worldclip.check.similarity import Similarities
from worldclip.core.coin import sample_numbers
from worldclip.core.errors import BadShard, UserError
from worldclip.model.decode import BadImage
from worldclip.pool.files import file_in_pool
from worldclip.pool.read import read_member
from worldclip.report.html import Html, join, tag
from worldclip.report.images import data_uri, shrink
from worldclip.report.numbers import count
from worldclip.report.page import (
    Bar,
    Card,
    Section,
    bars,
    cards,
    figure,
    first_and_more,
    folded,
    grid,
    lang_name,
    legend,
    note,
    write_page,
)
from worldclip.report.table import Column, Table, columns_of, text_column, to_html

SAMPLES_PER_RULE = 24  # removals of a rule, and groups of duplicates, in the gallery, chosen by hash
COPIES_PER_GROUP = 11  # shown beside the pair that stays
THUMBNAIL_PX = 112
MAX_FIGURES = 6  # groups, and removals of a rule, in sight; the others are folded
MAX_LANGUAGES = 15  # with a bar in sight
RULE_COLOURS = ("var(--s2)", "var(--s4)", "var(--s3)", "var(--s6)", "var(--s5)", "var(--s7)")
NUM_DISTANCES = 65  # 0 to 64 bits
REFUSED = (*REFUSALS, ELSEWHERE)  # rules whose images nobody wants to see; a key removed elsewhere may be one of them

ReadImage = Callable[[str], bytes]
Place = tuple[str, int, int]
"""File, offset and size of an image."""


class Written(TypedDict):
    """What a pool written by write = "tars" holds."""

    pairs: int
    texts: int
    blurred: int
    """Images with a blurred face."""


class Counts(TypedDict):
    """Pairs by what became of them."""

    pairs_in: int
    valid: int
    removed: dict[str, int]
    """By rule."""
    by_language: dict[str, dict[str, int]]
    """By language and rule, or `valid`."""
    written: NotRequired[Written]


class Texts(TypedDict):
    """Texts by the rule that rejects them."""

    read: int
    rejected: dict[str, int]


class CheckReport(TypedDict):
    """What report.json of a check holds."""

    counts: Counts
    images: dict[str, int]
    texts: Texts
    keys_in_several_shards: int
    duplicate_groups: int
    pairs_by_distance: list[int]
    radius: int
    against: dict[str, str]
    similarity: NotRequired[Similarities]


def write_report(folder: Path, report: CheckReport, readers: Mapping[str, ReadImage]) -> None:
    """Write folder/report.html from the report and the lists in the folder.

    readers: functions from an image's name to its bytes, for evaluation sets whose hash files have no offsets.
    """
    removed = _Removed.read(folder / "removed.parquet")
    images = _Images.locate(folder, removed, report["against"], readers)
    sections = [
        _summary(report),
        *_groups(report, removed, images),
        _languages(report["counts"]["by_language"]),
        *_rejected_texts(report["texts"]),
        *_similarities(report.get("similarity")),
        *_decontamination(folder, report, removed),
        *_gallery(report["counts"]["removed"], removed, images),
        *_distances(report, removed),
    ]
    write_page(folder / "report.html", "Pool check", "Made with worldclip.", sections)


def _summary(report: CheckReport) -> Section:
    counts, images = report["counts"], report["images"]
    pairs_in = counts["pairs_in"]
    figures = [
        Card(count(counts["valid"]), "valid pairs", f"{_share(counts['valid'], pairs_in)} of {count(pairs_in)}"),
        Card(count(pairs_in - counts["valid"]), "removed pairs", "by the first rule that applies"),
        Card(count(images["images"]), "images", f"{count(images['undecodable'])} undecodable"),
    ]
    if images["nearly_blank"]:
        figures.append(Card(count(images["nearly_blank"]), "nearly blank images", "compared by their bytes only"))
    rules = [
        Bar(label=rule, parts=[(number / pairs_in, _colour(i), f"{rule}: {count(number)}")],
            note=f"{count(number)} · {_share(number, pairs_in)}")
        for i, (rule, number) in enumerate(sorted(counts["removed"].items()))
    ]  # fmt: skip
    lead = "Removed pairs by rule, as shares of all pairs. removed.parquet lists them, valid_keys.parquet the others."
    return Section("Summary", lead, join([cards(figures), bars(rules)]))


def _colour(rule: int) -> str:
    return RULE_COLOURS[rule % len(RULE_COLOURS)]


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f}%" if whole else ""


def _rule_table(unit: str, removed: Mapping[str, int], total: int) -> Table:
    columns = [text_column("rule"), Column(unit, count), Column("share")]
    return Table(columns, [[rule, number, _share(number, total)] for rule, number in removed.items()])


def _rejected_texts(texts: Texts) -> list[Section]:
    if not texts["rejected"]:
        return []
    lead = 'A rejected text leaves the pool with its pair, or when write = "tars" rewrites the pool.'
    body = to_html(_rule_table("texts", texts["rejected"], texts["read"]))
    return [Section("Rejected texts", lead, body)]


def _similarities(similarities: Similarities | None) -> list[Section]:
    """Return the distribution of similarities by language, the largest first."""
    if similarities is None:
        return []
    rows = []
    for lang, row in sorted(similarities["by_language"].items(), key=lambda item: (-item[1]["texts"], item[0])):
        deciles = [row["deciles"][at] for at in (0, 4, 8)]
        rows.append([lang, row["texts"], *deciles, row["threshold"], row["below"], _share(row["below"], row["texts"])])
    columns = [
        text_column("language", lang_name),
        Column("texts", count),
        *columns_of(("10%", "median", "90%", "threshold"), "{:.4f}".format),
        Column("below", count),
        Column("share"),
    ]
    body = [to_html(Table(columns, rows))]
    if similarities["pool_wide"]:
        body.append(note(f"Few texts, so the threshold of the whole pool: {', '.join(similarities['pool_wide'])}."))
    if similarities["unmeasured"]:
        body.append(note(f"{count(similarities['unmeasured'])} texts have no image that the model can use."))
    lead = "Cosine of the embeddings of image and text; texts below the threshold of their language are rejected."
    return [Section("Similarity", lead, join(body))]


def _languages(by_language: Mapping[str, Mapping[str, int]]) -> Section:
    """Return what became of the pairs of each language, the largest first."""
    rules = sorted({rule for counts in by_language.values() for rule in counts} - {"valid"})
    langs = sorted(by_language, key=lambda lang: (-sum(by_language[lang].values()), lang))
    ends = {"valid": "var(--s1)", **{rule: _colour(i) for i, rule in enumerate(rules)}}
    rows = [_language_bar(lang, by_language[lang], ends) for lang in langs]
    numbers = []
    for lang in langs:
        counts = by_language[lang]
        numbers.append([lang, sum(counts.values()), *(counts.get(end) for end in ends)])
    columns = [text_column("language", lang_name), *columns_of(("pairs", *ends), count)]
    body = [
        legend((colour, end) for end, colour in ends.items()),
        first_and_more(rows, MAX_LANGUAGES, "more languages", bars),
        folded("In numbers", to_html(Table(columns, numbers))),
    ]
    return Section("By language", "What became of the pairs; bars show shares within a language.", join(body))


def _language_bar(lang: str, counts: Mapping[str, int], ends: Mapping[str, str]) -> Bar:
    total = sum(counts.values())
    parts = [
        (counts[end] / total, colour, f"{count(counts[end])} {end}") for end, colour in ends.items() if counts.get(end)
    ]
    return Bar(label=lang_name(lang), parts=parts, note=f"{count(counts.get('valid', 0))} of {count(total)}")


def _distances(report: CheckReport, removed: _Removed) -> list[Section]:
    """Return how near pairs of images are, and removed images to what they copy."""
    parts = []
    if any(report["pairs_by_distance"]):
        heading = f"Pairs of images with different hashes, within {report['radius']} bits"
        parts.append(tag("h3", heading) + _distance_bars(report["pairs_by_distance"]))
    for rule, counts in sorted(removed.distances.items()):
        if rule != BYTE_DUPLICATE:
            heading = f"{rule}: removed images, and the image that stays"
            parts.append(tag("h3", heading) + _distance_bars(np.trim_zeros(counts, "b").tolist()))
    lead = "Images by Hamming distance of their hashes, in bits; distances without images are left out."
    return [Section("Distances", lead, join(parts))] if parts else []


def _distance_bars(counts: Sequence[int]) -> Html:
    largest = max(*counts, 1)
    return bars(
        Bar(label=str(distance), parts=[(number / largest, "var(--s1)", f"distance {distance}")], note=count(number))
        for distance, number in enumerate(counts)
        if number
    )


def _decontamination(folder: Path, report: CheckReport, removed: _Removed) -> list[Section]:
    """Return what was removed for each evaluation set."""
    rows = []
    for name, source in sorted(report["against"].items()):
        rule = f"against:{name}"
        num_images = pq.read_metadata(folder / "against" / f"{name}.parquet").num_rows
        num_removed = report["counts"]["removed"].get(rule, 0)
        rows.append([name, source, num_images, num_removed, len(removed.copied.get(rule, ()))])
    if not rows:
        return []
    titles = ("images", "pairs removed", "images that these pairs show")
    columns = [text_column("set"), text_column("from"), *columns_of(titles, count)]
    lead = "Pairs whose image is in an evaluation set."
    body = to_html(Table(columns, rows))
    return [Section("Decontamination", lead, body)]


def _groups(report: CheckReport, removed: _Removed, images: _Images) -> list[Section]:
    """Return sampled groups of duplicates: the pair that stays, then those removed for it."""
    if not removed.groups:
        return []
    figures = []
    for stays, group in removed.groups.items():
        keys = group.sample["key"].to_pylist()
        num_hidden = group.num_rows - len(keys)
        more = f" and {num_hidden:,} more" if num_hidden else ""
        pictures = join(images.of_pair(key) for key in (stays, *keys))
        names = folded(f"{group.num_rows:,} removed for it", tag("p", f"{', '.join(keys)}{more}"))
        figures.append(figure(f"{stays} stays", "", join([pictures, names])))
    lead = f"{len(figures)} of {report['duplicate_groups']:,}, chosen by hash. The pair that stays comes first."
    return [Section("Groups of duplicates", lead, _pictures(figures))]


def _gallery(counts: Mapping[str, int], removed: _Removed, images: _Images) -> list[Section]:
    """Return sampled removals per rule, beside the image that stays or the image of the evaluation set."""
    parts = []
    for rule, sample in sorted(removed.samples.items()):
        figures = [_removal(rule, row, images) for row in sample.to_pylist()]
        of_all = tag("small", f"{sample.num_rows} of {counts[rule]:,}")
        parts += [tag("h3", rule, " ", of_all), _pictures(figures)]
    refused = [rule for rule in counts if rule in REFUSED]
    if refused:
        parts.append(note(f"Denied or opted out, so never shown: {', '.join(refused)}."))
    lead = "By rule, chosen by hash: the removed image, then what it copies."
    return [Section("Removed pairs", lead, join(parts))] if parts else []


def _pictures(figures: Sequence[Html]) -> Html:
    """Return figures side by side, the first few in sight."""
    return first_and_more(figures, MAX_FIGURES, "more", lambda some: tag("div", grid(some, "mid"), class_="pictures"))


def _removal(rule: str, row: Mapping[str, str | int | None], images: _Images) -> Html:
    key, other_key, name = str(row["key"]), row["other_key"], _evaluation_set(rule)
    pictures = [images.of_pair(key)]
    if other_key is not None:
        pictures.append(images.of_reference(name, str(other_key)) if name else images.of_pair(str(other_key)))
    distance = None if row["distance"] is None else f"distance {row['distance']}"
    caption = " · ".join(str(part) for part in (key, row["detail"], other_key, distance) if part)
    return figure(caption, "", join(pictures))


def _evaluation_set(rule: str) -> str | None:
    """Return the evaluation set of a rule of decontamination."""
    return rule.removeprefix("against:") if rule.startswith("against:") else None


# --- what is shown ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Group:
    """Duplicates of one pair that stays."""

    sample: pa.Table
    num_rows: int = 0


@dataclass(slots=True)
class _Removed:
    """What the page shows of removed.parquet: some rows per rule, chosen by the hashes of their keys."""

    samples: dict[str, pa.Table]
    """SAMPLES_PER_RULE rows of each rule, in the order of hashes."""
    distances: dict[str, np.ndarray]
    """(NUM_DISTANCES,) removals of a rule by distance."""
    copied: dict[str, set[str]]
    """Evaluation images that removed pairs show, by rule."""
    groups: dict[str, _Group]
    """By the key that stays."""

    @classmethod
    def read(cls, path: Path) -> _Removed:
        """Read the file in two passes.  Memory does not grow with it, except for the evaluation images' names."""
        removed = cls({}, {}, {}, {})
        stays = _with_order(pa.table({"other_key": pa.array([], pa.string())}))
        for table in _batches(path):
            for rule in pc.unique(table["rule"]).to_pylist():
                rows = table.filter(pc.equal(table["rule"], rule))
                removed._add(rule, rows)
                if rule in DUPLICATE_RULES:
                    stays = _merge_samples(stays, _with_order(pa.table({"other_key": pc.unique(rows["other_key"])})))
        removed.groups = {key: _Group(table.slice(0, 0)) for key in stays["other_key"].to_pylist()}
        for table in _batches(path) if removed.groups else ():
            is_copy = pc.is_in(table["rule"], pa.array(DUPLICATE_RULES))
            is_shown = pc.is_in(table["other_key"], pa.array(list(removed.groups)))
            copies = table.filter(pc.and_(is_copy, is_shown))
            for key in pc.unique(copies["other_key"]).to_pylist():
                group, more = removed.groups[key], copies.filter(pc.equal(copies["other_key"], key))
                group.sample = _merge_samples(group.sample, more, COPIES_PER_GROUP)
                group.num_rows += len(more)
        return removed

    def _add(self, rule: str, rows: pa.Table) -> None:
        if rule not in REFUSED:
            self.samples[rule] = _merge_samples(self.samples.get(rule, rows.slice(0, 0)), rows)
        counts = np.bincount(rows["distance"].drop_null().to_numpy(), minlength=NUM_DISTANCES)
        if counts.any():
            self.distances[rule] = self.distances.get(rule, 0) + counts
        if _evaluation_set(rule):
            self.copied.setdefault(rule, set()).update(pc.unique(rows["other_key"]).to_pylist())

    def shown_names(self) -> tuple[set[str], dict[str, set[str]]]:
        """Return the keys of the pairs that are shown, and the images shown of each evaluation set."""
        pairs, references = set(self.groups), dict[str, set[str]]()
        for rule, sample in self.samples.items():
            pairs.update(sample["key"].to_pylist())
            others = set(sample["other_key"].drop_null().to_pylist())
            name = _evaluation_set(rule)
            if name:
                references[name] = others
            else:
                pairs |= others
        for group in self.groups.values():
            pairs.update(group.sample["key"].to_pylist())
        return pairs, references


def _batches(path: Path) -> Iterator[pa.Table]:
    """Read removed.parquet in parts, each row with the hash of its key (`order`)."""
    schema = pa.schema([(name, pa.string()) for name in ("key", "rule", "detail", "other_key")])
    schema = schema.append(pa.field("distance", pa.int16()))
    for batch in pq.ParquetFile(path).iter_batches(columns=schema.names):
        yield _with_order(pa.Table.from_batches([batch]).select(schema.names).cast(schema))


def _with_order(table: pa.Table) -> pa.Table:
    return table.append_column("order", pa.array(sample_numbers(table.column(0))))


def _merge_samples(sample: pa.Table, more: pa.Table, size: int = SAMPLES_PER_RULE) -> pa.Table:
    """Return the `size` rows of both that come first in the order of hashes, each value of the first column once."""
    both = pa.concat_tables([sample, more]).sort_by("order")
    codes = both.column(0).combine_chunks().dictionary_encode().indices.to_numpy()
    first_rows = np.sort(np.unique(codes, return_index=True)[1])
    return both.take(pa.array(first_rows[:size]))


@dataclass(frozen=True, slots=True)
class _Images:
    """Thumbnails of pairs and evaluation images, as far as their files still exist."""

    readers: Mapping[str, ReadImage]
    pairs: Mapping[str, Place]
    references: Mapping[str, Mapping[str, Place]]

    @classmethod
    def locate(
        cls, folder: Path, removed: _Removed, against: Mapping[str, str], readers: Mapping[str, ReadImage]
    ) -> _Images:
        """Look up where the images are that the page shows."""
        pairs, names_by_set = removed.shown_names()
        references = {
            name: _own_places(folder / "against" / f"{name}.parquet", names_by_set.get(name, set()))
            for name in against
            if name not in readers
        }
        return cls(readers, _places(sorted((folder / "images").rglob("*.parquet")), pairs), references)

    def of_pair(self, key: str) -> Html:
        return _read_thumbnail(self.pairs.get(key))

    def of_reference(self, set_name: str, name: str) -> Html:
        if set_name in self.readers:
            return _thumbnail(self.readers[set_name](name))
        return _read_thumbnail(self.references[set_name].get(name))


def _places(files: Sequence[Path], names: set[str]) -> dict[str, Place]:
    """Return where the images of these names are; the first of equal names."""
    places: dict[str, Place] = {}
    wanted = pa.array(sorted(names), pa.string())
    for file in files if names else ():
        table = pq.read_table(file, columns=["name", "file", "offset", "size"])
        for row in table.filter(pc.is_in(table["name"], wanted)).to_pylist():
            places.setdefault(row["name"], (row["file"], row["offset"], row["size"]))
    return places


def _own_places(file: Path, names: set[str]) -> dict[str, Place]:
    """Return where the images of an evaluation set are, of those that lie where its file says that its images are.

    Somebody else may have written the file: it may name any file or address, and would put them into the page.
    """
    root = images_at(file)
    places = {}
    for name, (path, offset, size) in _places([file], names).items():
        name_in_root = str(path).removeprefix(f"{root}/")
        with contextlib.suppress(UserError):
            own = file_in_pool(root, Path(root or "").name if path == root else name_in_root, str(path))
            places[name] = (str(own), offset, size)
    return places


def _read_thumbnail(place: Place | None) -> Html:
    """Return the image; nothing if its file is gone: hash files outlive images, and the caption has the name."""
    if place is None:
        return Html()
    try:
        return _thumbnail(read_member(*place))
    except (OSError, BadShard, ValueError, TypeError):  # the latter: sizes in the file of somebody else
        return Html()


def _thumbnail(content: bytes) -> Html:
    """Return the image; nothing if it cannot be decoded."""
    try:
        return tag("img", src=data_uri(shrink(content, THUMBNAIL_PX)), alt="")
    except BadImage:
        return Html()
