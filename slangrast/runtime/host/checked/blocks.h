// Runs the threads of one block of a checked launch, up to the first fault.
#pragma once

namespace slangrast
{

#if SLANGRAST_SIMT

// False where the launch is to end.
template<typename Body>
static bool run_checked_block(const SlangrastLaunch* launch, Body& body)
{
    launch_of_thread = launch;
    if (has_stopped(launch))
        return false;
    return current_block.run(launch->block, [](void* pointer) { (*static_cast<Body*>(pointer))(); }, &body);
}

#else

static thread_local jmp_buf before_thread;

static void leave_thread() { _longjmp(before_thread, 1); }

template<typename Body>
static bool run_checked_block(const SlangrastLaunch* launch, Body& body)
{
    launch_of_thread = launch;
    for (uint32_t z = 0; z < launch->block[2]; z++)
        for (uint32_t y = 0; y < launch->block[1]; y++)
            for (uint32_t x = 0; x < launch->block[0]; x++)
            {
                if (has_stopped(launch))
                    return false;
                threadIdx = {x, y, z};
                caller_site = {"", 0};
                promise = Promise::none;
                if (_setjmp(before_thread) != 0)
                    return false;
                body();
            }
    return true;
}

#endif

} // namespace slangrast
