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
                float part = 0.0f;
                for (int64_t c = tile * kTile; c < (tile + 1) * kTile; ++c) part += row[c] * x.q[t * x.columns + c];
                sum += part * x.scale[t * (x.columns / kTile) + tile];
            }
            y[t * stride + r] = sum;
        }
    }
}

void quantize(const float* x, int64_t columns, int8_t* q, float* scale, int32_t* sums) {
    for (int64_t tile = 0; tile < columns / kTile; ++tile) {
        const float* in = x + tile * kTile;
        float most = 0.0f;
        for (int j = 0; j < kTile; ++j) most = std::max(most, std::fabs(in[j]));
        const float inverse = most > 0.0f ? 127.0f / most : 0.0f;
        scale[tile] = most / 127.0f;
        for (int half = 0; half < 2; ++half) {
            int32_t sum = 0;
            for (int j = 16 * half; j < 16 * half + 16; ++j) {
                const int8_t value = static_cast<int8_t>(std::nearbyintf(in[j] * inverse));
                q[tile * kTile + j] = value;
                sum += value;
            }
            sums[2 * tile + half] = sum;
        }
    }
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
