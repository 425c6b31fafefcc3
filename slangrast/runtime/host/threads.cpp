// The CPU threads that all kernels share, built once and loaded beside every module: torch's, or a pool of our own.
//
// Torch's OpenMP threads wait for their next work in a loop, for milliseconds, on the cores that a kernel's own threads
// would want. So kernels run on them, through the one function of that runtime. No second copy of it is linked: that
// would compete with torch's, and not every compiler that can build kernels has one. The pool's own threads are for a
// torch without OpenMP, and for a forked child, where OpenMP counts on threads that are gone.
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

namespace
{
using Chunk = void (*)(void* context, uint64_t begin, uint64_t end, bool alone);
using RunOnTeam = void (*)(void (*body)(void*), void* data, unsigned threads, unsigned flags); // GOMP_parallel's type

RunOnTeam run_on_team = nullptr;
pid_t team_owner = 0; // the process that has the team's threads

// A part of a launch's blocks: a thread takes its own first, then helps with others'. Blocks that lie side by side often
// add to the same memory, and two threads that do so at the same time wait for each other.
struct alignas(64) Share
{
    std::atomic<uint64_t> next{0};
    uint64_t end = 0;
};

struct Pool
{
    std::mutex launching; // one parallel launch at a time
    std::mutex mutex;
    std::condition_variable start, finished;
    uint64_t generation = 0;
    uint32_t workers = 0, wanted = 0, running = 0;
    pid_t owner = getpid();

    Chunk chunk = nullptr;
    void* context = nullptr;
    std::unique_ptr<Share[]> shares;
    uint32_t share_count = 0, most_shares = 0;
    uint64_t step = 1;
    std::atomic<uint32_t> arrived{0};

    std::atomic<uint32_t> launches{0}; // those that run now, for all the threads that Python may have
    std::mutex alone;                  // held while memory is added to without atomic instructions

    void take_chunks()
    {
        const uint32_t own = arrived.fetch_add(1, std::memory_order_relaxed);
        for (uint32_t k = 0; k < share_count; k++)
        {
            Share& share = shares[(own + k) % share_count];
            for (;;)
            {
                uint64_t begin = share.next.fetch_add(step, std::memory_order_relaxed);
                if (begin >= share.end)
                    break;
                chunk(context, begin, std::min(begin + step, share.end), false);
            }
        }
    }

    void share_out(uint64_t count, uint32_t threads)
    {
        if (threads > most_shares)
        {
            shares.reset(new Share[threads]);
            most_shares = threads;
        }
        share_count = threads;
        for (uint32_t k = 0; k < threads; k++)
        {
            const uint64_t size = count / threads, larger = count % threads; // by one
            shares[k].next.store(size * k + std::min<uint64_t>(k, larger), std::memory_order_relaxed);
            shares[k].end = size * (k + 1) + std::min<uint64_t>(k + 1, larger);
        }
        // Small steps keep threads evenly busy when blocks differ in cost; large enough not to fight for `next`.
        step = std::max<uint64_t>(1, count / (uint64_t(threads) * 64));
        arrived.store(0, std::memory_order_relaxed);
    }

    void work(uint32_t index)
    {
        uint64_t seen = 0;
        for (;;)
        {
            {
                std::unique_lock<std::mutex> lock(mutex);
                start.wait(lock, [&] { return generation != seen; });
                seen = generation;
                if (index >= wanted)
                    continue;
            }
            take_chunks();
            std::lock_guard<std::mutex> lock(mutex);
            if (--running == 0)
                finished.notify_one();
        }
    }

    void run(Chunk new_chunk, void* new_context, uint64_t count, uint32_t threads)
    {
        chunk = new_chunk;
        context = new_context;
        share_out(count, threads);
        if (run_on_team && team_owner == owner) // always all threads: to change their number starts and ends some
            run_on_team([](void* pool) { static_cast<Pool*>(pool)->take_chunks(); }, this, threads, 0);
        else
            run_on_workers(uint32_t(std::min<uint64_t>(threads, count)) - 1); // the caller is one of the threads
    }

    void run_on_workers(uint32_t others)
    {
        {
            std::lock_guard<std::mutex> lock(mutex);
            add_workers(others);
            wanted = running = std::min(workers, others);
            generation++;
        }
        start.notify_all();
        take_chunks();
        std::unique_lock<std::mutex> lock(mutex);
        finished.wait(lock, [&] { return running == 0; });
    }

    void add_workers(uint32_t needed)
    {
        try
        {
            for (; workers < needed; workers++)
                std::thread(&Pool::work, this, workers).detach();
        }
        catch (const std::system_error&)
        {
            // The system gives no more threads: those that there are do the work.
        }
    }

    // A launch on one thread adds to memory without atomic instructions as long as no other launch runs. It asks before
    // each chunk, and a launch that begins waits until the chunk that was begun alone has ended.
    void run_on_this_thread(Chunk chunk, void* context, uint64_t count)
    {
        const uint64_t step = std::max<uint64_t>(1, count / 64);
        for (uint64_t begin = 0; begin < count; begin += step)
        {
            std::unique_lock<std::mutex> lock(alone, std::defer_lock);
            if (launches.load() == 1)
            {
                lock.lock();
                if (launches.load() != 1)
                    lock.unlock();
            }
            chunk(context, begin, std::min(begin + step, count), lock.owns_lock());
        }
    }
};

// Never destroyed: its threads sleep on it until the process ends. A forked child has none of the threads, and locks that
// nobody will release: it needs a pool of its own.
Pool* pool()
{
    static std::atomic<Pool*> instance{nullptr}; // not a lock, which a fork could leave held
    Pool* current = instance.load();
    if (current == nullptr || current->owner != getpid())
    {
        Pool* fresh = new Pool;
        if (instance.compare_exchange_strong(current, fresh))
            return fresh;
        delete fresh; // another thread was faster
    }
    return current;
}
} // namespace

extern "C" void slangrast_parallel_for(Chunk chunk, void* context, uint64_t count, uint32_t threads)
{
    Pool* shared = pool();
    if (shared->launches.fetch_add(1) > 0)
    {
        std::lock_guard<std::mutex> wait_for_one_that_runs_alone(shared->alone);
    }
    std::unique_lock<std::mutex> turn(shared->launching, std::defer_lock);
    if (threads > 1 && count > 1 && turn.try_lock())
        shared->run(chunk, context, count, threads);
    else // one thread asked for, or another launch has the pool
        shared->run_on_this_thread(chunk, context, count);
    shared->launches.fetch_sub(1);
}

// Let launches of this process run on the threads of an OpenMP runtime, given its GOMP_parallel. To be called before any.
extern "C" void slangrast_join_team(RunOnTeam parallel)
{
    run_on_team = parallel;
    team_owner = getpid();
}
