"""Recipes of entry lists, the files that their sources read, and the lists that come out."""

import bz2
import gzip
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pyarrow as pa
import pyarrow.parquet as pq

from stages import QUIET, finish
from worldclip import metadata
from worldclip.config import Recipe, load_recipe
from worldclip.core.artifacts import read_json
from worldclip.core.execute import Executor, Report

NO_SECTIONS: Mapping[str, Any] = {}


def recipe(codes: Sequence[str], sections: Mapping[str, Any] = NO_SECTIONS, **config: Any) -> Recipe:
    """Return a recipe of these languages with `config` as [metadata] and more sections or keys of sections."""
    values: dict[str, Any] = {
        "pool": {"path": "."},
        "balance": {"tail_fraction": 0.1},
        "languages": {"codes": list(codes)},
        "metadata": config,
    }
    for name, keys in sections.items():
        values[name] = {**values.get(name, {}), **keys}
    return load_recipe(values)


def build(loaded: Recipe, run_dir: Path, executor: Executor = QUIET) -> Report:
    """Run the stage whether or not it is finished; return its report."""
    return finish("metadata", loaded, run_dir, executor)


def words(run_dir: Path, lang: str, source: str | None = None) -> list[str]:
    """Return the entries of a list, or those that a source gave."""
    return list(scores(run_dir, lang, source))


def scores(run_dir: Path, lang: str, source: str | None = None) -> dict[str, float | None]:
    """Return the entries of a list, or those that a source gave, with their scores."""
    rows = metadata.read_entries(run_dir, lang).to_pylist()
    return {row["entry"]: row["score"] for row in rows if source in (None, row["source"])}


def manifest_of(run_dir: Path) -> dict[str, Any]:
    return read_json(run_dir / "metadata/manifest.json")


# --- files of sources -------------------------------------------------------------------------------------------------


def write_lists(folder: Path, **lists: Iterable[str]) -> dict[str, str]:
    """Write one plain list per language; return metadata.lists."""
    folder.mkdir(parents=True, exist_ok=True)
    for lang, entries in lists.items():
        (folder / f"{lang}.txt").write_text("".join(f"{entry}\n" for entry in entries), encoding="utf-8")
    return {lang: str(folder / f"{lang}.txt") for lang in lists}


def write_wordnet(path: Path, lang: str, *lemmas: str) -> str:
    """Write a tab file of one lemma per synset, plain or .gz; lang: as WordNets call it."""
    lines = [f"# X\t{lang}\turl\tfree", *(f"{n}-n\t{lang}:lemma\t{lemma}" for n, lemma in enumerate(lemmas, 1))]
    return str(write_lines(path, *lines))


def write_lines(path: Path, *lines: str) -> Path:
    """Write lines, gzipped if the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def write_dump(path: Path, texts: Iterable[str], namespaces: str = "") -> Path:
    """Write a dump of articles as .xml.bz2; namespaces: elements of the site's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    site = f"<siteinfo><namespaces>{namespaces}</namespaces></siteinfo>"
    page = "<page><title>{}</title><ns>0</ns><revision><text>{}</text></revision></page>"
    pages = "".join(page.format(f"T{number}", escape(text)) for number, text in enumerate(texts))
    path.write_bytes(bz2.compress(f"<mediawiki>{site}{pages}</mediawiki>".encode()))
    return path


def write_texts(path: Path, *texts: str | None) -> Path:
    """Write a corpus as Parquet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    titles = [f"T{n}" for n in range(len(texts))]
    pq.write_table(pa.table({"title": titles, "text": pa.array(texts, pa.string())}), path)
    return path


def write_views(folder: Path, *hours: str) -> Path:
    """Write hours of page views, each as lines with commas between them."""
    for number, hour in enumerate(hours):
        lines = [line.strip() for line in hour.split(",")]
        write_lines(folder / f"pageviews-20240101-{number:02}0000.gz", *lines)
    return folder
