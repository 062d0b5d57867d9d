"""The runs of the experiments of docs/ablation/expectations.md."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

EXPERIMENTS = ("pilots", "pairs", "languages", "natural")
ARMS: dict[str, dict[int, tuple[str, ...]]] = {
    "pairs": {64: ("raw", "raw_clean", "own_t", "own_t_clean", "one_t", "merged")},
    "languages": {32: ("m0", "m1", "m2", "m3", "m4"), 128: ("m0", "m1", "m2", "m3", "m4", "n0", "n1")},
    "natural": {128: ("every_pair", "p", "one_t", "english_list")},
}
"""Arms by experiment and width."""
WORLDS = {"pairs": range(11, 19), "languages": range(11, 19), "natural": range(11, 16)}
"""Seeds of the world and of the training. Worlds 16 to 18 of `languages` are the one planned extension."""
RATES = {32: 4e-3, 64: 4e-3, 128: 2e-3}
"""Learning rate by width, as the pilots decided."""
PILOT_WORLD, PILOT_RATES, PILOT_BATCHES = 7, (1e-3, 2e-3, 4e-3), (64, 256)
PAIRS_SAMPLES, PAIRS_BATCH = 300_000, 128
ENGLISH_PER_STEP, OTHERS_PER_STEP = 64, 83  # English is 43 to 44% of the list own_t
BOTH_PER_STEP = ENGLISH_PER_STEP + OTHERS_PER_STEP
LANGUAGES_STEPS = 2_040


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """One run."""

    experiment: str
    arm: str
    width: int
    seed: int
    samples: int
    batch: int
    rate: float

    @property
    def name(self) -> str:
        if self.experiment == "pilots":
            return f"pilots_{self.arm}_w{self.width}_b{self.batch}_lr{self.rate:g}_s{self.seed}"
        return run_name(self.experiment, self.arm, self.width, self.seed)


def run_name(experiment: str, arm: str, width: int, seed: int) -> str:
    return f"{experiment}_{arm}_w{width}_s{seed}"


def names(experiment: str) -> list[str]:
    """Return the names of an experiment's runs."""
    if experiment == "pilots":
        return [training.name for training in pilots()]
    return [
        run_name(experiment, arm, width, seed)
        for width, arms in ARMS[experiment].items()
        for arm in arms
        for seed in WORLDS[experiment]
    ]


def make_training(
    experiment: str, arm: str, width: int, seed: int, *, batch: int | None = None, rate: float | None = None
) -> Training:
    """Return a run of experiment 1, whose width is 64, or of experiment 2; or a pilot of one."""
    if width == 64:
        batch, samples = batch or PAIRS_BATCH, PAIRS_SAMPLES
    else:
        batch = {"m0": ENGLISH_PER_STEP, "n0": OTHERS_PER_STEP}.get(arm, BOTH_PER_STEP)
        samples = batch * LANGUAGES_STEPS
    rate = rate or RATES[width]
    return Training(experiment=experiment, arm=arm, width=width, seed=seed, samples=samples, batch=batch, rate=rate)


def trainings(experiment: str, seed: int) -> list[Training]:
    """Return the runs of experiment 1 or 2 in one world."""
    arms_of_width = ARMS[experiment].items()
    return [make_training(experiment, arm, width, seed) for width, arms in arms_of_width for arm in arms]


def pilots() -> list[Training]:
    """Return three rates at each width, and two more batches at width 64."""
    pilot = partial(make_training, "pilots", "own_t", seed=PILOT_WORLD)
    of_rates = [pilot(width, rate=rate) for width in (64, 32, 128) for rate in PILOT_RATES]
    return of_rates + [pilot(64, batch=batch) for batch in PILOT_BATCHES]
