"""The plan of the stage: which languages get lists, from which files and packages, and what a list depends on."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldclip.core.errors import UserError
from worldclip.core.job import Run
from worldclip.language.config import LanguagesConfig
from worldclip.language.table import INSTALLED, OTHER, Languages, Scheme
from worldclip.match.config import MatchConfig
from worldclip.metadata.config import MetadataConfig
from worldclip.metadata.dump_files import DumpFiles, find_dumps
from worldclip.metadata.pool_counting import CountedPool
from worldclip.metadata.source import MAX_NAMED, Inputs, describe_path, name_all, used_sources
from worldclip.metadata.sources.pack import Pack, open_pack


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """The inputs of all lists: a pack for the languages in it, sources for the others."""

    config: MetadataConfig
    codes: tuple[str, ...]
    files: DumpFiles
    pack: Pack | None
    languages: Languages
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
        return Inputs(
            lang=lang, config=self.config, files=self.files, languages=self.languages, pool_digest=pool_digest
        )

    def built_inputs(self) -> list[Inputs]:
        """Return the inputs of each language whose list is built."""
        return [self.inputs(lang) for lang in self.built_codes()]

    def fingerprint(self, lang: str) -> dict[str, Any]:
        """Return fingerprints of everything that the list of `lang` is built from, by source."""
        if self.pack is not None and self.is_packed(lang):
            packed_list = self.pack.lists[lang]
            return {"pack": {"size": packed_list["size"], "sha256": packed_list["sha256"]}}
        fingerprints: dict[str, Any] = {}
        if lang not in INSTALLED.by_code():  # how its words are found, and what its sources call it
            fingerprints["language"] = dataclasses.asdict(self.languages.get(lang))
        for source in used_sources(self.config):
            if known := source.fingerprint(self.inputs(lang)):
                fingerprints[source.input_name or source.name] = known
        return fingerprints

    def describe(self, lang: str, fingerprints: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return a record for the manifest per file or package of a list: date, fingerprint, licence.

        fingerprints: of `fingerprint`.
        """
        if self.pack is not None and self.is_packed(lang):
            packed = {"source": "pack", **describe_path(self.pack.path), **fingerprints["pack"]}
            return [packed, *self.pack.lists[lang]["sources"]]
        records: list[dict[str, Any]] = []
        by_input = {source.input_name or source.name: source for source in used_sources(self.config)}
        for name, source in by_input.items():
            if name in fingerprints:
                records += source.describe(self.inputs(lang), fingerprints[name])
        return records


def plan_work(run: Run) -> Work:
    """Find the sources.  Raises UserError for an invalid pack, missing files, and sources that leave languages out."""
    config = run.section(MetadataConfig)
    codes = run_codes(run)
    pack = _open_pack(run)
    built = [code for code in codes if pack is None or code not in pack.lists]
    section = run.section(LanguagesConfig)
    files = find_dumps(config, built, label_scheme(section.lid_model, codes), section.table)
    work = Work(config=config, codes=codes, files=files, pack=pack, languages=section.table)
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
    gaps = {source: langs for source, langs in find_gaps(work).items() if source not in config.allow_missing}
    reported = {lang for langs in gaps.values() for lang in langs}
    others = [of_lang for of_lang in inputs if of_lang.lang not in reported]
    return [*_gap_problems(gaps, config), *_wordless_problems(others, config)]


def find_gaps(work: Work) -> dict[str, tuple[str, ...]]:
    """Return the languages without a file, for each source of the recipe that should have one of them."""
    gaps = {}
    for source in used_sources(work.config):
        if langs := tuple(of_lang.lang for of_lang in work.built_inputs() if source.is_missing(of_lang)):
            gaps[source.name] = langs
    return gaps


def _gap_problems(gaps: Mapping[str, tuple[str, ...]], config: MetadataConfig) -> list[str]:
    """Report gaps; sources without the same languages together."""
    names_of: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for source in used_sources(config):
        if source.name in gaps:
            names_of.setdefault((source.remedy, gaps[source.name]), []).append(f'"{source.name}"')
    problems = []
    for (remedy, langs), names in names_of.items():
        only = f" --langs {','.join(langs)}" if len(langs) <= MAX_NAMED else ""
        fetch = f"run: worldclip fetch metadata RECIPE{only}"
        if not config.dumps:
            fetch = f'set metadata.dumps = "dumps" and {fetch}'
        problems.append(
            f"metadata.sources has {' and '.join(names)}, and there is no file for {name_all(langs)};"
            f" {remedy.format(fetch=fetch, lang=langs[0])}. To go on without:"
            f" metadata.allow_missing = [{', '.join(names)}]"
        )
    return problems


def _wordless_problems(inputs: Sequence[Inputs], config: MetadataConfig) -> list[str]:
    """Report all languages without a source of words, unless numbers are the only source."""
    sources = used_sources(config)
    missing = [of_lang.lang for of_lang in inputs if not any(source.has_words(of_lang) for source in sources)]
    if not missing or set(config.sources) == {"number"}:
        return []
    pack = f" (nor has {config.pack} a list)" if config.pack else ""
    lang = missing[0]
    return [
        f"metadata.sources = {list(config.sources)}: no source has words of {name_all(missing)}, and no file of them is"
        f" set{pack}; set a list (metadata.lists.{lang} = FILE) or a WordNet (metadata.wordnets.{lang} = FILE) of each,"
        " or remove them from languages.codes"
    ]


def label_scheme(lid_model: str, codes: Collection[str]) -> Scheme:
    """Return how the language-identification model writes its labels, on which only the list `other` depends."""
    if lid_model == "lid176" or OTHER not in codes:
        return "lid176"
    from worldclip.language.identify import Identifier

    return Identifier(lid_model).scheme


def run_codes(run: Run) -> tuple[str, ...]:
    """Return the run's languages (default: the pack's, else all), and English if its list is the only one."""
    config = run.section(LanguagesConfig)
    pack = _open_pack(run)
    if pack is None or config.codes:
        codes = set(config.run_codes)
    else:
        codes = {*pack.lists, *config.add}
    if run.section(MatchConfig).isolate == "english":
        codes.add("en")
    return tuple(sorted(codes))


def _open_pack(run: Run) -> Pack | None:
    path = run.section(MetadataConfig).pack
    return open_pack(Path(path), run.section(LanguagesConfig).table) if path else None


def _packed_and_built(work: Work) -> list[str]:
    """Report files of languages whose list is in the pack: a list is taken from the pack or built, never both."""
    config = work.config
    lang_of_file = {
        **{f"wordnets.{lang}": lang for lang in config.wordnets},
        **{f"lists.{lang}": lang for lang in config.lists},
        **{f"wikipedia.{wiki}": work.languages.from_wikipedia(wiki) for wiki in config.wikipedia},
    }
    return [
        f"metadata.{key} is set, and {config.pack} already has the list of {lang}; remove one of the two"
        for key, lang in lang_of_file.items()
        if work.is_packed(lang)
    ]
