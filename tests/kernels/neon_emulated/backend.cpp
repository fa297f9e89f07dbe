// kernels/csrc/neon.cpp for other processors than ARM's, in the place of all other backends.
#include <arm_neon.h>

#include <bit>
#include <cmath>
#include <cstring>

#if defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

// Only now: the system's headers are to be those of this processor.
#define __aarch64__ 1
#define __ARM_FEATURE_DOTPROD 1

#include "neon.cpp"

namespace potluck {
const Backend* avx512_backend() { return nullptr; }
const Backend* avx2_backend() { return nullptr; }
const Backend* generic_backend() { return nullptr; }
} // namespace potluck
