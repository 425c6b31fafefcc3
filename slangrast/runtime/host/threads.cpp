// The CPU threads that all kernels share: one pool for a process, built once and loaded beside every module.
//
// Not OpenMP: torch brings its own copy of that runtime, a second one would compete with it for the cores, and not
// every compiler that can build kernels has one.
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

namespace
{
using Chunk = void (*)(void* context, uint64_t begin, uint64_t end);

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
    uint64_t count = 0, step = 1;
    std::atomic<uint64_t> next{0};

    void take_chunks()
    {
        for (;;)
        {
            uint64_t begin = next.fetch_add(step, std::memory_order_relaxed);
            if (begin >= count)
                return;
            chunk(context, begin, std::min(begin + step, count));
        }
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

    void run(Chunk new_chunk, void* new_context, uint64_t new_count, uint32_t threads)
    {
        {
            std::lock_guard<std::mutex> lock(mutex);
            chunk = new_chunk;
            context = new_context;
            count = new_count;
            // Small steps keep threads evenly busy when blocks differ in cost; large enough not to fight for `next`.
            step = std::max<uint64_t>(1, count / (uint64_t(threads) * 64));
            next.store(0, std::memory_order_relaxed);
            wanted = running = threads - 1; // the caller is one of the threads
            for (; workers < wanted; workers++)
                std::thread(&Pool::work, this, workers).detach();
            generation++;
        }
        start.notify_all();
        take_chunks();
        std::unique_lock<std::mutex> lock(mutex);
        finished.wait(lock, [&] { return running == 0; });
    }
};

Pool* pool()
{
    // Never destroyed: its threads sleep on it until the process ends. A forked child has none of the threads and
    // needs a pool of its own.
    static std::mutex mutex;
    static Pool* instance = nullptr;
    std::lock_guard<std::mutex> lock(mutex);
    if (instance == nullptr || instance->owner != getpid())
        instance = new Pool;
    return instance;
}
} // namespace

extern "C" void slangrast_parallel_for(Chunk chunk, void* context, uint64_t count, uint32_t threads)
{
    threads = uint32_t(std::min<uint64_t>(threads, count));
    if (threads > 1)
    {
        Pool* shared = pool();
        std::unique_lock<std::mutex> turn(shared->launching, std::try_to_lock);
        if (turn.owns_lock())
        {
            shared->run(chunk, context, count, threads);
            return;
        }
    }
    if (count > 0)
        chunk(context, 0, count); // one thread asked for, or another launch has the pool
}
