"""Where a list comes from: fingerprints of its sources, whose change rebuilds the list, and their licences."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from worldclip.language import table as languages
from worldclip.metadata.counting import Record
from worldclip.metadata.source import Inputs, describe_path, used_sources
from worldclip.metadata.sources.pack import Pack


def fingerprint_sources(inputs: Inputs) -> Record:
    """Return fingerprints of everything that a list is built from, by source."""
    fingerprints: Record = {}
    if inputs.lang not in languages.installed():  # how its words are found, and what its sources call it
        fingerprints["language"] = dataclasses.asdict(languages.get(inputs.lang))
    for source in used_sources(inputs.config):
        if known := source.fingerprint(inputs):
            fingerprints[source.input_name] = known
    return fingerprints


def describe_sources(inputs: Inputs, fingerprints: Mapping[str, Any]) -> list[Record]:
    """Return a record for the manifest per file or package that a list was built from: date, fingerprint, licence.

    fingerprints: of `fingerprint_sources`.
    """
    records: list[Record] = []
    for name, source in {source.input_name: source for source in used_sources(inputs.config)}.items():
        if name in fingerprints:
            records += source.describe(inputs, fingerprints[name])
    return records


def fingerprint_packed(lang: str, pack: Pack) -> Record:
    """Return the fingerprint of a list in a pack."""
    packed_list = pack.lists[lang]
    return {"pack": {"size": packed_list["size"], "sha256": packed_list["sha256"]}}


def describe_packed(lang: str, pack: Pack) -> list[Record]:
    """Return a record of the pack, then those of the list's own sources."""
    packed = {"source": "pack", **describe_path(pack.path), **fingerprint_packed(lang, pack)["pack"]}
    return [packed, *pack.lists[lang]["sources"]]
