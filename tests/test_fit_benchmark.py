"""The benchmark of fits: its clock, the rooms that it looks into, and its table."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmarks import fit as benchmark
from slangrast.demo import run_demo
from slangrast.fitting import FitSettings

MACHINE = {"date": "2000-01-01", "cores": "1", "processor": "p", "torch": "1", "slangc": "1", "compiler": "c"}
MACHINE |= {"commit": "abc"}


def test_a_room_within_another_counts_for_itself_alone() -> None:
    watch = benchmark.Watch()
    inner = watch.time("inner", lambda: time.sleep(0.05))
    watch.time("outer", lambda: (inner(), time.sleep(0.01), inner()))()
    assert 0.1 <= watch.seconds["inner"] < 1
    assert 0.01 <= watch.seconds["outer"] < 0.09


def test_every_room_of_a_fit_is_seen(tmp_path: Path) -> None:
    before = [getattr(owner, name) for places in benchmark.ROOMS.values() for owner, name in places]
    watch = benchmark.Watch()
    started = time.perf_counter()
    watch.run(lambda: run_demo(tmp_path, size=24, settings=FitSettings(steps=2, levels=1, check_every=1)))
    took = time.perf_counter() - started
    assert sum(watch.seconds.values()) == pytest.approx(took, rel=0.1)
    # A process that has run such a fit before compiles nothing.
    assert {*benchmark.ROOMS, benchmark.REST} - watch.seconds.keys() <= {"compilation, or its cache"}
    assert before == [getattr(owner, name) for places in benchmark.ROOMS.values() for owner, name in places]


def test_the_table_says_what_was_not_reached() -> None:
    found = {"0.93": {"seconds": 4.0, "step": 140}}
    run = {"found": found, "seconds": 9.0, "steps": 400, "iou": 0.94, "history": []}
    slower = {**run, "found": {"0.93": {"seconds": 6.0, "step": 140}, "0.95": {"seconds": 7.0, "step": 240}}}
    profiles = {"slangrast fit": {"kernels": 3.0, benchmark.REST: 1.0}}
    report = {"machine": MACHINE, "load": [0.5, 1, 2], "views": 3, "size": [8, 9], "profiles": profiles}
    lines = benchmark.table({**report, "runs": [run, slower]}).splitlines()
    assert "3 views of 8 × 9" in lines[0]
    assert lines[4:7] == [
        "| 0.93 | 4.0 | 5.0 | 140 |",
        "| 0.95 | reached by 1 of 2 | | |",
        "| 0.9400, 0.9400 at the end | 9.0 | 9.0 | 400 |",
    ]
    assert lines[10] == "| kernels | 75.0% |" and lines[-2:] == ["| everything else | 25.0% |", "| all, s | 4.0 |"]
