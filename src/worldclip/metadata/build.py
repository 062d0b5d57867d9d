"""The stage: sources -> RUN/metadata/<list>.parquet and its compiled matchers, one language a shard.

shards of dumps, page views  counts       words and bigrams of each file of text, views of each title (counting.py)
shards of languages          entries      sources in the recipe's order, filtered, the first of equals kept
merged (match.isolate)       merged       all lists in sorted code order, the first of equals kept
shards of lists              matchers     one a profile, bound to the digest of the entries
"""

from __future__ import annotations

import functools
import os
import shutil
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from worldclip import languages
from worldclip.config import Recipe, to_dict
from worldclip.errors import BadShard, UserError
from worldclip.execute import Executor, Report, Shard, remove_stale
from worldclip.formats import (
    METADATA,
    fingerprint,
    read_table,
    require_manifest,
    write_json,
    write_manifest,
    write_table,
)
from worldclip.metadata.config import MetadataConfig
from worldclip.metadata.counting import (
    TEXT_LICENCE,
    VIEWS_LICENCE,
    Sources,
    WikipediaCounts,
    count_files,
    counted_files,
    describe_file,
    find_sources,
    known_by,
    open_counts,
    refuse_uncounted,
)
from worldclip.metadata.frequent_words import LICENCE as WORDFREQ_LICENCE
from worldclip.metadata.frequent_words import read_frequent_words
from worldclip.metadata.lists import read_list
from worldclip.metadata.wordnet import read_header, read_wordnet

if TYPE_CHECKING:
    from worldclip.match.matcher import Matcher

STAGE = "metadata"
ENTRIES_DONE, MATCHERS_DONE = "done/entries", "done/matchers"
MERGED = "merged"
NUM_NUMBERS = 100  # "0" to "99" in every language, first
KNOWN_BY_SHARDS = frozenset({"wordnets", "lists", "wikipedia", "dumps", "pageviews", "profiles"})  # files, and matchers
NO_LENGTH_LIMIT = frozenset({"wordnet"})
RULES = ("empty", "punctuation", "too_long", "not_text", "duplicate")
_ASCII_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
NOTES = (
    "wordfreq's words are lower-cased and names are not, so each word is emitted as given and in title case",
    "dead entries are numbered but never match: under that profile they are empty or equal to an earlier entry",
)

Entries = Iterator[tuple[str, float | None]]


@dataclass(kw_only=True, slots=True)
class EntryList:
    """Entries in their final order, and how many each rule took from each source."""

    entries: dict[str, None] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)
    scores: list[float | None] = field(default_factory=list)
    rules: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, source: str, found: Entries, max_chars: int, limit: int | None = None) -> int:
        """Append what passes the rules; of equal entries the first stays, with its source and score.

        limit: on how many are kept, those that are there already not counted; what comes behind is not read.
        Returns how many were kept.
        """
        counts = self.rules.setdefault(source, dict.fromkeys(("in", *RULES, "kept"), 0))
        before = counts["kept"]
        for raw, score in found if limit != 0 else ():
            entry = raw.strip()
            counts["in"] += 1
            reason = _refusal(entry, max_chars if source not in NO_LENGTH_LIMIT else None)
            if reason is None and entry in self.entries:
                reason = "duplicate"
            counts[reason or "kept"] += 1
            if reason is None:
                self.entries[entry] = None
                self.sources.append(source)
                self.scores.append(score)
                if counts["kept"] - before == limit:
                    break
        return counts["kept"] - before

    def table(self) -> pa.Table:
        columns = {
            "entry_id": pa.array(np.arange(len(self.entries), dtype=np.int32)),
            "entry": pa.array(list(self.entries), pa.string()),
            "source": pa.array(self.sources, pa.string()),
            "score": pa.array(self.scores, pa.float64()),
        }
        return pa.table(columns)


def _refusal(entry: str, max_chars: int | None) -> str | None:
    """Which rule refuses the entry; None where it may stay."""
    if not entry:
        return "empty"
    if max_chars is not None and len(entry) > max_chars:
        return "too_long"
    if is_punctuation(entry):
        return "punctuation"
    if not entry.isascii() and any("\ud800" <= char <= "\udfff" for char in entry):
        return "not_text"
    return None


def is_punctuation(entry: str) -> bool:
    """True where nothing but punctuation (category P*, ASCII's marks) and white space is in it."""
    if entry[0].isalnum():
        return False
    return all(
        char in _ASCII_PUNCTUATION or char.isspace() or unicodedata.category(char).startswith("P") for char in entry
    )


def build_entries(lang: str, config: MetadataConfig, wikipedias: Sequence[WikipediaCounts] = ()) -> EntryList:
    """The list of one language: numbers, WordNet, unigrams, bigrams, titles, wordfreq, plain list, in this order.

    wikipedias: what was counted of the Wikipedias that make this language; their lists are joined source by source,
    each with caps of its own.
    """
    built = EntryList()
    if "number" in config.sources:
        built.add("number", ((str(number), None) for number in range(NUM_NUMBERS)), config.max_chars)
    if "wordnet" in config.sources and lang in config.wordnets:
        built.add("wordnet", read_wordnet(Path(config.wordnets[lang]), lang), config.max_chars)
    _add_wikipedias(built, config, wikipedias)
    if "wordfreq" in config.sources and languages.get(lang).wordfreq:
        built.add("wordfreq", read_frequent_words(lang, config.wordfreq_top), config.max_chars)
    if "list" in config.sources and lang in config.lists:
        built.add("list", read_list(Path(config.lists[lang])), config.max_chars)
    if not built.entries:
        raise BadShard(
            f"{lang} has no entry from {', '.join(built.rules) or 'any source'}; give it metadata.lists.{lang}"
        )
    return built


def _add_wikipedias(built: EntryList, config: MetadataConfig, wikipedias: Sequence[WikipediaCounts]) -> None:
    with_text = [counted for counted in wikipedias if counted.counts is not None]
    num_unigrams = {}
    for counted in with_text:
        # Bigrams are a share of the unigrams kept; without unigrams in the list, of those that would be.
        place = built if "unigram" in config.sources else EntryList()
        num_unigrams[counted.wiki] = place.add("unigram", counted.unigrams(), config.max_chars, config.max_unigrams)
    for counted in with_text if "bigram" in config.sources else ():
        wanted = counted.max_bigrams(num_unigrams[counted.wiki])
        built.add("bigram", counted.bigrams(wanted, len(built.entries)), config.max_chars, wanted)
    for counted in wikipedias:
        if "title" in config.sources and counted.views:
            built.add("title", counted.titles(), config.max_chars, config.max_titles)


def _has_words(lang: str, config: MetadataConfig, sources: Sources) -> bool:
    """Whether a language has any source besides numbers."""
    return (
        ("wordnet" in config.sources and lang in config.wordnets)
        or bool(sources.wikis[lang])
        or ("wordfreq" in config.sources and languages.get(lang).wordfreq is not None)
        or ("list" in config.sources and lang in config.lists)
    )


def relevant_config(recipe: Recipe) -> dict[str, Any]:
    match = recipe.match
    return {
        "languages": {"codes": list(recipe.languages.codes)} | _lid_model_of_other(recipe),
        "metadata": to_dict(recipe.metadata),
        "match": {"profile": match.profile, "fold_case": match.fold_case, "isolate": match.isolate},
    }


def _lid_model_of_other(recipe: Recipe) -> dict[str, Any]:
    """Which Wikipedias no label reaches, and thus make `other`, hangs on the model's labels."""
    return {"lid_model": recipe.languages.lid_model} if languages.OTHER in _run_codes(recipe) else {}


def _label_scheme(recipe: Recipe) -> languages.Scheme:
    if recipe.languages.lid_model == "lid176" or languages.OTHER not in _run_codes(recipe):
        return "lid176"
    from worldclip.match.lid import Identifier

    return Identifier(recipe.languages.lid_model).scheme


def _find_sources(recipe: Recipe) -> Sources:
    return find_sources(recipe.metadata, _run_codes(recipe), _label_scheme(recipe))


def inputs(recipe: Recipe, run_dir: Path) -> dict[str, Any]:
    """Fingerprints of the files, and wordfreq's version where it is used."""
    return {shard.name: shard.fingerprint for shard in _language_shards(recipe, _find_sources(recipe))}


def run(recipe: Recipe, run_dir: Path, executor: Executor) -> Report:
    """Build every list and compile its matchers; languages that failed are listed, the others are done."""
    folder, sources = run_dir / STAGE, _find_sources(recipe)
    _refuse_languages_without_source(recipe, sources)
    uncounted = count_files(sources, recipe.metadata, folder, executor)
    lists = _build_lists(recipe, folder, executor, sources, uncounted)
    matchers = _compile_matchers(recipe, folder, executor, lists)
    _keep_only(folder, lists, matchers, counted_files(folder, sources))
    report = _report(lists, matchers)
    write_json(folder / "report.json", report)
    write_manifest(
        folder,
        config=relevant_config(recipe),
        inputs=inputs(recipe, run_dir),
        counts={name: found["entries"] for name, found in lists.items()},
        digests={name: found["digest"] for name, found in lists.items()},
        sources={name: found["files"] for name, found in lists.items()},
        pageviews=[describe_file(shard, VIEWS_LICENCE) for shard in sources.views],
        rules={name: found["rules"] for name, found in lists.items()},
        dead={name: found["dead"] for name, found in report["lists"].items()},
    )
    return report


def _build_lists(
    recipe: Recipe, folder: Path, executor: Executor, sources: Sources, uncounted: Mapping[str, str]
) -> dict[str, Report]:
    """Each list's report: the languages in sorted order, then `merged` where the recipe asks for it."""
    shards = _language_shards(recipe, sources)
    key = {name: value for name, value in to_dict(recipe.metadata).items() if name not in KNOWN_BY_SHARDS}
    build = functools.partial(_build_shard, config=recipe.metadata, folder=folder, sources=sources, uncounted=uncounted)
    found = executor.map(build, shards, label=STAGE, done_dir=folder / ENTRIES_DONE, key=key)
    lists = {shard.name: report for shard, report in zip(shards, found, strict=True)}
    if recipe.match.isolate == "merged":
        lists[MERGED] = _merge(folder, lists)
    return lists


def _compile_matchers(
    recipe: Recipe, folder: Path, executor: Executor, lists: dict[str, Report]
) -> dict[tuple[str, str], Report]:
    """Report of each (list, matcher name), for the lists that texts are matched against."""
    names = sorted({recipe.match.matcher_name, *recipe.metadata.profiles})
    wanted = [(name, matcher) for name in _lists_to_compile(recipe) for matcher in names]
    shards = [
        Shard(name=f"{name}/{matcher}", path="", fingerprint={"digest": lists[name]["digest"]})
        for name, matcher in wanted
    ]
    compile_one = functools.partial(_compile_shard, folder=folder)
    found = executor.map(compile_one, shards, label="matchers", done_dir=folder / MATCHERS_DONE, key=STAGE)
    return dict(zip(wanted, found, strict=True))


def _run_codes(recipe: Recipe) -> tuple[str, ...]:
    """The run's languages, and English where all texts are matched against its list."""
    codes = set(recipe.languages.run_codes)
    return tuple(sorted(codes | {"en"} if recipe.match.isolate == "english" else codes))


def _lists_to_compile(recipe: Recipe) -> tuple[str, ...]:
    """The lists that texts are matched against."""
    if recipe.match.isolate == "merged":
        return (MERGED,)
    return ("en",) if recipe.match.isolate == "english" else _run_codes(recipe)


def _refuse_languages_without_source(recipe: Recipe, sources: Sources) -> None:
    """Numbers alone make no list unless they alone are asked for; all languages that lack words are named at once."""
    config = recipe.metadata
    if set(config.sources) == {"number"}:
        return
    without = [lang for lang in _run_codes(recipe) if not _has_words(lang, config, sources)]
    if not without:
        return
    named = ", ".join(without[:40]) + (f" and {len(without) - 40} more" if len(without) > 40 else "")
    lacks = "wordfreq has no words of" if "wordfreq" in config.sources else "no source has words of"
    first = without[0]
    raise UserError(
        f"metadata.sources is {list(config.sources)}; {lacks} {named}, and no file of theirs is given; give each a list"
        f" (metadata.lists.{first} = FILE) or a wordnet (metadata.wordnets.{first} = FILE), or take it out of"
        " languages.codes"
    )


def _language_shards(recipe: Recipe, sources: Sources) -> list[Shard]:
    config = recipe.metadata
    return [Shard(name=lang, path="", fingerprint=_known_by(lang, config, sources)) for lang in _run_codes(recipe)]


def _known_by(lang: str, config: MetadataConfig, sources: Sources) -> dict[str, Any]:
    known: dict[str, Any] = known_by(lang, sources)
    for source, files in (("wordnet", config.wordnets), ("list", config.lists)):
        if source in config.sources and lang in files:
            path = Path(files[lang])
            known[source] = fingerprint(path, path.parent)
    if "wordfreq" in config.sources and languages.get(lang).wordfreq:
        known["wordfreq"] = _version_of("wordfreq")
    return known


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _build_shard(
    shard: Shard, *, config: MetadataConfig, folder: Path, sources: Sources, uncounted: Mapping[str, str]
) -> Report:
    lang = shard.name
    refuse_uncounted(lang, sources, uncounted)
    with open_counts(lang, sources, config, folder) as wikipedias:
        built = build_entries(lang, config, wikipedias)
    table = built.table()
    write_table(_entries_path(folder, lang), table, METADATA)
    return {**_describe(table, built.rules), "files": _files(shard, config, sources)}


def _describe(table: pa.Table, rules: dict[str, dict[str, int]]) -> Report:
    from worldclip.match.matcher import entries_digest

    return {
        "entries": len(table),
        "bytes": int(table["entry"].nbytes),
        "by_source": {source: counts["kept"] for source, counts in rules.items()},
        "rules": rules,
        "digest": entries_digest(table["entry"]),
    }


def _files(shard: Shard, config: MetadataConfig, sources: Sources) -> list[dict[str, Any]]:
    """What a list was made from: file or package, date, fingerprint, licence."""
    found: list[dict[str, Any]] = []
    for source, known in shard.fingerprint.items():
        if source == "wikipedia":
            texts = [text for wiki in known["files"] for text in sources.texts[wiki]]
            found += [{"source": source, **describe_file(text, TEXT_LICENCE)} for text in texts]
            continue
        if source == "title":
            record = {"page_view_files": known["files"], "digest": known["digest"], "licence": VIEWS_LICENCE}
        elif source == "wordfreq":
            record = {"package": "wordfreq", "version": known, "licence": WORDFREQ_LICENCE}
        else:
            path = Path((config.wordnets if source == "wordnet" else config.lists)[shard.name])
            modified = datetime.fromtimestamp(path.stat().st_mtime, UTC).date().isoformat()
            record = {"file": path.name, "modified": modified, **known, "licence": "not stated in the file"}
            if source == "wordnet":
                header = read_header(path)
                record |= {
                    "name": header.name,
                    "url": header.url,
                    "licence": header.licence or "not stated in the file",
                }
        found.append({"source": source, **record})
    return found


def _merge(folder: Path, lists: dict[str, Report]) -> Report:
    """All lists as one: in sorted code order, the first of equal entries with its source and score."""
    tables = [read_table(_entries_path(folder, code), METADATA) for code in sorted(lists)]
    columns = pa.concat_tables(tables, promote_options="default").unify_dictionaries().combine_chunks()
    entries = columns["entry"].to_pylist()
    first = {entry: row for row, entry in reversed(list(enumerate(entries)))}
    rows = np.array(sorted(first.values()), np.int64)
    merged = columns.take(pa.array(rows)).set_column(0, "entry_id", pa.array(np.arange(len(rows), dtype=np.int32)))
    write_table(_entries_path(folder, MERGED), merged, METADATA)
    by_source = {row["values"]: row["counts"] for row in merged["source"].combine_chunks().value_counts().to_pylist()}
    rules = {
        source: {"in": sum(found["by_source"].get(source, 0) for found in lists.values()), "kept": kept}
        for source, kept in by_source.items()
    }
    return {**_describe(merged, rules), "files": []}


def _compile_shard(shard: Shard, *, folder: Path) -> Report:
    """Compile beside the final folder, then rename: a folder under its final name is whole."""
    from worldclip.match.matcher import Matcher

    name, matcher_name = shard.name.split("/")
    entries = read_table(_entries_path(folder, name), METADATA, ["entry"])["entry"]
    profile, fold_case = matcher_name.removesuffix("_fold"), matcher_name.endswith("_fold")
    matcher = Matcher.build(entries, profile, fold_case)
    if matcher.digest != shard.fingerprint["digest"]:
        raise BadShard(f"{_entries_path(folder, name)} changed since it was written; run the metadata stage again")
    final = matcher_folder(folder, name, matcher_name)
    aside = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        matcher.save(aside)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(aside, final)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return {"dead": matcher.num_dead, "bytes": sum(path.stat().st_size for path in final.iterdir())}


def _keep_only(
    folder: Path, lists: dict[str, Report], matchers: dict[tuple[str, str], Report], counted: Sequence[Path]
) -> None:
    """Drop the files of languages, profiles and dumps that are no longer in the run."""
    keep = [*counted, *(_entries_path(folder, name) for name in lists)]
    keep += [folder / ENTRIES_DONE / f"{name}.json" for name in lists]
    for name, matcher in matchers:
        keep.append(folder / MATCHERS_DONE / name / f"{matcher}.json")
        keep += matcher_folder(folder, name, matcher).iterdir()
    remove_stale(folder, keep)


def _report(lists: dict[str, Report], matchers: dict[tuple[str, str], Report]) -> Report:
    report: Report = {"lists": {}, "notes": list(NOTES)}
    for name, found in lists.items():
        compiled = {matcher: made for (of, matcher), made in matchers.items() if of == name}
        report["lists"][name] = {
            "name": "All lists as one" if name == MERGED else languages.get(name).name,
            **{key: found[key] for key in ("entries", "bytes", "by_source", "rules")},
            "dead": {matcher: made["dead"] for matcher, made in compiled.items()},
            "matcher_bytes": {matcher: made["bytes"] for matcher, made in compiled.items()},
        }
    return report


def _entries_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.parquet"


def matcher_folder(folder: Path, name: str, matcher_name: str) -> Path:
    """RUN/metadata/<list>.matcher/<reference|unicode|unicode_fold>."""
    return folder / f"{name}.matcher" / matcher_name


def read_entries(run_dir: Path, lang: str) -> pa.Table:
    """The entries of one list (a language, or `merged`) of a finished stage; schema formats.METADATA."""
    require_manifest(run_dir, STAGE)
    path = _entries_path(run_dir / STAGE, lang)
    if not path.exists():
        raise UserError(
            f"{run_dir} has no list {lang!r}; add it to languages.codes and run: worldclip metadata {run_dir}"
        )
    return read_table(path, METADATA)


def load_matcher(run_dir: Path, lang: str, matcher_name: str) -> Matcher:
    """The compiled matcher of a list, memory-mapped, and checked to be made from the entries of the manifest."""
    from worldclip.match.matcher import Matcher

    digests = require_manifest(run_dir, STAGE)["digests"]
    folder = matcher_folder(run_dir / STAGE, lang, matcher_name)
    if lang not in digests or not folder.is_dir():
        raise UserError(
            f"{run_dir} has no matcher {matcher_name!r} of list {lang!r}; add it (languages.codes, metadata.profiles)"
            f" and run: worldclip metadata {run_dir}"
        )
    return Matcher.load(folder, digest=digests[lang])
