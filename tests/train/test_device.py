"""What training asks of the machine: are its cores free?"""

from __future__ import annotations

import subprocess
import sys

import pytest

from worldclip.train import device


@pytest.mark.parametrize(
    ("threads", "others", "is_said"),
    [(1, 2.0, False), (4, 0.1, False), (4, None, False), (2, 1.6, False), (4, 1.6, True)],
)
def test_several_threads_next_to_other_processes_are_advised_against(
    monkeypatch: pytest.MonkeyPatch, threads: int, others: float | None, is_said: bool
) -> None:
    monkeypatch.setattr(device, "cores_of_others", lambda: others)
    monkeypatch.setattr(device.os, "cpu_count", lambda: 4)
    message = device.busy_machine(threads)
    assert (message is not None) == is_said
    if message is not None:
        assert "1.6 of this machine's 4 cores" in message
        assert "OMP_NUM_THREADS=2" in message


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the time of all cores is read as Linux says it")
def test_a_process_that_computes_is_noticed() -> None:
    busy = subprocess.Popen([sys.executable, "-c", "print(1, flush=True)\nwhile True: pass"], stdout=subprocess.PIPE)
    try:
        assert busy.stdout is not None
        busy.stdout.readline()
        found = device.cores_of_others(1.0)
    finally:
        busy.kill()
        busy.communicate()
    assert found is not None
    assert found > 0.3
