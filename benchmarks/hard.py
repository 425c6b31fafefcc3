"""python -m benchmarks.hard: time rasterize and interpolate on the CPU; write JSON and a table."""

from __future__ import annotations

import argparse
import time
from functools import partial
from typing import Any

import torch
from tqdm import tqdm

import slangrast as sr

from .cases import CUBE_VIEW, Case, Scene, icosphere, make_scene
from .contenders import Contender, Images, differentiable, render_slangrast, upstream_gradient
from .measure import admit_peer
from .peers import peer_contender
from .report import add_out, describe_machine, heading, in_own_process, rows_of_today, write_report
from .tables import gradients_apart, memory
from .timing import Times, alternate, memory_of_a_step

CASES = {
    case.name: case
    for case in (
        Case("H1-256", partial(icosphere, 5), 256),
        Case("H1-512", partial(icosphere, 5), 512),
        Case("H1-1024", partial(icosphere, 5), 1024),
        Case("H1-fine", partial(icosphere, 6), 512),
        Case("H2", partial(icosphere, 8), 2048),  # 1.3 million
        Case("H3", sr.cube, 2048, view=CUBE_VIEW),
        Case("L1", sr.cube, 16, view=CUBE_VIEW),  # latency
    )
}
# With up to so many threads. PyTorch3D goes through all faces for each pixel: two minutes a step in the last two cases.
_BESIDE_PYTORCH3D = {"H1-256": 2, "H1-512": 2, "H1-1024": 1, "H1-fine": 1}


def measure(case_name: str, threads: int) -> dict[str, Any]:
    """Milliseconds, the best of several runs: rasterize alone; with colours interpolated; and with all gradients."""
    torch.set_num_threads(threads)
    scene = make_scene(CASES[case_name])
    ours = _ours("interior", scene)

    def rasterize() -> sr.GeometryBuffer:
        return sr.rasterize(scene.positions, scene.triangles, scene.resolution)

    found = _title(case_name, threads, scene) | memory_of_a_step(ours.step, scene.forget_gradients)
    with torch.no_grad():
        forward = alternate({"rasterize_ms": rasterize, "render_ms": ours.forward})
    # The best: others on the machine can only add to it.
    found |= {name: times.best for name, times in (forward | alternate({"step_ms": ours.step})).items()}
    found["covered"] = rasterize().mask.float().mean().item()
    contenders, row = _beside("drtk", "edges", scene)
    return found | row | _best(alternate({one.name: one.step for one in contenders}))


def measure_beside_pytorch3d(case_name: str, threads: int) -> dict[str, Any]:
    """Milliseconds of a step without gradients at silhouettes, ours and PyTorch3D's.

    On one thread it is the processor's time, since others on the machine would add to minutes.
    """
    torch.set_num_threads(threads)
    scene = make_scene(CASES[case_name])
    contenders, row = _beside("pytorch3d", "interior", scene)
    found = _title(case_name, threads, scene) | row
    for one in contenders:  # one after the other: in turns, ours would always start with cold caches
        clock = time.process_time if threads == 1 else time.perf_counter
        found |= _best(alternate({one.name: one.step}, fewest=1, clock=clock))
    return found


def _title(case_name: str, threads: int, scene: Scene) -> dict[str, Any]:
    return {"case": case_name, "faces": len(scene.triangles), "size": scene.resolution[0], "threads": threads}


def _upstream(scene: Scene) -> Images:
    return upstream_gradient((torch.empty(1, *scene.resolution, 3),))


def _ours(mode: str, scene: Scene) -> Contender:
    return differentiable(mode, partial(render_slangrast, mode=mode), scene, _upstream(scene))


def _beside(name: str, mode: str, scene: Scene) -> tuple[list[Contender], dict[str, Any]]:
    """Ours in a mode, and a peer where it can be imported and its image agrees; and what the row says of it."""
    ours = _ours(mode, scene)
    contenders: list[Contender] = [ours]
    row: dict[str, Any] = {}
    if theirs := peer_contender(name, "cpu", mode, scene, _upstream(scene)):
        contenders += admit_peer(theirs, ours, mode, row)
    return contenders, row


def _best(times: dict[str, Times]) -> dict[str, float]:
    return {f"{name}_ms": found.best for name, found in times.items()}


def table(report: dict) -> str:
    lines = [
        heading(report["machine"], "python -m benchmarks.hard"),
        "",
        "Best runs. `with edges` and DRTK are whole steps with gradients at silhouettes, taken in turns.",
        "",
        "| case | threads | rasterize ms | + interpolate ms | + backward ms | memory MiB | with edges ms | DRTK ms | "
        "ours / DRTK |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        cells = [
            *_cells(row), *(f"{row[key]:.2f}" for key in ("rasterize_ms", "render_ms", "step_ms")), memory(row),
            f"{row['edges_ms']:.2f}", _peer(row, "drtk"),
            f"{row['edges_ms'] / row['drtk_ms']:.2f}" if "drtk_ms" in row else "",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines + gradients_apart(report["rows"])) + "\n"


def pytorch3d_table(report: dict) -> str:
    lines = [
        heading(report["machine"], "python -m benchmarks.hard --pytorch3d"),
        "",
        "Steps of rasterize and interpolate without gradients at silhouettes; PyTorch3D with one face a pixel and no "
        "blur. The best of two seconds, which is the second or only call of PyTorch3D. On one thread it is the "
        "processor's time, of both.",
        "",
        "| case | threads | ours ms | PyTorch3D ms | PyTorch3D / ours |",
        "|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        ratio = f"{row['pytorch3d_ms'] / row['interior_ms']:,.0f}×" if "pytorch3d_ms" in row else ""
        cells = [*_cells(row), f"{row['interior_ms']:.2f}", _peer(row, "pytorch3d"), ratio]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines + gradients_apart(report["rows"])) + "\n"


def _cells(row: dict[str, Any]) -> list[str]:
    return [f"{row['case']}: {row['faces']:,} faces, {row['size']}²", str(row["threads"])]


def _peer(row: dict[str, Any], name: str) -> str:
    return f"{row[f'{name}_ms']:,.2f}" if f"{name}_ms" in row else row.get(f"{name}_left_out", "")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hard", description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument(
        "--pytorch3d", action="store_true", help="another table: beside PyTorch3D, which takes a quarter of an hour"
    )
    parser.add_argument("--add", action="store_true", help="keep the other rows of today's file of the same commit")
    add_out(parser)
    options = parser.parse_args()
    plans = [(case, threads) for case in options.cases for threads in options.threads]
    stem, measure_row, write_table = "hard-cpu", measure, table
    if options.pytorch3d:
        stem, measure_row, write_table = "hard-cpu-pytorch3d", measure_beside_pytorch3d, pytorch3d_table
        plans = [(case, threads) for case, threads in plans if threads <= _BESIDE_PYTORCH3D.get(case, 0)]
    machine = describe_machine()
    rows = {_key(row): row for row in (rows_of_today(options.out, stem, machine) if options.add else [])}
    for plan in tqdm(plans, unit="case"):
        row = in_own_process(measure_row, *plan)
        rows[_key(row)] = row
    report = {"machine": machine, "rows": [rows[key] for key in sorted(rows)]}
    write_report(options.out, stem, report, write_table(report))


def _key(row: dict[str, Any]) -> tuple[int, int]:
    """The order of rows."""
    return list(CASES).index(row["case"]), row["threads"]


if __name__ == "__main__":
    main()
