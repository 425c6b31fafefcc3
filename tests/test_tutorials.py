"""The tutorials run, draw what they promise, and keep to their own rules."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CHECKOUT = Path(__file__).resolve().parent.parent
TUTORIALS = CHECKOUT / "tutorials"
FOLDERS = sorted(path.parent.name for path in TUTORIALS.glob("*/tutorial.py"))
# These take longer than ten seconds.
SLOW = {"04_fit_a_triangle"}
# Those with a shader of their own show the maths; those without, what the package makes of it.
WITH_SHADER = {path.parent.name for path in TUTORIALS.glob("*/*.slang")}
RUNS = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in FOLDERS]


def text_of(folder: str) -> str:
    return (TUTORIALS / folder / "tutorial.py").read_text()


def cells_of(folder: str) -> list[list[str]]:
    """The lines of each cell, its marker first. What stands before the first marker is the title."""
    cells = re.split(r"^(?=# %%)", text_of(folder), flags=re.MULTILINE)[1:]
    return [cell.rstrip().splitlines() for cell in cells]


def title_of(folder: str) -> str:
    return (ast.get_docstring(ast.parse(text_of(folder))) or "").partition("\n")[0]


def pixels_of(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"), dtype=np.float64)


def run_copy(folder: str, tmp_path: Path) -> Path:
    """Run a tutorial in a copy of the folder without its pictures, from a foreign folder; return where it ran."""
    copy = shutil.copytree(TUTORIALS, tmp_path / "copy", ignore=shutil.ignore_patterns("*.png", "*.gif"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    path = os.pathsep.join([str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": path}
    command = [sys.executable, "-W", "error", str(copy / folder / "tutorial.py")]
    result = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stdout + result.stderr
    assert list(elsewhere.iterdir()) == []
    return copy / folder


@pytest.mark.parametrize("folder", RUNS)
def test_a_tutorial_runs_and_draws_its_figure(folder: str, tmp_path: Path) -> None:
    written = run_copy(folder, tmp_path)
    with Image.open(written / "figure.png") as figure, Image.open(TUTORIALS / folder / "figure.png") as shipped:
        assert figure.size == shipped.size and min(figure.size) > 400
        pixels = pixels_of(figure)
    assert pixels.std() > 20.0
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100

    if (TUTORIALS / folder / "animation.gif").exists():
        with Image.open(written / "animation.gif") as animation:
            assert animation.n_frames > 20
            first = pixels_of(animation)
            animation.seek(animation.n_frames - 1)
            assert np.abs(pixels_of(animation) - first).mean() > 1.0
        assert (written / "animation.gif").stat().st_size < 700_000


def test_there_are_tutorials_and_the_readme_lists_them() -> None:
    assert len(FOLDERS) >= 3
    readme = (TUTORIALS / "README.md").read_text()
    listed = dict(re.findall(r"^\| \[(\w+)\]\(\1/tutorial\.py\) \| ([^|]+) \|", readme, flags=re.MULTILINE))
    assert listed == {folder: title_of(folder) for folder in FOLDERS}


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_title_is_a_question_and_three_lines_say_what_is_learned(folder: str) -> None:
    docstring = ast.get_docstring(ast.parse(text_of(folder)))
    assert docstring is not None and re.fullmatch(r"[A-Z].*\?", title_of(folder))
    assert re.search(r"^You will learn\n(- .+\n){3}\n", docstring, flags=re.MULTILINE)


@pytest.mark.parametrize("folder", FOLDERS)
def test_cells_are_short_titled_and_end_with_an_experiment(folder: str) -> None:
    cells = cells_of(folder)
    assert all(re.match(r"# %% \w", cell[0]) for cell in cells)
    assert {cell[0]: len(cell) for cell in cells if len(cell) >= 25} == {}
    assert cells[-1][0].startswith("# %% Try this: ")
    assert all(line.startswith("#") for line in cells[-1])


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_tutorial_checks_itself_and_stands_on_the_runtime_or_on_the_ops(folder: str) -> None:
    tree = ast.parse(text_of(folder))
    assert sum(isinstance(node, ast.Assert) for node in ast.walk(tree)) >= 1
    of_package = {
        node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "sr"
    }
    assert of_package == {"load_module"} if folder in WITH_SHADER else of_package and "load_module" not in of_package
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    allowed = {"time", "pathlib", "matplotlib.pyplot", "numpy", "torch", "PIL", "slangrast"}
    assert imported <= allowed


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_tutorial_picks_its_device(folder: str) -> None:
    text = text_of(folder)
    assert 'device = "cuda" if torch.cuda.is_available() else "cpu"' in text
    assert ".cuda()" not in text and not re.search(r"""device=["']cuda""", text)


@pytest.mark.parametrize("folder", sorted(WITH_SHADER))
def test_a_tutorial_reads_its_shader(folder: str) -> None:
    text = text_of(folder)
    (shader,) = (TUTORIALS / folder).glob("*.slang")
    assert f'"{shader.name}"' in text  # loaded by name
    functions = re.findall(r"^\w+ (\w+)\(", shader.read_text(), flags=re.MULTILINE)
    assert functions and not any(re.search(rf"\b(void|float\d?) {name}\(", text) for name in functions)


@pytest.mark.parametrize("folder", sorted(WITH_SHADER))
def test_a_shader_begins_with_what_it_computes(folder: str) -> None:
    (shader,) = (TUTORIALS / folder).glob("*.slang")
    head = shader.read_text().splitlines()[:6]
    assert all(line.startswith("/// ") for line in head[:5]) and not head[5].startswith("///")
    assert [line.split()[1] for line in head[1:5]] == ["Python:", "Maths:", "Tensors:", "Launch:"]
    assert f"tutorials/{folder}/tutorial.py" in head[1]
