"""The stage: build RUN/metadata/<list>.parquet from its sources and compile its matchers.

shard                 builds       what
a dump, page views    counts       words and bigrams of the text, views of titles (counting.py)
a shard of the pool   counts       words and bigrams of its texts by language, for the source `pool` (sources/pool.py)
a language            entries      candidates of all sources in order, filtered, the first of equal ones kept
(match.isolate)       merged       all lists in sorted code order, the first of equal entries kept
a list and profile    matcher      bound to the digest of the entries
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from worldclip.contracts import layout
from worldclip.contracts.schemas import METADATA
from worldclip.core import coin
from worldclip.core.artifacts import MANIFEST, read_table, replace_folder, require_manifest, write_table
from worldclip.core.console import say
from worldclip.core.errors import BadShard, InputChanged, UserError, naming
from worldclip.core.execute import Report, Shard
from worldclip.core.job import Job, Record, Result, Run
from worldclip.core.preflight import missing_packages
from worldclip.core.settings import deciding
from worldclip.kernels.unicode_table import UNICODE_VERSION
from worldclip.language import table as languages
from worldclip.language.config import LanguagesConfig
from worldclip.match.config import MERGED, MatchConfig
from worldclip.metadata import counting, pool_counting
from worldclip.metadata.config import MetadataConfig
from worldclip.metadata.coverage import find_gaps, gap_problems, name_all, wordless_problems
from worldclip.metadata.dump_files import DumpFiles, find_dumps
from worldclip.metadata.entries import build_entries
from worldclip.metadata.entry_list import EntryList
from worldclip.metadata.merge import merge_lists
from worldclip.metadata.pool_counting import POOL, POOL_KEYS, CountedPool
from worldclip.metadata.provenance import (
    describe_packed,
    describe_sources,
    fingerprint_packed,
    fingerprint_sources,
)
from worldclip.metadata.source import Inputs, used_sources
from worldclip.metadata.sources.pack import Pack, open_pack, read_packed
from worldclip.metadata.sources.wikipedia import VIEWS_LICENCE, describe_shard

if TYPE_CHECKING:
    from worldclip.match.matcher.matcher import Matcher

STAGE = "metadata"
ENTRIES, MATCHERS = "entries", "matchers"  # the maps over lists, and over lists and profiles
NUM_EXAMPLES = 5  # entries per source of a list, for the report
DEAD_NOTE = "dead entries are numbered but never match: under that profile they are empty or equal to an earlier entry"


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What lists are built from: a pack for the languages in it, sources for the others."""

    config: MetadataConfig
    codes: tuple[str, ...]
    files: DumpFiles
    pack: Pack | None
    pool: CountedPool | None = None
    """None: the pool is no source, or its texts are not counted yet."""

    def is_packed(self, lang: str) -> bool:
        return self.pack is not None and lang in self.pack.lists

    def built_codes(self) -> list[str]:
        """Return the languages whose lists are built, not taken from the pack."""
        return [lang for lang in self.codes if not self.is_packed(lang)]

    def inputs(self, lang: str) -> Inputs:
        """Return what the list of a language is built from."""
        pool_digest = self.pool.digest if self.pool is not None else None
        return Inputs(lang=lang, config=self.config, files=self.files, pool_digest=pool_digest)

    def built_inputs(self) -> list[Inputs]:
        """Return the inputs of each language whose list is built."""
        return [self.inputs(lang) for lang in self.built_codes()]

    def fingerprint(self, lang: str) -> dict[str, Any]:
        """Return fingerprints of everything that the list of `lang` is built from, by source."""
        if self.pack is not None and self.is_packed(lang):
            return fingerprint_packed(lang, self.pack)
        return fingerprint_sources(self.inputs(lang))

    def describe(self, lang: str, fingerprints: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return a record for the manifest per source of a list."""
        if self.pack is not None and self.is_packed(lang):
            return describe_packed(lang, self.pack)
        return describe_sources(self.inputs(lang), fingerprints)


def build(run: Run) -> None:
    """Build every entry list and compile its matchers; failed languages are listed, the others are finished."""
    run.stage("metadata", inputs=_inputs, work=_build, config=_config(run), needs=_needs)


def _needs(run: Run) -> Iterator[str]:
    try:
        work = _plan(run)
    except UserError as error:
        yield from error.problems
        return
    inputs = work.built_inputs()
    modules: dict[str, dict[str, None]] = {}  # extra -> its modules, each once
    for source in used_sources(work.config):
        if any(source.needs_packages(of_lang) for of_lang in inputs):
            modules.setdefault(source.requires.extra, {}).update(dict.fromkeys(source.requires.modules))
    for extra, names in modules.items():
        yield from missing_packages(STAGE, tuple(names), extra=extra)


def _config(run: Run) -> Record:
    config = run.deciding("metadata") | {"matchers": _matchers_version()}
    config["metadata"] = _deciding_keys(run.section(MetadataConfig), "metadata")
    if POOL in run.section(MetadataConfig).sources:
        config[POOL] = pool_counting.pool_config(run)
    if languages.OTHER in _run_codes(run):  # which Wikipedias no label reaches depends on the model's labels
        config["languages"]["lid_model"] = run.section(LanguagesConfig).lid_model
    return config


def _deciding_keys(config: MetadataConfig, output: str) -> dict[str, Any]:
    """Return the section's keys that decide an output, without those of the source `pool` where it is not used."""
    unused = frozenset() if POOL in config.sources else POOL_KEYS
    return {key: value for key, value in deciding(config, output).items() if key not in unused}


def _matchers_version() -> Record:
    """Return what a compiled matcher depends on besides its entries; matchers of an older worldclip are recompiled."""
    from worldclip.match.matcher.matcher import FORMAT_VERSION

    return {"format": FORMAT_VERSION, "unicode": UNICODE_VERSION}


def label_scheme(lid_model: str, codes: Collection[str]) -> languages.Scheme:
    """Return how the language-identification model writes its labels, on which only the list `other` depends."""
    if lid_model == "lid176" or languages.OTHER not in codes:
        return "lid176"
    from worldclip.language.identify import Identifier

    return Identifier(lid_model).scheme


def _plan(run: Run) -> Work:
    """Find the sources.  Raises UserError for an invalid pack, missing files, and sources that leave languages out."""
    config, codes, pack = run.section(MetadataConfig), _run_codes(run), _open_pack(run)
    built = [code for code in codes if pack is None or code not in pack.lists]
    files = find_dumps(config, built, label_scheme(run.section(LanguagesConfig).lid_model, codes))
    work = Work(config=config, codes=codes, files=files, pack=pack)
    problems = _packed_and_built(work)
    for source in used_sources(config):
        problems += source.problems(config)
    if not problems:
        problems = _coverage_problems(work)
    if problems:
        raise UserError(problems)
    return work


def _coverage_problems(work: Work) -> list[str]:
    """Report languages that a source leaves out; one that lacks files is not reported again as one without words."""
    inputs, config = work.built_inputs(), work.config
    gaps = find_gaps(inputs, config)
    reported = set[str]()
    for source, langs in gaps.items():
        if source not in config.allow_missing:
            reported.update(langs)
    others = [of_lang for of_lang in inputs if of_lang.lang not in reported]
    return [*gap_problems(gaps, config), *wordless_problems(others, config)]


def _inputs(run: Run) -> Record:
    """Return the fingerprints of the files, the versions of packages, and the pool if it is a source."""
    fingerprints = {shard.name: shard.fingerprint for shard in _language_shards(_plan(run))}
    return fingerprints | pool_counting.pool_inputs(run)


def _build(run: Run, job: Job) -> Result:
    folder, work = job.folder, _plan(run)
    notes = _name_gaps(work)
    for note in notes:
        say(STAGE, note)
    uncounted = counting.count_files(work.files, work.config, folder, run.executor)
    if POOL in work.config.sources:
        work = replace(work, pool=pool_counting.count_pool(run, folder, work.codes, work.built_codes()))
    lists = _build_lists(run, work, uncounted)
    for source in used_sources(work.config):
        for note in source.notes(lists, work.built_codes(), work.config):
            say(STAGE, note)
            notes.append(note)
    matchers = _compile_matchers(run, lists)
    report = _report(lists, matchers, notes)
    pageviews = [describe_shard(shard, VIEWS_LICENCE) for shard in work.files.views]
    if work.pack is not None:
        pageviews += work.pack.record["pageviews"]
    return Result(
        report=report,
        counts={name: entry_list["entries"] for name, entry_list in lists.items()},
        outputs=_outputs(run.dir, work, lists, matchers),
        manifest={
            "digests": {name: entry_list["digest"] for name, entry_list in lists.items()},
            "sources": {name: entry_list["files"] for name, entry_list in lists.items()},
            "pageviews": pageviews,
            "rules": {name: entry_list["rules"] for name, entry_list in lists.items()},
            "dead": {name: row["dead"] for name, row in report["lists"].items()},
        },
    )


def _outputs(run_dir: Path, work: Work, lists: Collection[str], matchers: Collection[tuple[str, str]]) -> list[Path]:
    """Return all files that belong to the stage, with their markers."""
    folder = run_dir / STAGE
    outputs = counting.counted_files(folder, work.files)
    if work.pool is not None:
        outputs += pool_counting.counted_pool_files(folder, work.pool)
    for name in lists:
        outputs += [layout.entries(run_dir, name), layout.marker(folder, name, ENTRIES)]
    for name, matcher in matchers:
        done = layout.marker(folder, f"{name}/{matcher}", MATCHERS)
        outputs += [layout.matcher(run_dir, name, matcher), done]
    return outputs


def _build_lists(run: Run, work: Work, uncounted: Mapping[str, str]) -> dict[str, Report]:
    """Return each list's report: the languages in sorted order, then `merged` if the recipe asks for it."""
    shards = _language_shards(work)
    key = _deciding_keys(work.config, "metadata.lists")
    build_shard = functools.partial(_build_shard, run_dir=run.dir, work=work, uncounted=uncounted)
    done_dir = layout.done_dir(run.dir / STAGE, ENTRIES)
    reports = run.executor.map(build_shard, shards, label=STAGE, done_dir=done_dir, key=key)
    lists = {shard.name: report for shard, report in zip(shards, reports, strict=True)}
    if run.section(MatchConfig).isolate == MERGED:
        path = layout.entries(run.dir, MERGED)
        rules = merge_lists([layout.entries(run.dir, code) for code in sorted(lists)], path)
        entries = read_table(path, METADATA, ["entry"])["entry"]
        lists[MERGED] = {**_describe(entries, rules), "examples": {}, "files": []}
    return lists


def _compile_matchers(run: Run, lists: dict[str, Report]) -> dict[tuple[str, str], Report]:
    """Return the report of each (list, matcher name), for the lists that texts are matched against."""
    match = run.section(MatchConfig)
    names = sorted({match.matcher_name, *run.section(MetadataConfig).profiles})
    matchers = list(itertools.product(match.entry_lists.names(_run_codes(run)), names))
    shards = [
        Shard(name=f"{name}/{matcher}", path="", fingerprint={"digest": lists[name]["digest"]})
        for name, matcher in matchers
    ]
    compile_one = functools.partial(_compile_shard, run_dir=run.dir)
    done_dir, key = layout.done_dir(run.dir / STAGE, MATCHERS), _matchers_version()
    reports = run.executor.map(compile_one, shards, label="matchers", done_dir=done_dir, key=key)
    return dict(zip(matchers, reports, strict=True))


def _run_codes(run: Run) -> tuple[str, ...]:
    """Return the run's languages (default: the pack's, else all), and English if its list is the only one."""
    config, pack = run.section(LanguagesConfig), _open_pack(run)
    codes = set(config.run_codes if pack is None or config.codes else [*pack.lists, *config.add])
    return tuple(sorted(codes | {"en"} if run.section(MatchConfig).isolate == "english" else codes))


def _open_pack(run: Run) -> Pack | None:
    path = run.section(MetadataConfig).pack
    return open_pack(Path(path)) if path else None


def _packed_and_built(work: Work) -> list[str]:
    """Report files of languages whose list is in the pack: a list is taken from the pack or built, never both."""
    config = work.config
    lang_of_file = {
        **{f"wordnets.{lang}": lang for lang in config.wordnets},
        **{f"lists.{lang}": lang for lang in config.lists},
        **{f"wikipedia.{wiki}": languages.from_wikipedia(wiki) for wiki in config.wikipedia},
    }
    return [
        f"metadata.{key} is set, and {config.pack} already has the list of {lang}; remove one of the two"
        for key, lang in lang_of_file.items()
        if work.is_packed(lang)
    ]


def _language_shards(work: Work) -> list[Shard]:
    return [Shard(name=lang, path="", fingerprint=work.fingerprint(lang)) for lang in work.codes]


def _build_shard(shard: Shard, *, run_dir: Path, work: Work, uncounted: Mapping[str, str]) -> Report:
    lang, path = shard.name, layout.entries(run_dir, shard.name)
    if work.pack is not None and work.is_packed(lang):
        table, rules = read_packed(work.pack, lang, path), work.pack.lists[lang]["rules"]
    else:
        for wiki in work.files.wikis[lang]:
            if wiki in uncounted:
                raise BadShard(uncounted[wiki])
        built = _build_from_sources(lang, run_dir / STAGE, work)
        table, rules = built.table(), built.rules
        write_table(path, table, METADATA)
    if work.fingerprint(lang) != shard.fingerprint:
        raise InputChanged("one of its files changed while it was read")
    files = work.describe(lang, shard.fingerprint)
    return {**_describe(table["entry"], rules), "examples": _examples(table), "files": files}


def _build_from_sources(lang: str, folder: Path, work: Work) -> EntryList:
    """Return the list of a language that no pack has.  Raises BadShard if its sources hold nothing of it."""
    with contextlib.ExitStack() as stack:
        counts = stack.enter_context(counting.open_counts(lang, work.files, work.config, folder))
        inputs = replace(work.inputs(lang), counts=counts)
        if work.pool is not None:
            names = work.pool.shard_names
            pool_counts = stack.enter_context(pool_counting.open_pool_counts(lang, names, folder))
            inputs = replace(inputs, pool_counts=pool_counts)
        return build_entries(inputs)


def _describe(entries: pa.ChunkedArray, rules: dict[str, dict[str, int]]) -> Report:
    from worldclip.match.matcher.matcher import entries_digest

    return {
        "entries": len(entries),
        "bytes": int(entries.nbytes),
        "by_source": {source: counts["kept"] for source, counts in rules.items()},
        "rules": rules,
        "digest": entries_digest(entries),
    }


def _examples(table: pa.Table) -> dict[str, list[str]]:
    """Return some entries of each source except numbers, chosen by hash."""
    sources = table["source"].cast(pa.string())
    examples = {}
    for source in pc.unique(sources).to_pylist():
        if source != "number":
            entries = table["entry"].filter(pc.equal(sources, source))
            chosen, _ = coin.sample_rows(entries, 0, NUM_EXAMPLES)
            examples[source] = entries.take(pa.array(chosen)).to_pylist()
    return examples


def _compile_shard(shard: Shard, *, run_dir: Path) -> Report:
    """Compile into a temporary folder, then rename it: a folder under its final name is whole."""
    from worldclip.match.matcher.matcher import Matcher

    name, matcher_name = shard.name.split("/")
    path = layout.entries(run_dir, name)
    entries = read_table(path, METADATA, ["entry"])["entry"]
    profile, fold_case = matcher_name.removesuffix("_fold"), matcher_name.endswith("_fold")
    matcher = Matcher.build(entries, profile, fold_case)
    if matcher.digest != shard.fingerprint["digest"]:
        raise BadShard(f"{path} changed after it was written; {how_to_rebuild(path.parent)}")
    final = layout.matcher(run_dir, name, matcher_name)
    aside = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        with naming(final):
            matcher.save(aside)
        replace_folder(aside, final)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return {"dead": matcher.num_dead, "bytes": sum(path.stat().st_size for path in final.iterdir())}


def _name_gaps(work: Work) -> list[str]:
    """Return a sentence per source without files for some languages, which metadata.allow_missing allows."""
    gaps = find_gaps(work.built_inputs(), work.config)
    return [
        f"no {source} of {name_all(langs)}: no file, which metadata.allow_missing allows"
        for source, langs in gaps.items()
    ]


def _report(lists: dict[str, Report], matchers: dict[tuple[str, str], Report], notes: Sequence[str]) -> Report:
    report: Report = {"lists": {}, "notes": [*notes, DEAD_NOTE]}
    for name, entry_list in lists.items():
        compiled = {matcher: shard for (list_name, matcher), shard in matchers.items() if list_name == name}
        report["lists"][name] = {
            "name": "All lists as one" if name == MERGED else languages.get(name).name,
            **{key: entry_list[key] for key in ("entries", "bytes", "by_source", "rules", "examples")},
            "dead": {matcher: shard["dead"] for matcher, shard in compiled.items()},
            "matcher_bytes": {matcher: shard["bytes"] for matcher, shard in compiled.items()},
        }
    return report


def how_to_rebuild(folder: Path) -> str:
    """Return what a user has to do to build the lists and matchers of RUN/metadata again; counts are kept."""
    entries, matchers = (layout.done_dir(folder, step) for step in (ENTRIES, MATCHERS))
    markers = f"{folder / MANIFEST}, {entries} and {matchers}"
    return f"remove {markers}, then run: worldclip metadata {folder.parent}"


def read_entries(run_dir: Path, lang: str) -> pa.Table:
    """Return the entries (schema METADATA) of one list, a language or `merged`, of a finished stage."""
    require_manifest(run_dir, STAGE)
    path = layout.entries(run_dir, lang)
    if not path.exists():
        raise UserError(
            f"{run_dir} has no list {lang!r}; add it to languages.codes and run: worldclip metadata {run_dir}"
        )
    return read_table(path, METADATA)


def load_matcher(run_dir: Path, lang: str, matcher_name: str) -> Matcher:
    """Return the compiled matcher of a list, memory-mapped, after checking that it is of the manifest's entries."""
    from worldclip.match.matcher.matcher import Matcher

    manifest = require_manifest(run_dir, STAGE)
    if matcher_name not in manifest["dead"].get(lang, {}):
        raise UserError(
            f"{run_dir} has no matcher {matcher_name!r} of list {lang!r}; add it (languages.codes, metadata.profiles)"
            f" and run: worldclip metadata {run_dir}"
        )
    try:
        return Matcher.load(layout.matcher(run_dir, lang, matcher_name), digest=manifest["digests"][lang])
    except UserError as error:
        raise UserError([*error.problems, how_to_rebuild(run_dir / STAGE)]) from error
