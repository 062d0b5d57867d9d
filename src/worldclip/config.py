"""A Recipe: the configs of all stages, one section each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from worldclip.balance.config import BalanceConfig
from worldclip.core.errors import UserError
from worldclip.core.local_path import require_local
from worldclip.core.settings import SECTIONS, Config, Problems, load_config
from worldclip.core.suggest import nearest
from worldclip.curate.config import CurateConfig
from worldclip.evaluate.config import EvaluateConfig
from worldclip.export.config import ExportConfig
from worldclip.language.config import LanguagesConfig
from worldclip.match.config import MatchConfig
from worldclip.metadata.config import MetadataConfig
from worldclip.pool.config import PoolConfig
from worldclip.train.config import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe(Config):
    """Everything that decides a run, one section per stage."""

    SECTION: ClassVar[str | None] = ""

    pool: PoolConfig = field(default_factory=PoolConfig)
    languages: LanguagesConfig = field(default_factory=LanguagesConfig)
    metadata: MetadataConfig = field(default_factory=MetadataConfig)
    match: MatchConfig = field(default_factory=MatchConfig)
    balance: BalanceConfig = field(default_factory=BalanceConfig)
    curate: CurateConfig = field(default_factory=CurateConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    export: ExportConfig = field(default_factory=ExportConfig)

    def own_problems(self) -> Problems:
        """Yield languages of files that are unknown, and weights of texts where no text is drawn."""
        for key, text in self.metadata.problems_with(self.languages.table):
            yield f"metadata.{key}", text
        if self.pool.text_weights and self.curate.text_policy == "all":
            yield (
                "pool.text_weights",
                'says which text of an image is drawn, and curate.text_policy = "all" draws none; set "one", '
                "or remove the weights",
            )


assert tuple(section.name for section in dataclasses.fields(Recipe)) == SECTIONS


def load_recipe(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """Load a recipe from a TOML file, a run's folder (its recipe.toml), the name of one of ours, or nested dicts.

    Paths in our own recipes are relative to the working directory.  overrides: `section.key=value`.

    Raises UserError with every problem: unreadable file, unknown key (with the nearest known one), wrong type, value
    out of range.
    """
    ours = None
    if not isinstance(source, Mapping):
        require_local(source, "recipe")
        ours = own_recipe(source)
    folder = Path.cwd() if ours else None
    try:
        recipe: Recipe = load_config(Recipe, ours or source, overrides, folder)
    except UserError:
        if not isinstance(source, Mapping) and ours is None:
            _refuse_unknown_name(Path(source))
        raise
    return recipe


def own_recipe(name: str | Path) -> Path | None:
    """Return the file of a recipe that comes with worldclip; None where `name` is a path, or no such recipe."""
    return own_recipes().get(str(name)) if _is_bare_name(Path(name)) else None


def own_recipes() -> dict[str, Path]:
    """Return the recipes that come with worldclip, by name."""
    package = Path(__file__).parent
    folders = [package.parents[1] / "recipes", package / "recipes"]  # checkout, wheel
    recipes: dict[str, Path] = {}
    for folder in folders:
        recipes |= {file.stem: file for file in sorted(folder.glob("*.toml"))}
    return recipes


def _is_bare_name(path: Path) -> bool:
    return not path.exists() and not path.suffix and len(path.parts) == 1


def _refuse_unknown_name(path: Path) -> None:
    """Raise UserError for a bare word or a .toml that is no file and no recipe of ours."""
    is_file_name = path.suffix == ".toml" and not path.exists()
    if is_file_name or _is_bare_name(path):
        ours = own_recipes()
        names = {f"{name}{path.suffix}": name for name in ours}
        if is_file_name:
            names |= {file.name: str(file) for file in sorted(path.parent.glob("*.toml"))}
        near = nearest(path.name, names)
        remedy = f"give a .toml file, the folder of a run, or one of {', '.join(ours)}"
        meant = f"did you mean {names[near[0]]}?" if near else remedy
        raise UserError(f"{path} does not exist and is no recipe of worldclip; {meant}")
