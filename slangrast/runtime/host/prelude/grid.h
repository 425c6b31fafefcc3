// Where a thread stands in its launch. The launcher sets these before it calls the kernel.
#pragma once

typedef uint3 dim3;

static thread_local uint3 blockIdx, threadIdx;
static thread_local dim3 blockDim, gridDim;

SLANGRAST_INLINE uint getAt(const dim3& dimensions, int index) { return dimensions[index]; }
