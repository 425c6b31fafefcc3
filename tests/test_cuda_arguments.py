"""How arguments reach the functions that slangtorch compiled, and what a GPU computes with them.

On a machine without CUDA a stand-in plays slangtorch, and tensors only say that they are on a GPU: torch's fake ones,
which have a device, a shape and strides, and no memory. Tests marked `cuda` compare a GPU with the CPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from slangrast import DiffTensorView, Module, load_module
from slangrast.runtime import cuda_engine, packing
from tests.slangtorch_stand_in import StandIn, install, write_shader

KINDS = Path(__file__).parent / "shaders" / "argument_kinds.slang"
ONE_THREAD = {"blockSize": (1, 1, 1), "gridSize": (1, 1, 1)}
ONE_BLOCK = {"blockSize": (32, 1, 1), "gridSize": (1, 1, 1)}


@pytest.fixture
def slangtorch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StandIn:
    return install(monkeypatch, tmp_path)


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture
def kinds(slangtorch: StandIn, shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Module:
    """The module of argument_kinds.slang, compiled once for all tests."""
    monkeypatch.setenv("SLANGRAST_CACHE", str(shared_cache))
    return load_module(KINDS, device="cuda")


def _arguments(module: Module, device: str, count: int = 5) -> dict[str, Any]:
    """For scale_by_all: every kind of argument but those that the tests below replace."""
    identity = ((1.0, 0.0, 0.25), (0.0, 1.0, 0.0), (0.0, 0.5, 1.0))
    camera = module.Camera(origin=(1.0, 2.0, 3.0), scale=(4.0, 5.0), rotation=identity, frame=(6, 2), flip=True)
    other = {
        "origin": [0.5, 0.0, 0.0],
        "scale": [0.0, 1.0],
        "rotation": [[0.0] * 3] * 3,
        "frame": [1, 0],
        "flip": False,
    }
    power = torch.full((2,), 0.125, device=device)
    light = module.Light(
        colour=(0.1, 0.2, 0.3, 0.4), weights=[1.0, 2.0, 3.0], cameras=(camera, other), id=7, power=power
    )
    return {
        "values": torch.arange(float(count), device=device),
        "out_values": torch.zeros(count, device=device),
        "camera": camera,
        "light": light,
        "turn": ((1.0, 2.0), (3.0, 4.0)),
        "shares": [1, 2, 3, 4],
        "shift": (1, 2, 3, 4),
        "negate": True,
    }


def _factor() -> float:
    """What scale_by_all multiplies by, with the arguments above."""
    camera = -((1 * 1 + 2 * 2 + 3 * 3) + 5.0 + 0.25 + 2 * 0.5 + (6 - 2))
    other = 0.5 + 1.0 + (1 - 0)
    light = 0.4 + 3.0 + 7 + 0.125
    return -((camera + camera - 3 * other) + light + 2.0 - 2 * 3.0 + 4 + 3)


def test_every_kind_of_argument_reaches_the_kernel_as_on_the_cpu(kinds: Module, slangtorch: StandIn) -> None:
    with FakeTensorMode():
        arguments = _arguments(kinds, "cuda:0")
        kinds.scale_by_all.bwd(**arguments).launchRaw(**ONE_THREAD)
    ((name, (block, grid, values, out_values, *others)),) = slangtorch.launches
    assert name == "scale_by_all_bwd_diff"
    assert (block, grid) == ((1, 1, 1), (1, 1, 1))
    assert values[0] is arguments["values"]
    assert out_values[0] is arguments["out_values"]
    camera = ((1.0, 2.0, 3.0), (4.0, 5.0), ((1.0, 0.0, 0.25), (0.0, 1.0, 0.0), (0.0, 0.5, 1.0)), (6, 2), True)
    other = ((0.5, 0.0, 0.0), (0.0, 1.0), ((0.0,) * 3,) * 3, (1, 0), False)
    power = arguments["light"].power
    light = ((0.1, 0.2, 0.3, 0.4), (1.0, 2.0, 3.0), (camera, other), 7, power)
    assert others == [camera, light, ((1.0, 2.0), (3.0, 4.0)), (1.0, 2.0, 3.0, 4.0), (1, 2, 3, 4), True]
    assert [type(number) for number in others[3]] == [float] * 4


@pytest.mark.parametrize(("kind", "shape"), [("scale_by_all", (1,)), ("fwd", (3, 4)), ("bwd", (3, 4))])
def test_bare_tensor_gets_a_gradient_that_the_kernel_maywrite_shader(
    kinds: Module, slangtorch: StandIn, kind: str, shape: tuple[int, ...]
) -> None:
    with FakeTensorMode():
        arguments = _arguments(kinds, "cuda:1")
        arguments["values"] = torch.zeros((4, 3), device="cuda:1").T
        kernel = getattr(kinds.scale_by_all, kind, kinds.scale_by_all)
        kernel(**arguments).launchRaw(**ONE_THREAD)
    (_, (_, _, (value, (gradient,)), *_)) = slangtorch.launches[0]
    assert value is arguments["values"]
    assert (tuple(gradient.shape), gradient.dtype, gradient.device) == (shape, torch.float32, torch.device("cuda:1"))
    assert gradient.is_contiguous()


@pytest.mark.parametrize("pair", [tuple, list, lambda both: DiffTensorView(*both)], ids=["tuple", "list", "view"])
def test_gradient_is_passed_as_it_is(kinds: Module, slangtorch: StandIn, pair: Any) -> None:
    with FakeTensorMode():
        arguments = _arguments(kinds, "cuda:0")
        value, gradient = arguments["values"], torch.zeros(10, device="cuda:0").as_strided((5,), (2,))
        arguments["values"] = pair((value, gradient))
        kinds.scale_by_all.bwd(**arguments).launchRaw(**ONE_THREAD)
    (_, (_, _, values, *_)) = slangtorch.launches[0]
    assert values[0] is value
    assert values[1][0] is gradient
    assert values[1][0].stride() == (2,)


def test_expanded_tensors_are_copied(kinds: Module, slangtorch: StandIn) -> None:
    with FakeTensorMode():
        arguments = _arguments(kinds, "cuda:0")
        arguments["out_values"] = (torch.zeros(5, device="cuda:0"), torch.ones((), device="cuda:0").expand(5))
        arguments["values"] = torch.zeros(1, device="cuda:0").expand(5)
        kinds.scale_by_all.bwd(**arguments).launchRaw(**ONE_THREAD)
    (_, (_, _, (value, _), (_, (gradient,)), *_)) = slangtorch.launches[0]
    assert [tensor.stride() for tensor in (value, gradient)] == [(1,), (1,)]
    assert [tuple(tensor.shape) for tensor in (value, gradient)] == [(5,), (5,)]


@pytest.mark.parametrize("stride", [0, 2**30])
def test_stride_of_a_length_of_one_is_no_reason_to_copy(kinds: Module, slangtorch: StandIn, stride: int) -> None:
    packed = cuda_engine.CudaArguments(reads_gradients=False)
    with FakeTensorMode():
        given = torch.zeros(3, device="cuda:0").as_strided((1, 3), (stride, 1))
        passed = packed.marshal(kinds._any_build().families["add_all_dtypes"].primal.arguments[0].type, given, "x")
        assert passed.stride() == (1, 1)
        assert passed.untyped_storage()._cdata == given.untyped_storage()._cdata


@pytest.fixture
def compiled_packing() -> None:
    """Before a stand-in hides the compiler."""
    if packing._library() is None:
        pytest.skip("torch before 2.10 has no exchange API")


@pytest.mark.usefixtures("compiled_packing")
@pytest.mark.parametrize("kind", ["primal", "bwd"])
def test_arguments_that_compiled_code_finds_right_are_passed_as_the_others(
    slangtorch: StandIn, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Tensors of the CPU count as a GPU's here, since fake ones have no memory to read."""
    monkeypatch.setattr(cuda_engine, "DEVICE_TYPE", packing.CPU)
    monkeypatch.setattr(cuda_engine, "refuse_on_host", lambda tensor, path: None)
    build = load_module(KINDS.parent / "derivatives.slang", device="cuda", defines={"LITERAL": 0.25})._any_build()
    family = build.families["polynomial"]
    entry = family.primal if kind == "primal" else family.backward_derivative
    tensors = {"x": torch.rand(8)[::2], "w": torch.rand(1).expand(4), "y": torch.rand(4)}
    marshalled: list[str] = []
    marshal = cuda_engine.CudaArguments.marshal
    monkeypatch.setattr(
        cuda_engine.CudaArguments, "marshal", lambda *given: marshalled.append(given[-1]) or marshal(*given)
    )
    results = []
    for compiled in (True, False):
        monkeypatch.setattr(cuda_engine, "has_compiler", lambda compiled=compiled: compiled)
        values = [tensors[name] for name in entry.argument_names]
        values = values if kind == "primal" else [(value, torch.ones(()).expand(4)) for value in values]
        results.append(build.pack(entry, values, reads_gradients=kind == "bwd"))
        assert bool(marshalled) == (not compiled)
    quick, slow = results
    assert quick.device == slow.device == torch.device("cpu")
    for (value, (gradient,)), (other, (other_gradient,)) in zip(quick.values, slow.values, strict=True):
        assert torch.equal(value, other) and value.stride() == other.stride()
        assert gradient.stride() == other_gradient.stride() and gradient.shape == other_gradient.shape
    names = [name for name, _, _ in quick._copies]
    assert names == [name for name, _, _ in slow._copies] and "w" in names


def test_launch_happens_on_the_device_of_the_tensors(kinds: Module, slangtorch: StandIn) -> None:
    with FakeTensorMode():
        for device in ("cuda:1", "cuda:0"):
            kinds.scale_by_all(**_arguments(kinds, device)).launchRaw(**ONE_THREAD)
    assert slangtorch.devices == [torch.device("cuda:1"), torch.device("cuda:0")]


@pytest.mark.parametrize(
    ("name", "tensor", "said"),
    [
        ("out_values", {"size": (5,), "device": "cuda:1"}, "out_values must be on cuda:0, got a tensor on cuda:1"),
        ("out_values", {"size": (5,), "device": "cpu"}, "out_values must be on cuda:0, got a tensor on cpu"),
        ("values", {"size": (2**20, 2**10 + 1), "device": "cuda:0"}, "values spans more than the 4 GiB"),
        ("values", {"size": (5,), "device": "cuda:0", "dtype": torch.float64}, "values must be a tensor of float32"),
    ],
)
def test_tensor_that_is_refused(
    kinds: Module, slangtorch: StandIn, name: str, tensor: dict[str, Any], said: str
) -> None:
    with FakeTensorMode():
        arguments = _arguments(kinds, "cuda:0")
        arguments[name] = torch.zeros(**tensor)
        with pytest.raises(ValueError, match=f"scale_by_all: {said}"):
            kinds.scale_by_all(**arguments)
    assert slangtorch.launches == []


def test_int8_tensor_is_refused(slangtorch: StandIn, tmp_path: Path) -> None:
    file = write_shader(tmp_path / "bytes.slang", "void take(TensorView<int8_t> out_x)", "out_x[0] = 1;", "", False)
    module = load_module(file, device="cuda")
    with FakeTensorMode(), pytest.raises(ValueError, match="out_x is int8, which slangtorch cannot pass"):
        module.take(out_x=torch.zeros(3, dtype=torch.int8, device="cuda:0"))


def test_write_to_a_copy_is_not_lost_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    packed = cuda_engine.CudaArguments(reads_gradients=True)
    given = torch.tensor([float("nan")]).expand(3)
    copy = given.clone()
    packed._copies.append(("grad", given, copy))
    packed.refuse_lost_writes("kernel", known := set())
    assert known == {("kernel", "grad")}
    copy[1] = 0.0
    with pytest.raises(ValueError, match=r"launchRaw: grad is an expanded tensor.*\.contiguous\(\)"):
        packed.refuse_lost_writes("another", known)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    packed.refuse_lost_writes("another", known)
    assert known == {("kernel", "grad")}


def test_only_the_first_launch_with_an_expanded_tensor_waits_for_the_device(
    kinds: Module, slangtorch: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch, "equal", lambda copy, given: not waits.append("equal"))
    with FakeTensorMode():
        for expanded in ("values", "values", "out_values"):
            arguments = _arguments(kinds, "cuda:0")
            arguments[expanded] = torch.zeros(1, device="cuda:0").expand(5)
            kinds.scale_by_all(**arguments).launchRaw(**ONE_THREAD)
    assert waits == ["equal", "equal"]
    assert len(slangtorch.launches) == 3


# Numbers. The same on the CPU and, where there is one, on a GPU.

DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.cuda, pytest.mark.slow])]


@pytest.mark.parametrize("device", DEVICES)
def test_kernel_and_its_reverse_read_every_kind_of_argument(device: str) -> None:
    module = load_module(KINDS, device=device)
    arguments = _arguments(module, device)
    module.scale_by_all(**arguments).launchRaw(**ONE_BLOCK)
    torch.testing.assert_close(arguments["out_values"].cpu(), torch.arange(5.0) * _factor())

    gradient = torch.zeros(5, device=device)
    arguments["values"] = (arguments["values"], gradient)
    arguments["out_values"] = (arguments["out_values"], torch.full((), 2.0, device=device).expand(5))
    module.scale_by_all.bwd(**arguments).launchRaw(**ONE_BLOCK)
    torch.testing.assert_close(gradient.cpu(), torch.full((5,), 2 * _factor()))


@pytest.mark.parametrize("device", DEVICES)
def test_kernel_reads_every_dtype(device: str) -> None:
    module = load_module(KINDS, device=device)
    dtypes = (torch.float64, torch.float16, torch.int32, torch.int64, torch.int16, torch.uint8, torch.bool)
    tensors = {
        name: torch.arange(2 * power, 2 * power + 4, device=device).to(dtype)[::2]
        for name, dtype, power in zip("abcdefg", dtypes, range(1, 8), strict=True)
    }
    total = torch.zeros(2, device=device)
    module.add_all_dtypes(
        out_sum=total,
        **tensors,
        h=torch.arange(6.0, device=device).reshape(2, 3),
        pair=(torch.full((2,), 50, device=device, dtype=torch.int32), torch.tensor([8, 9], device=device).int()),
        tag=(-3, 2**33),
        j=255, k=-300, l=65535, m=2**31, n=-(2**33), p=0.5,
    ).launchRaw(**ONE_BLOCK)  # fmt: skip
    expected = sum(tensor.double().cpu() for tensor in tensors.values())
    expected += torch.tensor([1.0, 4.0]) + torch.tensor([42.0, 41.0]) - 3 + 255 - 300 + 65535 + 2**31 + 0.5
    torch.testing.assert_close(total.double().cpu(), expected, rtol=1e-6, atol=0)


@pytest.mark.cuda
@pytest.mark.slow
def test_write_to_an_expanded_tensor_on_a_gpu() -> None:
    module = load_module(KINDS, device="cuda")
    arguments = _arguments(module, "cuda")
    arguments["out_values"] = torch.zeros(1, device="cuda").expand(5)
    with pytest.raises(ValueError, match=r"out_values is an expanded tensor"):
        module.scale_by_all(**arguments).launchRaw(**ONE_BLOCK)


@pytest.mark.cuda
@pytest.mark.slow
def test_second_gpu() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    module = load_module(KINDS, device="cuda")
    arguments = _arguments(module, "cuda:1")
    module.scale_by_all(**arguments).launchRaw(**ONE_BLOCK)
    torch.testing.assert_close(arguments["out_values"].cpu(), torch.arange(5.0) * _factor())
