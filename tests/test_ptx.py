"""Counting the instructions of loops in PTX, and that kernels do not keep account of active lanes."""

from __future__ import annotations

import re

import pytest

from benchmarks.ptx import entries, kinds_of, largest_loop
from slangrast.runtime.shader_paths import shader_folder

# One loop that skips half of itself or goes through an inner one, which ends at its top; a smaller loop before it.
PTX = """
.visible .entry kernel(
    .param .align 8 .b8 kernel_param_0[56]
)
{
    .reg .pred %p<9>;
    ld.param.u64 %rd1, [kernel_param_0];
$L__BB0_1:
    add.s32 %r1, %r1, 1;
    setp.lt.s32 %p1, %r1, 9;
    @%p1 bra $L__BB0_1;
$L__BB0_2:
    ld.global.f32 %f1, [%rd1];
    setp.gt.f32 %p2, %f1, 0f00000000;
    @%p2 bra $L__BB0_6;
    ex2.approx.f32 %f2, %f1;
$L__BB0_4:
    setp.lt.s32 %p3, %r2, 3;
    @!%p3 bra $L__BB0_6;
    shfl.sync.bfly.b32 %r3|%p4, %r2, 1, 31, -1;
    add.s32 %r2, %r2, 1;
    bra.uni $L__BB0_4;
$L__BB0_6:
    add.s32 %r4, %r4, 1;
    setp.lt.s32 %p5, %r4, 9;
    @%p5 bra $L__BB0_2;
    ret;

}
"""


def test_turns_of_loops_are_counted() -> None:
    ((name, body),) = entries(PTX).items()
    loop = largest_loop(body)
    skipping, through = ["ld", "setp", "bra", "add", "setp", "bra"], ["ex2", "setp", "bra", "shfl", "add", "bra"]
    assert name == "kernel"
    assert [opcode.split(".")[0] for opcode in loop.shortest()] == skipping
    assert [opcode.split(".")[0] for opcode in loop.longest()] == [*skipping[:3], *through, *skipping[3:]]
    inner = loop.largest_inner()
    assert len(inner.shortest()) == len(inner.longest()) == 5 and not inner.inner
    assert kinds_of(loop.longest()) == {"memory": 1, "special": 1, "shuffle": 1, "other": 9}


def test_calls_are_refused() -> None:
    with pytest.raises(ValueError, match="a call, of which the instructions are not counted"):
        largest_loop("    call.uni other, (%r1);\n    ret;\n")


def test_no_shader_asks_which_lanes_are_active() -> None:
    """Slang would keep account of them with two ballots at every branch of a kernel: sums name their lanes."""
    asks = re.compile(r"\b(WaveActive|WavePrefix|WaveIsFirstLane|WaveReadLane)\w*\(")
    shaders = [*shader_folder().glob("*.slang"), *shader_folder().glob("*.slangh")]
    assert len(shaders) > 30
    assert [shader.name for shader in shaders if asks.search(shader.read_text())] == []
