"""What slangtorch leaves to its caller, tried on a small shader: folders, flags, locks, rebuilds and messages."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from slangrast import Module, ShaderError, load_module

_QUICK = 5.0  # seconds; a build takes twenty and more

_IMPORTED = "float twice(float x)\n{\n    return 2.f * x;\n}\n"
_SHADER = """import imported;

[AutoPyBindCUDA]
[CUDAKernel]
[Differentiable]
void double_all(DiffTensorView values, DiffTensorView out_values)
{
    uint i = cudaThreadIdx().x;
    out_values.storeOnce(i, values[i] + no_diff twice(1.f));
}
"""
_BROKEN_IN_CUDA = """float broken(float x) { __intrinsic_asm "no_such_function($0)"; }

[AutoPyBindCUDA]
[CUDAKernel]
void fails(TensorView<float> out_values)
{
    out_values[0] = broken(2.f);
}
"""


@contextlib.contextmanager
def watched_builds() -> Iterator[list[list[str]]]:
    """The nvcc flags of each build from here on, as slangtorch hands them to torch."""
    import slangtorch

    inner, flags = slangtorch.slangtorch.jit_compile, []

    def watched(*arguments: Any, **options: Any) -> Any:
        flags.append(list(options["extra_cuda_cflags"]))
        return inner(*arguments, **options)

    with patch.object(slangtorch.slangtorch, "jit_compile", watched):
        yield flags


def listing(folder: Path) -> dict[Path, int]:
    """Every file below `folder`, with the time it was last written."""
    return {folder: 0, **{path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}}


def expect_unchanged(before: dict[Path, int]) -> str:
    folder = next(iter(before))
    after = listing(folder)
    assert after == before, f"{folder} changed: {set(after.items()) ^ set(before.items())}"
    return "ok"


def checks(folder: Path, builds: list[list[str]]) -> dict[str, Callable[[], str]]:
    """Each check by name, in the order that they must run in."""
    author = _Author(folder / "my shaders", folder / "cache", builds)  # a space, which slangtorch cannot read in paths
    return {
        "flags: no fast math, none left from an earlier build": lambda: expect_same_flags(builds),
        "fast_math=True: that flag once, and only there": author.fast_math,
        "a build that was killed: the next one does not wait for it": author.after_a_killed_build,
        "a second load: from memory and cache, no build": author.second_load,
        "a second process: from the cache, no nvcc, no ninja": author.second_process,
        "an edit of an imported file: reload() builds again": author.edit,
        "the edit undone: the first build, from the cache": author.undo,
        "slangc's errors: file and line, the last build stays": author.slangc_error,
        "nvcc's errors: file and line": author.nvcc_error,
        "nothing was written beside the author's shaders": author.expect_clean,
    }


def expect_same_flags(builds: list[list[str]]) -> str:
    assert len(builds) > 1 and all(flags == builds[0] for flags in builds), f"flags differ between builds: {builds}"
    flags = builds[0]
    assert len(flags) == len(set(flags)), f"flags stand twice: {flags}"
    assert not any("fast_math" in flag or "fast-math" in flag for flag in flags), f"fast math is on: {flags}"
    return f"ok, {len(builds)} builds"


class _Author:
    """Somebody who writes a shader of two files and reloads it."""

    def __init__(self, folder: Path, cache: Path, builds: list[list[str]]) -> None:
        folder.mkdir()
        self.folder, self.cache, self.builds = folder, cache, builds
        self.shader, self.imported, self.broken = (folder / f"{name}.slang" for name in ("main", "imported", "cuda"))
        self.shader.write_text(_SHADER)
        self.imported.write_text(_IMPORTED)
        self.broken.write_text(_BROKEN_IN_CUDA)
        self.before = listing(folder)

    def load(self) -> Module:
        return load_module(self.shader, device="cuda")

    def fast_math(self) -> str:
        class Stopped(Exception):
            pass

        given: list[str] = []

        def stop(*arguments: Any, **options: Any) -> None:
            given.extend(options["extra_cuda_cflags"])
            raise Stopped

        import slangtorch

        with patch.object(slangtorch.slangtorch, "jit_compile", stop), contextlib.suppress(ShaderError):
            load_module(self.shader, device="cuda", fast_math=True)
        assert given.count("--use_fast_math") == 1, f"flags {given}"
        return "ok"

    def after_a_killed_build(self) -> str:
        code = f"from slangrast import load_module; load_module({str(self.shader)!r}, device='cuda')"
        killed = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 120
            while not list(self.cache.glob("building/*/slangtorch/.slangtorch_cache/*/*/*/lock")):
                assert killed.poll() is None and time.monotonic() < deadline, "the build to be killed never began"
                time.sleep(0.05)
            time.sleep(1)  # into the compilers
        finally:
            os.killpg(killed.pid, signal.SIGKILL)
            killed.wait()
        assert list(self.cache.glob("building/*/slangtorch/.slangtorch_cache/*/*/*/lock")), "no stale lock to meet"
        self.first = self.load()
        self.first_build = self.first._any_build()
        return "ok"

    def second_load(self) -> str:
        builds, start = len(self.builds), time.perf_counter()
        again = self.load()._any_build()
        seconds = time.perf_counter() - start
        assert len(self.builds) == builds, "it was built again"
        assert again.key == self.first_build.key and again.binding is self.first_build.binding, "another build"
        assert seconds < _QUICK, f"{seconds:.1f} s"
        return "ok"

    def second_process(self) -> str:
        load = f"load_module({str(self.shader)!r}, device='cuda')"
        code = f"from slangrast import load_module; print({load}._any_build().key)"
        environment = {**os.environ, "PATH": "/nonexistent"}
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert run.stdout.strip() == self.first_build.key, run.stdout + run.stderr
        return "ok"

    def edit(self) -> str:
        self.imported.write_text(_IMPORTED.replace("2.f", "5.f"))
        builds = len(self.builds)
        assert self.first.reload(), "reload() did not see the edit"
        build = self.first._any_build()
        assert len(self.builds) == builds + 1 and build.binding is not self.first_build.binding, "nothing was built"
        assert build.key != self.first_build.key, "the build has the key of the one before the edit"
        program = Path(build.binding.__spec__.origin).with_name("program.cu").read_text()
        assert "5.0f" in program and "2.0f" not in program.partition("twice_0")[2][:200], "built from the old text"
        return "ok"

    def undo(self) -> str:
        self.imported.write_text(_IMPORTED)
        builds = len(self.builds)
        assert self.first.reload() and len(self.builds) == builds, "the first build was not found in the cache"
        assert self.first._any_build().key == self.first_build.key
        assert not self.first.reload(), "reload() without an edit says that something changed"
        return "ok"

    def slangc_error(self) -> str:
        good = self.first._any_build()
        self.imported.write_text(_IMPORTED.replace("2.f * x", "2.f * y"))
        error = _shader_error(self.first.reload)
        place = error.diagnostics[0]
        self.imported.write_text(_IMPORTED)
        assert (place.file, place.line) == (str(self.imported), 3), f"{place!r}"
        assert "undefined identifier" in str(error) and "2.f * " in str(error), str(error)
        assert self.first._any_build() is good, "the last good build was given up"
        return "ok"

    def nvcc_error(self) -> str:
        error = _shader_error(lambda: load_module(self.broken, device="cuda"))
        assert error.diagnostics, f"no diagnostics: {error}"
        place = error.diagnostics[0]
        assert (place.file, place.line) == (str(self.broken), 7) and "no_such_function" in place.message, f"{place!r}"
        return "ok"

    def expect_clean(self) -> str:
        names = {path.name for path in listing(self.folder)}
        assert names == {path.name for path in self.before}, f"found {names}"
        return "ok"


def _shader_error(call: Callable[[], Any]) -> ShaderError:
    try:
        call()
    except ShaderError as error:
        return error
    raise AssertionError("no ShaderError")
