"""Loops over lanes, of pixels or of faces, become vector instructions: no test of numbers notices where they do not."""

from __future__ import annotations

import collections
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from slangrast.op_modules import ONE_THREAD_A_TILE, op_module
from slangrast.runtime import Module
from slangrast.runtime.cpu_engine import _host_text
from slangrast.runtime.host_compiler import HOST_FOLDER, host_compiler
from slangrast.runtime.signature import read_signatures
from slangrast.runtime.slang_compiler import compile_slang
from slangrast.soft_variant import Variant

_LABEL = re.compile(r"^([A-Za-z_][\w.$]*):")
# Arithmetic on eight floats at once.
_PACKED = re.compile(r"^\tv(?:add|sub|mul|div|max|min|sqrt|fn?m(?:add|sub)\d+)ps\s.*%ymm")
# With colour g++ 12 writes over 180 and 330, clang 14 over 210 and 340; where an array of bools kept g++ from it, there
# were 39 and 36. Of a silhouette alone 173 and 296, and 252 and 303; without vectors in its reverse 157.
SOFT_KERNELS = {"soft_rasterize_bwd_diff": 220, "soft_rasterize": 100}
# g++ writes 193 and clang 296 into each: the one makes vectors of the tests of tiles alone, the other of all.
BIN_KERNELS = {"project_and_bin": 150, "count_faces": 150}


def packed_instructions(assembly: str, kernels: Iterable[str]) -> collections.Counter[str]:
    """How many there are in each kernel, by the labels of functions."""
    counts: collections.Counter[str] = collections.Counter()
    kernel = ""
    for line in assembly.splitlines():
        if label := _LABEL.match(line):
            kernel = next((name for name in kernels if name in label[1]), "")
        elif _PACKED.match(line):
            counts[kernel] += 1
    return counts


def module_of(what: str) -> tuple[Module, dict[str, int]]:
    """One of the modules of an image with colour, or of a silhouette alone, and the least that its kernels have."""
    formulas = {"coverage": "squared_distance", "falloff": "logistic", "silhouette": "probabilistic"}
    formulas |= {"aggregation": "softmax"} if what == "color" else {}
    variant = Variant.choose("", formulas, view_depth=True, with_color=what == "color")
    like = torch.zeros(1)
    if what == "bin":
        return op_module("bin", like, choices=variant.by_kind["coverage"]), BIN_KERNELS
    return variant.module(3 if what == "color" else 0, like, ONE_THREAD_A_TILE), SOFT_KERNELS


@pytest.mark.skipif(platform.machine() != "x86_64", reason="counts instructions of x86-64")
@pytest.mark.parametrize("what", ["color", "silhouette", "bin"])
@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_the_kernels_are_made_of_vectors(
    compiler: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shutil.which(compiler):
        pytest.skip(f"{compiler} is not installed")
    monkeypatch.setenv("SLANGRAST_CXX", compiler)
    module, least = module_of(what)
    request = module.request
    output = compile_slang(request.path, request.defines, request.include_paths)
    families = read_signatures(output.cuda_text, output.binding_text, float64=False)
    source = tmp_path / "host.cpp"
    source.write_text(_host_text(output.cuda_text, families, request))
    flags = host_compiler().flags(fast_math=False)
    # For one processor, whatever this one is.
    flags = [{"-march=native": "-march=haswell", "-shared": "-S"}.get(flag, flag) for flag in flags]
    command = [compiler, *flags, f"-I{HOST_FOLDER}", str(source), "-o", "-"]
    assembly = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    counts = packed_instructions(assembly, least)
    assert all(counts[kernel] >= enough for kernel, enough in least.items()), counts
