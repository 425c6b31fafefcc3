// What functions of a DiffTensorView promise: an element that storeOnce or loadOnce takes is taken once in a launch.
#pragma once

namespace slangrast
{

// Of the elements that a function touches. Such functions are known by their names.
enum class Promise
{
    none,
    stores_once,
    reads_gradient_once,
};
static thread_local Promise promise = Promise::none;

struct Promised
{
    Promise before;

    SLANGRAST_METHOD Promised(Promise now) : before(promise) { promise = now; }
    SLANGRAST_METHOD ~Promised() { promise = before; }
};

} // namespace slangrast
