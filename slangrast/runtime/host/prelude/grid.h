// Where a thread stands in its launch. The launcher sets these before it calls the kernel.
#pragma once

typedef uint3 dim3;

#if SLANGRAST_DEBUG
// By the names that a debugger is asked for.
static thread_local uint3 blockIdx, threadIdx;
static thread_local dim3 blockDim, gridDim;
static thread_local bool slangrast_single_threaded = false;
#else
struct SlangrastPlace
{
    uint3 block_index, thread_index;
    dim3 block_size, grid_size;
    bool single_threaded; // the launch that this thread works for
};

static thread_local SlangrastPlace slangrast_place_of_thread;

// A function, and not inlined: clang believes that the look-up of a thread's variable leaves all vector registers beyond
// the sixteenth as they are. In a shared library the first look-up of each thread allocates and clears memory, and does
// not: constants of a loop that lay there then turned into rubbish. `const`: one look-up serves a whole loop. The empty
// line of assembly hides what is returned, or clang would look it up at the call after all.
__attribute__((noinline, const)) static SlangrastPlace* slangrast_place()
{
    SlangrastPlace* place = &slangrast_place_of_thread;
    asm("" : "+r"(place));
    return place;
}

#define blockIdx (slangrast_place()->block_index)
#define threadIdx (slangrast_place()->thread_index)
#define blockDim (slangrast_place()->block_size)
#define gridDim (slangrast_place()->grid_size)
#define slangrast_single_threaded (slangrast_place()->single_threaded)
#endif

SLANGRAST_INLINE uint getAt(const dim3& dimensions, int index) { return dimensions[index]; }
