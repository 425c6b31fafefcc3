"""Times of several contenders, taken in turns, and the memory that a step takes."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_PAUSE = 0.005  # seconds: OpenMP's threads go on spinning for a while, in the way of whoever comes next
_TURN = 0.02  # seconds that a turn lasts, so that its first run, with cold caches, need not count


@dataclass(frozen=True)
class Times:
    """Milliseconds."""

    median: float
    best: float


def alternate(
    runs: Mapping[str, Callable[[], Any]],
    *,
    seconds: float = 2.0,
    fewest: int = 5,
    longest: float = 60.0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Times]:
    """The times of each contender, taken in turns: ours, theirs, ours, theirs, and so on.

    Args:
        runs: what to time, by name.
        seconds: for each contender, before it is enough.
        fewest: turns, unless `longest` is over first.
        longest: seconds for all together. A warm-up that takes longer than that is the only run.
        clock: `time.process_time` leaves out what others on the machine take, and is for one thread only.
    """
    warm_ups = {name: _seconds(run, clock) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    quick = {name: run for name, run in runs.items() if warm_ups[name] < longest}
    start = time.perf_counter()
    turns = 0
    while quick and (turns < fewest or time.perf_counter() - start < seconds * len(runs)):
        for name, run in quick.items():
            times[name] += _turn(run, clock)
        turns += 1
        if time.perf_counter() - start > longest:
            break
    found = {name: times[name] or [warm_ups[name]] for name in runs}
    return {name: Times(1e3 * statistics.median(all_), 1e3 * min(all_)) for name, all_ in found.items()}


def _turn(run: Callable[[], Any], clock: Callable[[], float]) -> list[float]:
    time.sleep(_PAUSE)
    times: list[float] = []
    while not times or sum(times) < _TURN:
        times.append(_seconds(run, clock))
    return times[1:] or times


def _seconds(run: Callable[[], Any], clock: Callable[[], float]) -> float:
    before = clock()
    run()
    return clock() - before


def memory_of_a_step(step: Callable[[], Any], forget: Callable[[], Any]) -> dict[str, float | None]:
    """MiB at the peak of a step, beyond what is there before it: resident, and of torch's tensors alone.

    What a process needs once, however large the scene, does not count: code that is loaded, stacks of threads, tensors
    that are kept. So `step` runs before anything is measured, and all that it leaves behind goes by `forget`. Resident
    memory is counted by the system in steps of up to some hundred KiB; of small scenes only the tensors tell.
    """
    growths = []
    for _ in range(3):
        step()
        forget()
        growths.append(peak_growth_mib(step))
        forget()
    known = [growth for growth in growths if growth is not None]
    tensors = peak_of_tensors_mib(step)
    forget()
    return {"peak_growth_mib": statistics.median(known) if known else None, "peak_tensors_mib": tensors}


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


def peak_of_tensors_mib(run: Callable[[], Any]) -> float:
    """The most that torch gives out to tensors of the CPU at one time while `run` runs, by its profiler."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        run()
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        profile.export_chrome_trace(file.name)
        events = json.loads(Path(file.name).read_text())["traceEvents"]
    on_host = [event for event in events if event["name"] == "[memory]" and event["args"]["Device Type"] == 0]
    changes = [event["args"]["Bytes"] for event in sorted(on_host, key=lambda event: event["ts"])]
    return max(itertools.accumulate(changes, initial=0)) / 2**20


def _status(name: str) -> int:
    """A line of /proc/self/status, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(dict(line.split(":", 1) for line in lines)[name].split()[0])
