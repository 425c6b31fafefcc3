"""The books of the shipped kernels: each has its header, its Python name, a reference and a test, and fits a GPU."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path

import pytest

from slangrast import load_module
from slangrast.formulas import AGGREGATIONS, COVERAGES, SILHOUETTES
from slangrast.op_modules import TILE
from slangrast.runtime.shader_paths import shader_folder
from slangrast.runtime.slang_compiler import slangc_path

REPOSITORY = Path(__file__).parent.parent
SHADERS = sorted(shader_folder().glob("*.slang"))
KERNEL_FILES = [path.stem for path in SHADERS if "CUDAKernel" in path.read_text()]

# For each kernel: its independent reference in tests/references, and the tests that compare it with that, themselves or
# through tests/comparison.py or tests/hard_path.py. Projection and binning have no result of their own: the whole image
# is the judge.
KERNELS = {
    "project": ("soft_rasterize", "test_soft_rasterizer_gradients.py"),
    "find_extents": ("soft_rasterize", "test_soft_rasterizer.py"),
    "count_faces": ("soft_rasterize", "test_soft_rasterizer.py"),
    "fill_faces": ("soft_rasterize", "test_soft_rasterizer.py"),
    "project_and_bin": ("soft_rasterize", "test_soft_rasterizer.py"),
    "soft_rasterize": ("soft_rasterize", "test_soft_rasterizer.py"),
    "count_tiles": ("rasterize", "test_rasterize.py"),
    "fill_tiles": ("rasterize", "test_rasterize.py"),
    "draw_small_triangles": ("rasterize", "test_rasterize.py"),
    "rasterize": ("rasterize", "test_rasterize.py"),
    "differentiate_barycentrics": ("rasterize", "test_rasterize.py"),
    "interpolate_attributes": ("interpolate", "test_interpolate.py"),
    "sample_texture": ("texture", "test_texture_gradients.py"),
    "make_mip_level": ("mip_levels", "test_texture.py"),
    "enter_positions": ("antialias", "test_antialias.py"),
    "find_first_positions": ("antialias", "test_antialias.py"),
    "look_up_positions": ("antialias", "test_antialias.py"),
    "link_half_edges": ("antialias", "test_antialias.py"),
    "find_outlines": ("antialias", "test_antialias.py"),
    "blend_outlines": ("antialias", "test_antialias.py"),
    "add_edge_gradients": ("edge_gradients", "test_edge_gradients.py"),
}


def header(path: Path) -> dict[str, str]:
    """The `///` lines at the top of a kernel file, by their titles; the first has none."""
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("///"):
            break
        lines.append(line.removeprefix("///"))
    parts: dict[str, str] = {"": lines[0].strip() if lines else ""}
    title = ""
    for line in lines[1:]:
        if match := re.match(r" (Python|Maths|Tensors|Launch): (.*)", line):
            title, line = match[1], match[2]
            parts[title] = ""
        parts[title] = f"{parts[title]} {line.strip()}".strip()
    return parts


@pytest.mark.parametrize("path", SHADERS, ids=lambda path: path.stem)
def test_every_shader_begins_with_what_it_is(path: Path) -> None:
    assert re.match(r"/// \S.{10,}[.,:]|/// \S.{60,}", path.read_text())


@pytest.mark.parametrize("stem", KERNEL_FILES)
def test_the_header_of_a_kernel_file_is_complete_and_true(stem: str) -> None:
    parts = header(shader_folder() / f"{stem}.slang")
    assert list(parts) == ["", "Python", "Maths", "Tensors", "Launch"] and all(parts.values())

    file, _, names = parts["Python"].rstrip(".").partition(", ")
    module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    named = [name for name in re.split(r", | and ", names) if name]
    assert named and all(callable(getattr(module, name)) for name in named)

    maths = re.findall(r"\w+\.slangh?", parts["Maths"])
    assert maths and all((shader_folder() / name).is_file() for name in maths)

    kernels = load_module(stem, device="cpu")
    arguments = {name for kernel in kernels.kernels for name in getattr(kernels, kernel).argument_names}
    tensors = set(re.findall(r"(\w+) \[", parts["Tensors"]))
    assert tensors and tensors <= arguments


def test_every_kernel_is_in_the_table() -> None:
    assert sorted(name for stem in KERNEL_FILES for name in load_module(stem, device="cpu").kernels) == sorted(KERNELS)


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_is_launched_and_has_a_reference_and_a_test(kernel: str) -> None:
    reference, test = KERNELS[kernel]
    text = (REPOSITORY / "tests" / test).read_text()
    assert re.search(r"from tests\.comparison import", text)
    shared = "".join((REPOSITORY / "tests" / name).read_text() for name in ("comparison.py", "hard_path.py"))
    assert re.search(rf"from tests\.references\.\w+ import .*\b{reference}\b", shared + text)
    package = "".join(path.read_text() for path in (REPOSITORY / "slangrast").glob("*.py"))
    assert re.search(rf"module[^\n]*\.{kernel}\b", package)


# What the op compiles for a GPU: every coverage, aggregation and silhouette once, images of 0, 1, 3 and 16 channels.


def specialisations() -> dict[str, tuple[str, dict[str, object]]]:
    rasterizer = zip(
        COVERAGES.values(), cycle(AGGREGATIONS.values()), cycle(SILHOUETTES.values()), (3, 0, 16, 1, 3),
        (1, 0, 1, 1, 1),
        strict=False,
    )  # fmt: skip
    found: dict[str, tuple[str, dict[str, object]]] = {"project": ("project", {}), "texture": ("texture", {})}
    found |= {
        "extents": ("extents", {}),
        "antialias": ("antialias", {}),
        "edge_gradients": ("edge_gradients", {}),
        "edge_rings": ("edge_rings", {}),
        "rasterize": ("rasterize", {}),
        "peel": ("rasterize", {"PEEL": 1}),
        "interpolate": ("interpolate", {}),
    }
    for index, (coverage, aggregation, silhouette, channels, with_color) in enumerate(rasterizer):
        more = {"SILHOUETTE_FILE": silhouette.module} if silhouette.module else {}
        coverage, aggregation, silhouette = coverage.struct, aggregation.struct, silhouette.struct
        shape = {"COVERAGE": coverage, "FALLOFF": "Logistic"}
        found[f"bin-{coverage}"] = ("bin", shape)
        found[f"{coverage}-{aggregation}-{silhouette}-{channels}-{with_color}"] = "soft_rasterizer", {
            **shape, **more, "AGGREGATION": aggregation, "SILHOUETTE": silhouette, "CHANNELS": channels,
            "KEEPS_NEAREST": int(aggregation == "NearestFace"), "KEEPS_LARGEST": int(silhouette == "Largest"),
            "UNITES": int(silhouette == "Probabilistic"),
            "WITH_COLOR": with_color, "VIEW_DEPTH": index % 2, "PERSPECTIVE_CORRECT": 1 - index // 4,
            "TILE": 8 if index % 3 == 0 else TILE, "SPLITS": 4 if index % 3 == 0 else 1, "REVERSE_SPLITS": 4,
            "PATCH": 1,
        }  # fmt: skip
    for name in (
        "bin-Distance",
        "bin-Barycentric",
        "bin-HardCoverage",
    ):  # one with, one without a bound on the distance
        found.pop(name, None)
    return found


def ptxas_report(folder: Path, shader: str, defines: dict[str, object]) -> str:
    """What ptxas says of registers and spills when slangc's CUDA text of a shader becomes a cubin."""
    text, cubin = folder / f"{shader}.cu", folder / f"{shader}.cubin"
    options = [f"-D{name}={value}" for name, value in defines.items()] + ["-I", str(shader_folder())]
    for command in (
        [slangc_path(), shader_folder() / f"{shader}.slang", "-target", "cuda", "-o", text, *options],
        ["nvcc", "-cubin", "-arch=sm_90", "-Xptxas", "-v", "-w", text, "-o", cubin],
    ):
        result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr
    return result.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc, which is not on the path")
def test_no_shipped_kernel_spills_registers(tmp_path: Path) -> None:
    def compile_one(item: tuple[str, tuple[str, dict[str, object]]]) -> tuple[str, str]:
        name, (shader, defines) = item
        (tmp_path / name).mkdir()
        return name, ptxas_report(tmp_path / name, shader, defines)

    with ThreadPoolExecutor(2) as pool:
        reports = dict(pool.map(compile_one, specialisations().items()))
    for name, report in reports.items():
        entries = re.findall(r"Compiling entry function '(\w+)'", report)
        spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", report)
        assert len(spills) >= len(entries) > 0, report
        assert all(spill == ("0", "0") for spill in spills), f"{name} spills registers:\n{report}"
