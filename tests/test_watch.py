"""`watch`: what a save does, however the file was saved, and what it must never do."""

from __future__ import annotations

import os
import queue
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from slangrast import Module, ShaderError, load_module, watch
from slangrast.runtime.steady import steady
from slangrast.runtime.watch import Watch
from tests.quick_builds import build_quickly

PART = "[Differentiable] public float part(float x) { return 2 * x; }\n"
SCALE = """import part;
[AutoPyBindCUDA][CUDAKernel][Differentiable]
void scale(DiffTensorView x, DiffTensorView y) { y.storeOnce(0, part(x[0])); }
"""
SECONDS = 60  # for what takes two, where the machine has much else to do


class Saves:
    """A folder with a shader, its module, and what the watch of it reports."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.part, self.shader = folder, folder / "part.slang", folder / "main.slang"
        self.part.write_text(PART)
        self.shader.write_text(SCALE)
        self.module = load_module(self.shader, device="cpu")
        self.reports: queue.Queue[tuple[str, Any]] = queue.Queue()
        self.optimised = threading.Event()
        self.watches: list[Watch] = []

    def watch(self, target: Module | Path) -> Watch:
        running = watch(
            target,
            on_reload=lambda modules: self.reports.put(("reload", modules)),
            on_error=lambda error: self.reports.put(("error", error)),
            on_optimised=lambda modules: self.optimised.set(),
        )
        self.watches.append(running)
        return running

    def next_report(self) -> tuple[str, Any]:
        return self.reports.get(timeout=SECONDS)

    def reloaded(self) -> list[Module]:
        kind, modules = self.next_report()
        assert kind == "reload", modules
        return modules

    def failed(self) -> ShaderError:
        kind, error = self.next_report()
        assert kind == "error", error
        return error

    def factor(self) -> float:
        return factor_of(self.module)


def factor_of(module: Module) -> float:
    """What the kernel multiplies by; its gradient must agree."""
    x, y, grad_x, grad_y = torch.ones(1), torch.zeros(1), torch.zeros(1), torch.ones(1)
    module.scale(x=x, y=y).launchRaw((1, 1, 1), (1, 1, 1))
    module.scale.bwd(x=(x, grad_x), y=(y.clone(), grad_y)).launchRaw((1, 1, 1), (1, 1, 1))
    assert grad_x.item() == y.item()
    return y.item()


def times(factor: float) -> str:
    return PART.replace("2 *", f"{factor} *")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests: what one of them had compiled, the others find in the cache."""
    return tmp_path_factory.mktemp("shaders") / "folder"


@pytest.fixture
def saves(folder: Path) -> Iterator[Saves]:
    folder.mkdir()
    saves = Saves(folder)
    yield saves
    while saves.watches:
        saves.watches.pop().stop()
    shutil.rmtree(folder)
    del saves.module  # so that the watch of the next test does not find it


def save_over(path: Path, text: str) -> None:
    path.write_text(text)


def save_by_rename(path: Path, text: str) -> None:
    """As VS Code and most others that save atomically."""
    aside = path.with_suffix(".tmp")
    aside.write_text(text)
    os.replace(aside, path)


def save_with_backup(path: Path, text: str) -> None:
    """As vim: the old file becomes a backup, a new one takes its name."""
    backup = path.with_name(path.name + "~")
    path.rename(backup)
    path.write_text(text)
    backup.unlink()


def save_anew(path: Path, text: str) -> None:
    """As a checkout: deleted, and written a moment later."""
    path.unlink()
    time.sleep(0.1)
    path.write_text(text)


def test_however_an_imported_file_is_saved(saves: Saves) -> None:
    saves.watch(saves.module)
    for factor, save in enumerate((save_over, save_by_rename, save_with_backup, save_anew), 3):
        save(saves.part, times(factor))
        assert saves.reloaded() == [saves.module]
        assert saves.factor() == factor
    assert saves.reports.empty()


def test_a_save_that_does_not_compile_keeps_the_last_good_build(saves: Saves) -> None:
    running = saves.watch(saves.module)
    saves.part.write_text(times(3).replace("* x", "* nothing"))
    error = saves.failed()
    assert running.error is error
    assert (error.diagnostics[0].file, error.diagnostics[0].line) == (str(saves.part), 1)
    assert "return 3 * nothing;" in str(error)
    assert saves.factor() == 2
    saves.part.write_text(PART)  # undone: the message goes, and nothing was built
    assert saves.reloaded() == []
    assert running.error is None
    saves.part.write_text(times("nothing"))
    saves.failed()
    saves.part.write_text(times(4))
    assert saves.reloaded() == [saves.module]
    assert saves.factor() == 4


def test_without_a_function_for_errors_they_are_printed(saves: Saves, capfd: pytest.CaptureFixture[str]) -> None:
    with watch(saves.module) as running:
        saves.part.write_text(times("nothing"))
        text, deadline = "", time.monotonic() + SECONDS
        while "return nothing * x;" not in text and time.monotonic() < deadline:
            time.sleep(0.05)
            text += capfd.readouterr().err
        assert running.error is not None
    assert text.startswith("slangrast: slangc could not compile")
    assert f"{saves.part}:1:" in text and "[Differentiable] public float part(float x) { return nothing * x; }" in text


def test_a_file_that_is_deleted_and_comes_back(saves: Saves) -> None:
    saves.watch(saves.module)
    saves.part.unlink()
    assert "part" in str(saves.failed())
    assert saves.factor() == 2
    saves.part.write_text(times(3))
    assert saves.reloaded() == [saves.module]
    assert saves.factor() == 3


def test_a_burst_of_saves_is_one_rebuild(saves: Saves) -> None:
    saves.watch(saves.module)
    for factor in range(10, 20):
        saves.part.write_text(times(factor))
        time.sleep(0.005)
    assert saves.reloaded() == [saves.module]
    assert saves.factor() == 19
    with pytest.raises(queue.Empty):
        saves.reports.get(timeout=0.5)


def test_a_save_during_a_build_is_built_too(saves: Saves, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare, again = Module.prepare_reload, iter([True])

    def prepare_and_save(module: Module, **options: Any) -> Any:
        reload = prepare(module, **options)
        if saves.part.read_text() == times(3) and next(again, False):
            saves.part.write_text(times(4))
        return reload

    saves.watch(saves.module)
    monkeypatch.setattr(Module, "prepare_reload", prepare_and_save)
    saves.part.write_text(times(3))
    saves.reloaded()
    assert saves.factor() == 4
    assert saves.reports.empty()


def test_a_signature_that_changes(saves: Saves) -> None:
    saves.watch(saves.module)
    kernel = saves.module.scale
    saves.shader.write_text(SCALE.replace("y)", "y, no_diff float gain)").replace("part(", "gain * part("))
    saves.reloaded()
    assert kernel.argument_names == ["x", "y", "gain"]
    with pytest.raises(ValueError, match=r"scale: missing \['gain'\]"):
        kernel(x=torch.ones(1), y=torch.zeros(1))
    y = torch.zeros(1)
    kernel(x=torch.ones(1), y=y, gain=5.0).launchRaw((1, 1, 1), (1, 1, 1))
    assert y.item() == 10


def test_an_import_that_is_new(saves: Saves) -> None:
    """Also where its file comes later, in a folder that was not there: the error goes by itself."""
    saves.watch(saves.module)
    saves.part.write_text("import inner.more;\n" + PART.replace("2 *", "more() *"))
    assert "inner" in str(saves.failed())
    more = saves.folder / "inner" / "more.slang"
    more.parent.mkdir()
    time.sleep(0.6)  # the folder is seen before the file is there
    more.write_text("public float more() { return 6; }\n")
    saves.reloaded()
    assert saves.factor() == 6
    time.sleep(0.6)
    more.write_text("public float more() { return 7; }\n")
    saves.reloaded()
    assert saves.factor() == 7


def test_a_shader_folder_that_is_replaced(saves: Saves) -> None:
    """As when another branch is checked out."""
    folder = saves.folder / "library"
    folder.mkdir()
    saves.part.rename(folder / "part.slang")
    saves.module = module = load_module(saves.shader, device="cpu", include_paths=[folder])
    saves.watch(module)
    folder.rename(folder.with_name("old"))
    saves.failed()
    folder.mkdir()
    (folder / "part.slang").write_text(times(8))
    assert saves.reloaded() == [module]
    assert saves.factor() == 8


def test_all_modules_or_none(saves: Saves) -> None:
    """Where one of two modules does not build, neither changes; where both do, both change at once."""
    other_shader = saves.shader.with_name("other.slang")
    other_shader.write_text(SCALE.replace("part(x[0])", "extra(x[0])"))
    saves.part.write_text(PART + PART.replace("part", "extra"))
    other = load_module(other_shader, device="cpu")
    saves.module.reload()
    saves.watch(saves.part)
    saves.part.write_text(times(3))
    assert "extra" in str(saves.failed())
    assert (saves.factor(), factor_of(other)) == (2, 2)
    saves.part.write_text(times(4) + times(5).replace("part", "extra"))
    assert set(saves.reloaded()) == {saves.module, other}
    assert (saves.factor(), factor_of(other)) == (4, 5)


def test_modules_loaded_later_and_modules_that_have_no_part(saves: Saves, tmp_path: Path) -> None:
    apart = tmp_path / "apart"
    apart.mkdir()
    (apart / "main.slang").write_text(SCALE.replace("import part;", PART))
    stranger = load_module(apart / "main.slang", device="cpu")
    before = stranger._any_build()
    saves.watch(saves.part)
    (apart / "late.slang").write_text(SCALE)
    late = load_module(apart / "late.slang", device="cpu", include_paths=[saves.folder])
    saves.part.write_text(times(3))
    assert set(saves.reloaded()) == {saves.module, late}
    assert factor_of(late) == 3
    assert stranger._any_build() is before


def test_a_file_that_no_module_holds_yet(saves: Saves) -> None:
    lone = saves.part.with_name("lone.slang")
    lone.write_text(PART)
    saves.watch(lone)
    time.sleep(0.6)
    lone.write_text(times(3))
    assert saves.reloaded() == []
    with pytest.raises(FileNotFoundError, match=r"no file .*missing"):
        watch(saves.part.with_name("missing.slang"))


def test_what_was_saved_before_the_watch_counts(saves: Saves) -> None:
    saves.part.write_text(times(3))
    saves.watch(saves.module)
    assert saves.reloaded() == [saves.module]
    assert saves.factor() == 3


def test_the_optimised_build_follows(saves: Saves, monkeypatch: pytest.MonkeyPatch) -> None:
    build_quickly(monkeypatch)
    saves.watch(saves.module)
    saves.part.write_text(times(100))
    saves.reloaded()
    assert saves.optimised.wait(SECONDS)
    assert not hasattr(saves.module._any_build(), "quick")
    assert saves.factor() == 100


def test_an_optimised_build_that_comes_too_late_is_dropped(saves: Saves, monkeypatch: pytest.MonkeyPatch) -> None:
    build_quickly(monkeypatch)
    prepare, gate, waiting = Module.prepare_reload, threading.Event(), threading.Event()

    def slow_when_optimised(module: Module, *, quick: bool = False) -> Any:
        reload = prepare(module, quick=quick)
        if not quick and saves.part.read_text() == times(101):
            waiting.set()
            assert gate.wait(SECONDS)
        return reload

    saves.watch(saves.module)
    monkeypatch.setattr(Module, "prepare_reload", slow_when_optimised)
    saves.part.write_text(times(101))
    saves.reloaded()
    assert waiting.wait(SECONDS)
    saves.part.write_text(times(102))
    saves.reloaded()
    gate.set()
    assert saves.optimised.wait(SECONDS)
    assert saves.factor() == 102


def test_nothing_happens_after_the_end(saves: Saves) -> None:
    with saves.watch(saves.module) as running:
        saves.part.write_text(times(3))
        saves.reloaded()
    running.stop()  # once more does no harm
    saves.part.write_text(times(4))
    with pytest.raises(queue.Empty):
        saves.reports.get(timeout=1)
    assert saves.factor() == 3
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("watch ")]


def test_stop_from_within_a_report(saves: Saves) -> None:
    done = threading.Event()

    def stop(modules: list[Module]) -> None:
        running.stop()
        done.set()

    running = watch(saves.module, on_reload=stop)
    saves.part.write_text(times(3))
    assert done.wait(SECONDS)


def test_a_report_that_raises_does_not_end_the_watch(saves: Saves, capfd: pytest.CaptureFixture[str]) -> None:
    calls: queue.Queue[list[Module]] = queue.Queue()

    def report(modules: list[Module]) -> None:
        calls.put(modules)
        raise KeyError("of the user")

    with watch(saves.module, on_reload=report):
        for factor in (3, 4):
            saves.part.write_text(times(factor))
            calls.get(timeout=SECONDS)
    assert saves.factor() == 4
    assert "KeyError: 'of the user'" in capfd.readouterr().err


def test_launches_while_the_watch_reloads(saves: Saves) -> None:
    """Every launch gives what one of the saves asked for, and while nothing may change nothing does."""
    twin = saves.shader.with_name("twin.slang")
    twin.write_text(SCALE)
    modules = (saves.module, load_module(twin, device="cpu"))
    seen: set[float] = set()
    stop = threading.Event()
    failures: list[BaseException] = []

    def launch() -> None:
        try:
            while not stop.is_set():
                with steady():
                    first, second = map(factor_of, modules)
                assert first == second
                seen.add(first)
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=launch)
    thread.start()
    try:
        saves.watch(saves.part)
        for factor in (3, 4, 5):
            saves.part.write_text(times(factor))
            saves.reloaded()
    finally:
        stop.set()
        thread.join()
    assert not failures
    assert seen <= {2, 3, 4, 5} and len(seen) >= 3
