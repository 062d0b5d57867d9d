"""Signals on which training saves a checkpoint and exits: Ctrl-C, and those that schedulers send before a time limit.

Each rank catches its own; the ranks agree by Requests.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from worldclip.train.launch import is_helper_rank

SIGNALS = {signal.SIGTERM: "SIGTERM", signal.SIGUSR1: "SIGUSR1", signal.SIGINT: "Ctrl-C"}
EXIT_CODES = {128 + number: name for number, name in SIGNALS.items()}  # as a shell reports them


@dataclass(frozen=True, slots=True)
class Requests:
    """The requests of a rank to all ranks; they ride as votes in the exchange of the step's scalars."""

    is_overdue: bool = False
    """Whether a checkpoint is due by rank 0's clock."""
    exit_code: int = 0
    """Code of EXIT_CODES to exit with after a checkpoint; 0 for none."""

    def votes(self) -> list[bool]:
        """Return whether a checkpoint is due, then of each of EXIT_CODES whether it is the one to exit with."""
        return [self.is_overdue, *(self.exit_code == code for code in EXIT_CODES)]

    @classmethod
    def of_votes(cls, votes: Sequence[bool]) -> Requests:
        """Return what any rank asks, from what any rank voted for; of two exit codes the first in EXIT_CODES."""
        is_overdue, *is_exit_code = votes
        for code, is_wanted in zip(EXIT_CODES, is_exit_code, strict=True):
            if is_wanted:
                return cls(is_overdue, code)
        return cls(is_overdue)


@contextmanager
def catch_signals() -> Iterator[Callable[[], int]]:
    """Note SIGNALS instead of dying of them.  Yields a function: the exit code of the last one, else 0.

    A second Ctrl-C interrupts as without this.  Python delivers signals only to the main thread; in another thread the
    function always returns 0.
    """
    exit_codes = [0]

    def note(number: int, frame: FrameType | None) -> None:
        exit_codes.append(128 + number)
        if number == signal.SIGINT:
            signal.signal(number, previous[signal.SIGINT])
            if not is_helper_rank():  # os.write: the signal may have come while `say` prints
                os.write(2, b"\nCtrl-C: saves a checkpoint after this step; a second Ctrl-C ends at once\n")

    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    previous = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield lambda: exit_codes[-1]
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
