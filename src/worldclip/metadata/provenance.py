"""Where a list comes from: fingerprints of its sources, whose change rebuilds the list, and their licences."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from worldclip.core.artifacts import fingerprint
from worldclip.core.execute import Shard
from worldclip.language import table as languages
from worldclip.metadata.config import MetadataConfig, is_lexicon
from worldclip.metadata.counting import TEXT_LICENCE, VIEWS_LICENCE, Sources, fingerprint_wikipedias
from worldclip.metadata.sources.pack import Pack
from worldclip.metadata.sources.wordfreq import LICENCE as WORDFREQ_LICENCE
from worldclip.metadata.sources.wordnet import read_headers
from worldclip.metadata.sources.wordnet_lmf import fingerprint_installed

NOT_STATED = "not stated in the file"
Record = dict[str, Any]


def fingerprint_sources(lang: str, config: MetadataConfig, sources: Sources, pack: Pack | None) -> Record:
    """Return fingerprints of everything that the list of `lang` is built from, by source."""
    if pack is not None and lang in pack.lists:
        packed_list = pack.lists[lang]
        return {"pack": {"size": packed_list["size"], "sha256": packed_list["sha256"]}}
    fingerprints: Record = fingerprint_wikipedias(lang, sources)
    if licences := {wiki: config.text_licences[wiki] for wiki in sources.wikis[lang] if wiki in config.text_licences}:
        fingerprints["wikipedia"]["licences"] = licences
    if wordnets := config.wordnets_of(lang):
        fingerprints["wordnet"] = [_fingerprint_wordnet(wordnet) for wordnet in wordnets]
    if path := config.list_of(lang):
        licence = {"licence": config.licences[lang]} if lang in config.licences else {}
        fingerprints["list"] = fingerprint(path, path.parent) | licence
    if "wordfreq" in config.sources and languages.get(lang).wordfreq:
        fingerprints["wordfreq"] = _version_of("wordfreq")
    return fingerprints


def _fingerprint_wordnet(wordnet: str) -> Record:
    path = Path(wordnet)
    return fingerprint_installed(wordnet) if is_lexicon(wordnet) else fingerprint(path, path.parent)


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


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
            records += [{"source": "siteinfo", **site} for site in _describe_siteinfo(lang, sources)]
        elif source == "wordfreq":
            records.append({"source": source, "package": source, "version": known, "licence": WORDFREQ_LICENCE})
        elif source == "wordnet":
            for wordnet, known_wordnet in zip(config.wordnets_of(lang), known, strict=True):
                records += [{"source": source, **record} for record in _describe_wordnet(wordnet, known_wordnet)]
        else:
            path = Path(config.lists[lang])
            records.append({"source": source, **_describe_path(path), "licence": NOT_STATED, **known})
    return records


def describe_file(shard: Shard, licence: str) -> Record:
    """Return a file of text or of page views as the manifest names it."""
    return {**_describe_path(Path(shard.path)), **shard.fingerprint, "licence": licence}


def _describe_siteinfo(lang: str, sources: Sources) -> list[Record]:
    """Describe the files that name the namespaces of a language's Wikipedias; dumps that are texts are named there."""
    texts = {shard.path for wiki in sources.wikis[lang] for shard in sources.texts.get(wiki, ())}
    paths = [sources.siteinfo[wiki] for wiki in sources.wikis[lang] if wiki in sources.siteinfo]
    return [
        {**_describe_path(path), **fingerprint(path, path.parent), "licence": VIEWS_LICENCE}
        for path in paths
        if str(path) not in texts
    ]


def _describe_wordnet(wordnet: str, known: Mapping[str, Any]) -> list[Record]:
    """Describe each lexicon of a WordNet's file."""
    place = {} if is_lexicon(wordnet) else _describe_path(Path(wordnet))
    return [
        {**place, **known, "name": header.name, "url": header.url, "licence": header.licence or NOT_STATED}
        for header in read_headers(wordnet)
    ]


def _describe_path(path: Path) -> dict[str, str]:
    return {"file": path.name, "modified": _date_of(path)}


def _date_of(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).date().isoformat()
