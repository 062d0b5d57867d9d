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
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip.core import coin
from worldclip.core.artifacts import METADATA, read_table, require_manifest, write_table
from worldclip.core.errors import BadShard, UserError, require
from worldclip.core.execute import Report, Shard
from worldclip.core.job import Job, Result, Run
from worldclip.core.settings import to_dict
from worldclip.kernels.unicode_table import UNICODE_VERSION
from worldclip.language import table as languages
from worldclip.language.config import LanguagesConfig
from worldclip.language.entry_lists import MERGED
from worldclip.match.config import MatchConfig
from worldclip.metadata.config import MetadataConfig
from worldclip.metadata.counting import (
    VIEWS_LICENCE,
    Sources,
    count_files,
    counted_files,
    describe_file,
    find_sources,
    open_counts,
    refuse_uncounted,
)
from worldclip.metadata.entries import build_entries, has_words
from worldclip.metadata.merge import merge_lists
from worldclip.metadata.provenance import describe_sources, fingerprint_sources
from worldclip.metadata.sources.pack import Pack, open_pack, read_packed
from worldclip.metadata.sources.wordnet import is_lmf

if TYPE_CHECKING:
    from worldclip.match.matcher.matcher import Matcher

STAGE = "metadata"
ENTRIES_DONE, MATCHERS_DONE = "done/entries", "done/matchers"
# Keys that a list is not built anew for: what they name is known by each shard, and matchers have shards of their own.
KNOWN_BY_SHARDS = frozenset(
    {"pack", "wordnets", "lists", "licences", "wikipedia", "text_licences", "dumps", "pageviews", "profiles"}
)
NUM_EXAMPLES = 5  # of each source of a list, for the report
NOTES = (
    "wordfreq's words are lower-cased and names are not, so each word is emitted as given and in title case",
    "dead entries are numbered but never match: under that profile they are empty or equal to an earlier entry",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What lists are made of: a pack for the languages in it, sources for the others."""

    config: MetadataConfig
    codes: tuple[str, ...]
    sources: Sources
    pack: Pack | None

    def is_packed(self, lang: str) -> bool:
        return self.pack is not None and lang in self.pack.lists


def build(run: Run) -> None:
    """Build every entry list and compile its matchers; failed languages are listed, the others are finished."""
    run.stage("metadata", inputs=_inputs, work=_build, config=_config(run))


def _config(run: Run) -> dict[str, Any]:
    config = run.deciding("metadata") | {"matchers": _matchers_version()}
    if languages.OTHER in _run_codes(run):  # which Wikipedias no label reaches depends on the model's labels
        config["languages"]["lid_model"] = run.section(LanguagesConfig).lid_model
    return config


def _matchers_version() -> dict[str, Any]:
    """What decides a compiled matcher besides its entries: that of an older worldclip is compiled anew."""
    from worldclip.match.matcher.matcher import FORMAT_VERSION

    return {"format": FORMAT_VERSION, "unicode": UNICODE_VERSION}


def label_scheme(lid_model: str, codes: Collection[str]) -> languages.Scheme:
    """How the model of language identification spells its labels, which only `other` hangs on."""
    if lid_model == "lid176" or languages.OTHER not in codes:
        return "lid176"
    from worldclip.language.identify import Identifier

    return Identifier(lid_model).scheme


def _plan(run: Run) -> Work:
    """Raises UserError for a pack that is none, files that are not there, and languages without a source of words."""
    config, codes = run.section(MetadataConfig), _run_codes(run)
    packed = open_pack(Path(config.pack)) if config.pack else None
    built = [code for code in codes if packed is None or code not in packed.lists]
    sources = find_sources(config, built, label_scheme(run.section(LanguagesConfig).lid_model, codes))
    work = Work(config=config, codes=codes, sources=sources, pack=packed)
    if problems := [*_given_twice(work), *_without_source(work)]:
        raise UserError(problems)
    return work


def _inputs(run: Run) -> dict[str, Any]:
    """Return the fingerprints of the files, and wordfreq's version where it is used."""
    return {shard.name: shard.fingerprint for shard in _language_shards(_plan(run))}


def _build(run: Run, job: Job) -> Result:
    folder, work = job.folder, _plan(run)
    _require_packages(work)
    uncounted = count_files(work.sources, work.config, folder, run.executor)
    lists = _build_lists(run, folder, work, uncounted)
    matchers = _compile_matchers(run, folder, lists)
    report = _report(lists, matchers)
    packed_views = work.pack.record["pageviews"] if work.pack is not None else []
    return Result(
        report=report,
        counts={name: found["entries"] for name, found in lists.items()},
        outputs=_outputs(folder, lists, matchers, counted_files(folder, work.sources)),
        manifest={
            "digests": {name: found["digest"] for name, found in lists.items()},
            "sources": {name: found["files"] for name, found in lists.items()},
            "pageviews": [*(describe_file(shard, VIEWS_LICENCE) for shard in work.sources.views), *packed_views],
            "rules": {name: found["rules"] for name, found in lists.items()},
            "dead": {name: found["dead"] for name, found in report["lists"].items()},
        },
    )


def _build_lists(run: Run, folder: Path, work: Work, uncounted: Mapping[str, str]) -> dict[str, Report]:
    """Return each list's report: the languages in sorted order, then `merged` if the recipe asks for it."""
    shards = _language_shards(work)
    key = {name: value for name, value in to_dict(work.config).items() if name not in KNOWN_BY_SHARDS}
    build_shard = functools.partial(_build_shard, folder=folder, work=work, uncounted=uncounted)
    found = run.executor.map(build_shard, shards, label=STAGE, done_dir=folder / ENTRIES_DONE, key=key)
    lists = {shard.name: report for shard, report in zip(shards, found, strict=True)}
    if run.section(MatchConfig).isolate == MERGED:
        lists[MERGED] = _merge(folder, lists)
    return lists


def _compile_matchers(run: Run, folder: Path, lists: dict[str, Report]) -> dict[tuple[str, str], Report]:
    """Return the report of each (list, matcher name), for the lists that texts are matched against."""
    match = run.section(MatchConfig)
    names = sorted({match.matcher_name, *run.section(MetadataConfig).profiles})
    wanted = [(name, matcher) for name in match.entry_lists.names(_run_codes(run)) for matcher in names]
    shards = [
        Shard(name=f"{name}/{matcher}", path="", fingerprint={"digest": lists[name]["digest"]})
        for name, matcher in wanted
    ]
    compile_one = functools.partial(_compile_shard, folder=folder)
    done_dir, key = folder / MATCHERS_DONE, _matchers_version()
    found = run.executor.map(compile_one, shards, label="matchers", done_dir=done_dir, key=key)
    return dict(zip(wanted, found, strict=True))


def _run_codes(run: Run) -> tuple[str, ...]:
    """Return the run's languages, and English if all texts are matched against its list."""
    codes = set(run.section(LanguagesConfig).run_codes)
    return tuple(sorted(codes | {"en"} if run.section(MatchConfig).isolate == "english" else codes))


def _given_twice(work: Work) -> list[str]:
    """A list is the pack's or is built, never both."""
    config, found = work.config, []
    for key, named in (("wordnets", config.wordnets), ("lists", config.lists), ("wikipedia", config.wikipedia)):
        for name in named:
            lang = languages.from_wikipedia(name) if key == "wikipedia" else name
            if work.is_packed(lang):
                found.append(
                    f"metadata.{key}.{name} is given, and {config.pack} has the list of {lang} already; remove one of"
                    " the two"
                )
    return found


def _without_source(work: Work) -> list[str]:
    """Numbers alone make no list unless they alone are asked for; all languages that lack words are named at once."""
    config = work.config
    if set(config.sources) == {"number"}:
        return []
    built = [lang for lang in work.codes if not work.is_packed(lang)]
    without = [lang for lang in built if not has_words(lang, config, work.sources.wikis[lang])]
    if not without:
        return []
    named = ", ".join(without[:40]) + (f" and {len(without) - 40} more" if len(without) > 40 else "")
    lacks = "wordfreq has no words of" if "wordfreq" in config.sources else "no source has words of"
    pack = f"metadata.pack {config.pack} has no list of them; " if config.pack else ""
    first = without[0]
    langs = f" --langs {','.join(without)}" if len(without) <= 40 else ""
    fetch = f"fetch their Wikipedias (worldclip fetch metadata RECIPE{langs}), or " if config.dumps else ""
    return [
        f"metadata.sources is {list(config.sources)}; {lacks} {named}, and no file of theirs is given; {pack}{fetch}"
        f"give each a list (metadata.lists.{first} = FILE) or a wordnet (metadata.wordnets.{first} = FILE), or take it"
        " out of languages.codes"
    ]


def _require_packages(work: Work) -> None:
    """Packages of the extra that lists are read with, before any work: raises ImportError that names the extra."""
    built = [lang for lang in work.codes if not work.is_packed(lang)]
    if "wordfreq" in work.config.sources and any(languages.get(lang).wordfreq for lang in built):
        require("wordfreq", extra="metadata")
    if any(is_lmf(wordnet) for lang in built for wordnet in work.config.wordnets_of(lang)):
        require("wn.lmf", extra="metadata")


def _language_shards(work: Work) -> list[Shard]:
    return [
        Shard(name=lang, path="", fingerprint=fingerprint_sources(lang, work.config, work.sources, work.pack))
        for lang in work.codes
    ]


def _build_shard(shard: Shard, *, folder: Path, work: Work, uncounted: Mapping[str, str]) -> Report:
    lang, path = shard.name, _entries_path(folder, shard.name)
    if work.pack is not None and work.is_packed(lang):
        table, rules = read_packed(work.pack, lang, path), work.pack.lists[lang]["rules"]
    else:
        refuse_uncounted(lang, work.sources, uncounted)
        with open_counts(lang, work.sources, work.config, folder) as wikipedias:
            built = build_entries(lang, work.config, wikipedias)
        table, rules = built.table(), built.rules
        write_table(path, table, METADATA)
    files = describe_sources(lang, shard.fingerprint, work.config, work.sources, work.pack)
    return {**_describe(table["entry"], rules), "examples": _examples(table), "files": files}


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
    """Some entries of each source but the numbers, chosen by hash."""
    sources = table["source"].cast(pa.string())
    found = {}
    for source in pc.unique(sources).to_pylist():
        rows = np.flatnonzero(pc.equal(sources, source).to_numpy(zero_copy_only=False))
        entries = table["entry"].take(pa.array(rows))
        if source != "number":
            chosen, _ = coin.sample_rows(entries, 0, NUM_EXAMPLES)
            found[source] = entries.take(pa.array(chosen)).to_pylist()
    return found


def _merge(folder: Path, lists: dict[str, Report]) -> Report:
    """All lists as one: in sorted code order, the first of equal entries with its source and score."""
    path = _entries_path(folder, MERGED)
    rules = merge_lists([_entries_path(folder, code) for code in sorted(lists)], path)
    entries = read_table(path, METADATA, ["entry"])["entry"]
    return {**_describe(entries, rules), "examples": {}, "files": []}


def _compile_shard(shard: Shard, *, folder: Path) -> Report:
    """Compile beside the final folder, then rename: a folder under its final name is whole."""
    from worldclip.match.matcher.matcher import Matcher

    name, matcher_name = shard.name.split("/")
    entries = read_table(_entries_path(folder, name), METADATA, ["entry"])["entry"]
    profile, fold_case = matcher_name.removesuffix("_fold"), matcher_name.endswith("_fold")
    matcher = Matcher.build(entries, profile, fold_case)
    if matcher.digest != shard.fingerprint["digest"]:
        raise BadShard(f"{_entries_path(folder, name)} changed since it was written; {how_to_rebuild(folder)}")
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


def _outputs(
    folder: Path, lists: dict[str, Report], matchers: dict[tuple[str, str], Report], counted: Sequence[Path]
) -> list[Path]:
    """Return the files of the languages, profiles and dumps of this run."""
    keep = [*counted, *(_entries_path(folder, name) for name in lists)]
    keep += [folder / ENTRIES_DONE / f"{name}.json" for name in lists]
    for name, matcher in matchers:
        keep += [folder / MATCHERS_DONE / name / f"{matcher}.json", matcher_folder(folder, name, matcher)]
    return keep


def _report(lists: dict[str, Report], matchers: dict[tuple[str, str], Report]) -> Report:
    report: Report = {"lists": {}, "notes": list(NOTES)}
    for name, found in lists.items():
        compiled = {matcher: made for (of, matcher), made in matchers.items() if of == name}
        report["lists"][name] = {
            "name": "All lists as one" if name == MERGED else languages.get(name).name,
            **{key: found[key] for key in ("entries", "bytes", "by_source", "rules", "examples")},
            "dead": {matcher: made["dead"] for matcher, made in compiled.items()},
            "matcher_bytes": {matcher: made["bytes"] for matcher, made in compiled.items()},
        }
    return report


def _entries_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.parquet"


def how_to_rebuild(folder: Path) -> str:
    """Return what a user has to do to build the lists and matchers of RUN/metadata again; counts are kept."""
    markers = f"{folder / 'manifest.json'}, {folder / ENTRIES_DONE} and {folder / MATCHERS_DONE}"
    return f"remove {markers}, then run: worldclip metadata {folder.parent}"


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
    from worldclip.match.matcher.matcher import Matcher

    manifest = require_manifest(run_dir, STAGE)
    folder = matcher_folder(run_dir / STAGE, lang, matcher_name)
    if matcher_name not in manifest["dead"].get(lang, {}):
        raise UserError(
            f"{run_dir} has no matcher {matcher_name!r} of list {lang!r}; add it (languages.codes, metadata.profiles)"
            f" and run: worldclip metadata {run_dir}"
        )
    try:
        return Matcher.load(folder, digest=manifest["digests"][lang])
    except UserError as error:
        raise UserError([*error.problems, how_to_rebuild(run_dir / STAGE)]) from error
