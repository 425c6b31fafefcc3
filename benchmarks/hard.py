"""python -m benchmarks.hard: time rasterize and interpolate on the CPU; write JSON and a table."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import slangrast as sr

from .__main__ import RESULTS, describe_machine
from .cases import Case, Scene, make_scene

CASES = {
    case.name: case
    for case in (
        Case("H1-256", 5, 256),
        Case("H1-512", 5, 512),
        Case("H1-1024", 5, 1024),
        Case("H1-fine", 6, 512),
        Case("H2", 8, 2048),  # 1.3 million
        Case("H3", -1, 2048),  # a cube: 12 faces
        Case("L1", -1, 16),  # latency
    )
}
_SECONDS_OF_REPEATS = 3.0


def scene_of(case: Case) -> Scene:
    if case.subdivisions >= 0:
        return make_scene(case)
    cube = sr.cube()
    positions = sr.Camera.orbit(4.0, 30.0, 30.0, fov_degrees=45).project(cube.vertices)
    colors = 0.5 + 0.5 * torch.sin(torch.tensor([5.0, 7.0, 9.0]) * cube.vertices + 1)
    return Scene(positions.requires_grad_(), cube.triangles, colors.requires_grad_(), (case.size, case.size))


def measure(case_name: str, threads: int) -> dict[str, Any]:
    """Milliseconds, the best of several runs: rasterize alone; with colours interpolated; and with all gradients."""
    torch.set_num_threads(threads)
    scene = scene_of(CASES[case_name])
    before = _peak_mib()

    def rasterize() -> sr.GeometryBuffer:
        return sr.rasterize(scene.positions, scene.triangles, scene.resolution)

    def render() -> torch.Tensor:
        return sr.interpolate(rasterize(), scene.colors)

    upstream = torch.randn_like(render())

    def step() -> None:
        scene.positions.grad = scene.colors.grad = None
        render().backward(upstream)

    found: dict[str, Any] = {"case": case_name, "faces": len(scene.triangles), "size": scene.resolution[0]}
    found["threads"] = threads
    with torch.no_grad():
        found["rasterize_ms"] = _best(rasterize)
        found["render_ms"] = _best(render)
    found["step_ms"] = _best(step)
    found["peak_growth_mib"] = _peak_mib() - before
    found["covered"] = rasterize().mask.float().mean().item()
    return found


def _best(run: Callable[[], Any]) -> float:
    """Of the fastest run, in milliseconds: others on the machine can only add to it."""
    run()
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < 5 or (time.perf_counter() - start < _SECONDS_OF_REPEATS and len(times) < 500):
        before = time.perf_counter()
        run()
        times.append(time.perf_counter() - before)
    return 1e3 * min(times)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def table(report: dict) -> str:
    machine = report["machine"]
    lines = [
        f"Measured {machine['date']} on {machine['cores']} cores of {machine['processor']}, torch {machine['torch']}, "
        f"slangc {machine['slangc']}, {machine['compiler']}, commit {machine['commit']}: `python -m benchmarks.hard`.",
        "",
        "| case | threads | rasterize ms | + interpolate ms | + backward ms | memory MiB |",
        "|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        lines.append(
            f"| {row['case']}: {row['faces']:,} faces, {row['size']}² | {row['threads']} | {row['rasterize_ms']:.2f} | "
            f"{row['render_ms']:.2f} | {row['step_ms']:.2f} | {row['peak_growth_mib']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hard", description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON and the table")
    options = parser.parse_args()
    rows = []
    for case, threads in tqdm([(c, t) for c in options.cases for t in options.threads], unit="case"):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            rows.append(pool.submit(measure, case, threads).result())
    report = {"machine": describe_machine(), "rows": rows}
    options.out.mkdir(parents=True, exist_ok=True)
    name = f"hard-cpu-{report['machine']['date']}"
    (options.out / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    (options.out / f"{name}.md").write_text(table(report))
    print(table(report))


if __name__ == "__main__":
    main()
