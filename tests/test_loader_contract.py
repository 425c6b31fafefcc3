"""What `load_module` promises, as slangtorch does, for each engine that the machine has.

On a machine without a GPU, `nvrtc` runs on a stand-in for the driver, which takes tensors of the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from slangrast import DiffTensorView, Module, ShaderError, load_module
from slangrast.runtime import Kernel
from tests import driver_stand_in

SHADER = Path(__file__).parent / "shaders" / "contract.slang"


@dataclass(frozen=True)
class Engine:
    name: str
    device: str  # of the tensors

    @property
    def stands_in(self) -> bool:
        return (self.name, self.device) == ("nvrtc", "cpu")

    def load(self, path: Path, **options: Any) -> Module:
        module = load_module(path, engine=self.name, **options)
        return driver_stand_in.serving_the_cpu(module) if self.stands_in else module


ENGINES = [
    Engine("cpu", "cpu"),
    Engine("simt", "cpu"),
    pytest.param(Engine("nvrtc", "cpu"), id="nvrtc-stand-in"),
    pytest.param(Engine("nvrtc", "cuda"), marks=pytest.mark.cuda, id="nvrtc"),
    pytest.param(Engine("cuda", "cuda"), marks=[pytest.mark.cuda, pytest.mark.slow], id="cuda"),
]


@pytest.fixture(scope="module", params=ENGINES, ids=lambda engine: engine.name)
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    engine: Engine = request.param
    with pytest.MonkeyPatch.context() as patch:
        if engine.stands_in:
            driver_stand_in.install(patch)
        yield engine


@pytest.fixture(scope="module")
def module(engine: Engine) -> Module:
    return engine.load(SHADER, defines={"GAIN": 2})


@pytest.fixture
def device(engine: Engine) -> str:
    return engine.device


def ramp(count: int, device: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.linspace(-1, 2, count, device=device).to(dtype)


# Names.


def test_kernels_and_their_arguments_are_found_by_name(module: Module) -> None:
    assert module.kernels == ["copy", "cubes", "halve", "read_settings"]
    assert module.cubes.argument_names == ["x", "out_y", "gain"]
    assert module.cubes.bwd.argument_names == module.cubes.fwd.argument_names == module.cubes.argument_names
    assert module.Settings._fields == ("shifts", "table", "colour", "negate")


def test_wrong_arguments_are_refused(module: Module, device: str) -> None:
    x = ramp(3, device)
    with pytest.raises(ValueError, match=r"cubes: missing \['gain'\] and unknown \['pain'\]"):
        module.cubes(x=x, out_y=x, pain=1.0)
    with pytest.raises(ValueError, match="cubes: x must be a tensor of float32, got float64"):
        module.cubes(x=x.double(), out_y=x, gain=1.0)
    with pytest.raises(ValueError, match="copy has no derivative"):
        module.copy.bwd(x=x, out_y=x)


# Values and derivatives.


@pytest.mark.parametrize("count", [7, 1000])
def test_forward(module: Module, device: str, count: int) -> None:
    x, y = ramp(count, device), torch.zeros(count, device=device)
    module.launch(module.cubes(x=x, out_y=y, gain=3.0), over=(count,))
    assert_close(y, 6 * x**3)
    y.zero_()
    module.cubes(x=x, out_y=y, gain=3.0).launchRaw(blockSize=(32, 1, 1), gridSize=(-(-count // 32), 1, 1))
    assert_close(y, 6 * x**3)


@pytest.mark.parametrize("view", [tuple, lambda pair: DiffTensorView(*pair)], ids=["tuple", "DiffTensorView"])
def test_backward_derivative_adds_to_the_gradient(module: Module, device: str, view: Any) -> None:
    x, grad_x, grad_y = ramp(7, device), torch.ones(7, device=device), ramp(7, device)
    arguments = {"x": view((x, grad_x)), "out_y": view((torch.zeros_like(x), grad_y)), "gain": 3.0}
    module.launch(module.cubes.bwd(**arguments), over=(7,))
    assert_close(grad_x, 1 + 18 * x**2 * ramp(7, device))
    assert_close(grad_y, ramp(7, device))  # storeOnce only reads it


def test_forward_derivative(module: Module, device: str) -> None:
    x, tangent, y, out_tangent = ramp(7, device), ramp(7, device) + 3, *torch.zeros(2, 7, device=device)
    view = module.DiffTensorView
    module.launch(module.cubes.fwd(x=view(x, tangent), out_y=view(y, out_tangent), gain=0.5), over=(7,))
    assert_close(y, x**3)
    assert_close(out_tangent, 3 * x**2 * tangent)


def test_half_tensors(module: Module, device: str) -> None:
    x = ramp(9, device, torch.float16)
    y = torch.zeros_like(x)
    module.launch(module.halve(x=x, out_y=y), over=(9,))
    assert_close(y, x / 2)


# Structs.


@pytest.mark.parametrize("form", ["named tuples", "tuples", "dicts"])
def test_nested_structs_with_arrays_and_tensors(module: Module, device: str, form: str) -> None:
    table = torch.arange(12.0, device=device).reshape(3, 4)
    shifts = [module.Shift(factor=0.25, cell=(0, 0)), module.Shift(factor=10.0, cell=(2, 1))]
    settings = module.Settings(shifts=shifts, table=table, colour=(1.0, 2.0, 4.0), negate=True)
    if form == "tuples":
        settings = tuple(settings._replace(shifts=[tuple(shift) for shift in shifts]))
    if form == "dicts":
        settings = settings._replace(shifts=[shift._asdict() for shift in shifts])._asdict()
    out = torch.zeros(3, device=device)
    module.launch(module.read_settings(settings=settings, out_values=out), over=(1,))
    assert out.tolist() == [90.0, 4.25, -1.0]


# Tensors of every layout.


@pytest.mark.parametrize(
    "view",
    [
        lambda t: t.T,
        lambda t: t[1:, ::2],
        lambda t: t[:, None, 3].expand(5, 4),
        lambda t: t[0, 0].expand(3, 4),
        lambda t: t.as_strided((2, 3), (7, 2), 4),
    ],
    ids=["transposed", "sliced", "a column expanded", "a number expanded", "with gaps"],
)
def test_strided_and_expanded_tensors_are_read_as_they_are(module: Module, device: str, view: Any) -> None:
    x = view(torch.arange(35.0, device=device).reshape(5, 7))
    y = torch.full((x.shape[0], 2 * x.shape[1]), -1.0, device=device)[:, ::2]
    module.launch(module.copy(x=x, out_y=y), over=(x.shape[1], x.shape[0]))
    assert_close(y, x.contiguous())
    assert y._base is not None and (y._base[:, 1::2] == -1).all()


def test_empty_tensors(module: Module, device: str) -> None:
    nothing = torch.zeros(0, device=device)
    module.launch(module.cubes(x=nothing, out_y=nothing, gain=1.0), over=(0,))
    launchable = module.cubes.bwd(x=(nothing, nothing), out_y=(nothing, nothing), gain=1.0)
    launchable.launchRaw(blockSize=(32, 1, 1), gridSize=(1, 1, 1))
    module.launch(module.copy(x=torch.zeros(3, 0, device=device), out_y=torch.zeros(0, 3, device=device)), over=(1, 1))


# Files. A shader of two, in folders of its own.


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A shader, and what it imports from another folder."""
    for folder in ("shaders", "library of parts"):
        (tmp_path / folder).mkdir()
    imported = tmp_path / "library of parts" / "part.slang"
    imported.write_text("float part()\n{\n    return 3;\n}\n")
    marks = "import part;\n[AutoPyBindCUDA]\n[CUDAKernel]\n"
    shader = tmp_path / "shaders" / "main.slang"
    shader.write_text(marks + "void fill(TensorView<float> out_x)\n{\n    out_x[0] = FACTOR * part();\n}\n")
    return shader, imported


def filled(kernel: Kernel, device: str) -> float:
    x = torch.zeros(1, device=device)
    kernel(out_x=x).launchRaw(blockSize=(1, 1, 1), gridSize=(1, 1, 1))
    return x.item()


def test_defines_include_paths_and_imports(engine: Engine, files: tuple[Path, Path]) -> None:
    shader, imported = files
    with pytest.raises(ShaderError, match="part"):
        engine.load(shader, defines={"FACTOR": 2})  # it looks beside the shader and in the shipped ones' folder
    with pytest.raises(ShaderError, match="FACTOR"):
        engine.load(shader, include_paths=[imported.parent])
    loaded = [engine.load(shader, defines={"FACTOR": factor}, include_paths=[imported.parent]) for factor in (2, 0.5)]
    assert [filled(module.fill, engine.device) for module in loaded] == [6, 1.5]
    assert {str(shader), str(imported)} <= set(loaded[0].files)
    assert not (set(shader.parent.iterdir()) ^ {shader}) and set(imported.parent.iterdir()) == {imported}


def test_reload_after_an_edit_and_after_a_failure(engine: Engine, files: tuple[Path, Path]) -> None:
    shader, imported = files
    module = engine.load(shader, defines={"FACTOR": 2}, include_paths=[imported.parent])
    kernel = module.fill
    assert filled(module.fill, engine.device) == 6
    assert not module.reload()

    good = imported.read_text()
    imported.write_text(good.replace("return 3", "return 5"))
    assert filled(module.fill, engine.device) == 6  # not before it is asked for
    assert module.reload()
    assert filled(module.fill, engine.device) == 10
    assert filled(kernel, engine.device) == 10  # taken from the module before

    imported.write_text(good.replace("return 3", "return three"))
    for _ in range(2):
        with pytest.raises(ShaderError, match="three") as raised:
            module.reload()
        place = raised.value.diagnostics[0]
        assert (place.file, place.line) == (str(imported), 3)
    assert filled(module.fill, engine.device) == 10

    imported.write_text(good.replace("return 3", "return 7"))
    assert module.reload()
    assert filled(module.fill, engine.device) == 14
