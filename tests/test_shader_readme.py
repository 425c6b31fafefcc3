"""The examples of shaders/README.md are a file of formulas that compiles, and whose parameters have true gradients."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

import slangrast as sr
from slangrast.formulas import KINDS
from slangrast.runtime.shader_paths import shader_folder

README = (shader_folder() / "README.md").read_text()


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    file = tmp_path / "my_formulas.slang"
    file.write_text("\n".join(re.findall(r"```slang\n(.*?)```", README, re.DOTALL)))
    return file


def test_there_is_an_example_of_every_kind(examples: Path) -> None:
    found = re.findall(r": (I\w+)\n", examples.read_text())
    assert sorted(found) == sorted(kind.interface for kind in KINDS.values())


def test_the_examples_run_and_their_gradients_are_true(examples: Path) -> None:
    corners = [[-0.6, -0.5, 0.1, 1.3], [0.7, -0.4, 0.2, 1.5], [0, 0.8, 0.1, 1.2], [0.9, 0.9, 0.3, 1.6]]
    positions = torch.tensor(corners, dtype=torch.float64)
    numbers = torch.Generator().manual_seed(0)
    normal, uv, light, colors = (
        torch.rand(*shape, generator=numbers, dtype=torch.float64) for shape in ((4, 3), (4, 2), (3,), (2, 3))
    )

    def render(sharpness: Tensor, radius: Tensor, bias: Tensor, p: Tensor, light: Tensor, colors: Tensor) -> tuple:
        own = {
            "falloff": sr.Formula(f"{examples}:Algebraic", sharpness=sharpness),
            "coverage": sr.Formula(f"{examples}:Rounded", radius=radius),
            "aggregation": sr.Formula(f"{examples}:Squared", bias=bias),
            "silhouette": sr.Formula(f"{examples}:PowerSum", p=p),
            "fragment": sr.Formula(f"{examples}:Striped", light=light, colors=colors),
        }
        attributes = {"normal": normal, "uv": uv}
        return sr.soft_rasterize(
            positions,
            torch.tensor([[0, 1, 2], [1, 3, 2]]),
            attributes,
            (5, 6),
            sigma=0.1,
            gamma=0.3,
            cutoff=1e-3,
            **own,
        )

    scalars = (torch.tensor(value, dtype=torch.float64) for value in (3.0, 0.05, 0.1, 2.2))
    parameters = tuple(value.requires_grad_() for value in (*scalars, light, colors))
    # The sum over threads of the texture's gradient repeats to rounding.
    assert torch.autograd.gradcheck(render, parameters, eps=1e-6, atol=1e-6, rtol=1e-6, nondet_tol=1e-9)


def test_the_example_at_the_top_of_the_repository_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = (Path(__file__).parent.parent / "README.md").read_text().partition("## A formula of your own")[2]
    (shader,) = re.findall(r"```hlsl\n(// my_formulas.slang\n.*?)```", top, re.DOTALL)
    program = re.search(r"```python\n(.*?)```", top, re.DOTALL)
    assert program
    (tmp_path / "my_formulas.slang").write_text(shader)
    monkeypatch.chdir(tmp_path)
    names = {"torch": torch, "sr": sr, "camera": sr.Camera.orbit(4.0, 30.0, 20.0, fov_degrees=45), "mesh": sr.cube()}
    exec(program[1], names)
    assert names["sharpness"].grad.isfinite() and names["sharpness"].grad != 0


def test_the_hard_path_at_the_top_of_the_repository_runs() -> None:
    top = (Path(__file__).parent.parent / "README.md").read_text().partition("## Rasterize once")[2]
    program = re.search(r"```python\n(.*?)```", top, re.DOTALL)
    assert program
    mesh, camera = sr.cube(), sr.Camera.orbit(4.0, 30.0, 20.0, fov_degrees=45)
    numbers = torch.Generator().manual_seed(0)
    names = {
        "sr": sr, "positions": camera.project(mesh.vertices), "triangles": mesh.triangles,
        "vertex_uv": torch.rand(len(mesh.vertices), 2, generator=numbers),
        "image": torch.rand(8, 8, 3, generator=numbers),
    }  # fmt: skip
    exec(program[1], names)
    assert names["color"].shape == (1, 256, 256, 3) and names["color"].max() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_every_shipped_formula_is_in_the_readme(kind: str) -> None:
    assert all(f"`{name}`" in README for name in KINDS[kind].shipped)


def test_every_shader_is_in_the_readme() -> None:
    internal = {"tensors", "clip_faces", "formulas", "describe_formula", "special_functions"}
    assert all(file.name in README for file in shader_folder().glob("*.slang*") if file.stem not in internal)
