"""The cache of compiled modules: keyed by content, shared by processes, whole after whatever happens to it."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from slangrast import Module, load_module
from slangrast.runtime.cache import cache_folder
from slangrast.runtime.cpu_engine import _thread_pool
from slangrast.runtime.shader_paths import shader_folder

REPOSITORY = Path(__file__).parent.parent
KERNEL = "import part;\n[AutoPyBindCUDA][CUDAKernel]\nvoid fill(TensorView<float> y) { y[0] = FACTOR * part(); }\n"
PART = "public float part() { return 2; }\n"

# Writes a line to $COMPILED for each module that it compiles, and hangs while the file $HANG is there.
COMPILER = """#!/bin/sh
case "$*" in *host.cpp*)
    echo compiled >> "$COMPILED"
    if [ -e "$HANG" ]; then echo half > "$TMPDIR/half.o"; touch "$HANG.reached"; sleep 60; fi
esac
exec {compiler} "$@" -O0
"""


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compiler that counts; an empty cache for it."""
    _thread_pool()  # compiled once for a process, and not what is counted here
    script = tmp_path / "compiler"
    script.write_text(COMPILER.format(compiler=next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))))))
    script.chmod(0o755)
    for name, value in {"COMPILED": "compiled", "HANG": "hang", "SLANGRAST_CACHE": "cache"}.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    monkeypatch.setenv("SLANGRAST_CXX", str(script))
    return script


@pytest.fixture
def compiled(compiler: Path) -> Callable[[], int]:
    """How many modules were compiled."""
    log = compiler.parent / "compiled"
    return lambda: len(log.read_text().splitlines()) if log.exists() else 0


@pytest.fixture
def shader(tmp_path: Path) -> Path:
    folder = tmp_path / "shaders"
    folder.mkdir()
    (folder / "part.slang").write_text(PART)
    (folder / "main.slang").write_text(KERNEL)
    return folder / "main.slang"


def load(path: Path, **arguments: object) -> Module:
    return load_module(path, device="cpu", **{"defines": {"FACTOR": 1}, **arguments})


def filled(module: Module) -> float:
    y = torch.zeros(1)
    module.fill(y=y).launchRaw((1, 1, 1), (1, 1, 1))
    return y.item()


def modules_in(cache: Path) -> list[Path]:
    """The entries of modules; torch bindings, which modules may share, have entries of their own."""
    return [entry for entry in (cache / "entries").iterdir() if (entry / "program.cu").exists()]


def leftovers(cache: Path) -> list[str]:
    return [str(path) for path in (*cache.glob("building/*"), *cache.glob("index/*.tmp"))]


def test_the_folder_is_that_of_the_environment(shader: Path, compiler: Path) -> None:
    load(shader)
    assert cache_folder() == compiler.parent / "cache"
    assert len(modules_in(compiler.parent / "cache")) == 1


def test_two_loads_share_an_entry(shader: Path, compiled: Callable[[], int]) -> None:
    first, second = load(shader), load(shader)
    assert compiled() == 1
    assert filled(first) == filled(second) == 2


def test_content_counts_and_time_does_not(shader: Path, compiled: Callable[[], int]) -> None:
    part = shader.parent / "part.slang"
    module = load(shader)
    for text, value, compilations in [(PART.replace("2", "3"), 3, 2), (PART, 2, 2), (PART.replace("2", "5"), 5, 3)]:
        part.write_text(text)
        assert module.reload()
        assert (filled(module), compiled()) == (value, compilations)
    shader.write_text(KERNEL.replace("part()", "(part() + 1)"))
    assert module.reload()
    assert (filled(module), compiled()) == (6, 4)
    for file in (shader, part):
        os.utime(file, (1, 1))
    assert not module.reload()
    (shader.parent / "unrelated.slang").write_text("not even Slang")
    assert not module.reload()
    assert compiled() == 4


def test_a_file_from_the_future_compiles(shader: Path, compiled: Callable[[], int]) -> None:
    """Clocks differ, between machines that share a folder above all."""
    for file in shader.parent.iterdir():
        os.utime(file, (time.time() + 1e6,) * 2)
    assert filled(load(shader)) == 2
    before = compiled()
    assert filled(load(shader)) == 2
    assert compiled() == before


def test_a_file_that_changes_while_it_compiles_is_compiled_again(
    shader: Path, compiler: Path, compiled: Callable[[], int]
) -> None:
    text = compiler.read_text()
    once, part = f"{compiler}.edited", shader.parent / "part.slang"
    edit = f"    if [ ! -e {once} ]; then touch {once}; sed -i s/2/3/ {part}; fi\n"
    compiler.write_text(text.replace("    if", edit + "    if", 1))
    assert filled(load(shader)) == 3
    assert compiled() == 2


@pytest.mark.parametrize("place", ["main", "nested"])
def test_a_file_that_comes_to_shadow_an_import_counts(tmp_path: Path, compiled: Callable[[], int], place: str) -> None:
    library, folder = tmp_path / "library", tmp_path / "own"
    name, path = {"main": ("part", "part.slang"), "nested": ("inner.part", "inner/part.slang")}[place]
    for parent in (library, folder):
        (parent / path).parent.mkdir(parents=True)
    (library / path).write_text(PART)
    shader = folder / "main.slang"
    shader.write_text(KERNEL.replace("import part", f"import {name}"))
    module = load(shader, include_paths=[library])
    assert filled(module) == 2
    (folder / path).write_text(PART.replace("2", "9"))
    assert module.reload()
    assert filled(module) == 9
    (folder / path).unlink()
    assert module.reload()
    assert (filled(module), compiled()) == (2, 2)


def test_a_symbolic_link_that_leads_elsewhere_counts(shader: Path, compiler: Path) -> None:
    part = shader.parent / "part.slang"
    for number in (3, 4):
        (compiler.parent / f"part{number}").write_text(PART.replace("2", str(number)))
    part.unlink()
    part.symlink_to(compiler.parent / "part3")
    module = load(shader)
    assert filled(module) == 3
    part.unlink()
    part.symlink_to(compiler.parent / "part4")
    assert module.reload()
    assert filled(module) == 4


def test_arguments_count(shader: Path, compiled: Callable[[], int], tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    variants = [
        {}, {"defines": {"FACTOR": 2}}, {"include_paths": [other]}, {"precision": "float64"}, {"fast_math": True}
    ]  # fmt: skip
    for count, arguments in enumerate(variants, 1):
        load(shader, **arguments)
        assert compiled() == count
    load(shader)
    renamed = shader.rename(shader.with_name("renamed.slang"))
    load(renamed)  # its name is in the lines that errors speak of
    assert compiled() == len(variants) + 1


def test_the_compiler_counts(shader: Path, compiler: Path, compiled: Callable[[], int], monkeypatch) -> None:
    load(shader)
    monkeypatch.setenv("SLANGRAST_CXX", f"{compiler} -DANOTHER")
    load(shader)
    assert compiled() == 2


def damage_library(entry: Path) -> None:
    library = entry / "module.so"
    library.unlink()  # this process may have it mapped
    library.write_bytes(b"no library")


DAMAGE = {
    "a corrupted library": damage_library,
    "a missing library": lambda entry: (entry / "module.so").unlink(),
    "a missing text": lambda entry: (entry / "program.cu").unlink(),
    "a truncated text": lambda entry: os.truncate(entry / "binding.txt", 5),
    "missing checksums": lambda entry: (entry / "checksums.json").unlink(),
    "truncated checksums": lambda entry: os.truncate(entry / "checksums.json", 20),
    "an empty entry": lambda entry: (shutil.rmtree(entry), entry.mkdir()),
    "no entry": shutil.rmtree,
    "a truncated index": lambda entry: [os.truncate(f, 9) for f in entry.parent.parent.glob("index/*.json")],
    "an index of something else": lambda entry: [
        f.write_text(json.dumps([{"entry": 1, "files": 2, "rivals": 3}]))
        for f in entry.parent.parent.glob("index/*.json")
    ],
    "no index": lambda entry: shutil.rmtree(entry.parent.parent / "index"),
    "no locks": lambda entry: shutil.rmtree(entry.parent.parent / "locks"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_repairs_itself(shader: Path, compiler: Path, damage: str) -> None:
    cache = compiler.parent / "cache"
    load(shader)
    (entry,) = modules_in(cache)
    DAMAGE[damage](entry)
    assert filled(load(shader)) == 2
    assert {"module.so", "program.cu", "checksums.json"} <= {file.name for file in entry.iterdir()}
    assert leftovers(cache) == []


def test_the_index_and_the_entries_do_not_grow_for_ever(shader: Path, compiler: Path, monkeypatch) -> None:
    monkeypatch.setattr("slangrast.runtime.cache._BUILDS_REMEMBERED", 2)
    for number in (3, 4, 5):
        (shader.parent / "part.slang").write_text(PART.replace("2", str(number)))
        assert filled(load(shader)) == number
    assert len(modules_in(compiler.parent / "cache")) == 2


def load_in_child(shader: Path, barrier: multiprocessing.Barrier, results: multiprocessing.Queue) -> None:
    barrier.wait(timeout=60)
    results.put(filled(load(shader)))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_eight_processes_compile_once(shader: Path, compiler: Path, compiled: Callable[[], int]) -> None:
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(8), context.Queue()
    children = [context.Process(target=load_in_child, args=(shader, barrier, results)) for _ in range(8)]
    for child in children:
        child.start()
    assert [results.get(timeout=120) for _ in children] == [2.0] * 8
    for child in children:
        child.join(timeout=60)
        assert child.exitcode == 0
    assert compiled() == 1
    assert leftovers(compiler.parent / "cache") == []


def test_after_a_kill_in_mid_compile_nothing_is_left(shader: Path, compiler: Path) -> None:
    hang, cache = compiler.parent / "hang", compiler.parent / "cache"
    hang.touch()
    program = f"from slangrast import load_module; load_module({str(shader)!r}, device='cpu', defines={{'FACTOR': 1}})"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    child = subprocess.Popen([sys.executable, "-c", program], env=environment, start_new_session=True)
    reached, deadline = hang.with_name("hang.reached"), time.monotonic() + 60
    while not reached.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL and reached.exists()
    assert len(leftovers(cache)) == 1
    hang.unlink()
    assert filled(load(shader)) == 2
    assert leftovers(cache) == []


def test_a_folder_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("SLANGRAST_CACHE", str(file / "cache"))
    with pytest.raises(OSError, match=r"SLANGRAST_CACHE must name a folder that can be written, got .*file/cache"):
        cache_folder()


def test_without_a_home_that_can_be_written_it_is_a_temporary_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("SLANGRAST_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/dev/null/home")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = cache_folder()
    assert folder.parent == tmp_path and stat.S_IMODE(folder.stat().st_mode) == 0o700
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)  # now it is somebody else's
    (tmp_path / f"slangrast-{folder.stat().st_uid + 1}").symlink_to(folder)
    with pytest.raises(OSError, match="no cache folder can be written: set SLANGRAST_CACHE to one"):
        cache_folder()


def test_a_package_and_a_working_folder_that_are_only_read(tmp_path: Path) -> None:
    installed, working = tmp_path / "installed", tmp_path / "working"
    shutil.copytree(REPOSITORY / "slangrast", installed / "slangrast", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(shader_folder(), installed / "slangrast" / "shaders", dirs_exist_ok=True)
    working.mkdir()
    folders = [working, installed, *(path for path in installed.rglob("*") if path.is_dir())]
    before = sorted(tmp_path.rglob("*"))
    for folder in folders:
        folder.chmod(0o555)  # the super-user writes all the same: what counts is that nothing was written
    try:
        program = "from slangrast import load_module; print(load_module('bin', device='cpu'))"
        environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}
        result = subprocess.run(
            [sys.executable, "-W", "error", "-c", program], cwd=working, env=environment, capture_output=True, text=True
        )
        assert result.stdout == "<slangrast module bin.slang>\n", result.stderr
        assert sorted(tmp_path.rglob("*")) == before
    finally:
        for folder in folders:
            folder.chmod(0o755)


def test_how_long_an_unchanged_module_takes(capsys: pytest.CaptureFixture) -> None:
    """For whoever reads the log: an unchanged reload should stay below 50 ms."""
    module = load_module("soft_rasterizer", device="cpu")
    started = time.perf_counter()
    assert not module.reload()
    with capsys.disabled():
        print(f"\nunchanged reload of soft_rasterizer.slang: {1e3 * (time.perf_counter() - started):.1f} ms")
