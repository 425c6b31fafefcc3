"""One measurement: a case in a process of its own, so that neither memory nor threads of another case show in it."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .cases import CASES, Case, make_scene
from .contenders import plain_step, slangrast_step

_SECONDS_OF_REPEATS = 2.0
_PLAIN_SECONDS = 150.0  # a plain step that would take longer is timed on a share of the pixels


def measure(case_name: str, mode: str, threads: int, with_plain: bool, script: Path | None) -> dict[str, Any]:
    """Times in milliseconds of forward and of forward + backward, peak memory in MiB, and how far images agree."""
    torch.set_num_threads(threads)
    case = CASES[case_name]
    scene = make_scene(case)
    image = slangrast_step(scene, mode, backward=True)
    before = _peak_mib()
    forward = _repeat(lambda: slangrast_step(scene, mode, backward=False))
    both = _repeat(lambda: slangrast_step(scene, mode, backward=True))
    result = {
        "case": case_name,
        "faces": case.faces,
        "size": case.size,
        "images": case.images,
        "mode": mode,
        "threads": threads,
        "forward_ms": forward,
        "step_ms": both,
        "peak_growth_mib": _peak_mib() - before,
    }
    if with_plain and case.images == 1:
        result.update(_measure_plain(scene, mode, image))
        if script is not None and result["plain_share_of_pixels"] == 1:
            result["script_step_ms"] = _measure_script(script, case, mode, threads)
    return result


def _measure_script(script: Path, case: Case, mode: str, threads: int) -> float:
    """A second plain PyTorch version, by its author's script: MODE FACES SIZE THREADS VARIANT, JSON with `fb_s`."""
    modes = {"silhouette": "sil", "color": "softmax"}
    variant = "dense" if case.faces * case.size**2 < 2**24 else "ckpt"  # whole graph in memory, or recomputed
    arguments = [modes[mode], str(case.faces), str(case.size), str(threads), variant]
    result = subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, check=True)
    return 1e3 * json.loads(result.stdout.splitlines()[-1])["fb_s"]


def _measure_plain(scene: Any, mode: str, image: torch.Tensor) -> dict[str, Any]:
    count = image.shape[1] * image.shape[2]
    every = torch.arange(count)
    sample = every[:: max(1, count // 256)]
    start = time.perf_counter()
    plain_step(scene, mode, True, sample)
    seconds_in_full = (time.perf_counter() - start) * count / len(sample)
    share = min(1.0, _PLAIN_SECONDS / seconds_in_full)
    # Evenly spread, so that a share of the pixels is a share of the work.
    pixels = every if share == 1 else every[:: int(-(-1 // share))]
    start = time.perf_counter()
    rendered = plain_step(scene, mode, True, pixels)
    seconds = time.perf_counter() - start
    flat = image.flatten(1, 2) if mode == "color" else image.flatten(1)
    return {
        "plain_step_ms": 1e3 * seconds * count / len(pixels),
        "plain_share_of_pixels": len(pixels) / count,
        "largest_difference": float((rendered - flat[:, pixels]).abs().max()),
    }


def _repeat(step: Callable[[], Any]) -> float:
    """The median of at least five runs, in milliseconds."""
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < 5 or time.perf_counter() - start < _SECONDS_OF_REPEATS:
        before = time.perf_counter()
        step()
        times.append(time.perf_counter() - before)
        if len(times) >= 200:
            break
    return 1e3 * statistics.median(times)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
