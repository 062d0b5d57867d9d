"""Where a list comes from: what its sources are known by (a change of it rebuilds the list), and their licences."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from worldclip.core.artifacts import fingerprint
from worldclip.language import table as languages
from worldclip.metadata.config import MetadataConfig, is_lexicon
from worldclip.metadata.counting import TEXT_LICENCE, VIEWS_LICENCE, Sources, describe_file, known_by
from worldclip.metadata.sources.pack import Pack
from worldclip.metadata.sources.wordfreq import LICENCE as WORDFREQ_LICENCE
from worldclip.metadata.sources.wordnet import read_headers
from worldclip.metadata.sources.wordnet_lmf import fingerprint_installed

NOT_STATED = "not stated in the file"


def known_sources(lang: str, config: MetadataConfig, sources: Sources, pack: Pack | None) -> dict[str, Any]:
    """Fingerprints of everything that the list of `lang` is made of."""
    if pack is not None and lang in pack.lists:
        return {"pack": {key: pack.lists[lang][key] for key in ("size", "sha256")}}
    known: dict[str, Any] = known_by(lang, sources)
    if licences := {wiki: config.text_licences[wiki] for wiki in sources.wikis[lang] if wiki in config.text_licences}:
        known["wikipedia"]["licences"] = licences
    if wordnets := config.wordnets_of(lang):
        known["wordnet"] = [_known_wordnet(wordnet) for wordnet in wordnets]
    if path := config.list_of(lang):
        licence = {"licence": config.licences[lang]} if lang in config.licences else {}
        known["list"] = fingerprint(path, path.parent) | licence
    if "wordfreq" in config.sources and languages.get(lang).wordfreq:
        known["wordfreq"] = _version_of("wordfreq")
    return known


def _known_wordnet(wordnet: str) -> dict[str, Any]:
    path = Path(wordnet)
    return fingerprint_installed(wordnet) if is_lexicon(wordnet) else fingerprint(path, path.parent)


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def describe_sources(
    lang: str, known: Mapping[str, Any], config: MetadataConfig, sources: Sources, pack: Pack | None
) -> list[dict[str, Any]]:
    """What the list of `lang` was made from, for the manifest: file or package, date, fingerprint, licence.

    known: of known_sources.
    """
    if pack is not None and "pack" in known:
        record = {"source": "pack", "file": pack.path.name, "modified": _date_of(pack.path), **known["pack"]}
        return [record, *pack.lists[lang]["sources"]]
    found: list[dict[str, Any]] = []
    for source, of_source in known.items():
        if source == "wikipedia":
            for wiki in of_source["files"]:
                licence = config.text_licences.get(wiki, TEXT_LICENCE)
                found += [{"source": source, **describe_file(text, licence)} for text in sources.texts[wiki]]
        elif source == "title":
            views = {"page_view_files": of_source["files"], "digest": of_source["digest"], "licence": VIEWS_LICENCE}
            found.append({"source": source, **views})
            found += [{"source": "siteinfo", **site} for site in _describe_siteinfo(lang, sources)]
        elif source == "wordfreq":
            found.append({"source": source, "package": "wordfreq", "version": of_source, "licence": WORDFREQ_LICENCE})
        elif source == "wordnet":
            for wordnet, fingerprint_ in zip(config.wordnets_of(lang), of_source, strict=True):
                found += [{"source": source, **record} for record in _describe_wordnet(wordnet, fingerprint_)]
        else:
            path = Path(config.lists[lang])
            found.append({"source": source, **_describe_path(path), "licence": NOT_STATED, **of_source})
    return found


def _describe_siteinfo(lang: str, sources: Sources) -> list[dict[str, Any]]:
    """The files that name the namespaces of a language's Wikipedias, but for dumps that are sources of text as well:
    facts of the site, no text.
    """
    texts = {shard.path for wiki in sources.wikis[lang] for shard in sources.texts.get(wiki, ())}
    paths = [sources.siteinfo[wiki] for wiki in sources.wikis[lang] if wiki in sources.siteinfo]
    paths = [path for path in paths if str(path) not in texts]
    return [{**_describe_path(path), **fingerprint(path, path.parent), "licence": VIEWS_LICENCE} for path in paths]


def _describe_wordnet(wordnet: str, known: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A record for each lexicon of a wordnet's file."""
    place = {} if is_lexicon(wordnet) else _describe_path(Path(wordnet))
    return [
        {**place, **known, "name": header.name, "url": header.url, "licence": header.licence or NOT_STATED}
        for header in read_headers(wordnet)
    ]


def _describe_path(path: Path) -> dict[str, str]:
    return {"file": path.name, "modified": _date_of(path)}


def _date_of(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).date().isoformat()
