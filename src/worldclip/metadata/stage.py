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

from worldclip.config import Recipe
from worldclip.core import coin
from worldclip.core.artifacts import METADATA, read_table, require_manifest, write_json, write_manifest, write_table
from worldclip.core.errors import BadShard, UserError, require
from worldclip.core.execute import Executor, Report, Shard
from worldclip.core.job import remove_stale
from worldclip.core.settings import to_dict
from worldclip.kernels.unicode_table import UNICODE_VERSION
from worldclip.language import table as languages
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
MERGED = "merged"
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


def relevant_config(recipe: Recipe) -> dict[str, Any]:
    match = recipe.match
    return {
        "languages": {"codes": list(recipe.languages.codes)} | _lid_model_of_other(recipe),
        "metadata": to_dict(recipe.metadata),
        "match": {"profile": match.profile, "fold_case": match.fold_case, "isolate": match.isolate},
        "matchers": _matchers_version(),
    }


def _matchers_version() -> dict[str, Any]:
    """What decides a compiled matcher besides its entries: that of an older worldclip is compiled anew."""
    from worldclip.match.matcher.matcher import FORMAT_VERSION

    return {"format": FORMAT_VERSION, "unicode": UNICODE_VERSION}


def _lid_model_of_other(recipe: Recipe) -> dict[str, Any]:
    """Which Wikipedias no label reaches, and thus make `other`, hangs on the model's labels."""
    return {"lid_model": recipe.languages.lid_model} if languages.OTHER in _run_codes(recipe) else {}


def label_scheme(lid_model: str, codes: Collection[str]) -> languages.Scheme:
    """How the model of language identification spells its labels, which only `other` hangs on."""
    if lid_model == "lid176" or languages.OTHER not in codes:
        return "lid176"
    from worldclip.language.identify import Identifier

    return Identifier(lid_model).scheme


def _plan(recipe: Recipe) -> Work:
    """Raises UserError for a pack that is none, files that are not there, and languages without a source of words."""
    config, codes = recipe.metadata, _run_codes(recipe)
    packed = open_pack(Path(config.pack)) if config.pack else None
    built = [code for code in codes if packed is None or code not in packed.lists]
    sources = find_sources(config, built, label_scheme(recipe.languages.lid_model, codes))
    work = Work(config=config, codes=codes, sources=sources, pack=packed)
    if problems := [*_given_twice(work), *_without_source(work)]:
        raise UserError(problems)
    return work


def inputs(recipe: Recipe, run_dir: Path) -> dict[str, Any]:
    """Fingerprints of the files, and wordfreq's version where it is used."""
    return {shard.name: shard.fingerprint for shard in _language_shards(_plan(recipe))}


def run(recipe: Recipe, run_dir: Path, executor: Executor) -> Report:
    """Build every list and compile its matchers; languages that failed are listed, the others are done."""
    folder, work = run_dir / STAGE, _plan(recipe)
    _require_packages(work)
    uncounted = count_files(work.sources, work.config, folder, executor)
    lists = _build_lists(recipe, folder, executor, work, uncounted)
    matchers = _compile_matchers(recipe, folder, executor, lists)
    _keep_only(folder, lists, matchers, counted_files(folder, work.sources))
    report = _report(lists, matchers)
    write_json(folder / "report.json", report)
    packed_views = work.pack.record["pageviews"] if work.pack is not None else []
    write_manifest(
        folder,
        config=relevant_config(recipe),
        inputs={shard.name: shard.fingerprint for shard in _language_shards(work)},
        counts={name: found["entries"] for name, found in lists.items()},
        digests={name: found["digest"] for name, found in lists.items()},
        sources={name: found["files"] for name, found in lists.items()},
        pageviews=[*(describe_file(shard, VIEWS_LICENCE) for shard in work.sources.views), *packed_views],
        rules={name: found["rules"] for name, found in lists.items()},
        dead={name: found["dead"] for name, found in report["lists"].items()},
    )
    return report


def _build_lists(
    recipe: Recipe, folder: Path, executor: Executor, work: Work, uncounted: Mapping[str, str]
) -> dict[str, Report]:
    """Each list's report: the languages in sorted order, then `merged` where the recipe asks for it."""
    shards = _language_shards(work)
    key = {name: value for name, value in to_dict(recipe.metadata).items() if name not in KNOWN_BY_SHARDS}
    build = functools.partial(_build_shard, folder=folder, work=work, uncounted=uncounted)
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
    done_dir, key = folder / MATCHERS_DONE, _matchers_version()
    found = executor.map(compile_one, shards, label="matchers", done_dir=done_dir, key=key)
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
