"""The engine `nvrtc`: what NVRTC makes of slangc's text, and how its kernels are launched.

NVRTC needs no GPU: these tests compile to cubins and read them. A stand-in plays the driver in the tests of launches.
Tests marked `cuda` compare a GPU with slangtorch's build and with the CPU.
"""

from __future__ import annotations

import logging
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import slangrast as sr
from slangrast import Module, ShaderError, load_module, op_modules
from slangrast.runtime import nvrtc_engine, packing
from slangrast.runtime.layout import PackContext
from slangrast.runtime.nvrtc_engine import NvrtcModule, load_nvrtc_module
from slangrast.runtime.request import BuildRequest
from slangrast.runtime.shader_paths import shader_folder
from tests import driver_stand_in, scenes
from tests.driver_stand_in import STREAM, Result, StandIn
from tests.test_kernels import KERNEL_FILES, specialisations

SHADERS = Path(__file__).parent / "shaders"
LITERAL = {"LITERAL": 0.25}
ONE = {"blockSize": (1, 1, 1), "gridSize": (1, 1, 1)}


def why_no_nvrtc() -> str:
    try:
        nvrtc_engine._nvrtc_version()
    except ShaderError as error:
        return str(error)
    return ""


needs_nvrtc = pytest.mark.skipif(bool(why_no_nvrtc()), reason=why_no_nvrtc())


def write(file: Path, body: str, arguments: str = "TensorView<float> out_x", before: str = "") -> Path:
    file.write_text(f"{before}[AutoPyBindCUDA]\n[CUDAKernel]\nvoid fill({arguments})\n{{\n    {body}\n}}\n")
    return file


def build(
    path: Path, architecture: str = "sm_90", defines: dict[str, object] | None = None, **more: Any
) -> NvrtcModule:
    macros = {name: str(int(value) if isinstance(value, bool) else value) for name, value in (defines or {}).items()}
    request = BuildRequest(path=str(path), defines=macros, include_paths=(str(shader_folder()),), **more)
    return load_nvrtc_module(request, [architecture])


# What NVRTC compiles.


def parameters(cubin: bytes) -> dict[str, list[tuple[int, int]]]:
    """Offset and size of each parameter of each kernel, as a cubin tells them to the driver: an ELF file, which has a
    section `.nv.info.KERNEL` of attributes, of which number 0x17 is one parameter."""
    (start,) = struct.unpack_from("<Q", cubin, 0x28)
    size, count, names = struct.unpack_from("<HHH", cubin, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", cubin, start + size * index) for index in range(count)]
    found = {}
    for name_at, _, _, _, offset, length in sections:
        name = cubin[sections[names][4] + name_at :].partition(b"\0")[0].decode()
        if name.startswith(".nv.info.__kernel__"):
            found[name.removeprefix(".nv.info.__kernel__")] = sorted(_parameters(cubin[offset : offset + length]))
    return found


def _parameters(attributes: bytes) -> Iterator[tuple[int, int]]:
    place = 0
    while place < len(attributes):
        form, number, length = struct.unpack_from("<BBH", attributes, place)
        place += 4
        if form == 4:  # a value follows
            if number == 0x17:
                _, _, offset, bits = struct.unpack_from("<IHHI", attributes, place)
                yield offset, bits >> 18
            place += length


def expected_parameters(module: NvrtcModule) -> dict[str, list[tuple[int, int]]]:
    entries = [entry for family in module.families.values() for entry in family.entries()]
    return {entry.name: [(one.offset, one.type.size) for one in entry.arguments] for entry in entries}


def shipped() -> dict[str, tuple[str, dict[str, object]]]:
    """Each kernel file, and of one that an op compiles in several ways, the first three. nvcc sees them all."""
    found = specialisations()
    stems = [stem for stem, _ in found.values()]
    few = [name for place, name in enumerate(found) if stems[:place].count(stems[place]) < 3]
    return {**{name: found[name] for name in few}, **{stem: (stem, {}) for stem in KERNEL_FILES if stem not in stems}}


@needs_nvrtc
@pytest.mark.parametrize(("stem", "defines"), shipped().values(), ids=shipped())
def test_every_shipped_kernel_compiles_and_takes_the_bytes_that_are_packed(stem: str, defines: dict) -> None:
    module = build(shader_folder() / f"{stem}.slang", defines=defines, quick=True)
    assert parameters(module._cubins["sm_90"]) == expected_parameters(module) != {}


@needs_nvrtc
@pytest.mark.parametrize("name", ["arguments", "argument_kinds"])
def test_every_kind_of_argument_lies_where_it_is_packed(name: str) -> None:
    module = build(SHADERS / f"{name}.slang")
    assert parameters(module._cubins["sm_90"]) == expected_parameters(module) != {}


@needs_nvrtc
def test_packing_that_does_not_fit_the_kernel_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shader = write(
        tmp_path / "pair.slang", "out_x[0] = p.a;", "TensorView<float> out_x, Pair p", "struct Pair { int a; };\n"
    )
    checks = nvrtc_engine.layout_checks
    monkeypatch.setattr(
        nvrtc_engine, "layout_checks", lambda arguments: checks([("Pair_0", wrong) for _, wrong in arguments])
    )
    with pytest.raises(ShaderError, match=r"static assertion failed.*layout of Pair_0"):
        build(shader)


@needs_nvrtc
def test_error_of_nvrtc_has_file_and_line_of_the_shader(tmp_path: Path) -> None:
    before = 'float broken(float x)\n{\n    __intrinsic_asm R"(no_such_function($0))";\n}\n'
    shader = write(tmp_path / "broken.slang", "out_x[0] = broken(1.f);", before=before)
    with pytest.raises(ShaderError, match=r"NVRTC could not compile .*broken\.slang") as raised:
        build(shader)
    (place,) = raised.value.diagnostics
    assert (place.file, place.line) == (str(shader), 9)
    assert "no_such_function" in place.message
    assert place.source_line() == "    out_x[0] = broken(1.f);"


@needs_nvrtc
def test_unknown_architecture_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ShaderError, match=r"(?s)NVRTC could not compile .*architecture"):
        build(write(tmp_path / "fill.slang", "out_x[0] = 1.f;"), "sm_1")


@needs_nvrtc
def test_half_and_bfloat16_with_their_atomics(tmp_path: Path) -> None:
    body = "out_x[0] = half(y[0]);\n    half before;\n    out_x.InterlockedAdd(0, half(1), before);"
    shader = write(tmp_path / "half.slang", body, "TensorView<half> out_x, TensorView<BFloat16> y")
    try:
        nvrtc_engine._cuda_headers()
    except ShaderError as error:
        pytest.skip(str(error))
    module = build(shader)
    assert parameters(module._cubins["sm_90"]) == {"fill": [(0, 56), (56, 56)]}


@needs_nvrtc
def test_fast_math_and_architecture_make_other_cubins(tmp_path: Path) -> None:
    shader = write(tmp_path / "fill.slang", "out_x[0] = exp(out_x[1]) / out_x[2];")
    plain, fast, other = build(shader), build(shader, fast_math=True), build(shader, "sm_80")
    assert len({plain._cubins["sm_90"], fast._cubins["sm_90"], other._cubins["sm_80"]}) == 3
    assert len({plain.key, fast.key, other.key}) == 3


# Launches.


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StandIn:
    return driver_stand_in.install(monkeypatch)


def module_of(path: Path, **more: Any) -> Module:
    """As `load_module(path, engine="nvrtc")` has it, but for tensors on the CPU, which the stand-in takes."""
    return Module(BuildRequest(path=str(path), include_paths=(str(shader_folder()),), **more), "cpu", "nvrtc")


FILL = "uint i = cudaBlockIdx().x * cudaBlockDim().x + cudaThreadIdx().x; if (i < out_x.size(0)) out_x[i] = i;"


@pytest.fixture(scope="module")
def fill(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One shader, and so one build, for all tests that do not count builds."""
    return write(tmp_path_factory.mktemp("shared") / "fill.slang", FILL)


def test_launch_reaches_the_driver_on_the_stream_and_in_the_context_of_torch(driver: StandIn, fill: Path) -> None:
    module = module_of(fill)
    x = torch.zeros(9)
    for _ in range(2):
        module.fill(out_x=x).launchRaw(blockSize=(4, 2, 1), gridSize=(3, 1, 2))
    assert x.tolist() == list(range(9))
    assert driver.launches == [("fill", (3, 1, 2), (4, 2, 1), STREAM)] * 2
    assert (len(driver.entered), driver.contexts, driver.loads) == (2, [], 1)


def test_device_of_the_tensors_decides(driver: StandIn, tmp_path: Path) -> None:
    """Tensors that only say that they are on a GPU: torch's fake ones."""
    packed = nvrtc_engine.GpuArguments(bytearray(56))
    with FakeTensorMode():
        packed.admit(torch.zeros(3, device="cuda:1"), "x")
        assert packed.device == torch.device("cuda:1")
        too_far = torch.zeros(2**20, 2**10 + 1, device="cuda:1")
        with pytest.raises(ValueError, match="x spans more than the 4 GiB that Slang's 32-bit offsets reach on CUDA"):
            packed.admit(too_far, "x")


def test_tensor_on_the_host_is_refused() -> None:
    with pytest.raises(ValueError, match="x must be on a CUDA device, got a tensor on cpu"):
        nvrtc_engine.GpuArguments(bytearray(56)).admit(torch.zeros(3), "x")


def test_second_device_has_its_own_context_and_copy(
    driver: StandIn, fill: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launchable = module_of(fill).fill(out_x=torch.zeros(3))
    launchable._packed.device = None  # as where there is no tensor
    for device in (0, 1, 0):
        monkeypatch.setattr(torch.cuda, "current_device", lambda device=device: device)
        launchable.launchRaw(**ONE)
    assert (driver.entered, driver.loads) == ([0, 1, 0], 2)


def test_arguments_of_every_kind(driver: StandIn) -> None:
    module = module_of(SHADERS / "arguments.slang")
    result = torch.zeros(10, dtype=torch.float64)
    inner = module.Inner(a=1.5, b=(1, 2, 3), h=0.25)
    several = [inner, {"a": 7.0, "b": (8, 9, 10), "h": 0.5}]
    outer = module.Outer(
        inner=inner, m=[[1, 2, 3], [4, 5, 6], [7, 8, 9]], v=(0, 11), several=several, flag=True, big=2**40
    )
    module.structs(o=outer, result=result).launchRaw(**ONE)
    assert result.tolist() == [1.5, 3, 0.25, 2, 4, 11, 7, 8, 1, 2**40]


def test_gradients_that_are_given_and_not_given(driver: StandIn) -> None:
    module = module_of(SHADERS / "derivatives.slang", defines={"LITERAL": "0.25"})
    x, gradient = torch.tensor([1.0, 2.0]), torch.zeros(2)
    y = torch.zeros(2), torch.ones(()).expand(2)
    module.launch(module.scaled_square.bwd(x=(x, gradient), y=y, scale=3.0), over=(2,))
    assert gradient.tolist() == [6, 12]
    module.launch(module.scaled_square.bwd(x=x, y=y, scale=3.0), over=(2,))


def test_kernel_without_a_tensor_runs_on_the_current_device(driver: StandIn, tmp_path: Path) -> None:
    shader = write(tmp_path / "none.slang", 'if (x < 0) printf("never\\n");', "float x")
    module_of(shader).fill(x=1.0).launchRaw(**ONE)
    assert driver.entered == [0]


@pytest.mark.parametrize(
    ("name", "result", "said"),
    [
        ("cuLaunchKernel", Result.CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, r"launchRaw of fill.*make it smaller"),
        ("cuModuleLoadData", Result.CUDA_ERROR_NO_BINARY_FOR_GPU, "loading a shader.*NVRTC is newer than the driver"),
        ("cuModuleGetFunction", Result.CUDA_ERROR_NO_BINARY_FOR_GPU, "finding kernel fill: cuModuleGetFunction failed"),
        ("cuDevicePrimaryCtxRetain", Result.CUDA_ERROR_NO_BINARY_FOR_GPU, "opening device"),
    ],
)
def test_error_of_the_driver_says_what_failed(
    driver: StandIn, fill: Path, name: str, result: Result, said: str
) -> None:
    module = module_of(fill)
    driver.fails[name] = result
    with pytest.raises(RuntimeError, match=said):
        module.fill(out_x=torch.zeros(3)).launchRaw(**ONE)
    assert driver.contexts == []
    driver.fails.clear()
    module.fill(out_x=torch.zeros(3)).launchRaw(**ONE)


# Builds.


def test_options_of_nvrtc(driver: StandIn, tmp_path: Path) -> None:
    plain = write(tmp_path / "plain.slang", FILL)
    half = write(tmp_path / "half.slang", "out_x[0] = half(y[0]);", "TensorView<half> out_x, TensorView<BFloat16> y")
    for path, more in (
        (plain, {}),
        (plain, {"fast_math": True}),
        (plain, {"quick": True, "defines": {"A": "1"}}),
        (half, {}),
    ):
        module_of(path, **more)
    first = ["--gpu-architecture=sm_00", "-w"]
    assert driver.compiles == [
        first,
        [*first, "--use_fast_math"],
        [*first, "--Ofast-compile=min"],
        [*first, "-DSLANG_CUDA_ENABLE_HALF=1", "-DSLANG_CUDA_ENABLE_BF16=1", "-I/headers"],
    ]


def test_one_build_for_equal_requests_and_none_that_is_quick_beside_an_optimised_one(
    driver: StandIn, tmp_path: Path
) -> None:
    shader = write(tmp_path / "fill.slang", FILL)
    quick, optimised = module_of(shader, quick=True)._any_build(), module_of(shader)._any_build()
    assert (quick.quick, optimised.quick, len(driver.compiles)) == (True, False, 2)
    assert module_of(shader)._any_build() is module_of(shader, quick=True)._any_build() is optimised
    assert len(driver.compiles) == 2
    assert str(shader) in optimised.files


def test_every_gpu_of_the_machine_gets_a_cubin(
    driver: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: [(0, 1), (0, 0), (0, 1)][device])
    assert sorted(module_of(write(tmp_path / "fill.slang", FILL))._any_build()._cubins) == ["sm_00", "sm_01"]


def test_shader_without_a_kernel(driver: StandIn, tmp_path: Path) -> None:
    (tmp_path / "none.slang").write_text("float twice(float x) { return 2.f * x; }\n")
    with pytest.raises(ShaderError, match="no kernel"):
        module_of(tmp_path / "none.slang")


@pytest.mark.parametrize("device", ["cuda", None])
def test_engine_without_a_gpu(device: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ShaderError, match=r"the engine 'nvrtc' needs a CUDA device, and .*device='cpu'"):
        load_module(write(tmp_path / "fill.slang", FILL), device=device, engine="nvrtc")


def test_float64_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="precision='float64' runs on the CPU only"):
        load_module(write(tmp_path / "fill.slang", FILL), engine="nvrtc", precision="float64")


def test_missing_bindings(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(nvrtc_engine.importlib, "import_module", fail)
    monkeypatch.delitem(sys.modules, "cuda.bindings.driver", raising=False)
    with pytest.raises(ShaderError, match=r"needs cuda-bindings \(No module .*pip install 'slangrast\[nvrtc\]'"):
        nvrtc_engine._bindings("driver")


# Arguments packed by compiled code, as on the CPU.


def test_compiled_code_packs_the_same_bytes(driver: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    module = driver_stand_in.serving_the_cpu(load_module(SHADERS / "derivatives.slang", device="cpu", defines=LITERAL))
    values = {name: (torch.rand(4, 2)[:, 0], torch.rand(4)) for name in "xwy"}
    packed = []
    for compiled in (True, False):
        monkeypatch.setattr(nvrtc_engine, "has_compiler", lambda compiled=compiled: compiled)
        packed.append(module.polynomial.bwd(**values)._packed)
    quick, slow = packed
    assert quick.buffer == slow.buffer and quick.device == slow.device == torch.device("cpu")
    assert len(quick.keep_alive) == len(slow.keep_alive) == 6


def test_a_compiler_that_fails_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As clang++ does where the headers of a C++ library are missing. Kernels on CUDA need none."""
    if packing._library() is None:
        pytest.skip("torch before 2.10 has no exchange API")
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    kept = packing.has_compiler, packing._library
    try:
        for function in kept:
            function.cache_clear()
        monkeypatch.setenv("SLANGRAST_CXX", str(broken))
        assert not packing.has_compiler()
    finally:
        for function in kept:
            function.cache_clear()


def test_tensors_of_another_device_are_not_packed_by_compiled_code() -> None:
    library = packing._library()
    if library is None:
        pytest.skip("torch before 2.10 has no exchange API")
    module = load_module(SHADERS / "derivatives.slang", device="cpu", defines=LITERAL)
    entry = module._any_build().families["polynomial"].primal
    values = [torch.rand(4) for _ in entry.arguments]
    for device_type, fits in ((packing.CPU, True), (packing.CUDA, False)):
        context = PackContext(bytearray(entry.size), None, [], False)
        assert packing.Packer(entry.arguments, False, device_type).pack(values, context) == fits


# The choice between slangtorch and NVRTC.


@pytest.fixture
def without_nvcc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_HOME", raising=False)
    nvrtc_engine._say_once.cache_clear()


@pytest.mark.usefixtures("without_nvcc")
def test_nvrtc_is_used_where_nvcc_is_missing_and_that_is_said_once(
    driver: StandIn, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "slangrast"):
        for name in ("one", "two"):
            module = load_module(write(tmp_path / f"{name}.slang", FILL), device="cuda")
            assert isinstance(module._any_build(), NvrtcModule)
    (record,) = caplog.records
    assert "the CUDA engine needs n" in record.message and "engine='nvrtc'" in record.message


@pytest.mark.usefixtures("without_nvcc", "driver")
def test_slangtorch_is_not_replaced_where_it_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ShaderError, match="the CUDA engine needs n"):
        load_module(write(tmp_path / "fill.slang", FILL), engine="cuda")


@pytest.mark.usefixtures("without_nvcc")
def test_where_both_are_missing_the_error_is_of_the_reference_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ShaderError, match="the CUDA engine needs n"):
        load_module(write(tmp_path / "fill.slang", FILL), device="cuda")


@pytest.mark.usefixtures("without_nvcc")
def test_build_of_slangtorch_in_the_cache_is_used_without_nvcc(
    driver: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = object()
    monkeypatch.setattr(nvrtc_engine, "load_cuda_module", lambda request: built)
    assert nvrtc_engine.load_default_cuda_module(BuildRequest(path="x")) is built


@pytest.mark.usefixtures("driver")
def test_quick_build_is_of_nvrtc_and_the_optimised_one_of_slangtorch(
    fill: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = object()
    monkeypatch.setattr(nvrtc_engine, "load_cuda_module", lambda request: built)
    load = nvrtc_engine.load_default_cuda_module
    first = load(BuildRequest(path=str(fill), quick=True))
    assert isinstance(first, NvrtcModule) and first.quick
    assert load(BuildRequest(path=str(fill))) is built
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert load(BuildRequest(path=str(fill), quick=True)) is built


@pytest.mark.usefixtures("driver")
def test_the_environment_may_name_the_engine(fill: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = object()
    monkeypatch.setitem(nvrtc_engine._ENGINES, "cuda", lambda request: built)
    monkeypatch.setattr(nvrtc_engine, "load_cuda_module", lambda request: pytest.fail("it was not to choose"))
    load, request = nvrtc_engine.load_default_cuda_module, BuildRequest(path=str(fill))
    monkeypatch.setenv("SLANGRAST_CUDA_ENGINE", "nvrtc")
    assert isinstance(load(request), NvrtcModule)
    monkeypatch.setenv("SLANGRAST_CUDA_ENGINE", "cuda")
    assert load(request) is built
    monkeypatch.setenv("SLANGRAST_CUDA_ENGINE", "vulkan")
    with pytest.raises(ValueError, match=r"one of \['cuda', 'nvrtc'\], got 'vulkan'"):
        load(request)


# Numbers, on a GPU.


@pytest.mark.cuda
@pytest.mark.slow
def test_ops_give_the_same_with_every_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = scenes.soup()

    def render(device: str) -> list[torch.Tensor]:
        positions, attributes = (t.float().to(device).requires_grad_() for t in (scene.positions, scene.attributes))
        image = sr.soft_rasterize(positions, scene.triangles.to(device), attributes, scene.resolution, sigma=1e-2)
        (image.color.square().sum() + image.silhouette.sum() + image.depth.sum()).backward()
        outputs = (image.color, image.silhouette, image.depth, positions.grad, attributes.grad)
        return [tensor.detach().cpu() for tensor in outputs]

    results = {"cpu": render("cpu"), "cuda": render("cuda")}
    monkeypatch.setattr(nvrtc_engine, "load_default_cuda_module", load_nvrtc_module)
    op_modules._load.cache_clear()
    try:
        results["nvrtc"] = render("cuda")
    finally:
        op_modules._load.cache_clear()
    for name in ("cpu", "cuda"):
        torch.testing.assert_close(results["nvrtc"], results[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.cuda
@pytest.mark.parametrize("kind", ["primal", "fwd", "bwd"])
def test_small_kernel_gives_the_same_with_every_engine(kind: str) -> None:
    results = []
    for engine in ("cpu", "cuda", "nvrtc"):
        module = load_module(SHADERS / "derivatives.slang", engine=engine, defines={"LITERAL": 0.25})
        device = "cpu" if engine == "cpu" else "cuda"
        tensors = {name: torch.linspace(-1, 1, 4, device=device) for name in "xwy"}
        gradients = {name: torch.linspace(0.5, 1, 4, device=device) for name in "xwy"}
        kernel = getattr(module.polynomial, kind, module.polynomial)
        module.launch(kernel(**{name: (tensors[name], gradients[name]) for name in "xwy"}), over=(4,))
        results.append(torch.stack([*tensors.values(), *gradients.values()]).cpu())
    torch.testing.assert_close(results[1], results[0])
    torch.testing.assert_close(results[2], results[0])
