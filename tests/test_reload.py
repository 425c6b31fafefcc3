"""Reloading without a watch: two halves, quick builds, and what an unchanged module costs."""

from __future__ import annotations

import statistics
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from slangrast import Module, ShaderError, load_module
from slangrast.runtime.module import commit_together, loaded_modules
from slangrast.runtime.request import BuildRequest
from slangrast.runtime.shader_paths import shader_folder
from slangrast.runtime.steady import steady
from tests.quick_builds import build_quickly

PART = "public float part() { return 2; }\n"
FILL = "import part;\n[AutoPyBindCUDA][CUDAKernel]\nvoid fill(TensorView<float> y) { y[0] = part(); }\n"


@pytest.fixture
def shader(tmp_path: Path) -> Path:
    (tmp_path / "part.slang").write_text(PART)
    (tmp_path / "main.slang").write_text(FILL)
    return tmp_path / "main.slang"


def load(shader: Path, **arguments: object) -> Module:
    return load_module(shader, device="cpu", **arguments)


def save(shader: Path, value: float) -> None:
    (shader.parent / "part.slang").write_text(PART.replace("2", str(value)))


def filled(module: Module) -> float:
    y = torch.zeros(1)
    module.fill(y=y).launchRaw((1, 1, 1), (1, 1, 1))
    return y.item()


def test_a_reload_has_two_halves(shader: Path) -> None:
    module = load(shader)
    save(shader, 3)
    prepared = module.prepare_reload()
    assert filled(module) == 2
    assert module.differs_from(prepared)
    assert module.commit(prepared) is True
    assert filled(module) == 3
    assert not module.differs_from(prepared)
    assert module.commit(prepared) is False


def test_how_quickly_it_was_built_is_no_change(shader: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_quickly(monkeypatch)
    module = load(shader)
    save(shader, 4)
    quick = module.prepare_reload(quick=True)
    assert quick.is_quick
    assert module.commit(quick) is True
    assert filled(module) == 4
    optimised = module.prepare_reload()
    assert not optimised.is_quick
    assert optimised.builds["cpu"] is not quick.builds["cpu"]
    assert module.commit(optimised) is False
    assert module._any_build() is optimised.builds["cpu"]
    assert filled(module) == 4


def test_identical_loads_share_one_build(shader: Path) -> None:
    first, second = load(shader), load(shader)
    assert first is not second
    assert first._any_build() is second._any_build()
    assert load(shader, fast_math=True)._any_build() is not first._any_build()


def test_reloads_are_put_in_use_together_and_not_in_mid_op(shader: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.slang"
    other.write_text(FILL.replace("part();", "10 * part();"))
    modules = [load(shader), load(other)]
    before = modules[0].snapshot()
    save(shader, 3)
    reloads = [module.prepare_reload() for module in modules]
    changed: list[list[Module]] = []
    thread = threading.Thread(target=lambda: changed.append(commit_together(modules, reloads)))
    with steady():
        thread.start()
        time.sleep(0.1)
        assert list(map(filled, modules)) == [2, 20]
    thread.join(60)
    assert changed == [modules]
    assert list(map(filled, modules)) == [3, 30]
    assert filled(before) == 2
    assert before not in loaded_modules()


def test_changed_defines(shader: Path) -> None:
    """What a module is built with may itself come from a file, and is asked for at each reload."""
    shader.write_text(FILL.replace("part();", "FACTOR * part();"))
    request = BuildRequest(str(shader), {"FACTOR": "1"})
    module = Module(lambda: request, "cpu")
    assert filled(module) == 2
    request = replace(request, defines={"FACTOR": "5"})
    assert module.reload() is True
    assert filled(module) == 10
    assert module.reload() is False
    request = replace(request, defines={"FACTOR": "nothing"})
    with pytest.raises(ShaderError, match="nothing"):
        module.reload()
    assert filled(module) == 10


def test_modules_that_nobody_holds_are_forgotten(shader: Path) -> None:
    load(shader).fill(y=torch.zeros(1))
    assert str(shader) not in [module.path for module in loaded_modules()]


def test_an_unchanged_module_reloads_in_under_20_ms() -> None:
    """The shader of most files and most text."""
    shader = max(shader_folder().glob("*.slang"), key=lambda path: path.stat().st_size)
    module = load(shader)
    seconds = []
    for _ in range(9):
        started = time.perf_counter()
        assert module.reload() is False
        seconds.append(time.perf_counter() - started)
    assert statistics.median(seconds) < 0.02
