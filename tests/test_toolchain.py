"""The C++ compiler that pip brings: found where the machine has none, and as good as one of the machine's."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import slangrast as sr
from slangrast.runtime.cache import cache_folder
from slangrast.runtime.host_compiler import compilers_found, host_compiler

CHECKOUT = Path(__file__).resolve().parent.parent
ONE_LINE = Path(sr.__file__).parent / "doctor" / "canaries" / "one_line.slang"
ZIGLANG = importlib.util.find_spec("ziglang")
SYSTEM_COMPILER = next((shutil.which(name) for name in ("clang++", "g++", "c++") if shutil.which(name)), None)

# A `zig` that keeps a diary and lets the machine's own compiler do the work.
_STAND_IN = """#!/bin/sh
[ "$1" = c++ ] || exit 9
shift
echo "global=$ZIG_GLOBAL_CACHE_DIR local=$ZIG_LOCAL_CACHE_DIR flags=$*" >>{diary}
[ "$1" = --version ] || /bin/mkdir -p "$ZIG_GLOBAL_CACHE_DIR"
PATH={path}
exec {compiler} "$@"
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package ziglang, no other compiler, and an empty cache; the file in which the package's calls are written."""
    assert SYSTEM_COMPILER is not None
    package = tmp_path / "packages" / "ziglang"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('to import ziglang is to run it')\n")
    diary = tmp_path / "diary"
    parts = {"diary": diary, "path": os.environ["PATH"], "compiler": SYSTEM_COMPILER}
    (package / "zig").write_text(_STAND_IN.format(**{name: shlex.quote(str(part)) for name, part in parts.items()}))
    (package / "zig").chmod(0o755)
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setenv("SLANGRAST_CACHE", str(tmp_path / "cache"))
    for name in ("SLANGRAST_CXX", "ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    return diary


def run_one_line() -> torch.Tensor:
    module = sr.load_module(ONE_LINE, device="cpu")
    x = torch.linspace(0, 2, 10)
    out = torch.empty_like(x)
    module.launch(module.one_line(x=x, out_y=out), over=(10,))
    return out - x * torch.exp(-x)


def test_the_package_is_used_where_there_is_nothing_else(
    stand_in: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert host_compiler().is_zig
    assert run_one_line().abs().max() < 1e-6
    builds = [line for line in stand_in.read_text().splitlines() if "-shared" in line]
    # The kernel; the thread pool and the packing of arguments where no test has loaded them.
    assert 1 <= len(builds) <= 3
    for line in builds:
        assert f"global={tmp_path}/cache/zig " in line  # kept, though a home may be read-only
        assert f"local={tmp_path}/cache/building/" in line  # not kept
        assert "flags=-fno-sanitize=undefined " in line
    assert not list((tmp_path / "cache" / "building").iterdir())
    parts = list((tmp_path / "cache" / "entries").glob("*/*"))
    assert parts and all(part.is_file() for part in parts)
    assert caplog.text.count("ziglang's is used. It builds its C++ library first") == 1  # only before the first build


def test_a_cache_of_zigs_own_is_respected(
    stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ZIG_GLOBAL_CACHE_DIR", str(tmp_path / "theirs"))
    (tmp_path / "theirs").mkdir()
    run_one_line()
    assert f"global={tmp_path}/theirs " in stand_in.read_text().splitlines()[-1]
    assert caplog.text == ""


def test_a_compiler_of_the_machine_comes_first(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert SYSTEM_COMPILER is not None
    monkeypatch.setenv("PATH", str(Path(SYSTEM_COMPILER).parent))
    found = list(compilers_found())
    assert [compiler.is_zig for compiler in found] == [False] * (len(found) - 1) + [True]
    assert not host_compiler().is_zig


def test_a_package_without_its_program_is_none(stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty as well"))
    (tmp_path / "packages" / "ziglang" / "zig").unlink()
    with pytest.raises(sr.ShaderError, match=r"no C\+\+ compiler was found.*pip install 'slangrast\[toolchain\]'"):
        host_compiler()


_RENDER = """
import sys, torch, slangrast as sr
from slangrast.runtime.host_compiler import host_compiler
mesh = sr.icosphere(1)
camera = sr.Camera.orbit(3.0, 20.0, torch.tensor([30.0]), fov_degrees=45)
positions = camera.project(mesh.vertices).detach().requires_grad_()
colors = torch.linspace(0, 1, 3 * len(mesh.vertices)).reshape(-1, 3)
image = sr.soft_rasterize(positions, mesh.triangles, colors, (37, 53), sigma=1e-3, gamma=1e-2)
(image.color.square().sum() + image.silhouette.sum()).backward()
torch.save((host_compiler().is_zig, image.color.detach(), positions.grad), sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(ZIGLANG is None, reason="needs the package ziglang: pip install 'slangrast[toolchain]'")
def test_ziglang_renders_what_other_compilers_do(tmp_path: Path) -> None:
    """In a process without any program of the machine. Zig's C++ library, a minute's work, is taken from the user's
    cache where it is there already."""
    library = os.environ.get("ZIG_GLOBAL_CACHE_DIR") or str(cache_folder() / "zig")
    bare = {
        **os.environ,
        "PATH": str(tmp_path),
        "HOME": str(tmp_path / "nowhere"),
        "SLANGRAST_CACHE": str(tmp_path / "cache"),
    }
    bare.pop("SLANGRAST_CXX", None)
    bare.update(ZIG_GLOBAL_CACHE_DIR=library, PYTHONPATH=os.pathsep.join(filter(None, (str(CHECKOUT), *sys.path))))
    results = []
    for name, environment in {"zig": bare, "machine": {**bare, "PATH": os.environ["PATH"]}}.items():
        if name == "machine" and SYSTEM_COMPILER is None:
            pytest.skip("no other compiler to compare with")
        command = [sys.executable, "-c", _RENDER, str(tmp_path / name)]
        subprocess.run(command, env=environment, check=True)
        results.append(torch.load(tmp_path / name))
    (is_zig, color, gradient), (is_other, expected, expected_gradient) = results
    assert is_zig and not is_other
    assert not (tmp_path / "nowhere").exists()
    torch.testing.assert_close(color, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-4 * float(expected_gradient.abs().max()))
