"""One measurement on a GPU: times by CUDA events and by graph replay, memory, launches and host syncs."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch

from .cases import CASES, make_scene
from .contenders import Contender, differentiable, render_slangrast, upstream_gradient
from .measure import admit_peer, first_line
from .peers import PEERS, peer_contender

MODES = tuple(PEERS)

# What an H100 or H200 of 132 multiprocessors could do a softmax step in if it did nothing but the arithmetic of the
# pixel-face pairs that matter, at so many issue slots per second.
FLOOR_SLOTS = 33e12
FLOOR_MS = {("S3", "color"): 0.032, ("S4-512", "color"): 0.32}
_FLOOR_PROCESSORS = 132
_LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaLaunchCooperativeKernel")  # and their variants
_SYNCS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cuStreamSynchronize")
_WARM_UPS = 3
_FEWEST, _MOST = 10, 200
_SAME_GRADIENT = 1e-2  # as a share of its norm: sums by atomics differ by rounding


def measure_cuda(case_name: str, mode: str, seconds: float = 1.0, with_peers: bool = True) -> dict[str, Any]:
    """A row: milliseconds, graph replay, MiB, launches and syncs of every contender. It needs a process of its own."""
    os.environ.setdefault("TEARDOWN_CUPTI", "0")  # a profiler that lets go of CUPTI and graphs do not go together
    case = CASES[case_name]
    scene = make_scene(case)
    row: dict[str, Any] = {"case": case.name, "faces": len(scene.triangles), "size": case.size, "images": case.images}
    row |= {"sigma": case.sigma, "mode": mode, "memory_bar_mib": scene.bar_mib()}
    scene = scene.to("cuda")
    images = tuple(image.detach() for image in render_slangrast(scene, mode))
    upstream = upstream_gradient(images)
    ours = differentiable("slangrast", partial(render_slangrast, mode=mode), scene, upstream)
    row |= _describe(ours)
    contenders = [ours]
    for name in PEERS[mode] if with_peers else ():
        peer = peer_contender(name, "cuda", mode, scene, upstream)
        if peer is None:
            row[f"{name}_left_out"] = "it cannot be imported"
        for admitted in admit_peer(peer, ours, mode, row) if peer else ():
            try:
                row |= {f"{name}_{key}": value for key, value in _describe(admitted).items()}
                contenders.append(admitted)
            except Exception as error:  # whatever others raise
                row[f"{name}_left_out"] = f"its step fails: {first_line(error)}"
    for what in ("forward", "step"):
        runs = {one.name: getattr(one, what) for one in contenders}
        for name, median in _alternate_events(runs, seconds).items():
            row[f"{_prefix(name)}{what}_ms"] = median
    for contender in contenders:  # last: a capture that fails may leave its mark on the process
        row |= {f"{_prefix(contender.name)}{key}": value for key, value in _replay(contender, seconds).items()}
    return row | _times_the_floor(row)


def _prefix(name: str) -> str:
    return "" if name == "slangrast" else f"{name}_"


def _times_the_floor(row: dict[str, Any]) -> dict[str, float]:
    floor = FLOOR_MS.get((row["case"], row["mode"]))
    device = torch.cuda.get_device_name()
    if floor is None or not any(name in device for name in ("H100", "H200")):
        return {}
    floor *= _FLOOR_PROCESSORS / torch.cuda.get_device_properties("cuda").multi_processor_count
    times = {"times_the_floor": row["step_ms"], "graph_times_the_floor": row.get("graph_ms")}
    return {name: time / floor for name, time in times.items() if time is not None}


def _describe(contender: Contender) -> dict[str, Any]:
    """Memory, launches and host syncs of a step."""
    for _ in range(_WARM_UPS):
        contender.step()
    contender.scene.forget_gradients()  # a step makes them, and so they count
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    contender.step()
    torch.cuda.synchronize()
    peak = (torch.cuda.max_memory_allocated() - before) / 2**20
    return {"peak_growth_mib": peak, **count_calls(_calls_during(contender.step))}


def _calls_during(step: Callable[[], object]) -> list[str]:
    """The names of what the host calls in a step, by torch's profiler, which waits for the GPU itself when it ends."""
    mark = "benchmarks: step"
    kinds = {torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA}
    activities = kinds & torch.profiler.supported_activities()
    with torch.profiler.profile(activities=activities) as profile, torch.profiler.record_function(mark):
        step()
    on_host = [event for event in profile.events() if event.device_type == torch.autograd.DeviceType.CPU]
    during = next(event.time_range for event in on_host if event.name == mark)
    return [event.name for event in on_host if during.start <= event.time_range.start <= during.end]


def count_calls(names: Iterable[str]) -> dict[str, int | None]:
    """Kernel launches, and calls in which the host waits for the GPU, among the events of a profile. None where there
    is no launch, for then the profiler was not allowed to look."""
    names = list(names)
    launches = sum(name.startswith(_LAUNCHES) for name in names)
    syncs = sum(name.startswith(_SYNCS) or name == "cudaMemcpy" for name in names)
    return {"launches": launches or None, "host_syncs": syncs if launches else None}


def _replay(contender: Contender, seconds: float) -> dict[str, Any]:
    """The time of a step that was captured in a CUDA graph, or why there is none."""
    try:
        contender.step()
        expected = contender.scene.positions.grad.clone()
        replay = _captured(contender.step)
        replay()
        error = (contender.scene.positions.grad - expected).norm() / expected.norm()
        if not error <= _SAME_GRADIENT:
            return {"graph_left_out": f"its gradient differs from that of the step by {error:.1e}"}
        return {"graph_ms": _alternate_events({"": replay}, seconds)[""]}
    except Exception as error:  # such as a host sync, of which the first error tells, and those after it do not
        first: BaseException = error
        while isinstance(first.__context__, RuntimeError):
            first = first.__context__
        return {"graph_left_out": f"cannot be captured: {str(first).partition(chr(10))[0]}"}
    finally:
        contender.scene.forget_gradients()


def _captured(step: Callable[[], object]) -> Callable[[], object]:
    """The replay of a step that was captured in a CUDA graph."""
    current = torch.cuda.current_stream()
    side = torch.cuda.Stream()
    side.wait_stream(current)
    with torch.cuda.stream(side):
        for _ in range(_WARM_UPS):
            step()
    current.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            step()
    finally:
        torch.cuda.set_stream(current)  # a capture that fails leaves its own
    return graph.replay


def _alternate_events(runs: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """The medians of milliseconds between CUDA events around each run, taken in turns."""
    for run in runs.values():
        run()
    # Between two steps of a training other things pass through the GPU's cache.
    others = torch.empty(2 * torch.cuda.get_device_properties("cuda").L2_cache_size, dtype=torch.uint8, device="cuda")
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(_MOST):
        for name, run in runs.items():
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            others.zero_()
            torch.cuda.synchronize()
            begin.record()
            run()
            end.record()
            end.synchronize()
            times[name].append(begin.elapsed_time(end))
        if turn + 1 >= _FEWEST and min(map(sum, times.values())) > 1e3 * seconds:
            break
    return {name: statistics.median(found) for name, found in times.items()}
