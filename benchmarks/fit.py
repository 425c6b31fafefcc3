"""python -m benchmarks.fit --data FOLDER: how long a fit takes to find an object, and where the time goes."""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import slangrast as sr
from slangrast import losses
from slangrast.demo import run_demo
from slangrast.fitting import descent, job, pictures, run, scene
from slangrast.fitting.files import read_cameras, read_images
from slangrast.runtime import cpu_engine

from .report import add_out, describe_machine, heading, in_own_process, write_report

WANTED = (0.93, 0.95)

# What is called from within another of these counts for itself alone.
ROOMS = {
    "kernels": [(cpu_engine.CpuModule, "launch")],
    "compilation, or its cache": [(cpu_engine, "find_or_build")],
    "reverse, without its kernels": [(torch.autograd, "grad")],
    "rasterizer, without its kernels": [(scene, "soft_rasterize"), (scene, "soft_silhouette")],
    "camera": [(sr.Camera, "project")],
    "losses": [(losses, name) for name in ("silhouette_iou", "l1", "laplacian", "flatten")],
    "smooth step": [(descent.SmoothDescent, "step")],
    "checks of all views": [(scene.Scene, "ious")],
    "pictures": [(pictures.Film, "add"), (pictures.Film, "save"), (job, "save_comparison")],
    "files": [(run, "save_checkpoint"), (job, "save_mesh")],
    "scene": [(job, "make_scene"), (run, "make_scene")],
}
REST = "everything else"


class Watch:
    """Seconds that each room takes while it is on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._within = [0.0]

    def time(self, room: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            self._within.append(0.0)
            started = time.perf_counter()
            try:
                return step(*arguments, **named)
            finally:
                took = time.perf_counter() - started
                self.seconds[room] += took - self._within.pop()
                self._within[-1] += took

        return timed

    def run(self, task: Callable[[], Any]) -> None:
        with ExitStack() as stack:
            for room, places in ROOMS.items():
                for owner, name in places:
                    stack.enter_context(mock.patch.object(owner, name, self.time(room, getattr(owner, name))))
            self.time(REST, task)()


def read(data: Path) -> tuple[Tensor, sr.Camera]:
    images = read_images(data / "source.npy")
    aspect = images.shape[2] / images.shape[1]
    return images, read_cameras(data / "camera.npy", len(images), aspect, 30.0, "left")


def time_to_find(data: Path) -> dict[str, Any]:
    """Seconds and steps until the mean IoU of all views was found to be at least each of WANTED, and to the end."""
    images, cameras = read(data)
    sr.fit(images, cameras, settings=sr.FitSettings(steps=2))  # shaders are compiled, or read from the cache
    found: dict[str, dict[str, float]] = {}
    started = time.perf_counter()

    def note(progress: sr.FitProgress) -> None:
        for wanted in WANTED:
            if progress.iou >= wanted:
                seconds = time.perf_counter() - started
                found.setdefault(str(wanted), {"seconds": seconds, "step": progress.step})

    result = sr.fit(images, cameras, on_progress=note)
    return {
        "found": found,
        "seconds": time.perf_counter() - started,
        "steps": result.steps,
        "iou": result.iou,
        "history": result.history,
    }


def profile(data: Path | None) -> dict[str, float]:
    """Seconds of each room in `slangrast fit` of the data, or in `slangrast demo`."""
    watch = Watch()
    with tempfile.TemporaryDirectory() as out:
        if data is None:
            watch.run(lambda: run_demo(Path(out)))
        else:
            images, cameras = read(data)
            watch.run(lambda: job.run_job(images, cameras, Path(out)))
    return dict(watch.seconds)


def table(report: dict[str, Any]) -> str:
    runs = report["runs"]
    load = ", ".join(f"{value:.1f}" for value in report["load"])
    ious = ", ".join(f"{one['iou']:.4f}" for one in runs)
    height, width = report["size"]
    lines = [
        heading(report["machine"], "python -m benchmarks.fit")
        + f" Load before, over 1, 5 and 15 minutes: {load}. {report['views']} views of {height} × {width}, "
        f"default settings, shaders from the cache, best and median of {len(runs)} fits.",
        "",
        "| mean IoU | best, s | median, s | at step |",
        "|---|---|---|---|",
    ]
    for wanted in map(str, WANTED):
        reached = [one["found"][wanted] for one in runs if wanted in one["found"]]
        if len(reached) < len(runs):
            lines.append(f"| {wanted} | reached by {len(reached)} of {len(runs)} | | |")
            continue
        seconds = [one["seconds"] for one in reached]
        step = statistics.median(one["step"] for one in reached)
        lines.append(f"| {wanted} | {min(seconds):.1f} | {statistics.median(seconds):.1f} | {step:.0f} |")
    seconds = [one["seconds"] for one in runs]
    lines.append(f"| {ious} at the end | {min(seconds):.1f} | {statistics.median(seconds):.1f} | {runs[0]['steps']} |")
    names = list(report["profiles"])
    lines += ["", f"| where the time goes | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    totals = {name: sum(rooms.values()) for name, rooms in report["profiles"].items()}
    for room in [*ROOMS, REST]:
        shares = [report["profiles"][name].get(room, 0.0) / totals[name] for name in names]
        lines.append(f"| {room} | {' | '.join(f'{share:.1%}' for share in shares)} |")
    lines.append(f"| all, s | {' | '.join(f'{totals[name]:.1f}' for name in names)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fit", description=__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of source.npy and camera.npy, as SoftRas has them"
    )
    parser.add_argument("--repeats", type=int, default=3)
    add_out(parser)
    options = parser.parse_args()
    load = os.getloadavg()
    images, _ = read(options.data)
    runs = [in_own_process(time_to_find, options.data) for _ in range(options.repeats)]
    commands = {"slangrast fit": options.data, "slangrast demo": None}
    for data in commands.values():
        in_own_process(profile, data)  # shaders that only pictures need are compiled
    report = {
        "machine": describe_machine(),
        "load": load,
        "views": len(images),
        "size": list(images.shape[1:3]),
        "runs": runs,
        "profiles": {name: in_own_process(profile, data) for name, data in commands.items()},
    }
    write_report(options.out, "fit", report, table(report))


if __name__ == "__main__":
    main()
