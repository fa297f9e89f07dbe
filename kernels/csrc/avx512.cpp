// AVX-512 with VNNI: 16 rows of weights at once, one row in each 32-bit lane, four columns a step.
#include "formats.hpp"

#if (defined(__x86_64__) || defined(_M_X64)) && (defined(__GNUC__) || defined(__clang__))

#include <immintrin.h>

#include <bit>
#include <cmath>
#include <cstring>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c"))),              \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c")
#endif

namespace potluck {
namespace {

inline __m512 halves(const uint8_t* at) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
}

inline __m512 bytes(const uint8_t* at) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at))));
}

inline __m512 signed_bytes(const uint8_t* at) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at))));
}

inline __m512i four(const int8_t* at) {
    int32_t value;
    std::memcpy(&value, at, 4);
    return _mm512_set1_epi32(value);
}

constexpr int kAhead = 4096; // bytes; past the end it asks for nothing

// The numbers of a tile: eight steps of 16 rows x 4 columns.
template <Kind K> inline void load(const uint8_t* tile, __m512i w[8]) {
    constexpr Format f = format(K);
    if constexpr (f.bits == 8) {
        for (int s = 0; s < 8; ++s) w[s] = _mm512_loadu_si512(tile + 64 * s);
        return;
    }
    const __m512i low = _mm512_set1_epi8(15);
    for (int v = 0; v < 4; ++v) {
        const __m512i both = _mm512_loadu_si512(tile + 64 * v);
        w[2 * v] = _mm512_and_si512(both, low);
        w[2 * v + 1] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
    }
    for (int bit = 4; bit < f.bits; ++bit) {
        const __m512i one = _mm512_set1_epi8(static_cast<char>(1 << bit));
        for (int s = 0; s < 8; ++s) {
            uint64_t mask;
            std::memcpy(&mask, tile + 256 + 64 * (bit - 4) + 8 * s, 8);
            w[s] = _mm512_mask_add_epi8(w[s], mask, w[s], one);
        }
    }
}

// N rows of activations against one group.
template <Kind K, int N>
void rows(const uint8_t* group, const Activations& x, int64_t first, float* y, int64_t stride, __mmask16 valid) {
    constexpr Format f = format(K);
    const int64_t tiles = x.columns / kTile;
    __m512 sum[N], coarse = _mm512_setzero_ps(), coarse_minimum = _mm512_setzero_ps();
    for (int n = 0; n < N; ++n) sum[n] = _mm512_setzero_ps();
    const int8_t* q = x.q + first * x.columns;
    const float *xs = x.scale + first * 2 * tiles, *totals = x.totals + first * tiles;
    const int32_t* sums = x.sums + first * 2 * tiles;
    for (int64_t tile = 0; tile < tiles; ++tile) {
        if constexpr (f.super_tiles != 0) {
            if (tile % f.super_tiles == 0) {
                coarse = halves(group);
                if constexpr (f.minimum) coarse_minimum = halves(group + 2 * kRows);
                if constexpr (f.zero) coarse_minimum = _mm512_fnmadd_ps(coarse, coarse_minimum, _mm512_setzero_ps());
                group += super_bytes(f);
            }
        }
        // The processor alone fetches too little ahead: 37 instead of 31 GB/s for one row, 18 instead of 7 for eight.
        for (int line = 0; line < tile_bytes(f); line += 64)
            _mm_prefetch(reinterpret_cast<const char*>(group) + kAhead + line, _MM_HINT_T0);
        __m512i w[8];
        load<K>(group, w);
        const uint8_t* scales = group + plane_bytes(f);
        __m512 scale, second = _mm512_setzero_ps();
        if constexpr (!f.super_tiles) {
            scale = halves(scales);
            if constexpr (f.minimum) second = halves(scales + 2 * kRows);
            if constexpr (f.zero) second = _mm512_fnmadd_ps(scale, second, _mm512_setzero_ps());
        } else if constexpr (!f.two_levels) {
            scale = coarse;
            second = coarse_minimum;
        } else if constexpr (f.half_tiles) {
            scale = _mm512_mul_ps(coarse, signed_bytes(scales));
            second = _mm512_mul_ps(coarse, signed_bytes(scales + kRows));
        } else {
            scale = _mm512_mul_ps(coarse, bytes(scales));
            second = _mm512_sub_ps(_mm512_setzero_ps(), _mm512_mul_ps(coarse_minimum, bytes(scales + kRows)));
        }
        for (int n = 0; n < N; ++n) {
            const int8_t* qn = q + n * x.columns + tile * kTile;
            const int32_t s0 = sums[n * 2 * tiles + 2 * tile], s1 = sums[n * 2 * tiles + 2 * tile + 1];
            const __m512 x0 = _mm512_set1_ps(xs[n * 2 * tiles + 2 * tile]), x1 = _mm512_set1_ps(xs[n * 2 * tiles + 2 * tile + 1]);
            __m512i a = _mm512_set1_epi32(-f.offset * s0), b = _mm512_set1_epi32(-f.offset * s1);
            for (int s = 0; s < 4; ++s) {
                a = _mm512_dpbusd_epi32(a, w[s], four(qn + 4 * s));
                b = _mm512_dpbusd_epi32(b, w[s + 4], four(qn + 16 + 4 * s));
            }
            const __m512 low = _mm512_mul_ps(_mm512_cvtepi32_ps(a), x0);
            if constexpr (f.half_tiles) {
                const __m512 high = _mm512_mul_ps(_mm512_cvtepi32_ps(b), x1);
                sum[n] = _mm512_fmadd_ps(high, second, _mm512_fmadd_ps(low, scale, sum[n]));
            } else {
                sum[n] = _mm512_fmadd_ps(_mm512_fmadd_ps(_mm512_cvtepi32_ps(b), x1, low), scale, sum[n]);
                if constexpr (f.minimum)
                    sum[n] = _mm512_fmadd_ps(_mm512_set1_ps(totals[n * tiles + tile]), second, sum[n]);
            }
        }
        group += tile_bytes(f);
    }
    for (int n = 0; n < N; ++n) _mm512_mask_storeu_ps(y + (first + n) * stride, valid, sum[n]);
}

template <Kind K>
void product(const uint8_t* group, const Activations& x, int64_t first, int64_t count, float* y, int64_t stride,
             int64_t valid_rows) {
    const __mmask16 valid = static_cast<__mmask16>((1u << valid_rows) - 1u);
    for (; count >= 8; first += 8, count -= 8) rows<K, 8>(group, x, first, y, stride, valid);
    switch (count) {
    case 7: return rows<K, 7>(group, x, first, y, stride, valid);
    case 6: return rows<K, 6>(group, x, first, y, stride, valid);
    case 5: return rows<K, 5>(group, x, first, y, stride, valid);
    case 4: return rows<K, 4>(group, x, first, y, stride, valid);
    case 3: return rows<K, 3>(group, x, first, y, stride, valid);
    case 2: return rows<K, 2>(group, x, first, y, stride, valid);
    case 1: return rows<K, 1>(group, x, first, y, stride, valid);
    }
}

void quantize(const float* x, int64_t columns, int8_t* q, float* scale, int32_t* sums) {
    for (int64_t half = 0; half < columns / 16; ++half) {
        const __m512 in = _mm512_loadu_ps(x + 16 * half);
        const float most = _mm512_reduce_max_ps(_mm512_abs_ps(in));
        const __m512 inverse = _mm512_set1_ps(most > 0.0f ? 127.0f / most : 0.0f);
        const __m512i rounded = _mm512_cvtps_epi32(_mm512_mul_ps(in, inverse));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(q + 16 * half), _mm512_cvtepi32_epi8(rounded));
        scale[half] = most / 127.0f;
        sums[half] = _mm512_reduce_add_epi32(rounded);
    }
}

#include "dense.inc"

using Vec = __m512;
constexpr int kBlockRows = 12, kTogether = 2; // 24 sums, two vectors of weights

inline Vec load_vec(const uint8_t* at) { return _mm512_loadu_ps(at); }
inline Vec load_halves(const uint8_t* at) { return halves(at); }
inline Vec load_even(const uint8_t* at) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(at), 16)); }
inline Vec load_odd(const uint8_t* at) {
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(at), _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}
inline Vec set_vec(float value) { return _mm512_set1_ps(value); }
inline Vec fma_vec(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline void store_vec(float* at, Vec vec, int64_t valid) {
    _mm512_mask_storeu_ps(at, static_cast<__mmask16>((1u << valid) - 1u), vec);
}

#include "exact.inc"

} // namespace

#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(                                                                                            \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c,avx512bf16"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c,avx512bf16")
#endif

namespace {
namespace pairs {

// Once more, because what was compiled without this instruction cannot take it in.
#include "exact.inc"

// Products of bfloat16 pairs in one instruction: twice the speed of float32, x rounded to bfloat16.
struct PairsBF16 {
    using X = uint32_t;
    static constexpr int kColumns = 2, kBytes = 64;
    static X take(const float* x, int64_t column, int64_t columns) {
        const uint32_t odd = column + 1 < columns ? bfloat_bits(x[column + 1]) : 0;
        return bfloat_bits(x[column]) | odd << 16;
    }
    template <int M, int N> static void step(Vec acc[M][N], const uint8_t* w, size_t group, const X* x) {
        __m512bh weight[M];
        for (int m = 0; m < M; ++m) weight[m] = (__m512bh)_mm512_loadu_si512(w + m * group);
        for (int n = 0; n < N; ++n) {
            const __m512bh both = (__m512bh)_mm512_set1_epi32(static_cast<int>(x[n]));
            for (int m = 0; m < M; ++m) acc[m][n] = _mm512_dpbf16_ps(acc[m][n], weight[m], both);
        }
    }
};

} // namespace pairs
} // namespace

const Backend* avx512_backend() {
    static Backend backend = {
        "avx512",
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
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512bf16")) {
        backend.plain[1] = pairs::exact_products<pairs::PairsBF16>();
        backend.panel = 1;
    }
    const bool can = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                     __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                     __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("f16c");
    return can ? &backend : nullptr;
}

} // namespace potluck

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#else

namespace potluck {
const Backend* avx512_backend() { return nullptr; }
} // namespace potluck

#endif
