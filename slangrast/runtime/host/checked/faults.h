// What a checked launch finds wrong, and how it then stops: the first thread to find a fault writes it into the report
// of the launch, and no thread goes on. slangrast/runtime/checked_launch.py has the other half of these structs.
#pragma once

#include <setjmp.h>

enum SlangrastFault : int32_t
{
    SLANGRAST_OUT_OF_RANGE = 1,
    SLANGRAST_WRONG_DIMENSIONS,
    SLANGRAST_STORED_NOT_FINITE,
    SLANGRAST_ADDED_NOT_FINITE,
    SLANGRAST_SUM_NOT_FINITE,
    SLANGRAST_STORED_TWICE,
    SLANGRAST_GRADIENT_READ_TWICE,
    SLANGRAST_DIVIDED_BY_ZERO,
    SLANGRAST_ARRAY_INDEX,
    SLANGRAST_DIVERGENT_BARRIER,
    SLANGRAST_DIVERGENT_WAVE,
    SLANGRAST_LANE_NOT_IN_MASK,
    SLANGRAST_NO_MEMORY,
};

struct SlangrastReport
{
    int32_t fault; // 0: nothing found
    int32_t line;
    const char* file;
    uint32_t block[3];
    uint32_t thread[3];
    int32_t tensor; // its number, from 1; 0: none
    uint32_t index_count;
    int64_t index[5];
    double value;
    const char* operation; // of a wave, where lanes diverge
    const char* other_file;
    int32_t other_line;
    uint32_t here, elsewhere, left; // lanes of a wave, as a mask, or how many threads of a block
};

// What is kept of a TensorView among the arguments. Its number is in the view.
struct SlangrastTensor
{
    uint8_t* seen; // a byte of SlangrastSeen for each element, or null
    uint32_t watched;
    uint32_t taken; // set once the shader takes the address of the whole: what is written through it is not seen
};

enum SlangrastWatched : uint32_t
{
    SLANGRAST_VALUES = 1, // NaN and infinity are faults
    SLANGRAST_WRITES = 2, // an element that is never written is a fault
    SLANGRAST_ONCE = 4,   // an element that storeOnce or loadOnce takes twice is a fault
};

enum SlangrastSeen : uint8_t
{
    SLANGRAST_WRITTEN = 1,
    SLANGRAST_TAKEN_ONCE = 2,
};

struct SlangrastLaunch
{
    uint32_t grid[3];
    uint32_t block[3];
    uint32_t threads;
    SlangrastTensor* tensors;
    SlangrastReport* report;
};

namespace slangrast
{

static thread_local const SlangrastLaunch* launch_of_thread = nullptr;

[[noreturn]] static void leave_thread(); // never to return to it: by the launcher

SLANGRAST_INLINE bool has_stopped(const SlangrastLaunch* launch)
{
    return __atomic_load_n(&launch->report->fault, __ATOMIC_RELAXED) != 0;
}

// True for the one thread that may fill in the rest of the report.
SLANGRAST_INLINE bool claim_report(const SlangrastLaunch* launch, SlangrastFault fault)
{
    int32_t none = 0;
    return __atomic_compare_exchange_n(
        &launch->report->fault, &none, int32_t(fault), false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

SLANGRAST_INLINE void set_place(SlangrastReport* report, Site site, uint3 thread)
{
    report->file = site.file;
    report->line = site.line;
    for (int i = 0; i < 3; i++)
    {
        report->block[i] = blockIdx[i];
        report->thread[i] = thread[i];
    }
}

// An access to a tensor: which, and where.
struct Access
{
    uint32_t tensor;
    uint32_t count;
    const uint32_t* index;
};

[[noreturn]] static void stop_at(SlangrastFault fault, Site site, Access access, double value)
{
    if (claim_report(launch_of_thread, fault))
    {
        SlangrastReport* report = launch_of_thread->report;
        set_place(report, in_shader(site), threadIdx);
        report->tensor = int32_t(access.tensor);
        report->index_count = access.count;
        for (uint32_t i = 0; i < access.count; i++)
            report->index[i] = access.index[i];
        report->value = value;
    }
    leave_thread();
}

#if SLANGRAST_DEBUG
static void stop_at_array(ArrayIndex index, int64_t length)
{
    if (claim_report(launch_of_thread, SLANGRAST_ARRAY_INDEX))
    {
        SlangrastReport* report = launch_of_thread->report;
        set_place(report, in_shader(index.site), threadIdx);
        report->index_count = 1;
        report->index[0] = index.value;
        report->value = double(length);
    }
    leave_thread();
}
#endif

} // namespace slangrast

#if SLANGRAST_DEBUG

// The compiler is told to check integer divisions, and calls this where one has no result. It is the name that the
// runtime of the undefined-behaviour sanitizer has for it; that runtime, which would not return here, is not needed.
struct SlangrastSourceLocation
{
    const char* file;
    uint32_t line, column;
};

extern "C" [[noreturn]] __attribute__((visibility("hidden"), used)) void
__ubsan_handle_divrem_overflow_abort(SlangrastSourceLocation* place, uintptr_t, uintptr_t)
{
    slangrast::stop_at(SLANGRAST_DIVIDED_BY_ZERO, {place->file, int(place->line)}, {}, 0.0);
}

#endif
