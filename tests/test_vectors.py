"""The loops over the pixels of a block become vector instructions: no test of numbers notices where they do not."""

from __future__ import annotations

import collections
import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from slangrast.op_modules import ONE_THREAD_A_TILE
from slangrast.runtime.cpu_engine import _host_text
from slangrast.runtime.host_compiler import HOST_FOLDER, HostCompiler
from slangrast.runtime.signature import read_signatures
from slangrast.runtime.slang_compiler import compile_slang
from slangrast.soft_variant import Variant

_LABEL = re.compile(r"^([A-Za-z_][\w.$]*):")
# Arithmetic on eight floats at once.
_PACKED = re.compile(r"^\tv(?:add|sub|mul|div|max|min|sqrt|fn?m(?:add|sub)\d+)ps\s.*%ymm")
# g++ 12 writes 189 and 335, clang 14 218 and 346. Where an array of bools kept g++ from it, there were 39 and 36.
LEAST = {"soft_rasterize": 100, "soft_rasterize_bwd_diff": 150}


def packed_instructions(assembly: str) -> collections.Counter[str]:
    """How many there are in each kernel, by the labels of functions."""
    counts: collections.Counter[str] = collections.Counter()
    kernel = ""
    for line in assembly.splitlines():
        if label := _LABEL.match(line):
            kernel = next((name for name in sorted(LEAST, key=len, reverse=True) if name in label[1]), "")
        elif _PACKED.match(line):
            counts[kernel] += 1
    return counts


@pytest.mark.skipif(platform.machine() != "x86_64", reason="counts instructions of x86-64")
@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_the_soft_kernel_is_made_of_vectors(compiler: str, tmp_path: Path) -> None:
    if not shutil.which(compiler):
        pytest.skip(f"{compiler} is not installed")
    formulas = {"coverage": "squared_distance", "falloff": "logistic", "aggregation": "softmax"}
    variant = Variant.choose("", {**formulas, "silhouette": "probabilistic"}, view_depth=True)
    request = variant.module(3, torch.zeros(1), ONE_THREAD_A_TILE).request
    output = compile_slang(request.path, request.defines, request.include_paths)
    families = read_signatures(output.cuda_text, output.binding_text, float64=False)
    source = tmp_path / "host.cpp"
    source.write_text(_host_text(output.cuda_text, families, request))
    flags = HostCompiler((compiler,), "").flags(fast_math=False)
    # For one processor, whatever this one is.
    flags = [{"-march=native": "-march=haswell", "-shared": "-S"}.get(flag, flag) for flag in flags]
    command = [compiler, *flags, f"-I{HOST_FOLDER}", str(source), "-o", "-"]
    counts = packed_instructions(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert all(counts[kernel] >= least for kernel, least in LEAST.items()), counts
