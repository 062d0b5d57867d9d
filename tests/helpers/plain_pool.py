"""Rows written as pools of every format, and what plain Python over dicts reads of them."""

from __future__ import annotations

import csv
import functools
import io
import json
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from pools import write_table
from tars import write_tar

Row = dict[str, Any]
"""Fields of a sample or row; a missing one is absent from JSON, null in Parquet and empty in CSV.  "stem" is its name
in a tar, "photo" its image, and a row with "broken" has a record that cannot be read, where the format allows that."""
Settings = dict[str, Any]

TEXT_FIELDS = ("uid", "text", "lang", "state")
FIELDS = ("uid", "other", "text", "texts", "lang", "langs", "state", "width", "score")
KINDS = {"other": pa.int64(), "width": pa.int64(), "score": pa.float64()}
KINDS |= dict.fromkeys(("texts", "langs"), pa.list_(pa.binary())) | dict.fromkeys(TEXT_FIELDS, pa.binary())
FLAT = tuple(name for name in FIELDS if name not in ("texts", "langs"))
DEFAULT_PLACES = ("txt", "texts", "text")


def raw(value: Any) -> Any:
    """Return texts as bytes: a lone surrogate such as \\udce9 is the byte 0xE9, which is not UTF-8."""
    if isinstance(value, list):
        return [raw(item) for item in value]
    return value.encode(errors="surrogateescape") if isinstance(value, str) else value


def is_utf8(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


def is_bad_text(value: Any) -> bool:
    return isinstance(value, str) and not is_utf8(value)


# --- the formats ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format, and what it can hold of the rows."""

    suffix: str
    write: Callable[[Path, Sequence[Row], bool], Any]
    """Write a shard; bool: without a header, where the format has one."""
    members: tuple[str, ...] = ()
    """Of a tar: which of `txt` and `json` a sample may have."""
    has_columns: bool = True
    """All rows have all fields.  False: records, each with its own."""
    is_text: bool = False
    """Every value is a text: there are no numbers, lists and nulls."""
    images: str = ""
    """inside: the shard holds them; paths: a column names their files, if pool.image_field is set; empty: none."""


def as_members(row: Row, kinds: Sequence[str]) -> list[tuple[str, bytes]]:
    """Return the suffixes and contents of the members of a sample."""
    members = []
    if row.get("photo") is not None:
        members.append(("png", row["photo"]))
    if "txt" in kinds and isinstance(row.get("text"), str):
        members.append(("txt", raw(row["text"])))
    if "json" in kinds:
        members.append(("json", as_line(row)))
    return members


def as_line(row: Row) -> bytes:
    record = {name: row[name] for name in FIELDS if name in row}
    return b"{broken" if row.get("broken") else json.dumps(record).encode()


def write_members(path: Path, rows: Sequence[Row], is_bare: bool, *, kinds: Sequence[str]) -> None:
    write_tar(path, [(f"{row['stem']}.{suffix}", body) for row in rows for suffix, body in as_members(row, kinds)])


def write_jsonl(path: Path, rows: Sequence[Row], is_bare: bool) -> None:
    path.write_bytes(b"".join(as_line(row) + b"\n" for row in rows))


def write_parquet(path: Path, rows: Sequence[Row], is_bare: bool, *, has_paths: bool = False) -> None:
    columns = {}
    for name, kind in KINDS.items():
        text_kind = pa.list_(pa.string()) if pa.types.is_list(kind) else pa.string()
        column = pa.array([raw(row.get(name)) for row in rows], kind)
        try:
            columns[name] = column.cast(text_kind) if name not in ("other", "width", "score") else column
        except pa.ArrowInvalid:  # texts that are not UTF-8
            columns[name] = column
    photos = write_photos(path, rows) if has_paths else [row.get("photo") for row in rows]
    kind = pa.string() if has_paths else pa.struct({"bytes": pa.binary(), "path": pa.string()})
    cells = photos if has_paths else [photo and {"bytes": photo, "path": "x"} for photo in photos]
    write_table(path, {**columns, "photo": pa.array(cells, kind)}, row_group_size=2)


def write_delimited(path: Path, rows: Sequence[Row], is_bare: bool) -> None:
    lines = [] if is_bare else [[*FLAT, "photo"]]
    for row, photo in zip(rows, write_photos(path, rows), strict=True):
        cells = ["" if row.get(name) is None else str(row[name]) for name in FLAT]
        lines.append([*cells, photo or "", *(["one more"] if row.get("broken") else [])])
    file = io.StringIO()
    if path.suffix == ".csv":
        csv.writer(file).writerows(lines)
    else:
        file.writelines("\t".join(line) + "\n" for line in lines)
    path.write_bytes(raw(file.getvalue()))


def write_photos(path: Path, rows: Sequence[Row]) -> list[str | None]:
    """Write the images next to a table; return their paths."""
    names: list[str | None] = []
    for number, row in enumerate(rows):
        name = None
        if row.get("photo") is not None:
            name = f"{path.stem}-{number}.png"
            (path.parent / name).write_bytes(row["photo"])
        names.append(name)
    return names


def tar_of(*members: str) -> Format:
    write = functools.partial(write_members, kinds=members)
    return Format(suffix=".tar", write=write, members=members, has_columns=False, images="inside")


FORMATS = {
    "tar of .txt": tar_of("txt"),
    "tar of .json": tar_of("json"),
    "tar of both": tar_of("txt", "json"),
    "Parquet with images": Format(suffix=".parquet", write=write_parquet, images="inside"),
    "Parquet with paths": Format(
        suffix=".parquet", write=functools.partial(write_parquet, has_paths=True), images="paths"
    ),
    "JSONL": Format(suffix=".jsonl", write=write_jsonl, has_columns=False),
    "CSV": Format(suffix=".csv", write=write_delimited, is_text=True, images="paths"),
    "TSV": Format(suffix=".tsv", write=write_delimited, is_text=True, images="paths"),
}


@dataclass(kw_only=True)
class Place:
    """The shards of one folder, all in one format."""

    name: str
    form: str
    shards: list[list[Row]]
    options: Settings = field(default_factory=dict)
    """Of [[pool.place]]."""


def write_places(folder: Path, places: Sequence[Place], *, is_bare: bool = False) -> None:
    """Write FOLDER/<place>/<number><suffix>; is_bare: without headers."""
    for place in places:
        form = FORMATS[place.form]
        (folder / place.name).mkdir(parents=True, exist_ok=True)
        for number, rows in enumerate(place.shards):
            form.write(folder / place.name / f"{number}{form.suffix}", rows, is_bare)


# --- what plain Python reads ------------------------------------------------------------------------------------------

BROKEN = object()
COMPARE = {"=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt}
COMPARE |= {">=": operator.ge, "in": lambda value, items: value in items}
COMPARE |= {"not in": lambda value, items: value not in items}


@dataclass(kw_only=True)
class Sample:
    """A row or sample as its format holds it."""

    fields: Row = field(default_factory=dict)
    stem: str | None = None
    photo: bytes | None = None
    is_broken: bool = False


@dataclass(kw_only=True)
class Text:
    """A text of the pool, with what the stages find of it."""

    key: str
    idx: int
    place: int
    text: str | None
    label: str | None
    """What the pool says of its language."""
    is_labelled: bool
    """Whether pool.lang is set."""
    reason: str
    lang: str = "und"
    ids: list[int] = field(default_factory=list)
    prob: float = 0.0


@dataclass(kw_only=True)
class PlainShard:
    """What the stage pool must find in a shard."""

    samples: list[list[Text]] = field(default_factory=list)
    images: list[tuple[str, int, bytes]] = field(default_factory=list)
    """Key, row and content."""
    keys: set[str] = field(default_factory=set)
    num_left_out: int = 0


class Refused(Exception):
    """Plain Python expects a refusal.  stage: which stage refuses; problems: the beginning of each, or a part."""

    def __init__(self, stage: str, *problems: str) -> None:
        self.stage = stage
        self.problems = problems


def bare(name: str) -> str:
    return name.removeprefix("json:")


def plain_pool(places: Sequence[Place], settings: Settings) -> dict[str, PlainShard]:
    """Return what the stage pool must find in each shard, by name.  Raises Refused."""
    found: dict[str, PlainShard] = {}
    refusals: list[str] = []  # of places of which no shard has what the recipe names
    wrong_shards: list[list[str]] = []
    by_place: dict[str, list[list[str]]] = {}
    for place in places:
        form = FORMATS[place.form]
        config = settings | place.options
        problems = by_place.setdefault(place.name if is_by_place(settings) else "", [])
        for number, rows in enumerate(place.shards):
            name = f"{place.name}/{number}{form.suffix}"
            samples = samples_of(rows, form)
            missing, wrong = plain_problems(samples, form, config)
            if samples:
                problems.append(missing or wrong)
            if wrong:
                wrong_shards.append(wrong)
            else:
                found[name] = plain_shard(name, samples, form, config)
    for problems in by_place.values():
        if problems and all(problems):
            refusals += problems[0]
    if refusals:
        raise Refused("pool", *refusals)
    if wrong_shards:
        raise Refused("pool", *wrong_shards[0])
    if not any(shard.samples for shard in found.values()):
        raise Refused("pool", "without any pair")
    return found


def is_by_place(settings: Settings) -> bool:
    return "place" in settings or isinstance(settings["path"], list)


def samples_of(rows: Sequence[Row], form: Format) -> list[Sample]:
    if form.members:
        return samples_of_tar(rows, form.members)
    samples = []
    for row in rows:
        is_broken = bool(row.get("broken")) and (form.is_text or not form.has_columns)
        names = FLAT if form.is_text else FIELDS
        fields = {name: row.get(name) for name in names if form.has_columns or name in row}
        if form.is_text:
            fields = {name: "" if value is None else str(value) for name, value in fields.items()}
        samples.append(Sample(fields={} if is_broken else fields, photo=row.get("photo"), is_broken=is_broken))
    return samples


def samples_of_tar(rows: Sequence[Row], kinds: Sequence[str]) -> list[Sample]:
    """Group members: neighbours of one stem, until a suffix comes again."""
    groups: list[tuple[str, dict[str, Row]]] = []
    for row in rows:
        for suffix, _ in as_members(row, kinds):
            if not groups or groups[-1][0] != row["stem"] or suffix in groups[-1][1]:
                groups.append((row["stem"], {}))
            groups[-1][1][suffix] = row
    samples = []
    for stem, members in groups:
        sample = Sample(stem=stem, photo=members.get("png", {}).get("photo"))
        record = members.get("json", {})
        sample.is_broken = bool(record.get("broken"))
        if not sample.is_broken:
            sample.fields = {name: record[name] for name in FIELDS if name in record}
        if "txt" in members:
            sample.fields["txt"] = members["txt"]["text"]
        samples.append(sample)
    return samples


def plain_problems(samples: list[Sample], form: Format, config: Settings) -> tuple[list[str], list[str]]:
    """Return (what every shard must have, what stops one shard too): beginnings of problems."""
    if not samples:
        return [], []
    for name in {bare(name) for name, *_ in config.get("where") or []} if not form.has_columns else ():
        values = [sample.fields.get(name) for sample in samples]
        if len({isinstance(value, str) for value in values if value is not None and not is_bad_text(value)}) > 1:
            return [], [f"pool.where: field {name!r} holds values of several types"]
    names = {name for sample in samples for name in sample.fields}
    names |= {"photo"} if form.has_columns else set()
    if form.has_columns:
        names |= {*(FLAT if form.is_text else FIELDS)}
    missing, wrong = [], []
    if bare(config["key"]) not in {*names, "member", "row"}:
        missing.append(f"pool.key: no column or field '{bare(config['key'])}'")
    absent = [bare(name) for name in config["texts"] if not (form.members and name == "txt")]
    has_broken = any(sample.is_broken for sample in samples) and not form.has_columns
    if has_broken:  # nobody knows whether the first one is there
        absent = absent[1:]
    absent = [name for name in absent if name not in names]
    if form.has_columns or len(absent) == len(config["texts"]):
        missing += [f"pool.texts: no column or field '{name}'" for name in absent]
    if not config["texts"] and not names & {*DEFAULT_PLACES} and not has_broken:
        missing.append("pool.texts is not set")
    lang = config.get("lang")
    if lang and bare(lang) not in names:
        missing.append(f"pool.lang: no column or field '{bare(lang)}'")
    for name, *_ in config.get("where") or []:
        if bare(name) not in names:
            wrong.append(f"pool.where: no column or field '{bare(name)}'")
    image_field = config.get("image_field")
    if image_field and not form.has_columns:
        wrong.append("pool.image_field: only Parquet, CSV and TSV have columns")
    elif image_field and image_field not in names:
        wrong.append(f"pool.image_field: no column or field '{image_field}'")
    if config["key"] == "member" and not form.members:
        wrong.append('pool.key = "member" is for tars only')
    if wrong or (missing and form.has_columns):
        return [], [*missing, *wrong]
    for name, _, operand in config.get("where") or []:
        if not is_comparable(bare(name), operand, samples, form):
            return [], [f"pool.where: {bare(name)} holds"]
    return missing, []


def is_comparable(name: str, operand: Any, samples: list[Sample], form: Format) -> bool:
    """Return whether texts are compared with texts, or numbers with numbers; nothing is compared with nulls only."""
    values = [sample.fields.get(name) for sample in samples]
    kinds = {isinstance(value, str) for value in values if value is not None}
    if form.has_columns and not form.is_text:
        kinds = {name in TEXT_FIELDS}
    operands = operand if isinstance(operand, list) else [operand]
    return not kinds or not operands or kinds == {isinstance(item, str) for item in operands}


def plain_shard(name: str, samples: list[Sample], form: Format, config: Settings) -> PlainShard:
    """Return the texts and images of a shard, in order."""
    has_paths = form.images == "paths" and "image_field" in config
    shard = PlainShard()
    for number, sample in enumerate(samples):
        if not is_chosen(sample, form, config):
            shard.num_left_out += 1
            continue
        row_name = f"{name}#{number}"
        stem = f"{Path(name).parent}/{sample.stem}"
        stand_in = stem if form.members else row_name
        key = stand_in if config["key"] in ("member", "row") else key_of(sample, bare(config["key"]))
        if config["key"] == "row":
            key = row_name
        if sample.is_broken and not form.members:
            key = None
        if has_paths and sample.photo is None:
            stand_in = key or stand_in
            key = None
        is_repeated = key in shard.keys
        shard.samples.append(texts_of(sample, config, key, stand_in, is_repeated))
        if key is None or is_repeated:
            continue
        shard.keys.add(key)
        if sample.photo is not None and (has_paths or form.images == "inside"):
            shard.images.append((key, number, sample.photo))
    return shard


def is_chosen(sample: Sample, form: Format, config: Settings) -> bool:
    """Return whether a sample fulfils pool.where, as a row does that cannot be read."""
    if sample.is_broken and not form.members:
        return True
    for name, comparison, operand in config.get("where") or []:
        value = sample.fields.get(bare(name))
        if value is None or is_bad_text(value):
            return False
        if not COMPARE[comparison](value, operand):
            return False
    return True


def key_of(sample: Sample, name: str) -> str | None:
    """Return a text that is not empty, or an integer as text."""
    value = sample.fields.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and value and is_utf8(value) else None


def texts_of(sample: Sample, config: Settings, key: str | None, stand_in: str, is_repeated: bool) -> list[Text]:
    """Return the texts of a sample, at least one, each with the first reason that applies."""
    stored = stored_texts(sample, config) if key is not None else [(-1, None)]
    labels = sample.fields.get(bare(config.get("lang") or ""))
    is_listed = isinstance(labels, list)
    is_wrong = is_listed and len(labels) != len(stored) and not (not labels and len(stored) == 1)
    texts = []
    for idx, (place, text) in enumerate(stored):
        label = labels
        if is_listed:
            label = labels[idx] if labels and not is_wrong else None
        if not isinstance(label, str) or not is_utf8(label):
            label = None
        is_bad = text is not None and (not isinstance(text, str) or not is_utf8(text))
        reason = "kept"
        if key is None or is_wrong or is_bad:
            reason = "bad_pair"
        elif is_repeated:
            reason = "duplicate"
        elif not (text or "").replace("\0", " ").strip():
            reason = "no_text"
        texts.append(
            Text(
                key=key or stand_in,
                idx=idx,
                place=place,
                text=text if reason == "kept" else None,
                label=label or None,
                is_labelled=config.get("lang") is not None,
                reason=reason,
            )
        )
    return texts


def stored_texts(sample: Sample, config: Settings) -> list[tuple[int, Any]]:
    """Return (place, value) of each text; a record that cannot be read is one that is no text."""
    names = [bare(name) for name in config["texts"]]
    if not names:
        names = [name for name in DEFAULT_PLACES if name in sample.fields][:1]
        if not names and sample.is_broken:
            return [(0, BROKEN)]
    stored: list[tuple[int, Any]] = []
    for place, name in enumerate(names):
        value = sample.fields.get(name)
        if sample.is_broken and name != "txt" and BROKEN not in [text for _, text in stored]:
            stored.append((place, BROKEN))
        if name in sample.fields:
            stored += [(place, text) for text in (value if isinstance(value, list) else [value])]
    return stored or [(0, None)]
