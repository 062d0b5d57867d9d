"""Which pairs are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from worldclip.core.settings import AtLeast, Between, Config, Decides, Problems


@dataclass(frozen=True, kw_only=True, slots=True)
class CurateConfig(Config):
    """Which texts may be kept; stage balance decides how likely each one is.

    Examples:
        worldclip curate runs/my_images --write tars
        worldclip curate runs/my_images --include en sw --text-policy one
    """

    text_policy: Literal["one", "all"] = "one"
    """one: draw one of an image's matched texts, then keep or drop it; all: decide about each text on its own."""
    seed: Annotated[int, Between(0, 2**63 - 1, "the seed of a hash")] = 0
    """Seed of the keep decision (a hash, not a random generator)."""
    include: tuple[str, ...] = ()
    """Languages to keep (default: all)."""
    exclude: tuple[str, ...] = ()
    """Languages to drop."""
    max_pairs: Annotated[
        int | dict[str, int] | None, AtLeast(1, "pairs of a language; to drop a language, add it to curate.exclude")
    ] = None
    """About how many pairs of a language are kept at most: one number, or a table of language = pairs.  One factor
    lowers all probabilities of a language, so that it is thinned evenly.  Unset: no maximum."""
    write: Annotated[Literal["list", "tars", "parquet"], Decides("curate.files")] = "list"
    """list: write keys and texts of the kept pairs; tars: also write the samples as new tars in RUN/curate/tars;
    parquet: also write the rows of a Parquet pool, with all columns, to RUN/curate/parquet, for img2dataset."""
    samples_per_tar: Annotated[int, AtLeast(1, "images per tar"), Decides("curate.files")] = 10_000
    """Images per new tar."""

    write_keys: Annotated[bool, Decides("curate.files")] = True
    """Also write RUN/curate/keys.npy, DataComp's subset file, if all kept keys are 128-bit hex."""

    write_dropped: Annotated[bool, Decides("curate.files")] = True
    """Also write RUN/curate/dropped/<shard>.parquet: every pair that is not kept, with its reason."""

    def own_problems(self) -> Problems:
        """Yield languages that are both included and excluded."""
        both = sorted(set(self.include) & set(self.exclude))
        if both:
            yield "include", f"{', '.join(both)} is in curate.exclude, too; remove it from one of them"

    def cap_of(self, lang: str) -> int | None:
        """Return the maximum number of pairs of a language; None for no maximum."""
        return self.max_pairs.get(lang) if isinstance(self.max_pairs, dict) else self.max_pairs

    def is_excluded(self, lang: str) -> bool:
        """Return whether texts of this language are dropped."""
        return lang in self.exclude or (bool(self.include) and lang not in self.include)
