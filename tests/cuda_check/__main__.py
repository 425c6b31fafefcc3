"""`make cuda-check`: the shipped kernels through the CUDA engine, as far as a machine without a GPU can go.

slangc generates, nvcc and the host compiler compile, the linker links, Python imports. Then argument names, struct
fields and types of every kernel are compared with the CPU engine's, and a launch is tried with tensors that say they
are on a GPU: the compiled function unpacks and checks all of them before the missing driver stops it. What slangtorch
leaves to the engine (its folders, flags, locks and rebuilds) is tried on a small shader.

Run by `.venv-cuda/bin/python` (tools/set_up_cuda.sh). Needs nvcc. Exit status 1 where anything differs or fails.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

_SIZE = (256, 256)  # of an image, which tiles may depend on
CHECKOUT = Path(__file__).resolve().parent.parent.parent


def prepare_environment(cache: str) -> None:
    """What must be set before torch is imported: the toolkit, the headers it lacks, an empty cache, no GPU."""
    printed = subprocess.run(["nvcc", "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True).stderr
    found = re.search(r"^#\$ TOP=(.*)$", printed, re.MULTILINE)  # not beside `which nvcc`, which may be a script
    if found is None:
        raise SystemExit(f"cuda-check: nvcc does not say where its toolkit is:\n{printed}")
    os.environ.setdefault("CUDA_HOME", os.path.realpath(found[1]))
    wheels = Path(sysconfig.get_path("purelib"), "nvidia").glob("*/include")  # cuSPARSE and others, for torch's headers
    os.environ["CPATH"] = os.pathsep.join([*map(str, wheels), *filter(None, [os.environ.get("CPATH")])])
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "9.0")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the tensors below only say that they are on a GPU: never launch on them
    os.environ["SLANGRAST_CACHE"] = cache


def shipped_modules() -> dict[str, Callable[[Any], Any]]:
    """Each shader that holds kernels, with every choice of the op once: name -> the op's module for a device."""
    from slangrast.formulas import KINDS
    from slangrast.op_modules import op_module, tiling_for
    from slangrast.runtime.shader_paths import shader_folder
    from slangrast.soft_variant import Variant

    def variant(names: tuple[str, ...], view_depth: bool, with_color: bool = True) -> Variant:
        formulas = dict(zip(("coverage", "falloff", "aggregation", "silhouette"), names, strict=True))
        return Variant.choose("cuda_check", formulas, view_depth=view_depth, with_color=with_color)

    variants = [
        (variant(("squared_distance", "logistic", "softmax", "probabilistic"), True), 3),
        (variant(("distance", "logistic", "additive", "max"), False), 1),
        (variant(("barycentric", "logistic", "hard", "sum"), True), 4),
        (variant(("edge_product", "logistic", "softmax", "max"), False), 16),
        (variant(("hard", "logistic", "additive", "sum"), True), 2),
        (variant(("squared_distance", "logistic", "softmax", "probabilistic"), True, with_color=False), 0),
    ]
    shades = Variant.choose("cuda_check", {"fragment": "textured"}, view_depth=True)
    modules: dict[str, Callable[[Any], Any]] = {"project": lambda like: op_module("project", like)}
    for one, channels in (*variants, (shades, None)):
        words = ("soft_rasterizer", *(choice.struct for choice in one.choices), str(channels))
        modules[" ".join(words)] = lambda like, one=one, channels=channels: one.module(
            channels, like, tiling_for(like, _SIZE)
        )
    for one in (variants[0][0], variants[3][0]):
        choices = one.by_kind["coverage"]
        modules[f"bin {choices[0].struct}"] = lambda like, choices=choices: op_module("bin", like, choices=choices)
    modules["extents"] = lambda like: op_module("extents", like)
    hard = importlib.import_module("slangrast.rasterize")
    for name, peel in (("rasterize", False), ("rasterize peeling", True)):
        modules[name] = lambda like, peel=peel: hard._module(like, hard._SMALL_BOX, is_peeling=peel)
    for name in ("interpolate", "antialias", "edge_gradients", "edge_rings", "texture"):
        modules[name] = lambda like, name=name: op_module(name, like)

    shaders = {file.stem for file in shader_folder().glob("*.slang") if "[CUDAKernel]" in file.read_text()}
    covered = {choice.struct for one, _ in variants for choice in one.choices}
    coverages = {shipped.struct for shipped in KINDS["coverage"].shipped.values()}
    checked = {
        "shaders": (shaders, {name.split()[0] for name in modules}),
        "coverages": (coverages, coverages & covered),
    }
    for what, (shipped, covered) in checked.items():
        if shipped != covered:
            raise SystemExit(f"cuda-check: of the {what}, {sorted(shipped ^ covered)} are not checked: add them here")
    return modules


def check_shipped(module_for: Callable[[Any], Any]) -> str:
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    def load(device: str) -> Any:
        with FakeTensorMode():  # which makes tensors of devices that are not there
            like = torch.empty(0, device=device)
        return module_for(like)

    return check_module(lambda: load("cuda"), lambda: load("cpu"))


def check_argument_kinds() -> str:
    from slangrast import load_module

    shader = CHECKOUT / "tests" / "shaders" / "argument_kinds.slang"
    return check_module(lambda: load_module(shader, device="cuda"), lambda: load_module(shader, device="cpu"))


def check_module(load_on_cuda: Callable[[], Any], load_on_cpu: Callable[[], Any]) -> str:
    """Build, compare with the CPU engine, try every launch; a phrase for the table."""
    from tests.cuda_check.binding import differences, try_launches

    cuda = load_on_cuda()
    found = differences(cuda._any_build(), load_on_cpu()._any_build())
    if found:
        raise AssertionError("differs from the CPU engine:\n  " + "\n  ".join(found))
    return f"{try_launches(cuda)} kernels"


class Report:
    """The table: one line for each check as it ends, and what failed."""

    def __init__(self) -> None:
        self.failures = 0
        print(f"{'seconds':>8}  {'check':<68} result", flush=True)

    def run(self, name: str, check: Callable[[], str]) -> None:
        start = time.perf_counter()
        try:
            result, details = check(), ""
        except Exception:
            result, details = "FAILED", traceback.format_exc()
            self.failures += 1
        print(f"{time.perf_counter() - start:8.1f}  {name:<68} {result}\n{details}", end="", flush=True)


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="slangrast-cuda-check-") as folder:
        prepare_environment(str(Path(folder, "cache")))
        import torch

        from tests.cuda_check import hazards

        print(f"torch {torch.__version__}, CUDA {torch.version.cuda}, toolkit {os.environ['CUDA_HOME']}, ", end="")
        print(f"architectures {os.environ['TORCH_CUDA_ARCH_LIST']}")
        report = Report()
        shaders = hazards.listing(CHECKOUT / "shaders")
        with hazards.watched_builds() as builds:
            for name, module_for in shipped_modules().items():
                report.run(name, lambda module_for=module_for: check_shipped(module_for))
            report.run("argument_kinds: structs, arrays, vectors, matrices, all dtypes", check_argument_kinds)
            for name, check in hazards.checks(Path(folder), builds).items():
                report.run(name, check)
        report.run("nothing was written beside the shipped shaders", lambda: hazards.expect_unchanged(shaders))
    print(
        "Not proven here: that a kernel runs on a GPU, and what it computes. No kernel was launched.\n"
        "On a machine with a GPU, `python -m pytest -m cuda` launches them."
    )
    print(f"cuda-check: {report.failures} checks FAILED" if report.failures else "cuda-check: all passed")
    return min(report.failures, 1)


if __name__ == "__main__":
    sys.exit(main())
