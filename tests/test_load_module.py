"""`load_module`: what it accepts and refuses, where it finds things, what a module shows, and how it reloads."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from slangrast import DiffTensorView, Module, ShaderError, load_module

SHADERS = Path(__file__).parent / "shaders"
KERNEL = "[AutoPyBindCUDA][CUDAKernel]\nvoid fill(TensorView<float> y) {{ y[0] = {}; }}\n"


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def derivatives(device: str) -> Module:
    return load_module(SHADERS / "derivatives.slang", device=device, defines={"LITERAL": 0.25})


def filled(module: Module, device: str, dtype: torch.dtype = torch.float32) -> float:
    y = torch.zeros(1, device=device, dtype=dtype)
    module.fill(y=y).launchRaw(blockSize=(1, 1, 1), gridSize=(1, 1, 1))
    return y.item()


# What a module shows.


def test_kernels_and_structs_are_attributes(derivatives: Module) -> None:
    assert {"scaled_square", "affine", "not_differentiable"} <= set(derivatives.kernels)
    assert {*derivatives.kernels, "Affine", "DiffTensorView", "launch", "reload"} <= set(dir(derivatives))
    assert derivatives.Affine._fields == ("slope", "offset", "row")
    assert derivatives.DiffTensorView is DiffTensorView
    assert derivatives.scaled_square.argument_names == ["x", "y", "scale"]
    assert repr(derivatives) == "<slangrast module derivatives.slang>"
    assert [repr(k) for k in (derivatives.affine, derivatives.affine.bwd)] == ["affine", "affine.bwd"]


def test_a_name_that_is_not_there_lists_those_that_are(derivatives: Module) -> None:
    with pytest.raises(AttributeError, match=r"no kernel or struct nothing; it has .*'affine'.*'Affine'"):
        _ = derivatives.nothing
    assert not hasattr(derivatives, "_nothing")
    assert copy.copy(derivatives).kernels == derivatives.kernels


def test_every_kernel_can_be_reached_or_is_refused(tmp_path: Path, device: str) -> None:
    shader = tmp_path / "names.slang"
    shader.write_text(KERNEL.format(1).replace("fill", "_fill"))
    assert load_module(shader, device=device)._fill.argument_names == ["y"]
    shader.write_text(KERNEL.format(1).replace("fill", "reload"))
    with pytest.raises(ShaderError, match=r"names\.slang: no kernel can be called reload"):
        load_module(shader, device=device)


# Arguments of a call.


def test_arguments_are_given_by_name(derivatives: Module, device: str) -> None:
    with pytest.raises(TypeError, match=r"not_differentiable: arguments are given by name, got 1 .*\['y'\]"):
        derivatives.not_differentiable(torch.zeros(1, device=device))


def test_missing_and_unknown_names_are_told(derivatives: Module, device: str) -> None:
    x = torch.zeros(1, device=device)
    with pytest.raises(ValueError, match=r"scaled_square: missing \['y', 'scale'\] and unknown \['z'\]; its arguments"):
        derivatives.scaled_square(x=x, z=x)
    with pytest.raises(ValueError, match=r"scaled_square\.bwd: missing \['scale'\]; its arguments are"):
        derivatives.scaled_square.bwd(x=x, y=x)
    with pytest.raises(ValueError, match=r"scaled_square: unknown \['z'\]; its arguments are"):
        derivatives.scaled_square(x=x, y=x, scale=1.0, z=x)


# Arguments of load_module.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "mps"}, "device must be 'cpu' or 'cuda', got 'mps'"),
        ({"device": "gpu"}, "device must be 'cpu' or 'cuda', got 'gpu'"),
        ({"engine": "vulkan"}, r"engine must be one of \['cpu', 'simt', 'cuda', 'nvrtc'\] or None, got 'vulkan'"),
        ({"engine": "cpu", "device": "cuda"}, "engine 'cpu' runs on cpu, got device 'cuda'"),
        ({"precision": "float16"}, "precision must be 'float32' or 'float64', got 'float16'"),
        ({"precision": "float64", "device": "cuda"}, "precision='float64' runs on the CPU only, got device 'cuda'"),
        ({"defines": {"A B": 1}}, "defines must be named like identifiers, got 'A B'"),
    ],
)
def test_arguments_outside_their_values_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"^load_module: {message}"):
        load_module(SHADERS / "derivatives.slang", **arguments)


@pytest.mark.parametrize("arguments", [{"defines": {"A": None}}, {"defines": {"A": [1]}}, {"include_paths": "folder"}])
def test_arguments_of_other_types_are_refused(arguments: dict) -> None:
    with pytest.raises(TypeError, match=r"^load_module: (defines|include_paths)"):
        load_module(SHADERS / "derivatives.slang", **arguments)


def test_a_missing_file_lists_the_shipped_shaders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"load_module: no file nowhere\.slang.*'coverage'.*'soft_rasterizer'"):
        load_module("nowhere.slang")
    with pytest.raises(FileNotFoundError, match="load_module: no file"):
        load_module(tmp_path)


@pytest.mark.parametrize("name", ["bin", "bin.slang"])
def test_shipped_shaders_are_found_by_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert repr(load_module(name, device="cpu")) == "<slangrast module bin.slang>"


def test_tensors_elsewhere_than_the_module_are_refused(derivatives: Module, device: str) -> None:
    with pytest.raises(ValueError, match=rf"not_differentiable: tensors must be on '{device}' .*got one on meta"):
        derivatives.not_differentiable(y=torch.zeros(1, device="meta"))


# Where things are found.


def test_imports_from_the_folder_the_include_paths_and_the_shipped_shaders(tmp_path: Path, device: str) -> None:
    (tmp_path / "other folder").mkdir()
    (tmp_path / "nested").mkdir()
    (tmp_path / "beside.slang").write_text("public float beside() { return 1; }\n")
    (tmp_path / "nested" / "deep.slang").write_text("public float deep() { return 20; }\n")
    (tmp_path / "other folder" / "included.slang").write_text("public float included() { return 300; }\n")
    (tmp_path / "text.h").write_text("#define TEXT 4000\n")
    shader = tmp_path / "main file.slang"
    value = "beside() + deep() + included() + TEXT + 10000 * step.evaluate(0.0).value"
    imports = 'import beside;\nimport nested.deep;\nimport included;\nimport coverage;\n#include "text.h"\n'
    imports += "static Logistic step;\n"
    shader.write_text(imports + KERNEL.format(value))
    module = load_module(shader, device=device, include_paths=[tmp_path / "other folder"])
    assert filled(module, device) == 9321


def test_kernels_of_imported_modules(tmp_path: Path) -> None:
    (tmp_path / "kernels.slang").write_text(KERNEL.format(7).replace("\nvoid", "\npublic void"))
    shader = tmp_path / "main.slang"
    shader.write_text("import kernels;\n" + KERNEL.format(8).replace("fill", "fill_here"))
    assert load_module(shader, device="cpu").kernels in (["fill_here"], ["fill", "fill_here"])


@pytest.mark.parametrize("name", ["wei#rd$.slang", "co:lon.slang", "\N{GREEK SMALL LETTER SIGMA}.slang", "a'b.slang"])
def test_odd_file_names(tmp_path: Path, name: str) -> None:
    shader = tmp_path / name
    shader.write_text(KERNEL.format(7))
    module = load_module(shader, device="cpu")
    assert filled(module, "cpu") == 7
    shader.write_text(KERNEL.format(8))
    assert module.reload() and filled(module, "cpu") == 8


@pytest.mark.parametrize(
    ("given", "expected"), [(True, 1.0), (False, 0.0), (3, 3.0), (-2.5, -2.5), ("float(1 + 1)", 2.0), (1e-7, 1e-7)]
)
def test_defines(tmp_path: Path, device: str, given: object, expected: float) -> None:
    shader = tmp_path / "defines.slang"
    shader.write_text(KERNEL.format("VALUE"))
    assert filled(load_module(shader, device=device, defines={"VALUE": given}), device) == pytest.approx(expected)


# Precision.


def test_float64_keeps_the_literals_of_the_author() -> None:
    module = load_module(SHADERS / "derivatives.slang", precision="float64", defines={"LITERAL": "2.718281828459045f"})
    y = torch.zeros(5, dtype=torch.float64)
    module.literals(y=y).launchRaw((1, 1, 1), (1, 1, 1))
    assert y.tolist() == [0.1, 1e-3, 3.14159265358979, 0.7, 2.718281828459045]


def test_float64_widens_arguments_structs_and_arithmetic(tmp_path: Path) -> None:
    shader = tmp_path / "wide.slang"
    shader.write_text(
        "struct Pair { float a; float2 b; TensorView<float> t; };\n"
        "[AutoPyBindCUDA][CUDAKernel]\n"
        "void k(Pair p, float3x3 m, float s[2], double d, TensorView<float> y)\n"
        "{ y[0] = p.a; y[1] = p.b.y; y[2] = p.t[0]; y[3] = m[0][1]; y[4] = s[1]; y[5] = d; y[6] = sqrt(p.a + 1.9); }\n"
    )
    module = load_module(shader, precision="float64")
    y = torch.zeros(7, dtype=torch.float64)
    matrix = [[0, 0.1, 0], [0, 0, 0], [0, 0, 0]]
    pair = module.Pair(0.1, (0, 0.1), torch.tensor([0.1], dtype=torch.float64))
    module.k(p=pair, m=matrix, s=(0, 0.1), d=0.1, y=y).launchRaw((1, 1, 1), (1, 1, 1))
    assert y.tolist() == [0.1] * 6 + [pytest.approx(2**0.5, rel=1e-15)]
    with pytest.raises(ValueError, match=r"k: p\.t must be a tensor of float64, got float32"):
        module.k(p=pair._replace(t=torch.zeros(1)), m=matrix, s=(0, 0.1), d=0.1, y=y)


# Reload.


def test_reload_tells_whether_anything_changed(tmp_path: Path, device: str) -> None:
    imported, shader = tmp_path / "imported.slang", tmp_path / "main.slang"
    imported.write_text("public float value() { return 1; }\n")
    shader.write_text("import imported;\n" + KERNEL.format("value()"))
    module = load_module(shader, device=device)
    kernel = module.fill
    assert module.reload() is False
    imported.write_text("public float value() { return 2; }\n")
    assert module.reload() is True
    assert module.reload() is False
    y = torch.zeros(1, device=device)
    kernel(y=y).launchRaw((1, 1, 1), (1, 1, 1))  # a kernel that was taken before is the new one
    assert y.item() == 2


def test_reload_follows_changed_arguments(tmp_path: Path, device: str) -> None:
    shader = tmp_path / "main.slang"
    shader.write_text(KERNEL.format(1))
    module = load_module(shader, device=device)
    kernel, pending = module.fill, module.fill(y=(y := torch.zeros(1, device=device)))
    shader.write_text(KERNEL.format("a").replace("y)", "y, float a)"))
    assert module.reload()
    assert kernel.argument_names == ["y", "a"]
    with pytest.raises(ValueError, match=r"fill: missing \['a'\]"):
        kernel(y=y)
    pending.launchRaw((1, 1, 1), (1, 1, 1))  # what was made before the reload belongs to the old build
    assert y.item() == 1
    shader.write_text(KERNEL.format(1).replace("fill", "fill_anew"))
    assert module.reload()
    with pytest.raises(ValueError, match=r"fill: the module no longer has this kernel; it has \['fill_anew'\]"):
        kernel(y=y)


def test_a_failed_reload_keeps_the_last_good_build(tmp_path: Path, device: str) -> None:
    shader = tmp_path / "main.slang"
    shader.write_text(KERNEL.format(5))
    module = load_module(shader, device=device)
    shader.write_text(KERNEL.format("nothing_of_that_name"))
    for _ in range(2):
        with pytest.raises(ShaderError, match="nothing_of_that_name"):
            module.reload()
        assert filled(module, device) == 5
    shader.write_text(KERNEL.format(6))
    assert module.reload() and filled(module, device) == 6
    shader.unlink()
    with pytest.raises(ShaderError):
        module.reload()
    assert filled(module, device) == 6


def test_fast_math_does_not_reach_beyond_its_module(tmp_path: Path) -> None:
    """Linked the usual way, -ffast-math makes the whole process flush denormal numbers to zero."""
    shader = tmp_path / "main.slang"
    shader.write_text(KERNEL.format(5))
    module = load_module(shader, device="cpu", fast_math=True)
    assert filled(module, "cpu") == 5
    assert torch.tensor([1e-40]).mul(0.5).item() > 0
