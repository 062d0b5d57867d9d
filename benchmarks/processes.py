"""Run a command and watch its processes: time, CPU, peak memory, open files (Linux: reads /proc)."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

INTERVAL_S = 0.2
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a command took.  The driver is its first process, a worker any other."""

    wall_s: float
    cpu_s: float = 0.0
    """Of all processes that ended before the command did."""
    driver_cpu_s: float = 0.0
    driver_bytes: int = 0
    """Peak of resident memory; mapped files count, which processes share."""
    driver_own_bytes: int = 0
    """Peak of resident memory of no file, sampled."""
    worker_bytes: int = 0
    """Of the largest worker, as of the driver."""
    worker_own_bytes: int = 0
    open_files: int = 0
    """Most of a process."""

    def __add__(self, other: Cost) -> Cost:
        """Return the cost of both, one after the other."""
        sums = {name: getattr(self, name) + getattr(other, name) for name in ("wall_s", "cpu_s", "driver_cpu_s")}
        peaks = [name for name in self.__slots__ if name not in sums]
        return Cost(**sums, **{name: max(getattr(self, name), getattr(other, name)) for name in peaks})


class _Watch(threading.Thread):
    """Samples a process and all below it until it ends."""

    def __init__(self, driver: int) -> None:
        super().__init__(daemon=True)
        self.driver = driver
        self.peaks: dict[tuple[bool, str], int] = {}  # (of the driver, what) -> most
        self.driver_cpu_s = 0.0

    def run(self) -> None:
        while Path(f"/proc/{self.driver}").exists():
            for process in family(self.driver):
                try:
                    self._sample(process)
                except (OSError, KeyError):  # ended meanwhile
                    continue
            time.sleep(INTERVAL_S)

    def _sample(self, process: int) -> None:
        is_driver = process == self.driver
        status = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
        for name in ("VmHWM", "RssAnon"):
            self._record(is_driver, name, int(status[name].split()[0]) * 1024)
        self._record(is_driver, "files", len(os.listdir(f"/proc/{process}/fd")))
        if is_driver:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            self.driver_cpu_s = (int(fields[11]) + int(fields[12])) / TICKS_PER_S

    def _record(self, is_driver: bool, name: str, value: int) -> None:
        self.peaks[is_driver, name] = max(self.peaks.get((is_driver, name), 0), value)


def family(process: int) -> Iterator[int]:
    """Yield a process and all that it and its children started."""
    yield process
    for file in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            children = file.read_text().split()
        except OSError:
            continue
        for child in children:
            yield from family(int(child))


def run(
    command: Sequence[str],
    log: Path,
    kill_when: Callable[[], bool] | None = None,
    env: Mapping[str, str] | None = None,
) -> Cost:
    """Run a command and return its cost; its output is appended to `log`.

    kill_when: end the command and all its processes by SIGKILL as soon as it returns True.  Raises SystemExit with the
    end of `log` if the command fails, or ends before it is killed.
    """
    with open(log, "ab") as output:
        started_at = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True, env=env)
        watch = _Watch(process.pid)
        watch.start()
        is_over = threading.Event()
        if kill_when is not None:
            threading.Thread(target=_kill, args=(process.pid, kill_when, is_over), daemon=True).start()
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - started_at
        is_over.set()
    process.returncode = os.waitstatus_to_exitcode(status)
    expected = 0 if kill_when is None else -signal.SIGKILL
    if process.returncode != expected:
        end = log.read_text(encoding="utf-8")[-4000:]
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}, not {expected}\n{end}")
    watch.join()
    peak = watch.peaks.get
    return Cost(
        wall_s=wall_s,
        cpu_s=usage.ru_utime + usage.ru_stime,
        driver_cpu_s=watch.driver_cpu_s,
        driver_bytes=peak((True, "VmHWM"), 0),
        driver_own_bytes=peak((True, "RssAnon"), 0),
        worker_bytes=peak((False, "VmHWM"), 0),
        worker_own_bytes=peak((False, "RssAnon"), 0),
        open_files=max(peak((True, "files"), 0), peak((False, "files"), 0)),
    )


def _kill(group: int, kill_when: Callable[[], bool], is_over: threading.Event) -> None:
    while not is_over.wait(INTERVAL_S):
        if kill_when():
            os.killpg(group, signal.SIGKILL)
            return
