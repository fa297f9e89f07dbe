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

void quantize(const float* x, int64_t columns, int8_t* q, float* scale, int32_t* sums, float* totals) {
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
    for (int64_t tile = 0; tile < columns / kTile; ++tile)
        totals[tile] = scale[2 * tile] * static_cast<float>(sums[2 * tile]) +
                       scale[2 * tile + 1] * static_cast<float>(sums[2 * tile + 1]);
}

#include "dense.inc"

} // namespace

const Backend* generic_backend() {
    static const Backend backend = {
        "generic",
        {product<Kind::Q4_0>, product<Kind::Q4_1>, product<Kind::Q5_0>, product<Kind::Q5_1>, product<Kind::Q8_0>,
         product<Kind::Q4_K>, product<Kind::Q5_K>, product<Kind::Q6_K>},
        quantize,
        norm,
        gate,
        turn,
        attend,
    };
    return &backend;
}

} // namespace potluck
