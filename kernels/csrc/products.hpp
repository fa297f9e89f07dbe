// Work that threads share, with the backend in use.
#pragma once

#include <cstring>

#include "formats.hpp"

namespace potluck {

extern const Backend* g_backend; // in use

// The backend of this name, the best there is for ""; none where it cannot run.
const Backend* named_backend(const char* name);

// Products with activations of 8 bits, of the rows that this thread rounded last; and with x as it is.
void round_rows(const float* x, int64_t count, int64_t columns);
void multiply_rounded(const Exact& work);
void multiply_exact(const Exact& work);

// `most`: slots of the longest row.
void attend_rows(const Attend& work, int64_t rows, int64_t most);

// Python hands over addresses and the bits of numbers as integers.
template <typename T> T* pointer(int64_t address) { return reinterpret_cast<T*>(static_cast<uintptr_t>(address)); }

inline float bits_as_float(int64_t bits) {
    const uint32_t word = static_cast<uint32_t>(bits);
    float value;
    std::memcpy(&value, &word, 4);
    return value;
}

} // namespace potluck
