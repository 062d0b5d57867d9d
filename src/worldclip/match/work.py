"""What a worker needs to match texts: configs, languages, and the models that each process loads once."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldclip.core import layout
from worldclip.language import identify as lid
from worldclip.language import table as languages
from worldclip.match.config import MatchConfig
from worldclip.match.matcher.matcher import Matcher
from worldclip.pool.config import PoolConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class MatchWork:
    """All that a worker must know to match a shard."""

    run_dir: Path
    pool: PoolConfig
    match: MatchConfig
    lid_model: str
    languages: tuple[str, ...]
    """Languages with metadata in this run, sorted."""
    list_digests: tuple[tuple[str, str], ...]
    """(list, digest of its entries) of every list that texts are matched against."""
    lid_digest: str

    def matcher(self, list_name: str) -> Matcher:
        """Return the compiled matcher of a list, memory-mapped once per process."""
        return _load_matcher(self.run_dir, list_name, self.match.matcher_name, dict(self.list_digests)[list_name])

    def identifier(self) -> tuple[lid.Identifier, np.ndarray]:
        """Return the language identifier, and each label's position in `languages`: (labels + 1,) int32, -1 for none.

        The last position, -1, is that of a text without a label.  Under restrict_to_recipe_languages the identifier
        chooses only among labels of the run's languages.
        """
        merges = tuple(sorted(self.match.merge_labels.items()))
        is_restricted = self.match.restrict_to_recipe_languages
        return _load_identifier(self.lid_model, self.lid_digest, self.languages, merges, is_restricted)


@functools.cache
def _load_matcher(run_dir: Path, list_name: str, matcher_name: str, digest: str) -> Matcher:
    return Matcher.load(layout.matcher(run_dir, list_name, matcher_name), digest)


@functools.cache
def _load_identifier(
    lid_model: str, digest: str, langs: tuple[str, ...], merges: tuple[tuple[str, str], ...], is_restricted: bool
) -> tuple[lid.Identifier, np.ndarray]:
    """Load the identifier once per process; digest: of the model's file, so that a changed file is loaded again."""
    identifier = lid.Identifier(lid_model)
    merged = dict(merges)
    position = {lang: i for i, lang in enumerate(langs)}
    names = [merged.get(label) or languages.from_lid(label, scheme=identifier.scheme) for label in identifier.labels]
    lang_of_label = np.array([*(position.get(name, -1) for name in names), -1], np.int32)
    if is_restricted:
        allowed = [label for label, lang in zip(identifier.labels, lang_of_label[:-1], strict=True) if lang >= 0]
        identifier = lid.Identifier(lid_model, allowed)
    return identifier, lang_of_label
