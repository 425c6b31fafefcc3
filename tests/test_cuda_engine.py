"""The CUDA engine: how it has slangtorch build, and how arguments reach the compiled functions.

On a machine without CUDA a stand-in plays slangtorch, and tensors only say that they are on a GPU (torch's fake ones).
What a GPU computes is compared with the CPU in the tests marked `cuda`. The real slangtorch: make cuda-check.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from slangrast import DiffTensorView, Module, ShaderError, load_module
from slangrast.runtime import cuda_engine, slang_compiler

KINDS = Path(__file__).parent / "shaders" / "argument_kinds.slang"
ONE_THREAD = {"blockSize": (1, 1, 1), "gridSize": (1, 1, 1)}
ONE_BLOCK = {"blockSize": (32, 1, 1), "gridSize": (1, 1, 1)}


@dataclass
class StandIn:
    """What the engine asked of slangtorch, and what reached the compiled functions."""

    builds: list[dict[str, Any]] = field(default_factory=list)
    launches: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    devices: list[torch.device] = field(default_factory=list)  # made current, one for each launch
    error: str = ""  # what the next build ends with
    extensions: dict[Path, Any] = field(default_factory=dict)

    def load_module(self, file: str, **options: Any) -> None:
        shader = Path(file)
        parser = sys.modules["slangtorch"].slangtorch.parseDepfile
        seen = {"shader": shader, "text": shader.read_text(), "path": os.environ["PATH"], "dependencies": parser("x")}
        self.builds.append({**options, **seen, "flags": list(options["extraCudaFlags"])})
        for name in ("extraCudaFlags", "extraSlangFlags"):  # as slangtorch does to its caller's lists
            options[name].append("--left-by-the-build-before")
        if self.error:
            raise RuntimeError(self.error)
        folder = shader.parent / ".slangtorch_cache" / shader.stem
        folder.mkdir(parents=True)
        (folder / f"_slangtorch_{shader.stem}_{len(self.builds)}.so").write_text(str(len(self.builds)))

    def import_extension(self, file: Path) -> Any:
        return self.extensions.setdefault(file, _Extension(self))

    @contextlib.contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        self.devices.append(device)
        yield


class _Extension:
    def __init__(self, stand_in: StandIn) -> None:
        self._stand_in = stand_in

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self._stand_in.launches.append((name, arguments))


def _parse_depfile(depfile: str) -> list[str]:
    return ["parsed"]


@pytest.fixture
def slangtorch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StandIn:
    stand_in = StandIn()
    fake = types.ModuleType("slangtorch")
    fake.__spec__ = importlib.util.find_spec("slangtorch")  # beside which slangc is found
    fake.loadModule = stand_in.load_module
    fake.slangtorch = types.SimpleNamespace(parseDepfile=_parse_depfile)
    monkeypatch.setitem(sys.modules, "slangtorch", fake)
    monkeypatch.setattr(cuda_engine, "_import_extension", stand_in.import_extension)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)  # fake tensors cannot be compared
    monkeypatch.setattr(torch.cuda, "device", stand_in.device)
    monkeypatch.setenv("SLANGRAST_CACHE", str(tmp_path / "cache"))
    _programs(tmp_path / "bin", "nvcc", "ninja")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return stand_in


def _programs(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)


@pytest.fixture
def shader(tmp_path: Path) -> Path:
    """A shader of two files, in a folder with a space."""
    folder = tmp_path / "my shaders"
    folder.mkdir()
    (folder / "imported.slang").write_text("float twice(float x)\n{\n    return 2.f * x;\n}\n")
    return _write(
        folder / "main.slang",
        "void doubled(DiffTensorView values, DiffTensorView out_values)",
        "out_values.storeOnce(0, values[0] + no_diff twice(FACTOR));",
        "import imported;\n#ifndef FACTOR\n#define FACTOR 1.f\n#endif\n",
    )


def _write(file: Path, declaration: str, body: str, before: str = "", differentiable: bool = True) -> Path:
    marks = "[AutoPyBindCUDA]\n[CUDAKernel]\n" + "[Differentiable]\n" * differentiable
    file.write_text(f"{before}{marks}{declaration}\n{{\n    {body}\n}}\n")
    return file


# Builds.


def test_build_has_its_own_folder_and_plain_flags(slangtorch: StandIn, shader: Path, tmp_path: Path) -> None:
    before = sorted(shader.parent.iterdir())
    load_module(shader, device="cuda", defines={"FACTOR": 3}, include_paths=[tmp_path])
    (build,) = slangtorch.builds
    assert build["shader"].is_relative_to(tmp_path / "cache")
    assert sorted(shader.parent.iterdir()) == before
    assert build["text"] == f'#line 1 "{shader}"\n{shader.read_text()}'
    assert build["includePaths"][:2] == [str(shader.parent), str(tmp_path)]
    assert build["defines"] == {"FACTOR": "3"}
    assert build["cudaFastMath"] is False
    assert build["flags"] == []


def test_flags_do_not_pile_up(slangtorch: StandIn, shader: Path) -> None:
    for factor in (1, 2, 3):
        load_module(shader, device="cuda", defines={"FACTOR": factor})
    assert [build["flags"] for build in slangtorch.builds] == [[], [], []]


def test_fast_math_is_passed_on_and_is_another_build(slangtorch: StandIn, shader: Path) -> None:
    load_module(shader, device="cuda")
    load_module(shader, device="cuda", fast_math=True)
    assert [build["cudaFastMath"] for build in slangtorch.builds] == [False, True]


def test_second_load_builds_nothing(slangtorch: StandIn, shader: Path) -> None:
    first, second = load_module(shader, device="cuda"), load_module(shader, device="cuda")
    assert len(slangtorch.builds) == 1
    assert first._any_build().binding is second._any_build().binding


def test_nothing_of_the_build_folder_is_kept(slangtorch: StandIn, shader: Path, tmp_path: Path) -> None:
    """So no stale lock of slangtorch's can ever be met, nor a half-written file."""
    build = load_module(shader, device="cuda")._any_build()
    (extension,) = slangtorch.extensions
    kept = sorted(path.name for path in extension.parent.iterdir())
    assert kept == sorted([extension.name, "binding.txt", "checksums.json", "program.cu"])
    assert not slangtorch.builds[0]["shader"].exists()
    assert build.key == extension.parent.name


def test_edit_of_an_imported_file_builds_again(slangtorch: StandIn, shader: Path) -> None:
    module = load_module(shader, device="cuda")
    first = module._any_build().key
    imported = shader.parent / "imported.slang"
    text = imported.read_text()
    imported.write_text(text.replace("2.f", "5.f"))
    assert module.reload()
    assert len(slangtorch.builds) == 2
    assert module._any_build().key != first
    imported.write_text(text)
    assert module.reload()
    assert len(slangtorch.builds) == 2
    assert module._any_build().key == first


def test_other_architecture_is_another_build(
    slangtorch: StandIn, shader: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for architecture in ("8.0", "9.0", "8.0"):
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", architecture)
        load_module(shader, device="cuda")
    assert len(slangtorch.builds) == 2


def test_list_of_files_is_not_read_and_its_reader_is_put_back(slangtorch: StandIn, shader: Path) -> None:
    """slangtorch trips over the space in the folder's name there."""
    load_module(shader, device="cuda")
    slangtorch.error = "no"
    with pytest.raises(ShaderError):
        load_module(shader, device="cuda", fast_math=True)
    assert [build["dependencies"] for build in slangtorch.builds] == [[], []]
    assert sys.modules["slangtorch"].slangtorch.parseDepfile is _parse_depfile


def test_slangc_error_has_file_and_line_and_keeps_the_last_build(slangtorch: StandIn, shader: Path) -> None:
    module = load_module(shader, device="cuda")
    build = module._any_build()
    imported = shader.parent / "imported.slang"
    imported.write_text(imported.read_text().replace("* x", "* y"))
    with pytest.raises(ShaderError, match="undefined identifier") as raised:
        module.reload()
    assert (raised.value.diagnostics[0].file, raised.value.diagnostics[0].line) == (str(imported), 3)
    assert len(slangtorch.builds) == 1
    assert module._any_build() is build


@pytest.mark.parametrize(
    "said",
    [
        '{shader}(7): error: identifier "nonsense" is undefined',
        '{shader}(7): error #20: identifier "nonsense" is undefined',
        "{shader}:7:12: error: 'nonsense' was not declared in this scope",
    ],
    ids=["nvcc", "nvcc numbered", "host compiler"],
)
def test_compiler_error_has_file_and_line(slangtorch: StandIn, shader: Path, said: str) -> None:
    slangtorch.error = "Error building extension:\n[1/3] nvcc ...\n" + said.format(shader=shader) + "\n1 error\n"
    with pytest.raises(ShaderError, match="nonsense") as raised:
        load_module(shader, device="cuda")
    (place,) = raised.value.diagnostics
    assert (place.file, place.line) == (str(shader), 7)
    assert shader.read_text().splitlines()[6] in str(raised.value)


def test_failed_build_is_tried_again(slangtorch: StandIn, shader: Path) -> None:
    slangtorch.error = "out of disk"
    with pytest.raises(ShaderError, match="out of disk"):
        load_module(shader, device="cuda")
    slangtorch.error = ""
    assert load_module(shader, device="cuda").kernels == ["doubled"]


@pytest.mark.parametrize("missing", ["nvcc", "ninja"])
def test_missing_program(
    slangtorch: StandIn, shader: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere" / "python"))
    (tmp_path / "bin" / missing).unlink()
    with pytest.raises(ShaderError, match=f"the CUDA engine needs {missing}"):
        load_module(shader, device="cuda")
    assert os.environ["PATH"] == str(tmp_path / "bin")


def test_ninja_beside_python_is_found(
    slangtorch: StandIn, shader: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin" / "ninja").unlink()
    _programs(tmp_path / "environment", "ninja")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "environment" / "python"))
    load_module(shader, device="cuda")
    assert slangtorch.builds[0]["path"].split(os.pathsep) == [str(tmp_path / "bin"), str(tmp_path / "environment")]
    assert os.environ["PATH"] == str(tmp_path / "bin")


def test_torch_without_cuda(slangtorch: StandIn, shader: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(ShaderError, match="needs a torch built for CUDA"):
        load_module(shader, device="cuda")


def test_slangtorch_that_does_not_load(slangtorch: StandIn, shader: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLANGC_PATH", slang_compiler.slangc_path())
    monkeypatch.setitem(sys.modules, "slangtorch", None)
    with pytest.raises(ShaderError, match=r"slangtorch does not load .*pip install 'slangrast\[cuda\]'"):
        load_module(shader, device="cuda")


def test_shader_without_a_kernel(slangtorch: StandIn, tmp_path: Path) -> None:
    (tmp_path / "none.slang").write_text("float twice(float x) { return 2.f * x; }\n")
    with pytest.raises(ShaderError, match="no kernel"):
        load_module(tmp_path / "none.slang", device="cuda")


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("half a", "argument a of kernel take is a half"),
        ("Pair a", "argument a of kernel take.height is a half"),
        ("half a[2]", "is a half"),
        ("float2x3 a", "is a matrix of 2 x 3"),
        ("int8_t a", "is an int8_t"),
        ("int8_t a[3]", "is an int8_t"),
        ("uint64_t a", "is a uint64_t"),
    ],
)
def test_argument_that_slangtorch_cannot_pass(slangtorch: StandIn, tmp_path: Path, argument: str, said: str) -> None:
    before = "struct Pair { float width; half height; }\n"
    file = _write(tmp_path / "take.slang", f"void take(TensorView<float> out_x, {argument})", "", before, False)
    with pytest.raises(ShaderError, match=f"{said}.*use "):
        load_module(file, device="cuda")
    assert slangtorch.builds == []


# Arguments. Fake tensors have a device, a shape and strides, and no memory.


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
def test_bare_tensor_gets_a_gradient_that_the_kernel_may_write(
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
    file = _write(tmp_path / "bytes.slang", "void take(TensorView<int8_t> out_x)", "out_x[0] = 1;", "", False)
    module = load_module(file, device="cuda")
    with FakeTensorMode(), pytest.raises(ValueError, match="out_x is int8, which slangtorch cannot pass"):
        module.take(out_x=torch.zeros(3, dtype=torch.int8, device="cuda:0"))


def test_write_to_a_copy_is_not_lost_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    packed = cuda_engine.CudaArguments(reads_gradients=True)
    given = torch.tensor([float("nan")]).expand(3)
    copy = given.clone()
    packed._copies.append(("grad", given, copy))
    packed.refuse_lost_writes()
    copy[1] = 0.0
    with pytest.raises(ValueError, match=r"launchRaw: grad is an expanded tensor.*\.contiguous\(\)"):
        packed.refuse_lost_writes()
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    packed.refuse_lost_writes()


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
