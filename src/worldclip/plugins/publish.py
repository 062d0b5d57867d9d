"""Publish what a run curated as a dataset of the hub: the list of kept pairs or the tars, a card, a Croissant record.

RUN/publish/README.md        the card: languages, licence, sizes, thresholds, what was removed and why
RUN/publish/croissant.json   the same for machines (mlcommons.org/croissant/1.0)
RUN/publish/keys.npy         the kept keys, where all are 128-bit hex
RUN/publish/data/            the lists, or the tars, of RUN/curate as hard links
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from worldclip.config import load_recipe
from worldclip.contracts import layout
from worldclip.contracts.reasons import REASONS, Reason
from worldclip.core import artifacts
from worldclip.core.command import Command
from worldclip.core.errors import UserError
from worldclip.core.job import Run, RunLock
from worldclip.core.marks import Metavar
from worldclip.core.preflight import problems_of, require_packages
from worldclip.core.redact import redact
from worldclip.curate.data_card import config_name
from worldclip.curate.stage import reason_to_run
from worldclip.export.push import Upload, check_repository, list_files, push
from worldclip.language.config import languages_of
from worldclip.language.table import Languages
from worldclip.recipe import sections_of
from worldclip.report.table import Column, Table, text_column, to_markdown
from worldclip.tools.branch import link_file

Data = Literal["list", "tars"]
# https://huggingface.co/docs/hub/datasets-cards: the hub's classes of sizes, by their upper bound
SIZE_CLASSES = {
    1_000: "n<1K",
    10_000: "1K<n<10K",
    100_000: "10K<n<100K",
    1_000_000: "100K<n<1M",
    10_000_000: "1M<n<10M",
    100_000_000: "10M<n<100M",
    1_000_000_000: "100M<n<1B",
    10_000_000_000: "1B<n<10B",
}
LARGEST = "n>1T"
OWN_FILES = ("data/*", "keys.npy")  # patterns of the files of earlier uploads
FILES_OF = {"list": "data/**/*.parquet", "tars": "data/*.tar"}


@Command
def publish(
    run: Path,
    repository: Annotated[str, Metavar("OWNER/NAME")],
    *,
    data: Data = "list",
    license: str | None = None,
    private: bool = False,
    pull_request: bool = False,
    dry_run: bool = False,
) -> tuple[Any, str]:
    """Upload the kept pairs of a run to the hub, with a dataset card and a Croissant record.

    run: a run whose stage curate is finished, or its folder curate.
    repository: dataset on the hub to create, or to bring to what the run keeps now.
    data: list (keys, texts, languages) or tars (the images too; curate.write = "tars").
    license: identifier of the hub for the card, for example cc-by-4.0 (default: unknown).
    private: create the dataset as private; refuse one that is public.
    pull_request: propose the upload to a dataset that exists.
    dry_run: write RUN/publish and list its files, and upload nothing.
    """
    if not dry_run:
        require_packages("publish", extra="hub")
    upload = prepare(run, repository, data, license)
    lines = upload.lines()
    record: dict[str, Any] = {"folder": str(upload.folder), "files": dict(upload.files), "addresses": [], "removed": []}
    if dry_run:
        lines.append("dry run: nothing was uploaded")
        return record, "\n".join(lines)
    (pushed,) = push([upload], is_private=private, as_pull_request=pull_request)
    record |= {"addresses": [pushed.address], "removed": list(pushed.removed)}
    return record, "\n".join([*lines, *pushed.lines()])


def prepare(run: Path, repository: str, data: Data = "list", license: str | None = None) -> Upload:
    """Write RUN/publish and return the upload of it.

    run: a run whose stage curate is finished, or its folder `curate`.
    repository: OWNER/NAME of the dataset on the hub.
    data: `list`, the keys, texts and languages of the kept pairs, or `tars`, their images too (curate.write = "tars").
    license: identifier of the hub (cc-by-4.0, ...); unset: `unknown`.

    Raises UserError for a run without what `data` names, and where curate would run again: a deny list may have grown.
    """
    run_dir = run.parent if run.name == "curate" and layout.is_run(run.parent) else run
    problems = problems_of(check_repository, repository, "OWNER/NAME")
    if not layout.is_run(run_dir):
        problems.append(f"{run} is not a run; give the folder of one whose stage curate is finished")
    problems += [] if data in get_args(Data) else [f"--data {data!r}: must be one of {', '.join(get_args(Data))}"]
    if data == "tars" and not layout.curated_tars(run_dir).is_dir():
        problems.append(
            f'--data tars: {layout.stage_dir(run_dir, "curate")} has none; run curate with curate.write = "tars"'
        )
    if license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", license):
        problems.append(f"--license {license!r}: must be an identifier of the hub such as cc-by-4.0, odc-by or other")
    if problems:
        raise UserError(problems)
    folder = layout.published(run_dir)
    aside = folder.with_name(f".{folder.name}.new")
    with RunLock(run_dir):
        digest = _require_current(run_dir)
        facts = _facts(run_dir, repository, data, license, digest)
        artifacts.remove(aside)
        for source, name in _files(run_dir, data):
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            link_file(source, aside / name)
        artifacts.write_text(aside / "README.md", redact(card(run_dir, facts)))
        artifacts.write_text(
            aside / "croissant.json", redact(json.dumps(croissant(facts), ensure_ascii=False, indent=1))
        )
        artifacts.replace_folder(aside, folder)
    return Upload(folder, repository, list_files(folder), OWN_FILES, kind="dataset")


def _require_current(run_dir: Path) -> str:
    """Return the digest of curate's manifest.  Raises UserError where curate is unfinished or would run again."""
    digest = str(artifacts.require_manifest(run_dir, "curate")["digest"])
    recipe = load_recipe(run_dir)
    if reason := reason_to_run(Run(dir=run_dir, sections=sections_of(recipe))):
        folder = layout.stage_dir(run_dir, "curate")
        raise UserError(f"{folder} is out of date: {reason}; run first: worldclip run {run_dir} --until curate")
    return digest


def _facts(run_dir: Path, repository: str, data: Data, license: str | None, digest: str) -> dict[str, Any]:
    """Return what both the card and the Croissant record say; digest: of curate's manifest."""
    report = artifacts.read_json(layout.stage_report(run_dir, "curate"))
    total = report["total"]
    languages = languages_of(run_dir)
    pairs_of = {lang: row["pairs_out"] for lang, row in report["languages"].items() if row["pairs_out"]}
    num_rows = report["tars"]["samples"] if data == "tars" else total["pairs_out"]
    return {
        "repository": repository,
        "name": repository.partition("/")[2],
        "data": data,
        "digest": digest,
        "license": license or "unknown",
        "languages": sorted(filter(None, (_hub_code(code, languages) for code in pairs_of))),
        "num_languages": len(pairs_of),
        "num_rows": num_rows,
        "num_bytes": sum(path.stat().st_size for path, _ in _files(run_dir, data)),
        "size_class": next((name for bound, name in SIZE_CLASSES.items() if num_rows < bound), LARGEST),
        "total": total,
    }


def _hub_code(code: str, languages: Languages) -> str | None:
    """Return the code of a language as the hub's cards take it (ISO 639-1 or -3); None for what is no language."""
    if re.fullmatch("[a-z]{2,3}", code) and code != "und":
        return code
    try:
        iso_codes = languages.get(code).iso639_3
    except KeyError:
        return None
    return next((one.partition("_")[0] for one in iso_codes), None)


def _files(run_dir: Path, data: Data) -> list[tuple[Path, str]]:
    """Return (file of RUN/curate, its name in the dataset)."""
    keys = [(layout.curated_keys(run_dir), "keys.npy")] if layout.curated_keys(run_dir).exists() else []
    if data == "tars":
        return [*keys, *((path, f"data/{path.name}") for path in sorted(layout.curated_tars(run_dir).glob("*.tar")))]
    shards = layout.matched_shards(run_dir)
    lists = [(layout.curated(run_dir, name), f"data/{name}.parquet") for name in shards]
    return [*keys, *(row for row in lists if row[0].exists())]


# --- the card ---------------------------------------------------------------------------------------------------------


def card(run_dir: Path, facts: Mapping[str, Any]) -> str:
    """Return README.md: front matter of the hub, how to load it, what was removed, and curate's data card."""
    data_card = layout.data_card(run_dir).read_text(encoding="utf-8").removeprefix("# Data card").strip()
    unit = "image-text pairs" if facts["data"] == "tars" else "keys and texts of image-text pairs"
    parts = [
        _front_matter(facts),
        f"# {facts['name']}",
        f"{facts['num_rows']:,} {unit} in {facts['num_languages']} languages, {facts['num_bytes']:,} bytes.",
        _how_to_load(facts),
        "## What was removed, and why",
        removed_table(facts["total"]),
        "## How it was made",
        data_card.replace("\n## ", "\n### "),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(facts: Mapping[str, Any]) -> str:
    lines = ["---", f"pretty_name: {json.dumps(facts['name'])}"]
    lines += ["language:", *(f"- {json.dumps(code)}" for code in facts["languages"])] if facts["languages"] else []
    lines += [
        f"license: {facts['license']}",
        "task_categories:",
        "- zero-shot-image-classification",
        "size_categories:",
        f"- {facts['size_class']}",
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
    return "\n".join(lines)


def _how_to_load(facts: Mapping[str, Any]) -> str:
    rows = {
        "list": "A row has `key`, `text_idx`, `text`, `lang` and `keep_prob`, the probability by which it was kept.",
        "tars": "A sample has its image, `txt` (the first kept text) and `json` (`key`, `texts`, `text_idx`, `lang`).",
    }
    code = f'from datasets import load_dataset\n\npairs = load_dataset("{facts["repository"]}", split="train")'
    return f"```python\n{code}\n```\n\n{rows[facts['data']]}"


def removed_table(total: Mapping[str, Any]) -> str:
    """Return a table of how many pairs each reason dropped, the first reason that applies to each."""
    rows = [
        [reason.label, total[reason.column], total[reason.column] / max(1, total["pairs_in"]), reason.meaning]
        for reason in REASONS
        if total[reason.column] or reason is Reason.KEPT
    ]
    columns = [text_column("reason"), Column("pairs", "{:,}".format), Column("share", "{:.2%}".format)]
    return to_markdown(Table([*columns, text_column("meaning")], rows))


# --- Croissant --------------------------------------------------------------------------------------------------------

_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_COLUMNS = {"key": "sc:Text", "text_idx": "sc:Integer", "text": "sc:Text", "lang": "sc:Text", "keep_prob": "sc:Float"}
_NO_HASH = "https://github.com/mlcommons/croissant/issues/80"  # what the hub writes for a repository, which has no hash


def croissant(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record as JSON-LD, with the fields of a row of the lists or of a sample of the tars."""
    address = f"https://huggingface.co/datasets/{facts['repository']}"
    repository = {
        "@type": "cr:FileObject",
        "@id": "repo",
        "name": "repo",
        "description": "The repository on the hub.",
        "contentUrl": address,
        "encodingFormat": "git+https",
        "sha256": _NO_HASH,
    }
    is_list = facts["data"] == "list"
    files = {
        "@type": "cr:FileSet",
        "@id": "files",
        "containedIn": {"@id": "repo"},
        "encodingFormat": "application/x-parquet" if is_list else "application/x-tar",
        # mlcroissant wants two slashes for `data/**/*`, and its `*` matches a slash; that of other readers does not.
        "includes": ["data/*.parquet", "data/**/*.parquet"] if is_list else FILES_OF["tars"],
    }
    rows = [_field("pairs", name, kind, "files", {"column": name}) for name, kind in _COLUMNS.items()]
    records = [_records("pairs", rows)]
    inside = []
    if not is_list:  # members of a sample share a stem, which Croissant cannot join: one set of records for each kind
        members = {"txt": "text/plain", "json": "application/json"}
        inside = [_inside(suffix, encoding) for suffix, encoding in members.items()]
        content = {"fileProperty": "content"}
        of = {suffix: f"{suffix}_members" for suffix in members}  # an id stands once in the record
        records = [_records(of[one], [_field(of[one], "content", "sc:Text", one, content)]) for one in members]
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": facts["name"],
        "description": _summary(facts),
        "url": address,
        "license": facts["license"],
        "inLanguage": facts["languages"],
        "distribution": [repository, files, *inside],
        "recordSet": records,
    }


def _summary(facts: Mapping[str, Any]) -> str:
    return f"{facts['num_rows']:,} image-text pairs in {facts['num_languages']} languages, curated by worldclip"


def _inside(suffix: str, encoding: str) -> dict[str, Any]:
    place = {"containedIn": {"@id": "files"}, "encodingFormat": encoding, "includes": f"*.{suffix}"}
    return {"@type": "cr:FileSet", "@id": suffix, "name": suffix, **place}


def _records(name: str, fields: list[dict[str, Any]]) -> dict[str, Any]:
    return {"@type": "cr:RecordSet", "@id": name, "name": name, "field": fields}


def _field(records: str, name: str, kind: str, files: str, extract: Mapping[str, str]) -> dict[str, Any]:
    source = {"fileSet": {"@id": files}, "extract": extract}
    return {"@type": "cr:Field", "@id": f"{records}/{name}", "name": name, "dataType": kind, "source": source}
