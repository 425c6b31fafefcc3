"""How the CUDA engine has slangtorch build: folders, flags, locks, rebuilds and messages.

A stand-in plays slangtorch, so that these run without CUDA. The real one: make cuda-check.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from slangrast import ShaderError, load_module
from slangrast.runtime import slang_compiler
from tests.slangtorch_stand_in import StandIn, install, parse_depfile, programs, write_shader


@pytest.fixture
def slangtorch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StandIn:
    return install(monkeypatch, tmp_path)


@pytest.fixture
def shader(tmp_path: Path) -> Path:
    """A shader of two files, in a folder with a space."""
    folder = tmp_path / "my shaders"
    folder.mkdir()
    (folder / "imported.slang").write_text("float twice(float x)\n{\n    return 2.f * x;\n}\n")
    return write_shader(
        folder / "main.slang",
        "void doubled(DiffTensorView values, DiffTensorView out_values)",
        "out_values.storeOnce(0, values[0] + no_diff twice(FACTOR));",
        "import imported;\n#ifndef FACTOR\n#define FACTOR 1.f\n#endif\n",
    )


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


def test_bfloat16_is_turned_on_where_it_is_used(slangtorch: StandIn, tmp_path: Path) -> None:
    """slangtorch turns on half alone; nvcc then knows no bfloat16."""
    file = write_shader(
        tmp_path / "bf16.slang", "void take(TensorView<BFloat16> out_x)", "out_x[0] = out_x[1];", "", False
    )
    load_module(file, device="cuda")
    assert [build["flags"] for build in slangtorch.builds] == [["-DSLANG_CUDA_ENABLE_BF16=1"]]


def test_second_load_builds_nothing(slangtorch: StandIn, shader: Path) -> None:
    first, second = load_module(shader, device="cuda"), load_module(shader, device="cuda")
    assert len(slangtorch.builds) == 1
    assert first._any_build().binding is second._any_build().binding


def test_nothing_of_the_build_folder_is_kept(slangtorch: StandIn, shader: Path, tmp_path: Path) -> None:
    """So no stale lock of slangtorch's can ever be met, nor a half-written file."""
    build = load_module(shader, device="cuda")._any_build()
    (extension,) = slangtorch.extensions
    kept = sorted(path.name for path in extension.parent.iterdir())
    assert kept == sorted([extension.name, "binding.txt", "checksums.json", "files.json", "program.cu"])
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


def test_what_is_changed_in_slangtorch_is_put_back(
    slangtorch: StandIn, shader: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It reads no list of files, where it would trip over the space in the folder's name, and prints nothing."""
    load_module(shader, device="cuda")
    slangtorch.error = "no"
    with pytest.raises(ShaderError):
        load_module(shader, device="cuda", fast_math=True)
    assert [build["dependencies"] for build in slangtorch.builds] == [[], []]
    assert vars(sys.modules["slangtorch"].slangtorch) == {"parseDepfile": parse_depfile}
    assert [build["prints"](shader) for build in slangtorch.builds] == [None, None]
    assert capsys.readouterr() == ("", "")


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
    said = said.format(shader=shader)
    slangtorch.error = f"Error building extension:\n[1/3] nvcc ...\n{said}\n{said}\n1 error\n"
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
    programs(tmp_path / "environment", "ninja")
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
    file = write_shader(tmp_path / "take.slang", f"void take(TensorView<float> out_x, {argument})", "", before, False)
    with pytest.raises(ShaderError, match=f"{said}.*use "):
        load_module(file, device="cuda")
    assert slangtorch.builds == []
