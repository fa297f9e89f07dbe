// Plain C++: the reference of the vector backends, and what runs where there is none.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "formats.hpp"

namespace potluck {
namespace {

template <Kind K>
void product(const uint8_t* group, const Activations& x, int64_t first, int64_t count, float* y, int64_t stride,
             int64_t valid_rows) {
    std::vector<float> row(static_cast<size_t>(x.columns));
    for (int64_t r = 0; r < valid_rows; ++r) {
        unpack_row(K, group, x.columns, r, row.data());
        for (int64_t t = first; t < first + count; ++t) {
            float sum = 0.0f;
            for (int64_t tile = 0; tile < x.columns / kTile; ++tile) {
                for (int64_t half = 2 * tile; half < 2 * tile + 2; ++half) {
                    float part = 0.0f;
                    for (int64_t c = 16 * half; c < 16 * half + 16; ++c) part += row[c] * x.q[t * x.columns + c];
                    sum += part * x.scale[t * (x.columns / 16) + half];
                }
            }
            y[t * stride + r] = sum;
        }
    }
}

void quantize(const float* x, int64_t columns, int8_t* q, float* scale, int32_t* sums) {
    for (int64_t half = 0; half < columns / 16; ++half) {
        const float* in = x + 16 * half;
        float most = 0.0f;
        for (int j = 0; j < 16; ++j) most = std::max(most, std::fabs(in[j]));
        const float inverse = most > 0.0f ? 127.0f / most : 0.0f;
        int32_t sum = 0;
        for (int j = 0; j < 16; ++j) {
            const int8_t value = static_cast<int8_t>(std::nearbyintf(in[j] * inverse));
            q[16 * half + j] = value;
            sum += value;
        }
        scale[half] = most / 127.0f;
        sums[half] = sum;
    }
}

#include "dense.inc"

using Vec = Lanes;
constexpr int kBlockRows = 4, kTogether = 1;

inline Vec load_vec(const uint8_t* at) {
    Vec vec;
    std::memcpy(&vec, at, sizeof vec);
    return vec;
}
inline Vec load_halves(const uint8_t* at) {
    Vec vec;
    for (int r = 0; r < kRows; ++r) {
        uint16_t half;
        std::memcpy(&half, at + 2 * r, 2);
        vec[r] = half_to_float(half);
    }
    return vec;
}
inline Vec load_even(const uint8_t* at) {
    Bits bits;
    std::memcpy(&bits, at, sizeof bits);
    return std::bit_cast<Vec>(bits << 16);
}
inline Vec load_odd(const uint8_t* at) {
    Bits bits;
    std::memcpy(&bits, at, sizeof bits);
    return std::bit_cast<Vec>(bits & 0xffff0000u);
}
inline Vec set_vec(float value) { return every(value); }
inline Vec fma_vec(Vec a, Vec b, Vec c) { return a * b + c; }
inline void store_vec(float* at, Vec vec, int64_t valid) { std::memcpy(at, &vec, sizeof(float) * static_cast<size_t>(valid)); }

#include "exact.inc"

} // namespace

const Backend* generic_backend() {
    static const Backend backend = {
        "generic",
        {product<Kind::Q4_0>, product<Kind::Q4_1>, product<Kind::Q5_0>, product<Kind::Q5_1>, product<Kind::Q8_0>,
         product<Kind::Q4_K>, product<Kind::Q5_K>, product<Kind::Q6_K>, product<Kind::INT4_G32>,
         product<Kind::INT4_G128>, product<Kind::INT8_G32>, product<Kind::INT8_G128>},
        quantize,
        kBlockRows,
        {exact_products<PlainF32>(), exact_products<PlainBF16>(), exact_products<PlainF16>()},
        0,
        norm,
        gate,
        turn,
        attend,
    };
    return &backend;
}

} // namespace potluck
