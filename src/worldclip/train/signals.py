"""Signals on which training saves a checkpoint and exits, as schedulers send them before a time limit."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from worldclip.train.step import EXIT_CODES

SIGNALS = dict(zip((signal.SIGTERM, signal.SIGUSR1), EXIT_CODES, strict=True))  # save and exit
TERMINATED = SIGNALS[signal.SIGTERM]


@contextmanager
def catch_signals() -> Iterator[Callable[[], int]]:
    """Note SIGTERM and SIGUSR1 instead of dying of them.  Yields a function: the exit code of the last one, else 0.

    Python delivers signals only to the main thread; in another thread the function always returns 0.
    """
    exit_codes = [0]

    def note(number: int, frame: FrameType | None) -> None:
        exit_codes.append(SIGNALS[signal.Signals(number)])

    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    previous = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield lambda: exit_codes[-1]
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
