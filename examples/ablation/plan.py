"""The experiments of docs/ablation/expectations.md: their runs, and nothing that has to be computed."""

from __future__ import annotations

from dataclasses import dataclass

EXPERIMENTS = ("pilots", "pairs", "languages", "natural")
WARMUP_SHARE = 4 / 9  # of the samples: nearly half, best for models this small (docs/log.md)
ARMS: dict[str, dict[int, tuple[str, ...]]] = {
    "pairs": {64: ("raw", "raw_clean", "own_t", "own_t_clean", "one_t", "merged")},
    "languages": {32: ("m0", "m1", "m2", "m3", "m4"), 128: ("m0", "m1", "m2", "m3", "m4", "n0", "n1")},
    "natural": {128: ("every_pair", "p", "one_t", "english_list")},
}
"""Arms by experiment and width."""
WORLDS = {"pairs": range(11, 19), "languages": range(11, 19), "natural": range(11, 16)}
"""Seeds by experiment: of the world and the training; in the natural pool of curation and training. Worlds 16 to 18 of
`languages` are the one planned extension."""
PILOT_WORLD, PILOT_RATES, PILOT_BATCHES = 7, (1e-3, 2e-3, 4e-3), (64, 256)
BATCH_GAIN = 1.10  # a batch of a pilot replaces PAIRS_BATCH if its accuracy is this many times as high
PAIRS_SAMPLES, PAIRS_BATCH = 300_000, 128
ENGLISH_PER_STEP, OTHERS_PER_STEP = 64, 83  # English is 43 to 44% of the list own_t
BOTH_PER_STEP = ENGLISH_PER_STEP + OTHERS_PER_STEP
LANGUAGES_STEPS = 2_040
NATURAL_SAMPLES, NATURAL_BATCH, NATURAL_RATE = 170_000, 128, 1.2e-3  # recipes/emoji.toml


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
        tried = f"_b{self.batch}_lr{self.rate:g}" if self.experiment == "pilots" else ""
        return f"{self.experiment}_{self.arm}_w{self.width}{tried}_s{self.seed}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What the pilots decide."""

    rates: dict[int, float]
    """Learning rate by width."""
    batch: int
    """Of experiment 1."""


def trainings(experiment: str, choice: Choice) -> list[Training]:
    """The runs of an experiment, two worlds in turns, so that two processes seldom wait for the same world."""
    if experiment == "pilots":
        return [*rate_pilots(), *batch_pilots(choice.rates[64])]
    seeds = WORLDS[experiment]
    return [
        make_training(experiment, arm, width, seed, choice)
        for start in range(0, len(seeds), 2)
        for width, arms in ARMS[experiment].items()
        for arm in arms
        for seed in seeds[start : start + 2]
    ]


def names(experiment: str) -> list[str]:
    """The names of the runs of experiments 1 to 3, which the pilots do not change."""
    choice = Choice(rates=dict.fromkeys((32, 64, 128), 0.0), batch=PAIRS_BATCH)
    return [training.name for training in trainings(experiment, choice)]


def make_training(experiment: str, arm: str, width: int, seed: int, choice: Choice) -> Training:
    batch, samples, rate = choice.batch, PAIRS_SAMPLES, choice.rates[width]
    if experiment == "languages":
        batch = {"m0": ENGLISH_PER_STEP, "n0": OTHERS_PER_STEP}.get(arm, BOTH_PER_STEP)
        samples = batch * LANGUAGES_STEPS
    elif experiment == "natural":
        batch, samples, rate = NATURAL_BATCH, NATURAL_SAMPLES, NATURAL_RATE
    return Training(experiment=experiment, arm=arm, width=width, seed=seed, samples=samples, batch=batch, rate=rate)


def rate_pilots() -> list[Training]:
    """Three rates at each width; at width 64 with the batch of experiment 1, else with that of experiment 2."""
    sizes = [(64, PAIRS_BATCH, PAIRS_SAMPLES)]
    sizes += [(width, BOTH_PER_STEP, BOTH_PER_STEP * LANGUAGES_STEPS) for width in ARMS["languages"]]
    return [make_pilot(width, batch, samples, rate) for width, batch, samples in sizes for rate in PILOT_RATES]


def batch_pilots(rate: float) -> list[Training]:
    """Two more batches at width 64."""
    return [make_pilot(64, batch, PAIRS_SAMPLES, rate) for batch in PILOT_BATCHES]


def make_pilot(width: int, batch: int, samples: int, rate: float) -> Training:
    return Training(
        experiment="pilots",
        arm="own_t",
        width=width,
        seed=PILOT_WORLD,
        samples=samples,
        batch=batch,
        rate=rate,
    )
