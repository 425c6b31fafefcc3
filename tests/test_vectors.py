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
from slangrast.runtime.host_compiler import HOST_FOLDER, host_compiler
from slangrast.runtime.signature import read_signatures
from slangrast.runtime.slang_compiler import compile_slang
from slangrast.soft_variant import Variant

_LABEL = re.compile(r"^([A-Za-z_][\w.$]*):")
# Arithmetic on eight floats at once.
_PACKED = re.compile(r"^\tv(?:add|sub|mul|div|max|min|sqrt|fn?m(?:add|sub)\d+)ps\s.*%ymm")
# With colour g++ 12 writes over 180 and 330, clang 14 over 210 and 340; where an array of bools kept g++ from it, there
# were 39 and 36. Of a silhouette alone 173 and 296, and 252 and 303; without vectors in its reverse 157.
KERNELS = ("soft_rasterize_bwd_diff", "soft_rasterize")
LEAST = (220, 100)


def packed_instructions(assembly: str) -> collections.Counter[str]:
    """How many there are in each kernel, by the labels of functions."""
    counts: collections.Counter[str] = collections.Counter()
    kernel = ""
    for line in assembly.splitlines():
        if label := _LABEL.match(line):
            kernel = next((name for name in KERNELS if name in label[1]), "")
        elif _PACKED.match(line):
            counts[kernel] += 1
    return counts


@pytest.mark.skipif(platform.machine() != "x86_64", reason="counts instructions of x86-64")
@pytest.mark.parametrize("with_color", [True, False])
@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_the_soft_kernel_is_made_of_vectors(
    compiler: str, with_color: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shutil.which(compiler):
        pytest.skip(f"{compiler} is not installed")
    monkeypatch.setenv("SLANGRAST_CXX", compiler)
    formulas = {"coverage": "squared_distance", "falloff": "logistic", "silhouette": "probabilistic"}
    formulas |= {"aggregation": "softmax"} if with_color else {}
    variant = Variant.choose("", formulas, view_depth=True, with_color=with_color)
    request = variant.module(3 if with_color else 0, torch.zeros(1), ONE_THREAD_A_TILE).request
    output = compile_slang(request.path, request.defines, request.include_paths)
    families = read_signatures(output.cuda_text, output.binding_text, float64=False)
    source = tmp_path / "host.cpp"
    source.write_text(_host_text(output.cuda_text, families, request))
    flags = host_compiler().flags(fast_math=False)
    # For one processor, whatever this one is.
    flags = [{"-march=native": "-march=haswell", "-shared": "-S"}.get(flag, flag) for flag in flags]
    command = [compiler, *flags, f"-I{HOST_FOLDER}", str(source), "-o", "-"]
    counts = packed_instructions(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert all(counts[kernel] >= least for kernel, least in zip(KERNELS, LEAST, strict=True)), counts
