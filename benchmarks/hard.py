"""python -m benchmarks.hard: time rasterize and interpolate on the CPU; write JSON and a table."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import torch
from tqdm import tqdm

import slangrast as sr

from .cases import CUBE_VIEW, Case, Scene, icosphere, make_scene
from .contenders import PEER_TOLERANCE, Images, differentiable, render_slangrast
from .measure import admit
from .peers import load_peer
from .report import add_out, describe_machine, heading, in_own_process, write_report
from .tables import memory
from .timing import alternate, peak_growth_mib

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


def measure(case_name: str, threads: int) -> dict[str, Any]:
    """Milliseconds, the best of several runs: rasterize alone; with colours interpolated; and with all gradients."""
    torch.set_num_threads(threads)
    scene = make_scene(CASES[case_name])

    def rasterize() -> sr.GeometryBuffer:
        return sr.rasterize(scene.positions, scene.triangles, scene.resolution)

    def render() -> torch.Tensor:
        return sr.interpolate(rasterize(), scene.colors)

    upstream = torch.randn(*scene.resolution, 3)[None]

    def step() -> None:
        scene.positions.grad = scene.colors.grad = None
        render().backward(upstream)

    # Compile and load before memory is measured.
    small = sr.interpolate(sr.rasterize(scene.positions, scene.triangles[:1], (16, 16)), scene.colors)
    small.backward(torch.ones_like(small))

    found: dict[str, Any] = {"case": case_name, "faces": len(scene.triangles), "size": scene.resolution[0]}
    found |= {"threads": threads, "peak_growth_mib": peak_growth_mib(step)}
    with torch.no_grad():
        forward = alternate({"rasterize_ms": rasterize, "render_ms": render})
    # The best: others on the machine can only add to it.
    found |= {name: times.best for name, times in (forward | alternate({"step_ms": step})).items()}
    found["covered"] = rasterize().mask.float().mean().item()
    return found | _with_edges(scene, (upstream,))


def _with_edges(scene: Scene, upstream: Images) -> dict[str, Any]:
    """Steps with gradients at silhouettes, in turns with DRTK where it can be imported and its image agrees."""
    ours = differentiable("edges", partial(render_slangrast, mode="edges"), scene, upstream)
    contenders, row = [ours], {}
    if render := load_peer("drtk", "cpu"):
        theirs = differentiable("drtk", partial(render, mode="edges"), scene, upstream)
        contenders += admit(theirs, ours.forward(), PEER_TOLERANCE, row)
    times = alternate({one.name: one.step for one in contenders})
    return row | {f"{name}_ms": one.best for name, one in times.items()}


def table(report: dict) -> str:
    lines = [
        heading(report["machine"], "python -m benchmarks.hard"),
        "",
        "Best runs. The last two columns are whole steps with gradients at silhouettes, taken in turns.",
        "",
        "| case | threads | rasterize ms | + interpolate ms | + backward ms | memory MiB | with edges ms | DRTK ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        lines.append(
            f"| {row['case']}: {row['faces']:,} faces, {row['size']}² | {row['threads']} | {row['rasterize_ms']:.2f} | "
            f"{row['render_ms']:.2f} | {row['step_ms']:.2f} | {memory(row)} | {row['edges_ms']:.2f} | {_drtk(row)} |"
        )
    return "\n".join(lines) + "\n"


def _drtk(row: dict[str, Any]) -> str:
    if "drtk_ms" in row:
        return f"{row['drtk_ms']:.2f}"
    return "another image" if "drtk_left_out" in row else ""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hard", description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    add_out(parser)
    options = parser.parse_args()
    plans = [(case, threads) for case in options.cases for threads in options.threads]
    rows = [in_own_process(measure, case, threads) for case, threads in tqdm(plans, unit="case")]
    report = {"machine": describe_machine(), "rows": rows}
    write_report(options.out, "hard-cpu", report, table(report))


if __name__ == "__main__":
    main()
