"""Where a list comes from: fingerprints of its sources, whose change rebuilds the list, and their licences."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from worldclip.core.artifacts import fingerprint, versions
from worldclip.core.execute import Shard
from worldclip.language import table as languages
from worldclip.metadata.config import MetadataConfig, is_lexicon
from worldclip.metadata.counting import TEXT_LICENCE, VIEWS_LICENCE, Record, Sources, fingerprint_wikipedias
from worldclip.metadata.sources.pack import Pack
from worldclip.metadata.sources.packages import PACKAGED, packaged_sources
from worldclip.metadata.sources.pool import POOL, POOL_LICENCE
from worldclip.metadata.sources.wordnet import fingerprint_installed, read_headers, wordnets_of

NOT_STATED = "not stated in the file"


def fingerprint_sources(lang: str, config: MetadataConfig, sources: Sources, pack: Pack | None) -> Record:
    """Return fingerprints of everything that the list of `lang` is built from, by source."""
    if pack is not None and lang in pack.lists:
        packed_list = pack.lists[lang]
        return {"pack": {"size": packed_list["size"], "sha256": packed_list["sha256"]}}
    fingerprints = fingerprint_wikipedias(lang, sources)
    if lang not in languages.installed():  # how its words are found, and what its sources call it
        fingerprints["language"] = dataclasses.asdict(languages.get(lang))
    if licences := {wiki: config.text_licences[wiki] for wiki in sources.wikis[lang] if wiki in config.text_licences}:
        fingerprints["wikipedia"]["licences"] = licences
    if wordnets := wordnets_of(lang, config):
        fingerprints["wordnet"] = [
            fingerprint_installed(wordnet) if is_lexicon(wordnet) else _fingerprint(Path(wordnet))
            for wordnet in wordnets
        ]
    if path := config.list_of(lang):
        licence = {"licence": config.licences[lang]} if lang in config.licences else {}
        fingerprints["list"] = _fingerprint(path) | licence
    for packaged in packaged_sources(lang, config):
        package = PACKAGED[packaged].package
        fingerprints[packaged] = versions([package])[package]
    return fingerprints


def _fingerprint(path: Path) -> Record:
    return fingerprint(path, path.parent)


def describe_sources(
    lang: str, fingerprints: Mapping[str, Any], config: MetadataConfig, sources: Sources, pack: Pack | None
) -> list[Record]:
    """Return a record for the manifest per source of `lang`: file or package, date, fingerprint, licence.

    fingerprints: of `fingerprint_sources`.
    """
    if pack is not None and "pack" in fingerprints:
        record = {"source": "pack", "file": pack.path.name, "modified": _date_of(pack.path), **fingerprints["pack"]}
        return [record, *pack.lists[lang]["sources"]]
    records: list[Record] = []
    for source, known in fingerprints.items():
        if source == "wikipedia":
            for wiki in known["files"]:
                licence = config.text_licences.get(wiki, TEXT_LICENCE)
                records += [{"source": source, **describe_file(text, licence)} for text in sources.texts[wiki]]
        elif source == "title":
            views = {"page_view_files": known["files"], "digest": known["digest"], "licence": VIEWS_LICENCE}
            records.append({"source": source, **views})
            # Dumps that are texts of the list are described there, with the licence of their text.
            texts = {shard.path for wiki in sources.wikis[lang] for shard in sources.texts.get(wiki, ())}
            for path in (sources.siteinfo[wiki] for wiki in sources.wikis[lang] if wiki in sources.siteinfo):
                if str(path) not in texts:
                    site = {**_describe_path(path), **_fingerprint(path), "licence": VIEWS_LICENCE}
                    records.append({"source": "siteinfo", **site})
        elif source == "language":
            continue  # no source: how the recipe describes it
        elif source in PACKAGED:
            packaged = PACKAGED[source]
            origin = {"package": packaged.package, "version": known, "licence": packaged.licence}
            records.append({"source": source, **origin})
        elif source == POOL:
            records.append({"source": source, **known, "licence": POOL_LICENCE})
        elif source == "wordnet":
            for wordnet, known_wordnet in zip(wordnets_of(lang, config), known, strict=True):
                place = {} if is_lexicon(wordnet) else _describe_path(Path(wordnet))
                for header in read_headers(wordnet):
                    origin = {"name": header.name, "url": header.url, "licence": header.licence or NOT_STATED}
                    records.append({"source": source, **place, **known_wordnet, **origin})
        else:
            path = Path(config.lists[lang])
            records.append({"source": source, **_describe_path(path), "licence": NOT_STATED, **known})
    return records


def describe_file(shard: Shard, licence: str) -> Record:
    """Return a file of text or of page views as the manifest names it."""
    return {**_describe_path(Path(shard.path)), **shard.fingerprint, "licence": licence}


def _describe_path(path: Path) -> dict[str, str]:
    return {"file": path.name, "modified": _date_of(path)}


def _date_of(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).date().isoformat()
