"""The arms of each part, as overrides of recipe.toml: what differs between two runs stands here and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from worldclip.config import Recipe, load_recipe
from worldclip.pool.emoji import LANGS

BASE = Path(__file__).with_name("recipe.toml")
TAIL_FRACTION = 0.06  # arXiv:2507.22062
SWEPT = (0.02, 0.12, 0.25)  # beside TAIL_FRACTION
NON_ENGLISH_FACTOR = 1.3  # samples of the paper's non-English run, arXiv:2507.22062


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """A way to curate: how texts are matched, which list is kept of them."""

    name: str
    says: str
    isolate: str = "language"
    true_lang: bool = False
    """The pool's own word on a text's language in place of LID's."""
    rule: str = "tail_fraction"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    tail_fraction: float = TAIL_FRACTION
    """English's p, which t_en follows from."""
    is_raw: bool = False
    """Every pair of the pool, noise and all: nothing is curated."""

    @property
    def matched(self) -> str:
        """Arms of the same name share their matches."""
        return "true_language" if self.true_lang else self.isolate


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """An arm at a size: `factor` times the base's samples, in batches as much larger."""

    arm: Arm
    seed: int
    width: int = 64
    factor: float | str = 1.0
    """A number, or `share`: 1 over English's share of the worldwide arm's pairs, as train.scale has it."""

    @property
    def name(self) -> str:
        size = "" if self.factor == 1.0 else f"_x{self.factor}"
        return f"{self.arm.name}{size}_w{self.width}_s{self.seed}"


RAW = Arm(name="raw", says="every pair, noise too", is_raw=True)
ENGLISH = Arm(name="english", says="English list, English texts", include=("en",))
ENGLISH_LIST = Arm(name="english_list", says="English list, all texts", isolate="english")
MERGED = Arm(name="merged", says="merged list, t_en", isolate="merged")
SAME_T = Arm(name="same_t", says="a list a language, t_en", rule="same_threshold")
WORLDWIDE = Arm(name="worldwide", says="a list a language, own t")
NON_ENGLISH = Arm(name="non_english", says="a list a language, own t, English left out", exclude=("en",))
TRUE_LANGUAGE = Arm(name="true_language", says="own t, true languages in place of LID", true_lang=True)
SWEEP = tuple(Arm(name=f"p{round(100 * p):02}", says=f"own t, p = {p:.0%}", tail_fraction=p) for p in SWEPT)
CURATION = (RAW, ENGLISH, ENGLISH_LIST, MERGED, SAME_T, WORLDWIDE)
ARMS = (*CURATION, NON_ENGLISH, *SWEEP, TRUE_LANGUAGE)
WIDTHS = (64, 128)


def trainings(part: str, seeds: Sequence[int], widths: Sequence[int] = WIDTHS) -> list[Training]:
    """The runs of a part, all arms of a seed before the next seed; parts share runs of the same name."""
    found = []
    for seed in seeds:
        if part == "curation":
            found += [Training(arm=arm, seed=seed) for arm in CURATION]
        elif part == "curse":
            for width in widths:
                sizes = ((ENGLISH, 1.0), (NON_ENGLISH, NON_ENGLISH_FACTOR), (WORLDWIDE, 1.0), (WORLDWIDE, "share"),
                         (ENGLISH, "share"))  # fmt: skip
                found += [Training(arm=arm, seed=seed, width=width, factor=factor) for arm, factor in sizes]
        elif part == "tail":
            found += [Training(arm=arm, seed=seed) for arm in (SWEEP[0], WORLDWIDE, *SWEEP[1:])]
        else:
            found += [Training(arm=arm, seed=seed) for arm in (WORLDWIDE, TRUE_LANGUAGE)]
    return found


PARTS = ("curation", "curse", "tail", "lid")


def curation_recipe(arm: Arm, seed: int, world: Path, english_threshold: int | None = None) -> Recipe:
    """The stages up to curate; without english_threshold, t of every list follows from p."""
    values = [
        *world_paths(world),
        f"match.isolate={arm.isolate}",
        f"curate.seed={seed}",
        f"curate.include={list(arm.include)}",
        f"curate.exclude={list(arm.exclude)}",
    ]
    if english_threshold is None:
        values += [f"balance.tail_fraction={arm.tail_fraction}"]
    else:
        values += [f"balance.rule={arm.rule}", f"balance.english_threshold={english_threshold}"]
    if arm.true_lang:
        values.append("pool.lang=lang_truth")
    return load_recipe(BASE, values)


def training_recipe(
    training: Training, world: Path, samples: int, english_threshold: int | None, english_share: float
) -> Recipe:
    """The whole recipe of a run; `samples` are the base's."""
    recipe = curation_recipe(training.arm, training.seed, world, english_threshold)
    base = recipe.train.global_batch_size
    warmup = samples * recipe.train.warmup_samples / recipe.train.samples_seen
    width = training.width
    values = [f"train.seed={training.seed}", f"train.pool.path='{world / 'images'}'"]
    values += [f"train.tokenizer.path='{world / 'tokenizer'}'"]
    values += [f"train.model.{key}={width}" for key in ("vision_width", "text_width", "embed_dim")]
    if training.factor == "share":
        values += [
            f"train.scale.english_samples_seen={samples}",
            f"train.scale.english_batch_size={base}",
            f"train.scale.english_fraction={english_share}",
            f"train.warmup_samples={round(warmup)}",
        ]
    else:
        factor = float(training.factor)
        values += [
            f"train.samples_seen={round(factor * samples)}",
            f"train.global_batch_size={int(factor * base)}",
            f"train.warmup_samples={round(factor * warmup)}",
        ]
    from worldclip.core.settings import to_dict

    return load_recipe(to_dict(recipe), values)


def world_paths(world: Path) -> list[str]:
    return [
        f"pool.path='{world / 'pairs'}'",
        *(f"metadata.lists.{lang}='{world / 'names' / f'{lang}.txt'}'" for lang in LANGS),
    ]
