"""The Croissant record of a published dataset: what its files hold, for machines (mlcommons.org/croissant/1.0)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worldclip.plugins.publish.card import FILES_OF
from worldclip.plugins.publish.tables import MEMBERS

_TERMS = (
    *("citeAs", "column", "extract", "field", "fileObject", "fileProperty", "fileSet", "format", "includes"),
    *("isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex"),
    *("repeated", "replace", "separator", "source", "subField", "transform"),
)
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    **{term: f"cr:{term}" for term in _TERMS},
}
_COLUMNS = {"key": "sc:Text", "text_idx": "sc:Integer", "text": "sc:Text", "lang": "sc:Text", "keep_prob": "sc:Float"}
_NO_HASH = "https://github.com/mlcommons/croissant/issues/80"  # what the hub writes for a repository, which has no hash
_TABLE_OF_TARS = {
    "@type": "cr:FileSet",
    "@id": "texts",
    "name": "texts",
    "description": "Which image of the tars has which key, text and language.",
    "containedIn": {"@id": "repo"},
    "encodingFormat": "application/x-parquet",
    "includes": "pairs.parquet",
}
"""The members of the tars: no reader of Croissant opens a set of tars and joins their members."""


def croissant(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record as JSON-LD, with the fields of a row of the lists or of a sample of the tars."""
    name = facts["name"]
    date = facts["date"]
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
    counts = f"{facts['num_rows']:,} image-text pairs in {facts['num_languages']} languages"
    is_tar = facts["data"] == "tars"
    is_list = facts["data"] == "list"
    files = {
        "@type": "cr:FileSet",
        "@id": "files",
        "containedIn": {"@id": "repo"},
        "encodingFormat": "application/x-tar" if is_tar else "application/x-parquet",
        # mlcroissant wants two slashes for `data/**/*`, and its `*` matches a slash; that of other readers does not.
        "includes": ["data/*.parquet", "data/**/*.parquet"] if is_list else FILES_OF[facts["data"]],
    }
    inside: list[dict[str, Any]] = []
    fields: list[dict[str, Any]] = []
    place = "files"
    columns = _COLUMNS
    if is_tar:
        inside.append(_TABLE_OF_TARS)
        place = "texts"
        columns = dict.fromkeys(MEMBERS.names, "sc:Text")
    elif not is_list:
        fields.append(_field("image", "sc:ImageObject", "files", {"column": "image"}, {"jsonPath": "bytes"}))
        columns = dict.fromkeys(("key", "text", "lang"), "sc:Text")
    fields += [_field(column, kind, place, {"column": column}) for column, kind in columns.items()]
    return {
        "@context": dict(sorted(_CONTEXT.items())),
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": name,
        "description": f"{counts}, curated by worldclip",
        "url": address,
        "license": facts["license"],
        "inLanguage": facts["languages"],
        "datePublished": date.isoformat(),
        "version": f"{date.year}.{date.month}.{date.day}",
        "citeAs": f"@misc{{{name}, title = {{{name}}}, howpublished = {{{address}}}, year = {{{date.year}}}}}",
        "distribution": [repository, files, *inside],
        "recordSet": [{"@type": "cr:RecordSet", "@id": "pairs", "name": "pairs", "field": fields}],
    }


def _field(
    name: str, kind: str, files: str, extract: Mapping[str, str], transform: Mapping[str, str] | None = None
) -> dict[str, Any]:
    source: dict[str, Any] = {"fileSet": {"@id": files}, "extract": extract}
    if transform is not None:
        source["transform"] = transform
    return {"@type": "cr:Field", "@id": f"pairs/{name}", "name": name, "dataType": kind, "source": source}
