"""The stage: build RUN/metadata/<list>.parquet from its sources and compile its matchers.

shard                 builds       what
a dump, page views    counts       words and bigrams of the text, views of titles (counting.py)
a shard of the pool   counts       words and bigrams of its texts by language, for the source `pool` (pool_counting.py)
a language            entries      candidates of all sources in order, filtered, the first of equal ones kept
(match.isolate)       merged       all lists in sorted code order, the first of equal entries kept
a list and profile    matcher      bound to the digest of the entries
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip.contracts import layout
from worldclip.contracts.schemas import METADATA
from worldclip.core import artifacts, coin
from worldclip.core.artifacts import folder_aside, read_table, replace_folder, require_manifest, write_table
from worldclip.core.changes import Change, changed_inputs
from worldclip.core.console import say
from worldclip.core.errors import BadShard, UserError
from worldclip.core.execute import Report, Shard
from worldclip.core.inputs import is_remote
from worldclip.core.job import Job, Record, Result, Run
from worldclip.core.keys import KeyTable
from worldclip.core.preflight import missing_packages
from worldclip.core.printable import command_line, counted
from worldclip.core.settings import deciding
from worldclip.kernels.unicode_table import UNICODE_VERSION
from worldclip.language import segment
from worldclip.language.config import LanguagesConfig
from worldclip.language.table import OTHER
from worldclip.match.config import MERGED, MatchConfig
from worldclip.match.matcher.matcher import FORMAT_VERSION, Matcher, entries_digest
from worldclip.metadata import counting, pool_counting
from worldclip.metadata.config import MetadataConfig
from worldclip.metadata.counting import NGRAMS, VIEWS, merge_counts
from worldclip.metadata.lists import count_sources, write_whole_list
from worldclip.metadata.ngrams import runs
from worldclip.metadata.plan import Work, build_entries, name_all, plan_work, run_codes, used_sources
from worldclip.metadata.pool_counting import POOL, merge_pool_counts
from worldclip.metadata.sources.wikipedia import VIEWS_LICENCE

STAGE = "metadata"
ENTRIES = "entries"  # the map over lists
MATCHERS = "matchers"  # the map over lists that are matched
NUM_EXAMPLES = 5  # entries per source of a list, for the report


def build(run: Run) -> None:
    """Build every entry list and compile its matchers; failed languages are listed, the others are finished."""
    metadata = run.section(MetadataConfig)
    config = run.deciding("metadata") | {"matchers": _matchers_version(), **_segmenter(metadata)}
    if POOL in metadata.sources:
        config[POOL] = pool_counting.pool_config(run)
    if OTHER in run_codes(run):  # the list `other` depends on the model's labels
        config["languages"]["lid_model"] = run.section(LanguagesConfig).lid_model
    run.stage(run.job("metadata", _inputs, config), problems=_problems, work=_build)


def _problems(run: Run) -> Iterator[str]:
    try:
        work = plan_work(run)
    except UserError as error:
        yield from error.problems
        return
    for source in used_sources(work.config).values():
        if source.requires.modules and any(source.reads(of_lang) for of_lang in work.built_inputs()):
            yield from missing_packages(STAGE, source.requires.modules, extra=source.requires.extra)


def _segmenter(config: MetadataConfig) -> Record:
    """Return the version of what finds words, if a source counts them."""
    if {"unigram", "bigram", POOL}.isdisjoint(config.sources):
        return {}
    return {"icu": segment.icu_version()}


def _inputs(run: Run) -> Record:
    """Return the fingerprints of the files, the versions of packages, and the pool if it is a source."""
    work = plan_work(run)
    fingerprints = {lang: work.fingerprint(lang) for lang in work.codes}
    return fingerprints | pool_counting.pool_inputs(run)


def changes_of_sources(run: Run) -> list[Change]:
    """Return what is another source of a run's finished lists now; [] where a source is at a URL, which takes long."""
    lists = run.section(MetadataConfig).lists
    manifest = artifacts.read_manifest(layout.stage_dir(run.dir, "metadata"))
    if manifest is None or any(map(is_remote, [lists] if isinstance(lists, str) else lists.values())):
        return []
    return changed_inputs(manifest["inputs"], _inputs(run))


def _build(run: Run, job: Job) -> Result:
    work = plan_work(run)
    uncounted = counting.count_files(work.files, work.config, job.folder, run.executor, work.languages)
    if POOL in work.config.sources:
        pool_counts = pool_counting.count_pool(run, job.folder, work.codes, work.built_codes())
        work = replace(work, pool=pool_counts)
    lists = _build_lists(run, work, uncounted)
    notes = []  # a sentence per source that has no entry of languages which should have some
    for name, source in used_sources(work.config).items():
        langs = [lang for lang in work.should_have(source) if not lists[lang]["by_source"].get(name)]
        if langs:
            notes.append(f"no {name} of {name_all(langs)}")
            say(STAGE, notes[-1])
    match = run.section(MatchConfig)
    names = match.entry_lists.names(work.codes)  # of the lists that texts are matched against
    shards = []
    for name in names:
        fingerprint = {"digest": lists[name]["digest"]}
        shards.append(Shard(name=f"{name}/{match.matcher_name}", path="", fingerprint=fingerprint))
    say(STAGE, f"matchers of {counted(len(shards), 'list')}")
    compile_one = functools.partial(_compile_matcher, run_dir=run.dir)
    done_dir = layout.done_dir(run.dir / STAGE, MATCHERS)
    reports = run.executor.map(compile_one, shards, label=MATCHERS, done_dir=done_dir, key=_matchers_version())
    matchers = dict(zip(names, reports, strict=True))
    report: Report = {"lists": {}, "notes": notes}
    counts: Report = {}
    pageviews = [{**shard.fingerprint, "licence": VIEWS_LICENCE} for shard in work.files.views]
    manifest: Report = {"digests": {}, "sources": {}, "pageviews": pageviews, "rules": {}, "dead": {}}
    for name, entry_list in lists.items():
        row: Report = {"name": "All lists as one" if name == MERGED else work.languages.get(name).name}
        row |= {key: entry_list[key] for key in ("entries", "bytes", "by_source", "rules", "examples")}
        row |= {"dead": {}, "matcher_bytes": {}}
        if name in matchers:
            compiled = matchers[name]
            row["dead"][compiled["profile"]] = compiled["dead"]
            row["matcher_bytes"][compiled["profile"]] = compiled["bytes"]
        report["lists"][name] = row
        counts[name] = entry_list["entries"]
        manifest["digests"][name] = entry_list["digest"]
        manifest["sources"][name] = entry_list["files"]
        manifest["rules"][name] = entry_list["rules"]
        manifest["dead"][name] = row["dead"]
    outputs = _outputs(run.dir, work, lists, matchers)
    return Result(report=report, counts=counts, outputs=outputs, manifest=manifest)


def _outputs(run_dir: Path, work: Work, lists: Collection[str], matchers: Mapping[str, Report]) -> list[Path]:
    """Return all files that belong to the stage, with their markers."""
    folder = run_dir / STAGE
    outputs: list[Path] = []
    for shard in work.files.text_shards():
        outputs += [layout.marker(folder, shard.name, NGRAMS), *runs.run_files(folder / NGRAMS, shard.name)]
    for shard in work.files.views:
        outputs += [layout.marker(folder, shard.name, VIEWS), *(folder / VIEWS / shard.name).rglob("*")]
    if work.pool is not None:
        for name in work.pool.shard_names:
            outputs += [layout.marker(folder, name, POOL), *runs.run_files(folder / POOL, name)]
    for name in lists:
        outputs += [layout.entries(run_dir, name), layout.marker(folder, name, ENTRIES)]
    for name, compiled in matchers.items():
        done = layout.marker(folder, f"{name}/{compiled['profile']}", MATCHERS)
        outputs += [layout.matcher(run_dir, name, compiled["profile"]), done]
    return outputs


def _build_lists(run: Run, work: Work, uncounted: Mapping[str, str]) -> dict[str, Report]:
    """Return each list's report: the languages in sorted order, then `merged` if the recipe asks for it."""
    shards = [Shard(name=lang, path="", fingerprint=work.fingerprint(lang)) for lang in work.codes]
    say(STAGE, f"lists of {counted(len(shards), 'language')}")
    key = {**deciding(work.config, "metadata.lists"), **_segmenter(work.config)}
    build_shard = functools.partial(_build_shard, run_dir=run.dir, work=work, uncounted=uncounted)
    done_dir = layout.done_dir(run.dir / STAGE, ENTRIES)
    reports = run.executor.map(build_shard, shards, label=STAGE, done_dir=done_dir, key=key)
    lists = {shard.name: report for shard, report in zip(shards, reports, strict=True)}
    if run.section(MatchConfig).isolate == MERGED:
        path = layout.entries(run.dir, MERGED)
        # All entries are in memory, with a hash table over them; of equal ones the first stays
        tables = [read_table(layout.entries(run.dir, code), METADATA) for code in sorted(lists)]
        table = pa.concat_tables(tables).unify_dictionaries()
        is_first = KeyTable(table["entry"]).find(table["entry"]) == np.arange(len(table))
        union = table.filter(pa.array(is_first))
        entry_ids = pa.array(np.arange(len(union), dtype=np.int32))
        write_table(path, union.set_column(0, "entry_id", entry_ids), METADATA)
        num_kept = count_sources(union)
        rules = {}
        for source, number in count_sources(table).items():
            rules[source] = {"in": number, "kept": num_kept.get(source, 0)}
        lists[MERGED] = {**_describe(union["entry"], rules), "examples": {}, "files": []}
    return lists


def _build_shard(shard: Shard, *, run_dir: Path, work: Work, uncounted: Mapping[str, str]) -> Report:
    """Write the list of a language: its whole list, or one of its sources."""
    lang = shard.name
    path = layout.entries(run_dir, lang)
    if lang in work.lists:
        table, rules = write_whole_list(work.lists[lang], path)
    else:
        for wiki in work.files.wikis[lang]:
            if wiki in uncounted:
                raise BadShard(uncounted[wiki])
        folder = run_dir / STAGE
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".merge_", dir=folder) as name:
            scratch = Path(name)
            wikipedia_rules = work.config.wikipedia_rules
            counts = merge_counts(lang, work.files, wikipedia_rules, work.languages, folder, scratch / NGRAMS)
            inputs = replace(work.inputs(lang), counts=counts)
            if work.pool is not None:
                pool_counts = merge_pool_counts(lang, work.pool.shard_names, folder, scratch / POOL)
                inputs = replace(inputs, pool_counts=pool_counts)
            built = build_entries(inputs)
        table = built.table()
        rules = built.rules
        write_table(path, table, METADATA)
    if not len(table):
        raise BadShard(f"no entry of {lang} from {', '.join(rules) or 'any source'}; set metadata.lists.{lang}")
    sources = table["source"].cast(pa.string())
    examples = {}
    for source in pc.unique(sources).to_pylist():
        if source != "number":
            entries = table["entry"].filter(pc.equal(sources, source))
            chosen, _ = coin.sample_rows(entries, 0, NUM_EXAMPLES)
            examples[source] = entries.take(pa.array(chosen)).to_pylist()
    return {**_describe(table["entry"], rules), "examples": examples, "files": work.reads(lang)}


def _describe(entries: pa.ChunkedArray, rules: dict[str, dict[str, int]]) -> Report:
    return {
        "entries": len(entries),
        "bytes": int(entries.nbytes),
        "by_source": {source: counts["kept"] for source, counts in rules.items()},
        "rules": rules,
        "digest": entries_digest(entries),
    }


# --- matchers ---------------------------------------------------------------------------------------------------------


def _matchers_version() -> Record:
    """Return what a compiled matcher depends on besides its entries; matchers of an older worldclip are recompiled."""
    return {"format": FORMAT_VERSION, "unicode": UNICODE_VERSION}


def _compile_matcher(shard: Shard, *, run_dir: Path) -> Report:
    """Compile into a temporary folder, then rename it: a folder under its final name is whole."""
    name, profile = shard.name.split("/")
    path = layout.entries(run_dir, name)
    entries = read_table(path, METADATA, ["entry"])["entry"]
    matcher = Matcher.build(entries, profile)
    if matcher.digest != shard.fingerprint["digest"]:
        done = layout.done_dir(path.parent, ENTRIES)
        raise BadShard(
            f"{path} changed after it was written; remove {done}, then run: {command_line('metadata', run_dir)}"
        )
    final = layout.matcher(run_dir, name, profile)
    with folder_aside(final) as aside:
        matcher.save(aside)
        replace_folder(aside, final)
    num_bytes = sum(path.stat().st_size for path in final.iterdir())
    return {"profile": profile, "dead": matcher.num_dead, "bytes": num_bytes}


def load_matcher(run_dir: Path, lang: str, matcher_name: str) -> Matcher:
    """Return the compiled matcher of a list, memory-mapped, after checking that it is of the manifest's entries."""
    manifest = require_manifest(run_dir, STAGE)
    if matcher_name not in manifest["dead"].get(lang, {}):
        raise UserError(
            f"{run_dir} has no matcher {matcher_name!r} of list {lang!r}; its recipe names languages (languages.codes)"
            f" and one profile (match.profile); run: {command_line('metadata', run_dir)}"
        )
    return Matcher.load(layout.matcher(run_dir, lang, matcher_name), digest=manifest["digests"][lang])


# --- for others -------------------------------------------------------------------------------------------------------


def read_entries(run_dir: str | Path, lang: str) -> pa.Table:
    """Return the entries (schema METADATA) of one list, a language or `merged`, of a finished stage."""
    run_dir = Path(run_dir)
    require_manifest(run_dir, STAGE)
    path = layout.entries(run_dir, lang)
    if not path.exists():
        raise UserError(
            f"{run_dir} has no list {lang!r}; add it to languages.codes and run: {command_line('metadata', run_dir)}"
        )
    return read_table(path, METADATA)
