"""Workers that compile: they say what slangc says, and nothing depends on their being there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slangrast import ShaderError, watch
from slangrast.runtime import slang_compiler, slang_service
from slangrast.runtime.slang_compiler import compile_slang, compiler_options, slangc_path
from slangrast.runtime.slang_service import compile_in_worker

REPOSITORY = Path(__file__).parent.parent
SHADERS = Path(__file__).parent / "shaders"
FILL = "[AutoPyBindCUDA][CUDAKernel]\nvoid fill(TensorView<float> y) { y[0] = VALUE; }\n"


@pytest.fixture
def shader(tmp_path: Path) -> str:
    path = tmp_path / "fill.slang"
    path.write_text(FILL)
    return str(path)


def compile_with(shader: str, value: str = "1") -> slang_service.Compiled | None:
    options = ["-target", "cuda", *compiler_options({"VALUE": value}, ())]
    return compile_in_worker(slangc_path(), [shader, *options], lambda text, parameters, make: make())


def idle_worker() -> subprocess.Popen[str]:
    return slang_service._workers._idle[-1].process


@pytest.mark.parametrize("name", ["arguments", "prelude_vectors"])
def test_a_worker_writes_what_slangc_writes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Structs, matrices and all that depends on settings that the library does not share with the program."""
    request = (str(SHADERS / f"{name}.slang"), {}, ())
    before = compile_slang(*request)
    assert idle_worker().poll() is None
    monkeypatch.setattr(slang_compiler, "compile_in_worker", lambda *_: None)
    assert compile_slang(*request) == before


def test_errors_have_their_place(shader: str) -> None:
    Path(shader).write_text(FILL.replace("VALUE", "nothing"))
    with pytest.raises(ShaderError, match=r"fill\.slang:2:\d+: error: .*undefined identifier 'nothing'") as caught:
        compile_with(shader)
    assert caught.value.summary == f"slangc could not compile {shader}"
    Path(shader).write_text(FILL)
    assert compile_with(shader) is not None
    assert compile_with(shader, "nothing") is None  # a place that is in no file: slangc's to explain


def test_one_worker_does_one_job_after_another_and_sees_every_edit(shader: str) -> None:
    compile_with(shader)
    worker = idle_worker().pid
    for value in ("2", "3"):
        Path(shader).write_text(FILL.replace("VALUE", f"{value}.5f"))
        compiled = compile_with(shader)
        assert compiled and f"{value}.5f" in compiled.text and compiled.dependencies == (shader,)
    assert idle_worker().pid == worker


def test_a_save_between_cuda_text_and_binding_is_not_in_either(tmp_path: Path) -> None:
    """Else a binding would be kept for kernels that it does not describe."""
    files = {
        "fill.slang": FILL.replace("VALUE", "1"),
        "element.slang": "public typealias Element = float;",
        "names.h": "",
    }
    files["fill.slang"] = 'import element;\n#include "names.h"\n' + files["fill.slang"].replace("<float>", "<Element>")

    def keep(text: str, parameters: dict[str, Any], make: Callable[[], str]) -> str:
        (tmp_path / "fill.slang").write_text(files["fill.slang"].replace("y", "z").replace("= 1", "= x"))
        (tmp_path / "element.slang").write_text("public typealias Element = int;")
        (tmp_path / "names.h").write_text("#define y zz")
        return make()

    for name, text in files.items():
        (tmp_path / name).write_text(text)
    compiled = compile_in_worker(slangc_path(), [str(tmp_path / "fill.slang"), "-target", "cuda"], keep)
    assert compiled and 'make_tensor_view(y_0, "y", torch::kFloat32, false)' in compiled.binding


@pytest.mark.parametrize("how", ["__include", "#include"])
def test_a_worker_compiles_a_shader_of_several_texts(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which its library cannot read twice."""
    is_module = how == "__include"
    shader, part = tmp_path / "whole.slang", tmp_path / ("part.slang" if is_module else "part.slangh")
    shader.write_text(
        ("module whole;\n__include part;\n" if is_module else '#include "part.slangh"\n')
        + FILL.replace("VALUE", "five()")
    )
    part.write_text("implementing whole;\n" * is_module + "struct Five { float x; };\nfloat five() { return 5.f; }\n")
    options = ["-target", "cuda", *compiler_options({"ANY": how[-7:]}, ())]
    made = compile_in_worker(slangc_path(), [str(shader), *options], lambda text, parameters, make: make())
    assert made and "5.0f" in made.text and {Path(path).name for path in made.dependencies} == {shader.name, part.name}
    monkeypatch.setattr(slang_compiler, "compile_in_worker", lambda *_: None)
    assert slang_compiler._only_descriptions(made.binding) == compile_slang(str(shader), {}, ()).binding_text

    def keep(text: str, parameters: dict[str, Any], make: Callable[[], str]) -> str:
        part.write_text(part.read_text() + "// saved meanwhile\n")
        return make()

    assert compile_in_worker(slangc_path(), [str(shader), *options], keep) is None


def test_workers_end_when_they_are_idle_unless_they_are_kept(shader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    slang_service._workers.end_all()
    monkeypatch.setattr(slang_service, "_SECONDS_IDLE", 1.5)
    slang_service.keep_workers(slangc_path(), 1)
    worker = idle_worker()
    for _ in range(6):
        time.sleep(0.5)
        slang_service.keep_workers(slangc_path(), 1)
    assert worker.poll() is None and idle_worker() is worker
    assert compile_with(shader) is not None and idle_worker() is worker  # to be kept is no job
    worker.wait(timeout=30)
    slang_service.keep_workers(slangc_path(), 1)
    assert idle_worker() is not worker
    slang_service._workers.end_all()


def test_a_watch_has_workers_ready_before_the_first_save(shader: str) -> None:
    slang_service._workers.end_all()
    deadline = time.monotonic() + 30
    with watch(shader):
        while not slang_service._workers._idle and time.monotonic() < deadline:
            time.sleep(0.05)
    assert idle_worker().poll() is None


def test_a_worker_that_dies_is_replaced(shader: str) -> None:
    compile_with(shader)
    idle_worker().kill()
    idle_worker().wait()
    assert compile_with(shader) is not None
    # One that dies while it works: slangc does the job.
    worker = idle_worker()
    worker.send_signal(signal.SIGSTOP)
    os.kill(worker.pid, signal.SIGKILL)
    assert compile_slang(shader, {"VALUE": "1"}, ()).cuda_text


def test_a_worker_of_another_slangc_gets_no_job(shader: str, tmp_path: Path) -> None:
    """Also where it was at work while the other was asked for."""
    folder = tmp_path / "another slangc"
    folder.mkdir()
    (folder / "libslang-compiler.so").symlink_to(slang_service._library_of(slangc_path()))
    options = [shader, "-target", "cuda", "-DVALUE=1"]

    def keep(text: str, parameters: dict[str, Any], make: Callable[[], str]) -> str:
        compiled = compile_in_worker(str(folder / "slangc"), options, lambda text, parameters, make: make())
        assert compiled is None or compiled.text == text
        return make()

    slang_service._workers.end_all()
    if (os.cpu_count() or 1) > 1:  # there are as many workers as processors
        assert compile_in_worker(slangc_path(), options, keep) is not None
    worker = idle_worker()
    with slang_service._workers.one(str(folder / "libslang-compiler.so")) as other:
        assert other.library == str(folder / "libslang-compiler.so") and other.process is not worker
    slang_service._workers.end_all()


def test_without_a_library_slangc_does_it(shader: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lone = tmp_path / "slangc"
    lone.write_text(f'#!/bin/sh\nexec {slangc_path()} "$@"\n')
    lone.chmod(0o755)
    monkeypatch.setenv("SLANGC_PATH", str(lone))
    assert compile_with(shader) is None
    assert "VALUE" not in compile_slang(shader, {"VALUE": "1"}, ()).cuda_text


def test_workers_end_with_the_process_that_asks(shader: str) -> None:
    """Also where it is killed: the pipe tells them."""
    program = f"""
import json, time
from slangrast.runtime import slang_service
from slangrast.runtime.slang_compiler import compile_slang
compile_slang({shader!r}, {{"VALUE": "1"}}, ())
print(slang_service._workers._idle[-1].process.pid, flush=True)
time.sleep(60)
"""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout
        worker = json.loads(process.stdout.readline())
        os.kill(worker, signal.SIGINT)  # Ctrl-C reaches the whole group: the worker leaves the answer to its asker
        time.sleep(0.1)
        assert Path(f"/proc/{worker}").exists()
        process.kill()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{worker}/exe").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{worker}/exe").exists()
