"""Notice a loss that jumps far above its recent mean."""

from __future__ import annotations

import numpy as np

WINDOW_STEPS = 1_000
MIN_STEPS = 100  # before that, mean and deviation say little
NUM_DEVIATIONS = 6.0
QUIET_STEPS = 100  # steps without another message: one message per spike


class SpikeWatch:
    """The losses of the last WINDOW_STEPS steps."""

    def __init__(self) -> None:
        self._losses = np.zeros(WINDOW_STEPS)
        self._count = 0
        self._quiet_until = 0

    def add(self, step: int, loss: float) -> str | None:
        """Add a finite loss.  Return a message if it is far above those before, unless one came shortly before."""
        recent = self._losses[: min(self._count, WINDOW_STEPS)]
        mean, deviation = (float(recent.mean()), float(recent.std())) if len(recent) else (0.0, 0.0)
        self._losses[self._count % WINDOW_STEPS] = loss
        self._count += 1
        is_spike = len(recent) >= MIN_STEPS and loss > mean + NUM_DEVIATIONS * deviation
        if not is_spike or step < self._quiet_until:
            return None
        self._quiet_until = step + QUIET_STEPS
        return (
            f"WARNING: the loss of step {step} is {loss:.4f}, {NUM_DEVIATIONS:.0f} deviations ({deviation:.4f}) above "
            f"the mean of the last {len(recent):,} steps ({mean:.4f}). If it stays there, go back: worldclip train RUN "
            "--resume-from STEP, with a lower train.lr or with train.skip_samples"
        )
