"""One measurement on the CPU: a case in a mode with a number of threads. It expects a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from . import prototype
from .cases import CASES, Case, Scene, make_scene
from .contenders import (
    GRADIENT_TOLERANCE,
    PEER_TOLERANCE,
    PROTOTYPE_TOLERANCE,
    Contender,
    Images,
    Tolerance,
    differences,
    differentiable,
    gradient_gap,
    plain_step,
    render_slangrast,
    upstream_gradient,
)
from .peers import PEERS, peer_contender, why_apart
from .timing import Times, alternate, memory_of_a_step

_PLAIN_SECONDS = 60.0  # a plain step that would take longer is timed on a share of the pixels


@dataclass(frozen=True)
class Plan:
    case: str
    mode: str
    threads: int
    with_slow: bool = False  # plain PyTorch, and peers
    prototype: Path | None = None  # the library that `prototype.build` made
    script: Path | None = None
    seconds: float = 2.0  # of repeats


def measure(plan: Plan) -> dict[str, Any]:
    """A row: milliseconds of forward and of forward + backward of every contender, memory, how far images agree."""
    torch.set_num_threads(plan.threads)
    case = CASES[plan.case]
    scene, mode = make_scene(case), plan.mode
    images = tuple(image.detach() for image in render_slangrast(scene, mode))
    upstream = upstream_gradient(images)
    ours = differentiable("slangrast", partial(render_slangrast, mode=mode), scene, upstream)

    row: dict[str, Any] = {"case": case.name, "faces": len(scene.triangles), "size": case.size, "images": case.images}
    row |= {"sigma": case.sigma, "mode": mode, "threads": plan.threads}
    row |= {**memory_of_a_step(ours.step, scene.forget_gradients), "memory_bar_mib": scene.bar_mib()}
    contenders = [ours]
    if plan.prototype is not None and prototype.can_render(case):
        theirs = prototype.contender(plan.prototype, scene, mode, plan.threads, upstream)
        # It interpolates linearly on the screen. What is timed is what users get, which does more.
        linear = render_slangrast(scene, mode, perspective_correct=False)
        contenders += admit(theirs, linear, PROTOTYPE_TOLERANCE, row)
    row |= timed(contenders, plan.seconds)
    if plan.with_slow and case.beside_plain:
        row |= _measure_plain(scene, mode, images, upstream)
        if plan.script is not None and row["plain_share_of_pixels"] == 1:
            row["script_step_ms"] = _measure_script(plan.script, case, mode, plan.threads)
        row |= _measure_peers(ours, mode, upstream)
    return row


def admit_peer(peer: Contender, ours: Contender, mode: str, row: dict[str, Any]) -> list[Contender]:
    """`admit`, and the row says how far its gradient is from ours, and why. It is timed all the same: no derivative
    takes less time for being another, and the table tells."""
    images = tuple(image.detach() for image in ours.step())
    gradient = ours.scene.positions.grad
    admitted = admit(peer, images, PEER_TOLERANCE, row)
    for one in admitted:
        theirs = one.scene.positions.grad
        theirs = torch.zeros_like(gradient) if theirs is None else theirs * theirs.new_tensor(one.mirror)
        gap = gradient_gap(ours.scene, gradient, theirs)
        row |= {f"{one.name}_gradient_{key}": value for key, value in asdict(gap).items()}
        if not gap.whole <= GRADIENT_TOLERANCE:
            row[f"{one.name}_gradient_apart"] = why_apart(one.name, mode, gap)
    ours.scene.forget_gradients()
    return admitted


def admit(contender: Contender, images: Images, tolerance: Tolerance, row: dict[str, Any]) -> list[Contender]:
    """The contender, where it renders these images; else none, and the row says how far off it is, or how it failed."""
    try:
        largest, mean = differences(images, contender.step())
    except Exception as error:  # whatever others raise, one of them must not be the end of all measurements
        row[f"{contender.name}_left_out"] = f"it fails: {first_line(error)}"
        return []
    row[f"{contender.name}_largest_difference"], row[f"{contender.name}_mean_difference"] = largest, mean
    if largest <= tolerance.largest and mean <= tolerance.mean:
        return [contender]
    row[f"{contender.name}_left_out"] = (
        f"its image differs by {largest:.1e} at most and {mean:.1e} on average, "
        f"allowed are {tolerance.largest:.0e} and {tolerance.mean:.0e}"
    )
    return []


def first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def timed(contenders: list[Contender], seconds: float, fewest: int = 5) -> dict[str, float]:
    """Forward, and forward + backward, of all contenders in turns; ours without a prefix."""
    found: dict[str, float] = {}
    for what in ("forward", "step"):
        runs = {one.name: getattr(one, what) for one in contenders}
        times: dict[str, Times] = alternate(runs, seconds=seconds, fewest=fewest)
        for name, time_ in times.items():
            prefix = "" if name == "slangrast" else f"{name}_"
            found[f"{prefix}{what}_ms"] = time_.median
            found[f"{prefix}{what}_best_ms"] = time_.best
    return found


def _measure_peers(ours: Contender, mode: str, upstream: Images) -> dict[str, Any]:
    """Peers that run on the CPU. They are too slow to take turns with."""
    row: dict[str, Any] = {}
    for name in PEERS[mode]:
        if contender := peer_contender(name, "cpu", mode, ours.scene, upstream):
            row |= timed(admit_peer(contender, ours, mode, row), 1.0, fewest=1)
    return row


def _measure_script(script: Path, case: Case, mode: str, threads: int) -> float:
    """A second plain PyTorch version, by its author's script: MODE FACES SIZE THREADS VARIANT, JSON with `fb_s`."""
    modes = {"silhouette": "sil", "color": "softmax"}
    faces = len(case.mesh().triangles)
    variant = "dense" if faces * case.size**2 < 2**24 else "ckpt"  # whole graph in memory, or recomputed
    arguments = [modes[mode], str(faces), str(case.size), str(threads), variant]
    result = subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, check=True)
    return 1e3 * json.loads(result.stdout.splitlines()[-1])["fb_s"]


def _measure_plain(scene: Scene, mode: str, images: Images, upstream: Images) -> dict[str, Any]:
    count = scene.resolution[0] * scene.resolution[1]
    every = torch.arange(count)
    sample = every[:: max(1, count // 256)]
    start = time.perf_counter()
    plain_step(scene, mode, sample, upstream)
    seconds_in_full = (time.perf_counter() - start) * count / len(sample)
    share = min(1.0, _PLAIN_SECONDS / seconds_in_full)
    # Evenly spread, so that a share of the pixels is a share of the work.
    pixels = every if share == 1 else every[:: int(-(-1 // share))]
    start = time.perf_counter()
    rendered = plain_step(scene, mode, pixels, upstream)
    seconds = time.perf_counter() - start
    largest, mean = differences(tuple(image.flatten(1, 2)[:, pixels] for image in images), rendered)
    return {
        "plain_step_ms": 1e3 * seconds * count / len(pixels),
        "plain_share_of_pixels": len(pixels) / count,
        "plain_largest_difference": largest,
        "plain_mean_difference": mean,
    }
