"""Which languages of a run get lists, from which sources, files and packages."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from worldclip.contracts.sources import METADATA_SOURCES
from worldclip.core.errors import UserError
from worldclip.core.inputs import fingerprint_of
from worldclip.core.job import Run
from worldclip.language.config import LanguagesConfig
from worldclip.language.table import INSTALLED, OTHER, Languages, Scheme
from worldclip.match.config import MatchConfig
from worldclip.metadata.config import MetadataConfig
from worldclip.metadata.counting import NOT_STATED, DumpFiles, Record, find_dumps
from worldclip.metadata.entry_list import EntryList
from worldclip.metadata.lists import find_lists
from worldclip.metadata.pool_counting import CountedPool
from worldclip.metadata.source import Inputs, Source
from worldclip.metadata.sources import packages, pool, wikipedia, wordnet

SOURCES = {
    "number": packages.NUMBER,
    "wordnet": wordnet.WORDNET,
    "unigram": wikipedia.UNIGRAM,
    "bigram": wikipedia.BIGRAM,
    "title": wikipedia.TITLE,
    "wordfreq": packages.WORDFREQ,
    "cldr": packages.CLDR,
    "emoji": packages.EMOJI,
    "pool": pool.POOL,
}
MAX_NAMED = 40  # languages in a message


def used_sources(config: MetadataConfig) -> dict[str, Source]:
    """Return the sources of the recipe by name, in the order of METADATA_SOURCES."""
    return {name: SOURCES[name] for name in METADATA_SOURCES if name in config.sources}


def build_entries(inputs: Inputs) -> EntryList:
    """Return the list of one language, from the recipe's sources in the order of METADATA_SOURCES.

    Raises BadShard for a broken file.
    """
    built = EntryList()
    for source in used_sources(inputs.config).values():
        source.add(built, inputs)
    return built


def name_all(langs: Sequence[str]) -> str:
    """Return the codes as text, the first MAX_NAMED of many."""
    names = ", ".join(langs[:MAX_NAMED])
    if len(langs) > MAX_NAMED:
        names += f" and {len(langs) - MAX_NAMED} more"
    return names


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """The inputs of all lists: whole lists of some languages, sources for the others."""

    config: MetadataConfig
    codes: tuple[str, ...]
    files: DumpFiles
    lists: Mapping[str, str]
    """The file of each whole list."""
    languages: Languages
    pool: CountedPool | None = None
    """None: the pool is no source, or its texts are not counted yet."""

    def built_codes(self) -> list[str]:
        """Return the languages whose lists are built from sources."""
        return [lang for lang in self.codes if lang not in self.lists]

    def inputs(self, lang: str) -> Inputs:
        """Return what the list of a language is built from."""
        pool_digest = self.pool.digest if self.pool is not None else None
        return Inputs(
            lang=lang, config=self.config, files=self.files, languages=self.languages, pool_digest=pool_digest
        )

    def built_inputs(self) -> list[Inputs]:
        """Return the inputs of each language whose list is built."""
        return [self.inputs(lang) for lang in self.built_codes()]

    def should_have(self, source: Source) -> list[str]:
        """Return the languages whose lists are built and should have entries of a source."""
        return [of_lang.lang for of_lang in self.built_inputs() if source.should_have(of_lang)]

    def reads(self, lang: str) -> list[Record]:
        """Return a record per file or package that the list of `lang` is made of, for the manifest."""
        if lang in self.lists:
            file = self.lists[lang]
            return [{"source": "list", **fingerprint_of(file, file.rpartition("/")[2]), "licence": NOT_STATED}]
        records: list[Record] = []
        for source in used_sources(self.config).values():
            records += [record for record in source.reads(self.inputs(lang)) if record not in records]
        return records

    def fingerprint(self, lang: str) -> Record:
        """Return what identifies all that the list of `lang` is made of."""
        records = self.reads(lang)
        identity: Record = {record["package"]: record["version"] for record in records if "package" in record}
        identity["files"] = [record for record in records if "package" not in record]
        if lang not in INSTALLED.by_code():  # how its words are found, and what its sources call it
            identity["language"] = dataclasses.asdict(self.languages.get(lang))
        return identity


def plan_work(run: Run) -> Work:
    """Find the lists and sources.  Raises UserError for missing files, and sources that leave languages out."""
    config = run.section(MetadataConfig)
    section = run.section(LanguagesConfig)
    codes = run_codes(run)
    lists = find_lists(config)
    built = [code for code in codes if code not in lists]
    files = find_dumps(config, built, label_scheme(section.lid_model, codes), section.table)
    work = Work(config=config, codes=codes, files=files, lists=lists, languages=section.table)
    sources = used_sources(config)
    problems = []
    for name, source in sources.items():
        langs = work.should_have(source)
        if langs and not any(source.reads(of_lang) for of_lang in work.built_inputs()):
            problems.append(
                f'metadata.sources has "{name}", and there is no file for {name_all(langs)}; {source.remedy};'
                f' or remove "{name}" from metadata.sources'
            )
    wordless = []  # languages that no source has words of
    for of_lang in work.built_inputs():
        has_words = any(source.reads(of_lang) for source in sources.values())
        if not has_words:
            wordless.append(of_lang.lang)
    if wordless and set(config.sources) != {"number"}:
        lang = wordless[0]
        problems.append(
            f"metadata.sources = {list(config.sources)}: no source has words of {name_all(wordless)}; set a list"
            f" (metadata.lists.{lang} = FILE) or a WordNet (metadata.wordnets.{lang} = FILE) of each, or remove them"
            " from languages.codes"
        )
    if problems:
        raise UserError(problems)
    return work


def label_scheme(lid_model: str, codes: Collection[str]) -> Scheme:
    """Return how the language-identification model writes its labels, on which only the list `other` depends."""
    if lid_model == "lid176" or OTHER not in codes:
        return "lid176"
    from worldclip.language.identify import Identifier

    return Identifier(lid_model).scheme


def run_codes(run: Run) -> tuple[str, ...]:
    """Return the run's languages (default: of a folder of lists, else all), and English if its list is the only one.

    Raises UserError for a folder with a list of an unknown language, unless the recipe says which languages are meant.
    """
    config = run.section(LanguagesConfig)
    metadata = run.section(MetadataConfig)
    codes = set(config.run_codes)
    if isinstance(metadata.lists, str) and not config.codes:
        codes = {*find_lists(metadata), *config.add}
        unknown = sorted(codes - set(config.table.by_code()))
        if unknown:
            raise UserError(
                f"metadata.lists = {metadata.lists!r}: has lists of unknown languages {', '.join(unknown)}; add them"
                f" ([languages.add.{unknown[0]}], as the recipe of that run does), or set languages.codes"
            )
    if run.section(MatchConfig).isolate == "english":
        codes.add("en")
    return tuple(sorted(codes))
