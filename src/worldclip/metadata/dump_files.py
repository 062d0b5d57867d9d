"""Find the files of the Wikipedias that a run's languages are built from: dumps, page views, names of namespaces."""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from worldclip.core.errors import UserError
from worldclip.core.execute import Shard
from worldclip.language.table import Languages, Scheme
from worldclip.metadata.config import MetadataConfig

DUMP_FORMATS = (".xml", ".parquet")
SITEINFO = "*siteinfo-namespaces.json*"
# Day, kind and part of a dump: `swwiki-20240101-pages-articles.xml.bz2`, `...-pages-articles1.xml-p1p9.bz2`.
_DUMP_NAME = re.compile(
    r"\w+wiki-(?P<day>\d{8}|latest)-(?P<kind>pages-articles-multistream|pages-articles)(?P<part>\d*)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DumpFiles:
    """The files of the Wikipedias that the run's languages are built from."""

    wikis: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Per language, the Wikipedias that have files of text or of views, in the table's order."""
    texts: dict[str, list[Shard]] = field(default_factory=dict)
    """Per Wikipedia, the files of its text; shard names are `<Wikipedia>/<file>`."""
    views: list[Shard] = field(default_factory=list)
    """Page-view files."""
    siteinfo: dict[str, Path] = field(default_factory=dict)
    """Per Wikipedia, the file that names its namespaces, if there is one: the site's own list, else a dump."""

    def text_shards(self) -> list[Shard]:
        return [shard for shards in self.texts.values() for shard in shards]

    def all_wikis(self) -> list[str]:
        """Return the Wikipedias of all languages, sorted."""
        return sorted({wiki for of_lang in self.wikis.values() for wiki in of_lang})


def needs_text(config: MetadataConfig) -> bool:
    """Return whether a source of the recipe reads the text of Wikipedias."""
    return not {"unigram", "bigram"}.isdisjoint(config.sources)


def needs_views(config: MetadataConfig) -> bool:
    """Return whether a source of the recipe reads page views."""
    return "title" in config.sources


def find_dumps(config: MetadataConfig, codes: Sequence[str], scheme: Scheme, languages: Languages) -> DumpFiles:
    """Return the files that the recipe's paths hold for the languages `codes`.

    scheme: of the labels of language identification, which decides what belongs to `other`.  Raises UserError for a
    missing folder and for files that hold the same articles.
    """
    if config.dumps and not Path(config.dumps).is_dir():
        raise UserError(f"metadata.dumps = {config.dumps!r}: no such folder; run: worldclip fetch metadata RECIPE")
    wikis = {code: languages.wikipedias(code, scheme) for code in codes}
    views = list(_find_views(config)) if needs_views(config) else []
    texts: dict[str, list[Shard]] = {}
    siteinfo: dict[str, Path] = {}
    problems: list[str] = []
    for wiki in DumpFiles(wikis=wikis).all_wikis():
        files = _find_texts(config, wiki)
        if files and needs_text(config):
            problems += _report_repeated(wiki, files)
            texts[wiki] = [_shard(f"{wiki}/{path.name}", path) for path in files]
        if path := _find_siteinfo(config, wiki, files):
            siteinfo[wiki] = path
    if problems:
        raise UserError(problems)
    with_files = {code: tuple(wiki for wiki in of_lang if wiki in texts or views) for code, of_lang in wikis.items()}
    return DumpFiles(wikis=with_files, texts=texts, views=views, siteinfo=siteinfo)


def _find_texts(config: MetadataConfig, wiki: str) -> list[Path]:
    if wiki in config.wikipedia:
        return [Path(path) for path in sorted(glob.glob(config.wikipedia[wiki]))]
    if not config.dumps:
        return []
    files = sorted((Path(config.dumps) / wiki).glob("*"))
    return [path for path in files if _is_dump(path.name) and path.is_file()]


def _is_dump(name: str) -> bool:
    """Tell files with articles from indexes and partial downloads in a folder of dumps."""
    is_other = name.startswith(".") or name.endswith(".part") or "-index" in name
    return not is_other and any(form in name for form in DUMP_FORMATS)


def _find_siteinfo(config: MetadataConfig, wiki: str, files: Sequence[Path]) -> Path | None:
    folders = [path.parent for path in files[:1]]
    if config.dumps:
        folders.append(Path(config.dumps) / wiki)
    for folder in folders:
        for path in sorted(folder.glob(SITEINFO)):
            return path
    return next((path for path in files if ".xml" in path.name), None)


def _find_views(config: MetadataConfig) -> Iterator[Shard]:
    place = config.pageviews
    if not place and config.dumps:
        place = str(Path(config.dumps) / "pageviews")
    if not place:
        return
    files = Path(place).glob("*.gz") if Path(place).is_dir() else map(Path, glob.glob(place))
    for path in sorted(files):
        if not path.name.startswith("."):
            yield _shard(path.name, path)


def _shard(name: str, path: Path) -> Shard:
    return Shard.of_file(name, str(path), path.name)


def _report_repeated(wiki: str, files: Sequence[Path]) -> list[str]:
    """Report files with one name, else files whose names say that they hold the same articles.

    These are dumps of two days, or two forms of one dump.
    """
    counts = Counter(path.name for path in files)
    if repeated := sorted(name for name, count in counts.items() if count > 1):
        return [
            f"metadata.wikipedia.{wiki} matches {', '.join(repeated)} in more than one folder, but counts are stored"
            " by file name; rename these files or change the pattern"
        ]
    first_of_dump: dict[tuple[str, str, bool], Path] = {}
    for path in files:
        name = _DUMP_NAME.match(path.name)
        if name is not None:
            first_of_dump.setdefault((name["day"], name["kind"], bool(name["part"])), path)
    if len(first_of_dump) < 2:
        return []
    names = ", ".join(str(path) for path in first_of_dump.values())
    return [f"{names}: several dumps of the Wikipedia {wiki}, whose articles would count twice; keep one of them"]
