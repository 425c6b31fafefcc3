"""One measurement on a GPU: times by CUDA events and by graph replay, memory, launches and host syncs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch

from .cases import CASES, make_scene
from .contenders import PEER_TOLERANCE, Contender, differentiable, render_slangrast, upstream_gradient
from .measure import admit
from .peers import PEERS, load_peer

MODES = tuple(PEERS)

# What an H200 could do a softmax step in if it did nothing but the arithmetic of the pixel-face pairs that matter, at
# 33e12 issue slots per second.
_FLOOR_MS = {("S3", "color"): 0.032, ("S4-512", "color"): 0.32}
_LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")
_SYNCS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cuStreamSynchronize", "cudaMemcpy")
_WARM_UPS = 3
_FEWEST, _MOST, _MILLISECONDS = 10, 200, 1000.0


def measure_cuda(case_name: str, mode: str) -> dict[str, Any]:
    """A row: milliseconds, graph replay, MiB, launches and syncs of every contender. It needs a process of its own."""
    case = CASES[case_name]
    scene = make_scene(case).to("cuda")
    images = tuple(image.detach() for image in render_slangrast(scene, mode))
    upstream = upstream_gradient(images)
    row: dict[str, Any] = {"case": case.name, "faces": len(scene.triangles), "size": case.size, "images": case.images}
    row |= {"sigma": case.sigma, "mode": mode, "memory_bar_mib": make_scene(case).bar_mib()}
    contenders = [differentiable("slangrast", partial(render_slangrast, mode=mode), scene, upstream)]
    for name in PEERS[mode]:
        render = load_peer(name, "cuda")
        if render is None:
            row[f"{name}_left_out"] = "it cannot be imported"
        else:
            peer = differentiable(name, partial(render, mode=mode), scene, upstream)
            contenders += admit(peer, images, PEER_TOLERANCE, row)
    for contender in contenders:
        row |= {f"{_prefix(contender.name)}{key}": value for key, value in _describe(contender).items()}
    for what in ("forward", "step"):
        for name, median in _alternate_events({one.name: getattr(one, what) for one in contenders}).items():
            row[f"{_prefix(name)}{what}_ms"] = median
    for contender in contenders:  # last: a capture that fails may leave its mark on the process
        row |= {f"{_prefix(contender.name)}{key}": value for key, value in _replay(contender).items()}
    floor = _FLOOR_MS.get((case.name, mode))
    if floor is not None and "H200" in torch.cuda.get_device_name():
        row["times_the_floor"] = row["step_ms"] / floor
    return row


def _prefix(name: str) -> str:
    return "" if name == "slangrast" else f"{name}_"


def _describe(contender: Contender) -> dict[str, Any]:
    """Memory, launches and host syncs of a step."""
    for _ in range(_WARM_UPS):
        contender.step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    contender.step()
    torch.cuda.synchronize()
    found: dict[str, Any] = {"peak_growth_mib": (torch.cuda.max_memory_allocated() - before) / 2**20}
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        contender.step()
    return found | count_calls(event.name for event in profile.events())


def _replay(contender: Contender) -> dict[str, Any]:
    """The time of a step that was captured in a CUDA graph, or why it was not."""
    try:
        return {"graph_ms": _alternate_events({"": _captured(contender.step)})[""]}
    except RuntimeError as error:  # such as a host sync
        return {"graph_left_out": f"cannot be captured: {str(error).splitlines()[0]}"}


def count_calls(names: Iterable[str]) -> dict[str, int]:
    """Kernel launches, and calls in which the host waits for the GPU, among the events of a profile."""
    names = list(names)
    return {
        "launches": sum(name in _LAUNCHES for name in names),
        "host_syncs": sum(name in _SYNCS for name in names),
    }


def _captured(step: Callable[[], object]) -> Callable[[], object]:
    """The replay of a step that was captured in a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UPS):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def _alternate_events(runs: dict[str, Callable[[], object]]) -> dict[str, float]:
    """The medians of milliseconds between CUDA events around each run, taken in turns."""
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(_MOST):
        for name, run in runs.items():
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda.synchronize()
            begin.record()
            run()
            end.record()
            end.synchronize()
            times[name].append(begin.elapsed_time(end))
        if turn + 1 >= _FEWEST and min(map(sum, times.values())) > _MILLISECONDS:
            break
    return {name: statistics.median(found) for name, found in times.items()}
