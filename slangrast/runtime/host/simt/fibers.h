// The threads of a block as fibers: each has a stack of its own, and runs until it waits for others, at an operation of
// its wave or at a barrier of its block. One thread of the host runs all fibers of a block, in turn.
//
// A wave is 32 threads whose numbers in the block follow each other, x before y before z. Slang gives each of its
// operations a mask of the lanes that take part, which it keeps with ballots around every branch. An operation is
// carried out when all of these lanes have come to it; those that have left the kernel do not count.
#pragma once

#include <sys/mman.h>
#include <ucontext.h>

namespace slangrast
{

constexpr uint32_t wave_size = 32;
constexpr size_t page_size = 65536; // no machine has larger ones
constexpr size_t stack_size = 8 * page_size;

enum class State : uint8_t
{
    ready,
    in_wave,    // waits for the other lanes of an operation
    at_barrier, // waits for the other threads of the block
    left,
};

// What an operation asks of the lanes in its mask.
enum class Manner : uint8_t
{
    ballot,   // any place in the text will do: with ballots Slang itself follows the lanes through branches
    shuffle,  // lanes come to the same place; those that have left the kernel are not missed
    together, // lanes come to the same place, all of them
    whoever,  // no mask: those that come to the same place while no lane of the wave can do anything else
};

SLANGRAST_INLINE bool is_same_place(Site a, Site b) { return a.line == b.line && strcmp(a.file, b.file) == 0; }

struct Fiber;

// The lanes that take part in an operation, and what they bring and take.
struct Group
{
    Fiber* wave; // its lane 0
    uint32_t lanes;

    SLANGRAST_METHOD bool has(uint32_t lane) const { return lane < wave_size && (lanes >> lane & 1) != 0; }
    template<typename T>
    SLANGRAST_METHOD const T& brought(uint32_t lane) const;
    template<typename T>
    SLANGRAST_METHOD T& taken(uint32_t lane) const;
};

typedef void (*CarryOut)(const Group& group);

struct Fiber
{
    jmp_buf resume;
    bool has_stack_in_use = false;
    State state = State::ready;
    uint3 thread;
    // What else belongs to a thread, while it does not run.
    Site caller;
#if SLANGRAST_DEBUG
    Promise promise;
#endif
    // What it waits for.
    Site site;
    const char* operation;
    CarryOut carry_out;
    Manner manner;
    uint32_t mask;
    const void* brought;
    void* taken;
};

template<typename T>
SLANGRAST_METHOD const T& Group::brought(uint32_t lane) const
{
    return *static_cast<const T*>(wave[lane].brought);
}
template<typename T>
SLANGRAST_METHOD T& Group::taken(uint32_t lane) const
{
    return *static_cast<T*>(wave[lane].taken);
}

// The block that a thread of the host runs. Fibers and stacks are kept for the next one.
struct Block
{
    Fiber* fibers = nullptr;
    uint8_t* stacks = nullptr;
    uint32_t capacity = 0, size = 0;
    Fiber* running = nullptr;
    jmp_buf scheduler;
    bool stopped = false;
    void (*body)(void*) = nullptr;
    void* context = nullptr;

    ~Block() { release(); }

    // False where the launch is to end.
    bool run(const uint32_t (&extent)[3], void (*new_body)(void*), void* new_context)
    {
        size = extent[0] * extent[1] * extent[2];
        if (!reserve())
        {
            if (claim_report(launch_of_thread, SLANGRAST_NO_MEMORY))
                set_place(launch_of_thread->report, {"", 0}, {});
            return false;
        }
        body = new_body;
        context = new_context;
        stopped = false;
        for (uint32_t i = 0; i < size; i++)
        {
            Fiber& fiber = fibers[i];
            fiber.state = State::ready;
            fiber.thread = {i % extent[0], i / extent[0] % extent[1], i / extent[0] / extent[1]};
            fiber.caller = {"", 0};
#if SLANGRAST_DEBUG
            fiber.promise = Promise::none;
#endif
        }
        while (count(State::left) < size)
        {
            bool progress = false;
            for (uint32_t first = 0; first < size; first += wave_size)
            {
                progress |= run_wave(first);
                if (stopped)
                    return abandon();
            }
            if (!progress && !pass_barrier())
            {
                report_divergence();
                return abandon();
            }
        }
        return true;
    }

    // To the scheduler, until it resumes this fiber.
    void wait(State state)
    {
        Fiber& fiber = *running;
        fiber.state = state;
        fiber.caller = caller_site;
#if SLANGRAST_DEBUG
        fiber.promise = promise;
#endif
        if (_setjmp(fiber.resume) == 0)
            to_scheduler();
    }

    [[noreturn]] void to_scheduler() { _longjmp(scheduler, 1); }

    // Carry out the operation that `fiber` waits for, if all the lanes that it needs are there.
    bool try_operation(Fiber& fiber)
    {
        const uint32_t first = first_of_wave(fiber);
        const uint32_t lanes = smaller(size - first, wave_size);
        Group group{fibers + first, 0};
        bool is_elsewhere = false;
        for (uint32_t lane = 0; lane < lanes; lane++)
        {
            if ((fiber.mask >> lane & 1) == 0)
                continue;
            const Fiber& other = group.wave[lane];
            if (other.state == State::left && fiber.manner != Manner::together)
                continue;
            if (other.state != State::in_wave || other.carry_out != fiber.carry_out || other.mask != fiber.mask)
                return false;
            if (!is_same_place(other.site, fiber.site))
                is_elsewhere = true;
            group.lanes |= 1u << lane;
        }
        if (is_elsewhere && fiber.manner != Manner::ballot)
            return false; // reported once nothing else can happen
        finish_operation(group);
        return true;
    }

private:
    static uint32_t smaller(uint32_t a, uint32_t b) { return a < b ? a : b; }
    uint32_t first_of_wave(const Fiber& fiber) const { return uint32_t(&fiber - fibers) / wave_size * wave_size; }

    uint32_t count(State state) const
    {
        uint32_t found = 0;
        for (uint32_t i = 0; i < size; i++)
            found += fibers[i].state == state;
        return found;
    }

    // Run the lanes of a wave until each has left or waits for the rest of the block. True where any did something.
    bool run_wave(uint32_t first)
    {
        const uint32_t end = smaller(first + wave_size, size);
        bool progress = false;
        for (bool again = true; again;)
        {
            again = false;
            for (uint32_t i = first; i < end; i++)
                if (fibers[i].state == State::ready)
                {
                    resume(fibers[i]);
                    if (stopped)
                        return true;
                    again = true;
                }
            // Some may have waited for lanes that have left since.
            for (uint32_t i = first; !again && i < end; i++)
                if (fibers[i].state == State::in_wave && fibers[i].manner != Manner::whoever)
                    again = try_operation(fibers[i]);
            for (uint32_t i = first; !again && i < end; i++)
                if (fibers[i].state == State::in_wave && fibers[i].manner == Manner::whoever)
                {
                    gather(fibers[i]);
                    again = true;
                }
            progress |= again;
        }
        return progress;
    }

    // Carry out an operation without a mask for all the lanes that wait where `fiber` does.
    void gather(Fiber& fiber)
    {
        const uint32_t first = first_of_wave(fiber);
        Group group{fibers + first, 0};
        for (uint32_t lane = 0; lane < smaller(size - first, wave_size); lane++)
        {
            const Fiber& other = group.wave[lane];
            if (other.state == State::in_wave && other.carry_out == fiber.carry_out && other.manner == Manner::whoever &&
                is_same_place(other.site, fiber.site))
                group.lanes |= 1u << lane;
        }
        finish_operation(group);
    }

    void finish_operation(const Group& group)
    {
        group.wave[__builtin_ctz(group.lanes)].carry_out(group);
        for (uint32_t lane = 0; lane < wave_size; lane++)
            if (group.has(lane))
                group.wave[lane].state = State::ready;
    }

    // True where all threads of the block wait at the same barrier, which they may then leave.
    bool pass_barrier()
    {
        for (uint32_t i = 0; i < size; i++)
            if (fibers[i].state != State::at_barrier || !is_same_place(fibers[i].site, fibers[0].site))
                return false;
        for (uint32_t i = 0; i < size; i++)
            fibers[i].state = State::ready;
        return true;
    }

    // Nobody can go on. Say so of an operation in the shader rather than of a ballot, which only tells that lanes part.
    void report_divergence()
    {
        const Fiber* found = nullptr;
        for (uint32_t i = 0; i < size; i++)
        {
            const Fiber& fiber = fibers[i];
            if (fiber.state == State::left)
                continue;
            const bool is_ballot = fiber.state == State::in_wave && fiber.manner == Manner::ballot;
            if (found == nullptr || !is_ballot)
                found = &fiber;
            if (!is_ballot)
                break;
        }
        if (found->state == State::at_barrier)
            report_barrier(*found);
        else
            report_wave(*found);
    }

    void report_barrier(const Fiber& found)
    {
        if (!claim_report(launch_of_thread, SLANGRAST_DIVERGENT_BARRIER))
            return;
        SlangrastReport* report = launch_of_thread->report;
        set_place(report, in_shader(found.site), found.thread);
        report->left = count(State::left);
        for (uint32_t i = 0; i < size; i++)
        {
            const Fiber& other = fibers[i];
            if (other.state == State::left)
                continue;
            const bool is_here = other.state == State::at_barrier && is_same_place(other.site, found.site);
            is_here ? report->here++ : report->elsewhere++;
            if (!is_here && report->other_file == nullptr)
                set_other(report, other);
        }
    }

    void report_wave(const Fiber& found)
    {
        if (!claim_report(launch_of_thread, SLANGRAST_DIVERGENT_WAVE))
            return;
        SlangrastReport* report = launch_of_thread->report;
        set_place(report, in_shader(found.site), found.thread);
        report->operation = found.operation;
        const uint32_t first = first_of_wave(found);
        for (uint32_t lane = 0; lane < smaller(size - first, wave_size); lane++)
        {
            const Fiber& other = fibers[first + lane];
            const uint32_t bit = 1u << lane;
            if ((found.mask & bit) == 0)
                continue;
            if (other.state == State::left)
                report->left |= bit;
            else if (other.state == State::in_wave && other.carry_out == found.carry_out && other.mask == found.mask &&
                     is_same_place(other.site, found.site))
                report->here |= bit;
            else
            {
                report->elsewhere |= bit;
                if (report->other_file == nullptr)
                    set_other(report, other);
            }
        }
    }

    static void set_other(SlangrastReport* report, const Fiber& other)
    {
        const Site site = other.site.is_in_shader() ? other.site : other.caller;
        report->other_file = site.file;
        report->other_line = site.line;
    }

    // The stacks of fibers that will not go on must be begun anew.
    bool abandon()
    {
        for (uint32_t i = 0; i < size; i++)
            fibers[i].has_stack_in_use = fibers[i].has_stack_in_use && fibers[i].state == State::left;
        return false;
    }

    void resume(Fiber& fiber)
    {
        running = &fiber;
        threadIdx = fiber.thread;
        caller_site = fiber.caller;
#if SLANGRAST_DEBUG
        promise = fiber.promise;
#endif
        if (_setjmp(scheduler) == 0)
        {
            if (fiber.has_stack_in_use)
                _longjmp(fiber.resume, 1);
            begin(fiber);
        }
    }

    uint8_t* stack_of(const Fiber& fiber) const { return stacks + (&fiber - fibers) * stack_size + page_size; }

    [[noreturn]] void begin(Fiber& fiber)
    {
        fiber.has_stack_in_use = true;
        ucontext_t context;
        getcontext(&context);
        context.uc_stack.ss_sp = stack_of(fiber);
        context.uc_stack.ss_size = stack_size - page_size;
        context.uc_link = nullptr;
        makecontext(&context, &Block::fiber_main, 0);
        setcontext(&context);
        __builtin_unreachable();
    }

    static void fiber_main();

    // Memory is taken as it is touched. A page below each stack, which may not be, ends what outgrows its stack.
    bool reserve()
    {
        if (size <= capacity)
            return true;
        release();
        const size_t bytes = size * stack_size;
        void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED)
            return false;
        stacks = static_cast<uint8_t*>(memory);
        for (uint32_t i = 0; i < size; i++)
            mprotect(stacks + i * stack_size, page_size, PROT_NONE);
        fibers = new Fiber[size];
        capacity = size;
        return true;
    }

    void release()
    {
        if (stacks != nullptr)
            munmap(stacks, capacity * stack_size);
        delete[] fibers;
        stacks = nullptr;
        fibers = nullptr;
        capacity = 0;
    }
};

static thread_local Block current_block;

void Block::fiber_main()
{
    Block& block = current_block;
    for (;;) // once for each block that this fiber is a thread of
    {
        block.body(block.context);
        Fiber& fiber = *block.running;
        fiber.state = State::left;
        if (_setjmp(fiber.resume) == 0)
            block.to_scheduler();
    }
}

static void leave_thread()
{
    Block& block = current_block;
    block.stopped = true;
    block.to_scheduler();
}

// Wait for the lanes in `mask`, then let one of them carry out the operation for all.
template<typename Taken, typename Brought>
SLANGRAST_INLINE Taken take_part(
    const char* operation, Manner manner, uint32_t mask, CarryOut carry_out, const Brought& brought, Site site)
{
    Block& block = current_block;
    Fiber& fiber = *block.running;
    Taken taken = {};
    fiber.operation = operation;
    fiber.manner = manner;
    fiber.mask = mask;
    fiber.carry_out = carry_out;
    fiber.site = in_shader(site);
    fiber.brought = &brought;
    fiber.taken = &taken;
    const uint32_t lane = uint32_t(&fiber - block.fibers) % wave_size;
    if (manner != Manner::whoever && (mask >> lane & 1) == 0)
    {
        if (claim_report(launch_of_thread, SLANGRAST_LANE_NOT_IN_MASK))
        {
            launch_of_thread->report->operation = operation;
            launch_of_thread->report->here = mask;
            set_place(launch_of_thread->report, fiber.site, fiber.thread);
        }
        leave_thread();
    }
    fiber.state = State::in_wave;
    if (manner != Manner::whoever)
        block.try_operation(fiber);
    block.wait(fiber.state); // even if all are there: then they go on in the order of their numbers
    return taken;
}

} // namespace slangrast

SLANGRAST_INLINE void __syncthreads(slangrast::Site site = slangrast::Site::here())
{
    slangrast::Block& block = slangrast::current_block;
    block.running->site = slangrast::in_shader(site);
    block.wait(slangrast::State::at_barrier);
}
