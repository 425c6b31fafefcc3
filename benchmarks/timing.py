"""Times of several contenders, taken in turns, and the growth of a process's memory."""

from __future__ import annotations

import contextlib
import ctypes
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PAUSE = 0.005  # seconds: OpenMP's threads go on spinning for a while, in the way of whoever comes next
_TURN = 0.02  # seconds that a turn lasts, so that its first run, with cold caches, need not count


@dataclass(frozen=True)
class Times:
    """Milliseconds."""

    median: float
    best: float


def alternate(
    runs: Mapping[str, Callable[[], Any]], *, seconds: float = 2.0, fewest: int = 5, longest: float = 60.0
) -> dict[str, Times]:
    """The times of each contender, taken in turns: ours, theirs, ours, theirs, and so on.

    Args:
        runs: what to time, by name.
        seconds: for each contender, before it is enough.
        fewest: turns, unless `longest` is over first.
        longest: seconds for all together. A warm-up that takes longer than that is the only run.
    """
    warm_ups = {name: _seconds(run) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    start = time.perf_counter()
    turns = 0
    while turns < fewest or time.perf_counter() - start < seconds * len(runs):
        for name, run in runs.items():
            if warm_ups[name] < longest:
                times[name] += _turn(run)
        turns += 1
        if time.perf_counter() - start > longest:
            break
    found = {name: times[name] or [warm_ups[name]] for name in runs}
    return {name: Times(1e3 * statistics.median(all_), 1e3 * min(all_)) for name, all_ in found.items()}


def _turn(run: Callable[[], Any]) -> list[float]:
    time.sleep(_PAUSE)
    times: list[float] = []
    while not times or sum(times) < _TURN:
        times.append(_seconds(run))
    return times[1:] or times


def _seconds(run: Callable[[], Any]) -> float:
    before = time.perf_counter()
    run()
    return time.perf_counter() - before


def peak_growth_mib(run: Callable[[], Any]) -> float | None:
    """By how much the process grows at most while `run` runs. None where the system does not tell (outside Linux)."""
    try:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)  # memory that was freed but kept would hide what is asked for now
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
        before = _status("VmRSS")
        run()
        return (_status("VmHWM") - before) / 1024
    except (OSError, KeyError):
        return None


def _status(name: str) -> int:
    """A line of /proc/self/status, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(dict(line.split(":", 1) for line in lines)[name].split()[0])
