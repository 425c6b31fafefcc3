// Runs a kernel's threads on the host: blocks are shared out among CPU threads, a block's threads run in turn.
#pragma once
#include <cstddef>
#include <cstdint>

#if SLANGRAST_CHECKED
#include "checked/blocks.h"
#else
struct SlangrastLaunch
{
    uint32_t grid[3];
    uint32_t block[3];
    uint32_t threads;
};
#endif

using SlangrastChunk = void (*)(void* context, uint64_t begin, uint64_t end, bool alone);
using SlangrastParallelFor = void (*)(SlangrastChunk chunk, void* context, uint64_t count, uint32_t threads);

template<typename Body>
static void slangrast_run(const SlangrastLaunch* launch, SlangrastParallelFor parallel_for, Body body)
{
    struct Context
    {
        const SlangrastLaunch* launch;
        Body body;
    } context{launch, body};

    SlangrastChunk run_blocks = [](void* pointer, uint64_t begin, uint64_t end, bool alone)
    {
        Context& context = *static_cast<Context*>(pointer);
        const uint32_t* grid = context.launch->grid;
        const uint32_t* block = context.launch->block;
        slangrast_single_threaded = alone;
        gridDim = {grid[0], grid[1], grid[2]};
        blockDim = {block[0], block[1], block[2]};
        uint3& block_index = blockIdx; // looked up once
        uint3& thread_index = threadIdx;
        for (uint64_t index = begin; index < end; index++)
        {
            block_index = {uint32_t(index % grid[0]), uint32_t(index / grid[0] % grid[1]), uint32_t(index / grid[0] / grid[1])};
#if SLANGRAST_CHECKED
            if (!slangrast::run_checked_block(context.launch, context.body))
                return;
#else
            for (uint32_t z = 0; z < block[2]; z++)
                for (uint32_t y = 0; y < block[1]; y++)
                    for (uint32_t x = 0; x < block[0]; x++)
                    {
                        thread_index = {x, y, z};
                        context.body();
                    }
#endif
        }
    };
    parallel_for(run_blocks, &context, uint64_t(launch->grid[0]) * launch->grid[1] * launch->grid[2], launch->threads);
}
