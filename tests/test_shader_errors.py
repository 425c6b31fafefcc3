"""`ShaderError`: what slangc, the C++ compiler and the engine refuse, told by file, line, column and source line."""

from __future__ import annotations

import pickle
import re
import shutil
import sys
from pathlib import Path

import pytest

from slangrast import Diagnostic, ShaderError, load_module
from slangrast.runtime.errors import parse_host_compiler_output, parse_slangc_output

KERNEL = "[AutoPyBindCUDA][CUDAKernel]\nvoid k({}) {{ {} }}\n"


@pytest.fixture
def shader(tmp_path: Path) -> Path:
    return tmp_path / "broken shader.slang"


def refusal(shader: Path, text: str, **arguments: object) -> ShaderError:
    shader.write_text(text)
    with pytest.raises(ShaderError) as caught:
        load_module(shader, device="cpu", **arguments)
    return caught.value


# What slangc says.

SLANGC_ERRORS = {
    "a syntax error": (KERNEL.format("TensorView<float> y", "y[0] = ;"), 2, 38, "syntax error"),
    "an unknown name": (KERNEL.format("TensorView<float> y", "y[0] = nothing;"), 2, 38, "nothing"),
    "a missing import": ("import nowhere;\n" + KERNEL.format("int a", ""), 1, 8, "cannot open file 'nowhere.slang'"),
    "a type that Python cannot give": (
        KERNEL.format("StructuredBuffer<float> b", ""),
        2,
        6,
        "Could not automatically map 'StructuredBuffer<float>'",
    ),
    "a parameter that should be no_diff": (
        KERNEL.format("DiffTensorView y, float a", "y.store(0, a);").replace("[CUDA", "[Differentiable][CUDA"),
        2,
        32,
        "no_diff",
    ),
}


@pytest.mark.parametrize("name", SLANGC_ERRORS)
def test_slangc_errors_have_a_place(shader: Path, name: str) -> None:
    text, line, column, message = SLANGC_ERRORS[name]
    error = refusal(shader, text)
    first = error.diagnostics[0]
    assert (Path(first.file), first.line, first.column) == (shader, line, column)
    assert message in first.message and first.severity == "error"
    source = text.splitlines()[line - 1]
    assert f"{shader}:{line}:{column}: error: {first.message}\n    {source}\n    {' ' * (column - 1)}^" in str(error)
    assert str(error).startswith(f"slangc could not compile {shader}\n")


def test_errors_in_an_imported_file_name_that_file(shader: Path, tmp_path: Path) -> None:
    (tmp_path / "part.slang").write_text("\n\npublic float part() { return nothing; }\n")
    error = refusal(shader, "import part;\n" + KERNEL.format("int a", ""))
    first = error.diagnostics[0]
    assert (Path(first.file), first.line) == (tmp_path / "part.slang", 3)
    assert "    public float part() { return nothing; }\n" in str(error)


def test_warnings_are_no_errors(shader: Path) -> None:
    shader.write_text(KERNEL.format("TensorView<int> y", "for (int i = 0; i < 2; i++) {} y[0] = 3000000000;"))
    assert load_module(shader, device="cpu").kernels == ["k"]


@pytest.mark.parametrize("text", ["", "void k(TensorView<float> y) { y[0] = 1; }", "[CUDAKernel] void k(int a) {}"])
def test_a_file_without_kernels_says_how_to_mark_one(shader: Path, text: str) -> None:
    error = refusal(shader, text)
    assert str(error) == f"{shader} has no kernel: mark one with [AutoPyBindCUDA] and [CUDAKernel]"


@pytest.mark.parametrize("type_name", ["uint", "uint3", "uint16_t", "uint64_t"])
def test_tensors_without_a_torch_type_are_explained(shader: Path, type_name: str) -> None:
    error = refusal(shader, KERNEL.format(f"TensorView<{type_name}> y", "y[0] = 1;"))
    assert "a type that torch tensors do not share with Slang; allowed are float, double" in error.summary
    assert [(d.line, d.column) for d in error.diagnostics] == [(2, 8)]


def test_a_crash_of_slangc_is_told(shader: Path) -> None:
    error = refusal(shader, "[AutoPyBindCUDA]\nvoid k(TensorView<float> y) { y[0] = 1; }\n")
    assert re.search(r"^slangc crashed \(signal \d+\) on .*\[AutoPyBindCUDA\] without \[CUDAKernel\]", str(error))


def test_a_kernel_without_arguments_is_explained(shader: Path) -> None:
    assert "a kernel must take at least one argument" in str(refusal(shader, KERNEL.format("", "")))


def test_tensors_that_cannot_be_told_apart_are_refused(shader: Path) -> None:
    text = "struct S { TensorView<float> b; };\n" + KERNEL.format("S a, TensorView<int> a_b", "a.b[0] = a_b[0];")
    assert "are both called a_b" in str(refusal(shader, text))


@pytest.mark.parametrize("value", ["no_such_program", "/dev/null"])
def test_a_slangc_that_is_not_there(shader: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("SLANGC_PATH", value)
    assert f"SLANGC_PATH names '{value}'" in str(refusal(shader, KERNEL.format("int a", "")))


# What the C++ compiler says.


def test_cxx_errors_speak_of_the_shader(shader: Path) -> None:
    text = 'float f(float x)\n{\n    __intrinsic_asm "not_a_function($0)";\n}\n'
    error = refusal(shader, text + KERNEL.format("TensorView<float> y", "y[0] = f(y[1]);"))
    assert re.match(
        r"the C\+\+ compiler \(.*\) could not compile .*broken shader\.slang; it holds inline CUDA", str(error)
    )
    assert {Path(d.file) for d in error.diagnostics} == {shader}
    assert (3, 5, "inline CUDA") in [(d.line, d.column, d.message) for d in error.diagnostics]
    assert any("not_a_function" in d.message and d.line in (3, 6) for d in error.diagnostics)
    assert "y[0] = f(y[1])" in str(error)


def test_inline_cuda_that_is_cxx_as_well_runs(shader: Path) -> None:
    text = 'float f(float x) { __requirePrelude("#define TWICE 2.f"); __intrinsic_asm "(($0) * TWICE)"; }\n'
    shader.write_text(text + KERNEL.format("TensorView<float> y", "y[0] = f(y[0]);"))
    assert load_module(shader, device="cpu").kernels == ["k"]


def test_headers_of_cuda_are_explained(shader: Path) -> None:
    text = 'float f(float x) { __requirePrelude("#include <cuda_of_nobody.h>"); return x; }\n'
    error = refusal(shader, text + KERNEL.format("TensorView<float> y", "y[0] = f(y[0]);"))
    assert "it holds inline CUDA" in error.summary and "device='cuda'" in error.summary
    assert (shader, 1) in [(Path(d.file), d.line) for d in error.diagnostics]


def test_variables_that_slangc_lost_are_explained(shader: Path) -> None:
    body = """
    uint i = cudaThreadIdx().x;
    if (i >= x.size(0))
        return;
    float value = 0;
    [MaxIters(8)]
    for (int k = int(w.size(0)) - 1; k >= 0; k--)
        value = value * x[i] + w[k];
    x.storeOnce(i, value);"""
    text = KERNEL.format("DiffTensorView x, DiffTensorView w", body).replace("[CUDA", "[Differentiable][CUDA")
    error = refusal(shader, text)
    assert "slangc left out a variable of its own" in error.summary and "count upwards" in error.summary
    assert error.diagnostics[0].line == 9


# What the CPU engine refuses.

NEEDS_A_GPU = {
    "groupshared": ("groupshared float g[4];\n" + KERNEL.format("TensorView<float> y", "g[0] = 1; y[0] = g[0];"), 1),
    "barrier": (KERNEL.format("TensorView<float> y", "GroupMemoryBarrierWithGroupSync(); y[0] = 1;"), 2),
    "texture": (
        "Texture2D<float> t;\nSamplerState s;\n"
        + KERNEL.format("TensorView<float> y", "y[0] = t.Sample(s, float2(0));"),
        4,
    ),
    "global": ("uniform float g;\n" + KERNEL.format("TensorView<float> y", "y[0] = g;"), 3),
}


@pytest.mark.parametrize("name", NEEDS_A_GPU)
def test_what_needs_a_gpu_is_refused_at_load(shader: Path, name: str) -> None:
    text, line = NEEDS_A_GPU[name]
    error = refusal(shader, text)
    assert re.match(r"the CPU engine cannot run a kernel that uses (groupshared|barriers|texture|a global)", str(error))
    (place,) = error.diagnostics
    assert (Path(place.file), place.line) == (shader, line)
    assert text.splitlines()[line - 1] in str(error) and "^" not in str(error).splitlines()[-1]


def test_a_texture_as_an_argument_is_named(shader: Path) -> None:
    error = refusal(shader, KERNEL.format("Texture2D<float> t, TensorView<float> y", "y[0] = t[uint2(0, 0)];"))
    assert "Could not automatically map 'Texture2D' to a host type" in str(error)


# Compilers that are not there.


def test_no_compiler_says_what_to_install(shader: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SLANGRAST_CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "ziglang", None)  # whose compiler would do as well
    assert "no C++ compiler was found" in str(refusal(shader, KERNEL.format("int a", "")))
    assert "install g++ or clang++" in str(refusal(shader, KERNEL.format("int a", "")))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("no-such-compiler -O1", "SLANGRAST_CXX names 'no-such-compiler -O1', which is no program"),
        ("'", "SLANGRAST_CXX must be a command"),
        ("   ", "SLANGRAST_CXX names '   ', which is no program"),
        ("false", r"the C\+\+ compiler \(false\) could not compile"),
    ],
)
def test_a_compiler_that_does_not_work(
    shader: Path, monkeypatch: pytest.MonkeyPatch, command: str, message: str
) -> None:
    monkeypatch.setenv("SLANGRAST_CXX", command)
    assert re.search(message, str(refusal(shader, KERNEL.format("int a", ""))))


def test_a_compiler_that_is_no_program_of_this_machine(
    shader: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "compiler").write_bytes(b"\x00\x01")
    (tmp_path / "compiler").chmod(0o755)
    monkeypatch.setenv("SLANGRAST_CXX", str(tmp_path / "compiler"))
    assert "the C++ compiler could not be started" in str(refusal(shader, KERNEL.format("int a", "")))


def test_a_compiler_that_is_killed(shader: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "compiler"
    script.write_text('#!/bin/sh\n[ "$1" = --version ] || kill -9 $$\n')
    script.chmod(0o755)
    monkeypatch.setenv("SLANGRAST_CXX", str(script))
    assert "ended by signal 9: out of memory?" in str(refusal(shader, KERNEL.format("int a", "")))


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++, whose messages depend on the language")
def test_messages_are_understood_in_any_language(shader: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LANG", "LC_ALL", "LANGUAGE"):
        monkeypatch.setenv(name, "de_DE.UTF-8")
    monkeypatch.setenv("SLANGRAST_CXX", "g++")
    text = 'float f(float x) { __intrinsic_asm "not_a_function($0)"; }\n'
    error = refusal(shader, text + KERNEL.format("TensorView<float> y", "y[0] = f(y[1]);"))
    assert any("not_a_function" in d.message for d in error.diagnostics)


# The exception itself.


def test_errors_survive_pickling(shader: Path) -> None:
    error = refusal(shader, SLANGC_ERRORS["a syntax error"][0])
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is ShaderError
    assert (str(again), again.diagnostics, again.output) == (str(error), error.diagnostics, error.output)


def test_an_error_without_diagnostics_shows_the_output() -> None:
    assert str(ShaderError("summary", [], "what was printed\n")) == "summary\nwhat was printed"
    assert str(ShaderError("summary")) == "summary"


def test_a_diagnostic_without_place_or_file() -> None:
    assert str(Diagnostic("", 0, 0, "message")) == "error: message"
    assert str(Diagnostic("nowhere.slang", 3, 4, "message")) == "nowhere.slang:3:4: error: message"


def test_messages_of_slangc_are_read() -> None:
    output = (
        "warning[E1]: mild\n --> a.slang:1:1\n"
        "error[E2]: title\n --> /x y/a:b.slang:12:3\n  |\n12 | code | more\n   |   ^^~ detail\n---'\n"
        "error[E3]: no place\n"
        "error[E2]: in the library\n--> hlsl.meta.slang:1:2\n | why\n-'\n"
    )
    assert parse_slangc_output(output) == [
        Diagnostic("/x y/a:b.slang", 12, 3, "[E2] title: detail"),
        Diagnostic("", 0, 0, "[E3] no place"),
        Diagnostic("hlsl.meta.slang", 1, 2, "[E2] in the library: why"),
    ]


def test_messages_of_cxx_compilers_are_read() -> None:
    output = "a b:c.slang:3:7: error: one\nx.h:1: fatal error: two\nx.h:2:1: warning: three\n  4 | code: error: no\n"
    assert parse_host_compiler_output(output) == [
        Diagnostic("a b:c.slang", 3, 7, "one"),
        Diagnostic("x.h", 1, 0, "two"),
    ]
