"""What is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class CurateConfig:
    """Which texts may be kept; how likely each is, the stage balance says."""

    text_policy: Literal["one", "all"] = "one"
    """one: one of an image's matched texts is drawn, then kept or not; all: each text on its own."""
    seed: int = 0
    """Seed of the coin."""
    include: tuple[str, ...] = ()
    """Languages to keep; empty: all."""
    exclude: tuple[str, ...] = ()
    """Languages to leave out."""
    max_pairs: int | dict[str, int] | None = None
    """Most pairs kept of each language, or of single ones (a table of language = pairs); chosen by the coin, thinning
    a language evenly; unset: no cap."""
    write: Literal["list", "tars"] = "list"
    """list: the kept pairs as Parquet; tars: also as new tars in RUN/curate/tars, images copied from the pool."""
    samples_per_tar: int = 10_000
    """Images in a new tar."""

    def problems(self) -> list[str]:
        found = []
        if not 0 <= self.seed < 2**63:
            found.append(f"curate.seed is {self.seed}; it seeds a hash and must be from 0 to 2**63 - 1")
        both = sorted(set(self.include) & set(self.exclude))
        if both:
            found.append(
                f"curate.include and curate.exclude both name {', '.join(both)}; a language is kept or left out, "
                "so take it from one of them"
            )
        caps = self.max_pairs if isinstance(self.max_pairs, dict) else {"": self.max_pairs}
        found += [
            f"curate.max_pairs{'.' if lang else ''}{lang} is {cap}; it is the most pairs kept of a language, at least "
            "1 (to leave a language out: curate.exclude)"
            for lang, cap in caps.items()
            if cap is not None and cap < 1
        ]
        if self.samples_per_tar < 1:
            found.append(f"curate.samples_per_tar is {self.samples_per_tar}; a tar holds at least 1 image")
        return found

    def cap_of(self, lang: str) -> int | None:
        """Most pairs kept of this language; None for no cap."""
        return self.max_pairs.get(lang) if isinstance(self.max_pairs, dict) else self.max_pairs

    def is_excluded(self, lang: str) -> bool:
        """Whether texts of this language are left out."""
        return lang in self.exclude or (bool(self.include) and lang not in self.include)
