"""A step on CUDA asks the device for nothing: it waits for no number, and a graph can hold it. Its launches are few.

On machines without a GPU tensors only say that they are on one: torch's fake ones, for which whatever depends on
numbers is an error. Kernels are launched into a stand-in for slangtorch.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import slangrast as sr
from slangrast import arguments, op_modules
from slangrast.runtime import cuda_engine
from slangrast.runtime.kept_tensors import KeptTensors
from tests import scenes
from tests.comparison import cast
from tests.slangtorch_stand_in import StandIn, install

mip_stack, soft_rasterizer = (sys.modules[f"slangrast.{name}"] for name in ("mip_stack", "soft_rasterizer"))
RESOLUTION = (37, 53)


class WaitsError(Exception):
    pass


class NoCopies(TorchDispatchMode):
    """Refuses to copy from one device to another, which fake tensors do not mind, and to choose by a mask."""

    def __torch_dispatch__(self, function, types, arguments=(), named=None):  # type: ignore[no-untyped-def]
        if "aten.index" in str(function) and any(
            isinstance(leaf, Tensor) and leaf.dtype == torch.bool for leaf in tree_leaves(arguments[1:])
        ):
            raise WaitsError(f"{function} by a mask")
        result = function(*arguments, **(named or {}))
        leaves = tree_leaves((arguments, named, result))
        # A number of the host, as an operand, goes along with the launch.
        devices = {
            leaf.device for leaf in leaves if isinstance(leaf, Tensor) and (leaf.dim() or "copy" in str(function))
        }
        if len(devices) > 1:
            raise WaitsError(f"{function} copies between {sorted(map(str, devices))}")
        return result


class Brackets(TorchFunctionMode):
    """Takes x[...] apart into what torch makes of it, since brackets alone look for the GPU."""

    def __torch_function__(self, function, types, arguments=(), named=None):  # type: ignore[no-untyped-def]
        if function is Tensor.__getitem__:
            return _at(*arguments)
        if function is Tensor.__setitem__:
            tensor, index, value = arguments
            return torch.ops.aten.copy_(_at(tensor, index), value)
        return function(*arguments, **(named or {}))


def _at(tensor: Tensor, index: Any) -> Tensor:
    places = index if isinstance(index, tuple) else (index,)
    axes = tensor.dim() - sum(place is not None and place is not Ellipsis for place in places)
    axis = 0
    for place in places:
        if place is None:
            tensor = tensor.unsqueeze(axis)
        elif place is Ellipsis:
            axis += axes - 1
        elif isinstance(place, slice):
            tensor = torch.ops.aten.slice(tensor, axis, place.start, place.stop, place.step or 1)
        elif isinstance(place, int):
            tensor, axis = tensor.select(axis, place), axis - 1
        else:
            tensor = torch.ops.aten.index(tensor, [None] * axis + [torch.as_tensor(place)])
        axis += 1
    return tensor


class Steps:
    """Runs the functions of autograd, and then their reverses: torch's own engine needs a GPU for that."""

    def __init__(self, fixed: tuple[int, ...] = ()) -> None:
        self._fixed = fixed  # the inputs that need no gradient
        self._done: list[tuple[Any, Any, Any]] = []

    def forget(self) -> None:
        self._done.clear()

    def apply(self, function: Any, *arguments: Any) -> Any:
        context = _Context(tuple(place not in self._fixed for place in range(len(arguments))))
        outputs = function.forward(context, *arguments)
        self._done.append((function, context, outputs))
        return outputs

    def backward(self, expanded: bool = True) -> None:
        """With gradients as of a sum, expanded, or as of a product, with memory of their own."""
        for function, context, outputs in reversed(self._done):
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            function.backward(context, *(_gradient_of(output, expanded) for output in outputs))


class _Context:
    def __init__(self, needs_input_grad: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs_input_grad

    def save_for_backward(self, *tensors: Tensor) -> None:
        self.saved_tensors = tensors

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        pass

    def set_materialize_grads(self, value: bool) -> None:
        pass


def _gradient_of(output: Tensor, expanded: bool) -> Tensor | None:
    if not output.is_floating_point():
        return None
    return output.new_empty(()).expand(output.shape) if expanded else torch.empty_like(output)


@pytest.fixture
def slangtorch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StandIn:
    stand_in = install(monkeypatch, tmp_path)
    # Nothing that is of the stand-in, or a fake tensor, may be kept.
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: mock.Mock())  # to wait for what is made once
    # A look at each kernel's copies, once. Fake tensors cannot be looked at.
    monkeypatch.setattr(cuda_engine.CudaArguments, "refuse_lost_writes", lambda *_: None)
    kept_tensors = [value for module in (arguments, soft_rasterizer, mip_stack) for value in vars(module).values()]
    for kept in kept_tensors:
        if isinstance(kept, KeptTensors):
            monkeypatch.setattr(kept, "_kept", {})
    monkeypatch.setattr(op_modules, "_load", functools.cache(op_modules._load.__wrapped__))
    # How often this one waits, tests/test_list_room.py knows.
    for caller in ("slangrast.rasterize", "slangrast.binning"):
        monkeypatch.setattr(sys.modules[caller], "room_for", lambda total, scene: 4096)
    return stand_in


def inputs(device: str) -> dict[str, Tensor]:
    soup = cast(scenes.soup(60, RESOLUTION), device, torch.float32)
    generator = torch.Generator().manual_seed(1)
    given = {
        "uv": torch.rand(len(soup.positions), 2, generator=generator),
        "image": torch.rand(16, 8, 3, generator=generator),
    }
    leaves = {"positions": soup.positions.clone(), **{name: tensor.to(device) for name, tensor in given.items()}}
    return {**{name: leaf.requires_grad_() for name, leaf in leaves.items()}, "triangles": soup.triangles}


def step(positions: Tensor, triangles: Tensor, uv: Tensor, image: Tensor) -> list[Tensor]:
    """Both estimators, of a texture with and without mips, and the layer behind."""
    geometry = sr.rasterize(positions, triangles, RESOLUTION)
    at, slopes = sr.interpolate(geometry, uv, derivatives=True)
    _, swapped = sr.interpolate(geometry, uv, derivatives=(1, 0))
    mips = sr.texture(image, at, uv_derivatives=slopes, filter="linear_mipmap_linear")
    color = torch.where(geometry.mask[..., None], mips + sr.texture(image, at), 0.5)
    blended = sr.antialias(color, geometry) + sr.antialias(color, geometry, by_position=False)
    behind = sr.peel(geometry)
    return [blended, sr.edge_gradients(color, geometry), sr.interpolate(behind, uv), swapped]


def test_a_step_is_launches_and_nothing_that_waits(slangtorch: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {name: (leaf.shape, leaf.dtype) for name, leaf in inputs("cpu").items()}
    steps = Steps()
    monkeypatch.setattr(torch.autograd.Function, "apply", classmethod(steps.apply))
    with FakeTensorMode(), Brackets():
        tensors = {name: torch.empty(shape, dtype=dtype, device="cuda:0") for name, (shape, dtype) in given.items()}
        step(**tensors)
        slangtorch.launches.clear()
        with NoCopies():
            step(**tensors)
            steps.backward()
    launched = {name for name, _ in slangtorch.launches}
    forward = {"rasterize", "interpolate_attributes", "sample_texture", "find_outlines", "blend_outlines"}
    assert launched >= forward | {"enter_positions", "look_up_positions", "link_half_edges", "draw_small_triangles"}
    assert launched >= {"add_edge_gradients", "make_mip_level_bwd_diff"} | {
        f"{name}_bwd_diff" for name in forward - {"find_outlines"}
    }


class Operations(TorchDispatchMode):
    """Writes down what torch itself would launch."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self._names = names

    def __torch_dispatch__(self, function, types, arguments=(), named=None):  # type: ignore[no-untyped-def]
        name = function.overloadpacket.__name__
        if not (function.is_view or "empty" in name or name == "device"):
            self._names.append(name)
        return function(*arguments, **(named or {}))


@pytest.mark.parametrize("with_color", [False, True])
def test_a_soft_step_is_few_launches(slangtorch: StandIn, monkeypatch: pytest.MonkeyPatch, with_color: bool) -> None:
    """Six and three: a scan, two fills, and six kernels."""

    def step(positions: Tensor, triangles: Tensor, colors: Tensor) -> tuple[Tensor, ...]:
        if with_color:
            return sr.soft_rasterize(positions, triangles, colors, RESOLUTION, background=(0.2, 0.3, 0.4), sigma=1e-3)
        return (sr.soft_silhouette(positions, triangles, RESOLUTION, sigma=1e-3),)

    steps = Steps(fixed=(5,))  # the background
    monkeypatch.setattr(torch.autograd.Function, "apply", classmethod(steps.apply))
    operations: list[str] = []
    with FakeTensorMode(), Brackets():
        positions, colors = (torch.empty((60, size), device="cuda:0") for size in (4, 3))
        triangles = torch.empty((20, 3), dtype=torch.int32, device="cuda:0")
        step(positions, triangles, colors)
        steps.forget()
        slangtorch.launches.clear()
        with NoCopies(), Operations(operations):
            step(positions, triangles, colors)
        forward = operations + [name for name, _ in slangtorch.launches]
        operations.clear()
        slangtorch.launches.clear()
        with NoCopies(), Operations(operations):
            steps.backward(expanded=False)
    assert forward == ["zeros", "cumsum", "project", "count_faces", "fill_faces", "soft_rasterize"]
    backward = operations + [name for name, _ in slangtorch.launches]
    assert backward == ["new_zeros", "soft_rasterize_bwd_diff", "project_bwd_diff"]


WAITS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool((x > 0).any()),
    "equal": lambda x: torch.equal(x, x + 1),
    "tolist": lambda x: x.tolist(),
    "nonzero": lambda x: torch.ops.aten.nonzero(x),
    "unique": lambda x: x.unique(),
    "unique_consecutive": lambda x: torch.unique_consecutive(x),
    "masked_select": lambda x: x.masked_select(x > 0),
    "index": lambda x: x[x > 0],
    "a list in brackets": lambda x: x[[0, 2]],
    "repeat_interleave": lambda x: x.repeat_interleave(x.int()),
    "to the host": lambda x: x.cpu(),
    "to the device": lambda x: torch.ops.aten.copy_(x, torch.zeros(3)),
    "a list": lambda x: torch.tensor([1.0, 2.0], device=x.device),
}


@pytest.mark.parametrize("wait", WAITS)
def test_what_waits_is_found(wait: str) -> None:
    with FakeTensorMode(), NoCopies(), Brackets():
        x = torch.ones(3, device="cuda:0")
        with pytest.raises((WaitsError, DataDependentOutputException, DynamicOutputShapeException)):
            WAITS[wait](x)
        torch.where(x > 0, x * torch.tensor(2.0), 0.0).cumsum(0)  # what does not is let through


@pytest.mark.cuda
def test_on_cuda_a_graph_holds_a_step() -> None:
    """After the first step of a scene: what waits for the device is an error here. A graph of the step then replays."""
    given = inputs("cuda")
    leaves = [leaf for leaf in given.values() if leaf.requires_grad]

    def run() -> list[Tensor]:
        outputs = step(**given)
        return [*outputs, *torch.autograd.grad(sum(output.square().sum() for output in outputs), leaves)]

    expected = [tensor.detach().clone() for tensor in run()]
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    aside = torch.cuda.Stream()
    with torch.cuda.stream(aside):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    graph.replay()
    torch.cuda.synchronize()
    for tensors in (found, captured):
        for one, other in zip(tensors, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))
