"""The package as it is installed and shipped: a light import, its metadata, and complete distributions."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import slangrast
from slangrast.runtime import shader_paths

CHECKOUT = Path(__file__).resolve().parent.parent

# Imports torch first, whose own time and processes are not ours, then counts what importing slangrast starts.
_IMPORT_PROBE = """
import json, sys, time
import numpy, torch
started = []
watched = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork")
sys.addaudithook(lambda event, arguments: started.append(str(arguments)) if event in watched else None)
before = time.perf_counter()
import slangrast
seconds = time.perf_counter() - before
print(json.dumps({"seconds": seconds, "started": started, "modules": sorted(sys.modules)}))
"""


@pytest.fixture(scope="module")
def fresh_import(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What `import slangrast` did in a new process, and what lay in its empty cache folder afterwards."""
    cache = tmp_path_factory.mktemp("import") / "cache"
    environment = {**os.environ, "SLANGRAST_CACHE": str(cache)}
    command = [sys.executable, "-W", "error", "-c", _IMPORT_PROBE]
    printed = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=True)
    return {**json.loads(printed.stdout), "cached": list(cache.rglob("*"))}


def test_import_compiles_nothing(fresh_import: dict) -> None:
    assert fresh_import["started"] == []
    assert fresh_import["cached"] == []


@pytest.mark.parametrize("module", ["slangtorch", "trimesh", "matplotlib", "PIL", "torch.utils.cpp_extension"])
def test_import_leaves_heavy_modules_for_later(fresh_import: dict, module: str) -> None:
    assert "slangrast" in fresh_import["modules"]
    assert module not in fresh_import["modules"]


def test_import_is_instant(fresh_import: dict) -> None:
    assert fresh_import["seconds"] < 0.5  # about 0.05 where nothing else runs


def test_metadata() -> None:
    metadata = importlib.metadata.metadata("slangrast")
    assert metadata["Name"] == "slangrast"
    assert metadata["Version"] == slangrast.__version__
    assert metadata["License-Expression"] == "MIT"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert metadata["Requires-Python"] in ("<3.14,>=3.10", ">=3.10,<3.14")
    assert {"cuda", "test"} <= set(metadata.get_all("Provides-Extra"))


def test_console_command() -> None:
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="slangrast")
    assert command.value == "slangrast.cli:main"
    assert callable(command.load())


def test_a_checkout_uses_its_own_shaders() -> None:
    assert shader_paths.shader_folder() == CHECKOUT / "shaders"
    assert any(shader_paths.shader_folder().glob("*.slang"))


def test_an_installed_package_uses_the_shaders_inside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged = tmp_path / "slangrast" / "shaders"
    packaged.mkdir(parents=True)
    monkeypatch.setattr(shader_paths, "__file__", str(tmp_path / "slangrast" / "runtime" / "shader_paths.py"))
    assert shader_paths.shader_folder() == packaged


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution and the wheel of this checkout."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=CHECKOUT, capture_output=True, check=True)
    return folder


def files_of(folder: str) -> set[str]:
    """Every file under `folder` of the checkout but Python's own caches, relative to the checkout."""
    paths = (path for path in (CHECKOUT / folder).rglob("*") if path.is_file())
    return {path.relative_to(CHECKOUT).as_posix() for path in paths if "__pycache__" not in path.parts}


def test_the_wheel_holds_the_package_and_its_shaders_and_nothing_else(distributions: Path) -> None:
    (wheel,) = distributions.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    shaders = {f"slangrast/{name}" for name in files_of("shaders")}
    assert shaders and names == files_of("slangrast") | shaders


def test_the_source_distribution_is_complete(distributions: Path) -> None:
    (archive,) = distributions.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    expected = {"LICENSE", "README.md", "pyproject.toml", "constraints.txt", "Makefile", "tools/set_up.sh"}
    assert expected | files_of("slangrast") | files_of("shaders") | files_of("tests") <= names
