"""The experiments of docs/ablation/expectations.md: their runs, and nothing that has to be computed."""

from __future__ import annotations

from dataclasses import dataclass

EXPERIMENTS = ("pilots", "pairs", "languages")
RATES = {32: 2e-3, 64: 2e-3, 128: 2e-3}
"""Learning rate by width, from the pilots."""
WARMUP_SHARE = 4 / 9  # of the samples: nearly half, best for models this small (docs/log.md)
ARMS = {
    "pairs": {64: ("raw", "raw_clean", "own_t", "own_t_clean", "one_t", "merged")},
    "languages": {32: ("m0", "m1", "m2", "m3", "m4"), 128: ("m0", "m1", "m2", "m3", "m4", "n0", "n1")},
}
"""Arms by experiment and width."""
WORLDS = {"pairs": range(11, 19), "languages": range(11, 16)}
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
    """Of the world and of the training."""
    samples: int
    batch: int
    rate: float

    @property
    def name(self) -> str:
        tried = f"_b{self.batch}_lr{self.rate:g}" if self.experiment == "pilots" else ""
        return f"{self.experiment}_{self.arm}_w{self.width}{tried}_s{self.seed}"


def trainings(experiment: str) -> list[Training]:
    """The runs of an experiment, two worlds in turns, so that two processes seldom wait for the same world."""
    if experiment == "pilots":
        return pilots()
    seeds = WORLDS[experiment]
    return [
        make_training(experiment, arm, width, seed)
        for start in range(0, len(seeds), 2)
        for width, arms in ARMS[experiment].items()
        for arm in arms
        for seed in seeds[start : start + 2]
    ]


def make_training(experiment: str, arm: str, width: int, seed: int) -> Training:
    batch, samples = PAIRS_BATCH, PAIRS_SAMPLES
    if experiment == "languages":
        batch = {"m0": ENGLISH_PER_STEP, "n0": OTHERS_PER_STEP}.get(arm, BOTH_PER_STEP)
        samples = batch * LANGUAGES_STEPS
    return Training(
        experiment=experiment, arm=arm, width=width, seed=seed, samples=samples, batch=batch, rate=RATES[width]
    )


def pilots() -> list[Training]:
    """Rates at each width, and the batch at width 64."""
    both_samples = BOTH_PER_STEP * LANGUAGES_STEPS
    tried = [(64, PAIRS_BATCH, PAIRS_SAMPLES, rate) for rate in PILOT_RATES]
    tried += [(64, batch, PAIRS_SAMPLES, RATES[64]) for batch in PILOT_BATCHES]
    tried += [(width, BOTH_PER_STEP, both_samples, rate) for width in ARMS["languages"] for rate in PILOT_RATES]
    return [
        Training(
            experiment="pilots",
            arm="own_t",
            width=width,
            seed=PILOT_WORLD,
            samples=samples,
            batch=batch,
            rate=rate,
        )
        for width, batch, samples, rate in tried
    ]
