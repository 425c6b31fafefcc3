"""Torch bindings that serve several programs: only those that declare the same kernels, as far as that is certain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import slangrast as sr
from slangrast.runtime import slang_compiler
from slangrast.runtime.slang_compiler import compile_slang
from slangrast.runtime.slang_service import _Worker

TYPES = "public typealias Element = float;\npublic struct Pair { public TensorView<Element> y; public float gain; }\n"
KERNEL = """import types;
namespace inner { struct Unused { float unused; }; }
[AutoPyBindCUDA][CUDAKernel]
void fill(Pair pair, TensorView<float> z[2])
{
    pair.y[0] = Element(2 * pair.gain);
    z[1][0] = 1;
}
"""


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., str]:
    def save(kernel: str = KERNEL, types: str = TYPES) -> str:
        (tmp_path / "types.slang").write_text(types)
        (tmp_path / "fill.slang").write_text(kernel)
        return str(tmp_path / "fill.slang")

    return save


@pytest.fixture
def bindings_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The jobs of workers that made a torch binding since."""
    monkeypatch.setenv("SLANGRAST_CACHE", str(tmp_path / "cache"))
    made: list[str] = []
    ask = _Worker.ask

    def listed(self: _Worker, job: dict[str, Any]) -> dict[str, Any]:
        made.extend([job["wanted"]] * (job["wanted"] == "binding"))
        return ask(self, job)

    monkeypatch.setattr(_Worker, "ask", listed)
    return made


def without_workers(path: str) -> slang_compiler.SlangOutput:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slang_compiler, "compile_in_worker", lambda *_: None)
        return compile_slang(path, {}, ())


def descriptions(output: slang_compiler.SlangOutput) -> list[str]:
    return sorted(line for line in output.binding_text.splitlines() if line and not line.startswith("#line"))


def test_another_body_needs_no_other_binding(save: Callable[..., str], bindings_made: list[str]) -> None:
    first = compile_slang(save(), {}, ())
    for kernel in (KERNEL.replace("2 *", "3 *"), KERNEL.replace("= 1;", "= 4;"), "\n\n" + KERNEL):
        output = compile_slang(save(kernel), {}, ())
        assert output.binding_text == first.binding_text and output.cuda_text != first.cuda_text
        assert descriptions(output) == descriptions(without_workers(save(kernel)))
    assert bindings_made == ["binding"]


CHANGES = {
    "the name of an argument": (KERNEL.replace("z", "zed"), TYPES),
    "the name of a field": (KERNEL.replace("gain", "gains"), TYPES.replace("gain", "gains")),
    "the elements of a tensor in a field, behind an alias in another file": (
        KERNEL,
        TYPES.replace("float;", "int;", 1),
    ),
    "the elements of tensors in an array": (KERNEL.replace("TensorView<float>", "TensorView<half>"), TYPES),
    "vectors as elements": (KERNEL.replace("TensorView<float>", "TensorView<float2>"), TYPES),
    "the length of an array": (KERNEL.replace("z[2]", "z[3]"), TYPES),
    "the name of a struct": (KERNEL.replace("Pair", "Couple"), TYPES.replace("Pair", "Couple")),
    "the name of the kernel": (KERNEL.replace("fill", "fills"), TYPES),
    "another kernel": (KERNEL + KERNEL[KERNEL.index("[Auto") :].replace("fill", "fills"), TYPES),
    "a derivative": (KERNEL.replace("void fill", "[Differentiable]\nvoid fill").replace("2 *", "detach(2) *"), TYPES),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_declarations_need_another_binding(
    change: str, save: Callable[..., str], bindings_made: list[str]
) -> None:
    before = compile_slang(save(), {}, ())
    after = compile_slang(save(*CHANGES[change]), {}, ())
    assert bindings_made == ["binding"] * 2
    assert descriptions(after) != descriptions(before)


UNCERTAIN = {
    # Reflection does not show the fields that a struct inherits.
    "what is inherited": (
        "struct Base { TensorView<float> y; };\nstruct Derived : Base { float gain; };\n"
        "[AutoPyBindCUDA][CUDAKernel]\nvoid fill(Derived all) { all.y[0] = 1; }\n",
        ("TensorView<float>", "TensorView<int>"),
    ),
    # Nor is it sure which of two a name means.
    "two of one name": (
        "namespace inner {\n[AutoPyBindCUDA][CUDAKernel]\nvoid fill(TensorView<float> y) { y[0] = 1; }\n}\n"
        "void fill(TensorView<float> other, int more) {}\n",
        ("TensorView<float> y", "TensorView<int> y"),
    ),
    "a namespace": (
        "namespace inner {\n[AutoPyBindCUDA][CUDAKernel]\nvoid fill(TensorView<float> y) { y[0] = 1; }\n}\n",
        ("TensorView<float> y", "TensorView<int> y"),
    ),
}


@pytest.mark.parametrize("case", UNCERTAIN)
def test_where_reflection_does_not_tell_all_every_program_has_its_own(
    case: str, save: Callable[..., str], bindings_made: list[str]
) -> None:
    kernel, (old, new) = UNCERTAIN[case]
    before = compile_slang(save(kernel), {}, ())
    after = compile_slang(save(kernel.replace(old, new)), {}, ())
    assert "kFloat32" in before.binding_text and "kInt32" in after.binding_text
    assert compile_slang(save(kernel), {}, ()).binding_text == before.binding_text
    assert bindings_made == ["binding"] * 3


def test_a_reload_takes_tensors_of_another_type(save: Callable[..., str]) -> None:
    module = sr.load_module(save(), device="cpu")

    def fill(dtype: torch.dtype) -> float:
        y, z = torch.zeros(1, dtype=dtype), torch.zeros(1)
        module.launch(module.fill(pair=(y, 1.5), z=(z, z)), over=(1,))
        return y.item()

    assert fill(torch.float32) == 3
    save(types=TYPES.replace("float;", "int;", 1))
    module.reload()
    assert fill(torch.int32) == 3
    with pytest.raises(ValueError, match="int32"):
        fill(torch.float32)
