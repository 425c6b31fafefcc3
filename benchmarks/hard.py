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
from .peers import peer_contender
from .report import add_out, describe_machine, heading, in_own_process, write_report
from .tables import memory
from .timing import alternate, memory_of_a_step

_BESIDE_PYTORCH3D = ("H1-256", "H1-fine")  # a step of it takes seconds to minutes
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


def measure(case_name: str, threads: int, with_slow: bool = False) -> dict[str, Any]:
    """Milliseconds, the best of several runs: rasterize alone; with colours interpolated; and with all gradients.

    `with_slow`: also PyTorch3D, where it can be imported.
    """
    torch.set_num_threads(threads)
    scene = make_scene(CASES[case_name])

    def rasterize() -> sr.GeometryBuffer:
        return sr.rasterize(scene.positions, scene.triangles, scene.resolution)

    def render() -> torch.Tensor:
        return sr.interpolate(rasterize(), scene.colors)

    upstream = torch.randn(*scene.resolution, 3)[None]

    def step() -> None:
        scene.forget_gradients()
        render().backward(upstream)

    found: dict[str, Any] = {"case": case_name, "faces": len(scene.triangles), "size": scene.resolution[0]}
    found |= {"threads": threads, **memory_of_a_step(step, scene.forget_gradients)}
    with torch.no_grad():
        forward = alternate({"rasterize_ms": rasterize, "render_ms": render})
    # The best: others on the machine can only add to it.
    found |= {name: times.best for name, times in (forward | alternate({"step_ms": step})).items()}
    found["covered"] = rasterize().mask.float().mean().item()
    if with_slow and case_name in _BESIDE_PYTORCH3D:
        found |= _beside_pytorch3d(scene, (upstream,))
    return found | _with_edges(scene, (upstream,))


def _beside_pytorch3d(scene: Scene, upstream: Images) -> dict[str, Any]:
    """Its step without gradients at silhouettes, in turns with ours, once it has drawn the same image."""
    theirs, row = peer_contender("pytorch3d", "cpu", "interior", scene, upstream), {}
    if theirs is None:
        return row
    ours = differentiable("interior", partial(render_slangrast, mode="interior"), scene, upstream)
    if admitted := admit(theirs, ours.forward(), PEER_TOLERANCE, row):
        times = alternate({one.name: one.step for one in (ours, *admitted)}, seconds=1.0, fewest=1)
        row |= {f"{name}_ms": one.best for name, one in times.items()}
    return row


def _with_edges(scene: Scene, upstream: Images) -> dict[str, Any]:
    """Steps with gradients at silhouettes, in turns with DRTK where it can be imported and its image agrees."""
    ours = differentiable("edges", partial(render_slangrast, mode="edges"), scene, upstream)
    contenders, row = [ours], {}
    if theirs := peer_contender("drtk", "cpu", "edges", scene, upstream):
        contenders += admit(theirs, ours.forward(), PEER_TOLERANCE, row)
    times = alternate({one.name: one.step for one in contenders})
    return row | {f"{name}_ms": one.best for name, one in times.items()}


def table(report: dict) -> str:
    lines = [
        heading(report["machine"], "python -m benchmarks.hard"),
        "",
        "Best runs. `with edges` and DRTK are whole steps with gradients at silhouettes, taken in turns. PyTorch3D's "
        "are without them (one face a pixel, no blur): how many times as long as ours, taken in the same turns.",
        "",
        "| case | threads | rasterize ms | + interpolate ms | + backward ms | memory MiB | with edges ms | DRTK ms | "
        "PyTorch3D ms |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        lines.append(
            f"| {row['case']}: {row['faces']:,} faces, {row['size']}² | {row['threads']} | {row['rasterize_ms']:.2f} | "
            f"{row['render_ms']:.2f} | {row['step_ms']:.2f} | {memory(row)} | {row['edges_ms']:.2f} | "
            f"{_peer(row, 'drtk')} | {_peer(row, 'pytorch3d', 'interior')} |"
        )
    return "\n".join(lines) + "\n"


def _peer(row: dict[str, Any], name: str, ours: str = "") -> str:
    if f"{name}_ms" in row:
        ratio = f" ({row[f'{name}_ms'] / row[f'{ours}_ms']:,.0f}×)" if ours else ""
        return f"{row[f'{name}_ms']:,.2f}{ratio}"
    return row.get(f"{name}_left_out", "")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hard", description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--no-slow", action="store_true", help="leave out PyTorch3D, which takes minutes")
    add_out(parser)
    options = parser.parse_args()
    # What is slow is timed once for a scene, with all threads: the kinder comparison.
    slow = 0 if options.no_slow else max(options.threads)
    plans = [(case, threads, threads == slow) for case in options.cases for threads in options.threads]
    rows = [in_own_process(measure, *plan) for plan in tqdm(plans, unit="case")]
    report = {"machine": describe_machine(), "rows": rows}
    write_report(options.out, "hard-cpu", report, table(report))


if __name__ == "__main__":
    main()
