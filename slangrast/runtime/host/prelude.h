// The host's stand-in for the CUDA prelude: everything that the program text of `slangc -target cuda` may name.
// The including file defines SLANG_CUDA_PRELUDE_H, so that the prelude inside the generated text is skipped, and
// SLANGRAST_FLOAT64: when it is 1, whatever the shader calls float is a double here. SLANGRAST_DEBUG: when it is 1, every
// access is checked. SLANGRAST_SIMT: when it is 1, a block's threads run together, in warps of 32 lanes.
#pragma once

#ifndef SLANGRAST_FLOAT64
#define SLANGRAST_FLOAT64 0
#endif

#ifndef SLANGRAST_DEBUG
#define SLANGRAST_DEBUG 0
#endif
#ifndef SLANGRAST_SIMT
#define SLANGRAST_SIMT 0
#endif
#define SLANGRAST_CHECKED (SLANGRAST_DEBUG || SLANGRAST_SIMT) // faults are looked for, and reported

#include "prelude/types.h"
#include "prelude/half.h"
#include "prelude/vectors.h"
#include "prelude/matrices.h"
#include "prelude/bit_cast.h"
#include "prelude/grid.h"
#if SLANGRAST_CHECKED
#include "checked/faults.h"
#endif
#if SLANGRAST_DEBUG
#include "checked/promises.h"
#include "checked/values.h"
#endif
#include "prelude/elementary.h"
#include "prelude/math.h"
#include "prelude/lane_sums.h"
#include "prelude/atomics.h"
#include "prelude/wave_identities.h"
#if SLANGRAST_SIMT
#include "simt/fibers.h"
#include "simt/waves.h"
#else
#include "prelude/waves.h"
#endif
#include "prelude/buffers.h"
#if SLANGRAST_DEBUG
#include "checked/tensor_view.h"
#else
#include "prelude/tensor_view.h"
#endif
