// The host's stand-in for the CUDA prelude: everything that the program text of `slangc -target cuda` may name.
// The including file defines SLANG_CUDA_PRELUDE_H, so that the prelude inside the generated text is skipped, and
// SLANGRAST_FLOAT64: when it is 1, whatever the shader calls float is a double here.
#pragma once

#ifndef SLANGRAST_FLOAT64
#define SLANGRAST_FLOAT64 0
#endif

#include "prelude/types.h"
#include "prelude/half.h"
#include "prelude/vectors.h"
#include "prelude/matrices.h"
#include "prelude/bit_cast.h"
#include "prelude/grid.h"
#include "prelude/elementary.h"
#include "prelude/math.h"
#include "prelude/atomics.h"
#include "prelude/waves.h"
#include "prelude/buffers.h"
#include "prelude/tensor_view.h"
