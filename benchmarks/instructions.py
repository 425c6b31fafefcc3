"""python -m benchmarks.instructions: what the soft rasterizer's loops cost on a GPU, in PTX. Needs nvcc and no GPU.

A warp first looks at 32 faces of its tile's list, each lane at one; then all lanes go through each of those that may
reach the warp's 8 x 4 pixels. Both loops are counted, every branch taken. With the number of faces that warps of a case
meet, that makes a time which arithmetic alone would take. What memory and latency add is not in it, nor what ptxas
saves.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch

import slangrast as sr
from slangrast.binning import bin_faces, find_extents
from slangrast.op_modules import TILE, Tiling, op_module
from slangrast.projection import project
from slangrast.runtime.slang_compiler import compile_slang
from slangrast.soft_variant import Variant

from .cases import CASES, make_scene
from .cuda import FLOOR_MS, FLOOR_SLOTS
from .ptx import entries, kinds_of, largest_loop
from .registers import kernel_name, nvcc_version
from .report import add_out, describe_machine, heading, write_report

_TILING = Tiling(TILE, 1, 4)
_WARPS = TILE**2 // 32
_CUTOFF = 1e-4
_FORMULAS = {"coverage": "squared_distance", "falloff": "logistic", "silhouette": "probabilistic"}
_MODES = {
    "silhouette": (Variant.choose("instructions", _FORMULAS, view_depth=True, with_color=False), 0),
    "color": (Variant.choose("instructions", {**_FORMULAS, "aggregation": "softmax"}, view_depth=True), 3),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.instructions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--architecture", default="sm_90")
    parser.add_argument("--cases", nargs="+", default=["S2", "S3", "S4-512", "S4-1024"], choices=list(CASES))
    add_out(parser)
    options = parser.parse_args()
    if shutil.which("nvcc") is None:
        raise SystemExit("benchmarks.instructions: needs nvcc, which is not on the path")
    loops = [row for mode in _MODES for row in count_loops(mode, options.architecture)]
    cases = [estimate(case, loops) for case in options.cases]
    machine = describe_machine() | {"nvcc": nvcc_version(), "architecture": options.architecture}
    report = {"machine": machine, "loops": loops, "cases": cases}
    write_report(options.out, "instructions", report, table(report))


def count_loops(mode: str, architecture: str) -> list[dict[str, Any]]:
    """A row for the kernel and one for its reverse: instructions to look at 32 faces, and for each that is reached."""
    rows = []
    for symbol, body in entries(_ptx(mode, architecture)).items():
        outer = largest_loop(body)
        inner = outer.largest_inner()
        face = inner.longest()
        look = len(outer.longest()) - len(face)
        rows.append({"mode": mode, "kernel": kernel_name(symbol), "look": look, "face": len(face), **kinds_of(face)})
    return sorted(rows, key=lambda row: len(row["kernel"]))


def estimate(name: str, loops: list[dict[str, Any]]) -> dict[str, Any]:
    """What the warps of a case meet, and the time that the arithmetic of forward and backward takes of an H200."""
    looks, reached = warp_work(name)
    row: dict[str, Any] = {"case": name, "looks": looks, "reached": reached}
    for mode in _MODES:
        kernels = [loop for loop in loops if loop["mode"] == mode]
        slots = 32 * sum(looks * loop["look"] + reached * loop["face"] for loop in kernels)
        row[f"{mode}_ms"] = 1e3 * slots / FLOOR_SLOTS
    if floor := FLOOR_MS.get((name, "color")):
        row["times_the_floor"] = row["color_ms"] / floor
    return row


def warp_work(name: str) -> tuple[int, int]:
    """How often a warp looks at 32 faces, and how many it goes through, in an image of a case."""
    scene = make_scene(CASES[name])
    positions, triangles = scene.positions.detach()[:1], scene.triangles.int()
    variant, _ = _MODES["silhouette"]
    softness = torch.tensor([[scene.sigma, 1.0, 0.0]])
    extents = find_extents(op_module("extents", positions, (), variant.by_kind["falloff"]), softness, {}, _CUTOFF)
    module = op_module("bin", positions, (("TILE", TILE),), variant.by_kind["coverage"])
    screen = project(positions, scene.resolution).screen
    bins = bin_faces(module, screen, triangles, softness, {}, extents, scene.resolution, False)
    height, width = scene.resolution
    counter = sr.load_module(
        Path(__file__).parent / "reached_faces.slang", device="cpu", defines={"TILE": TILE, "PATCH": 1}
    )
    counts = torch.zeros(_TILING.tiles(scene.resolution), _WARPS, dtype=torch.int32)
    launch = counter.count_reached_faces(**bins._asdict(), out_counts=counts, width=width, height=height)
    launch.launchRaw(blockSize=(1, _WARPS, 1), gridSize=(len(counts), 1, 1))
    lengths = bins.tile_offsets[: len(counts) + 1].diff()
    return int(-(-lengths // 32).sum()) * _WARPS, int(counts.sum())


def _ptx(mode: str, architecture: str) -> str:
    variant, channels = _MODES[mode]
    request = variant.module(channels, torch.zeros(1), _TILING).request
    output = compile_slang(request.path, {**request.defines, "PATCH": "1"}, request.include_paths)
    with tempfile.TemporaryDirectory() as folder:
        # ptxas knows how many lanes a warp has, nvcc not yet.
        Path(folder, "program.cu").write_text(f"{output.prelude}\n{output.cuda_text.replace('warpSize', '32')}")
        command = ["nvcc", "-ptx", f"-arch={architecture}", "-w", "program.cu", "-o", "program.ptx"]
        subprocess.run(command, check=True, cwd=folder)
        return Path(folder, "program.ptx").read_text()


def table(report: dict[str, Any]) -> str:
    machine = report["machine"]
    lines = [
        heading(machine, "python -m benchmarks.instructions").replace("Measured", "Counted")
        + f" nvcc {machine['nvcc']}, {machine['architecture']}. No kernel was run.",
        "",
        "| mode | kernel | to look at 32 faces | for each that is reached | of these special | memory | shuffles |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in report["loops"]:
        kinds = " | ".join(str(row.get(kind, 0)) for kind in ("special", "memory", "shuffle"))
        lines.append(f"| {row['mode']} | {row['kernel']} | {row['look']} | {row['face']} | {kinds} |")
    lines += [
        "",
        "| case | looks of warps | faces that warps go through | silhouette ms | colour ms | times the floor |",
        "|---|---|---|---|---|---|",
    ]
    for row in report["cases"]:
        floor = f"{row['times_the_floor']:.1f}" if "times_the_floor" in row else ""
        counts = f"{row['looks']:,} | {row['reached']:,}"
        lines.append(f"| {row['case']} | {counts} | {row['silhouette_ms']:.3f} | {row['color_ms']:.3f} | {floor} |")
    rate = f"{FLOOR_SLOTS:.0e} a second, an H200's"
    lines += ["", f"Milliseconds are instructions of all lanes over {rate}: no time was measured."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
