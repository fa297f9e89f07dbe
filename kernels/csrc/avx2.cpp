// AVX2, with AVX-VNNI where there is: the same layout, 16 rows as two halves of eight.
#include "formats.hpp"

#if (defined(__x86_64__) || defined(_M_X64)) && (defined(__GNUC__) || defined(__clang__))

#include <immintrin.h>

#include <bit>
#include <cmath>
#include <cstring>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

namespace potluck {
namespace {

inline __m256 halves(const uint8_t* at) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
}

inline __m256 bytes(const uint8_t* at) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(at))));
}

inline __m256 signed_bytes(const uint8_t* at) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(at))));
}

inline __m256i load32(const uint8_t* at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)); }

// Bit i of the mask in byte i, as 0 or `one`.
inline __m256i spread(const uint8_t* mask_at, __m256i one) {
    int32_t mask;
    std::memcpy(&mask, mask_at, 4);
    const __m256i which = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201ull));
    const __m256i set = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(mask), which), bit);
    return _mm256_and_si256(_mm256_cmpeq_epi8(set, bit), one);
}

constexpr int kAhead = 4096; // bytes, as in avx512.cpp

// The numbers of eight rows of a tile: `half` 0 or 1.
template <Kind K> inline void load(const uint8_t* tile, int half, __m256i w[8]) {
    constexpr Format f = format(K);
    if constexpr (f.bits == 8) {
        for (int s = 0; s < 8; ++s) w[s] = load32(tile + 64 * s + 32 * half);
        return;
    }
    const __m256i low = _mm256_set1_epi8(15);
    for (int v = 0; v < 4; ++v) {
        const __m256i both = load32(tile + 64 * v + 32 * half);
        w[2 * v] = _mm256_and_si256(both, low);
        w[2 * v + 1] = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
    }
    for (int bit = 4; bit < f.bits; ++bit) {
        const __m256i one = _mm256_set1_epi8(static_cast<char>(1 << bit));
        for (int s = 0; s < 8; ++s)
            w[s] = _mm256_or_si256(w[s], spread(tile + 256 + 64 * (bit - 4) + 8 * s + 4 * half, one));
    }
}

// Sums of four products per 32-bit lane. Pairs of 8-bit numbers could overflow 16 bits: they go in two nibbles.
template <Kind K> inline __m256i dot(__m256i sum, __m256i w, const int8_t* x) {
    int32_t value;
    std::memcpy(&value, x, 4);
    const __m256i xs = _mm256_set1_epi32(value), ones = _mm256_set1_epi16(1);
    if constexpr (format(K).bits == 8) {
        const __m256i nibble = _mm256_set1_epi8(15);
        const __m256i low = _mm256_maddubs_epi16(_mm256_and_si256(w, nibble), xs);
        const __m256i high = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(w, 4), nibble), xs);
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(high, _mm256_set1_epi16(16)));
        return _mm256_add_epi32(sum, _mm256_madd_epi16(low, ones));
    }
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(w, xs), ones));
}

template <Kind K, int N>
void rows(const uint8_t* group, int half, const Activations& x, int64_t first, float out[N][8]) {
    constexpr Format f = format(K);
    const int64_t tiles = x.columns / kTile;
    __m256 sum[N], coarse = _mm256_setzero_ps(), coarse_minimum = _mm256_setzero_ps();
    for (int n = 0; n < N; ++n) sum[n] = _mm256_setzero_ps();
    const int8_t* q = x.q + first * x.columns;
    const float *xs = x.scale + first * 2 * tiles, *totals = x.totals + first * tiles;
    const int32_t* sums = x.sums + first * 2 * tiles;
    for (int64_t tile = 0; tile < tiles; ++tile) {
        if constexpr (f.super_tiles != 0) {
            if (tile % f.super_tiles == 0) {
                coarse = halves(group + 16 * half);
                if constexpr (f.minimum) coarse_minimum = halves(group + 2 * kRows + 16 * half);
                if constexpr (f.zero) coarse_minimum = _mm256_fnmadd_ps(coarse, coarse_minimum, _mm256_setzero_ps());
                group += super_bytes(f);
            }
        }
        for (int line = 0; line < tile_bytes(f); line += 64)
            _mm_prefetch(reinterpret_cast<const char*>(group) + kAhead + line, _MM_HINT_T0);
        __m256i w[8];
        load<K>(group, half, w);
        const uint8_t* scales = group + plane_bytes(f);
        __m256 scale, second = _mm256_setzero_ps();
        if constexpr (!f.super_tiles) {
            scale = halves(scales + 16 * half);
            if constexpr (f.minimum) second = halves(scales + 2 * kRows + 16 * half);
            if constexpr (f.zero) second = _mm256_fnmadd_ps(scale, second, _mm256_setzero_ps());
        } else if constexpr (!f.two_levels) {
            scale = coarse;
            second = coarse_minimum;
        } else if constexpr (f.half_tiles) {
            scale = _mm256_mul_ps(coarse, signed_bytes(scales + 8 * half));
            second = _mm256_mul_ps(coarse, signed_bytes(scales + kRows + 8 * half));
        } else {
            scale = _mm256_mul_ps(coarse, bytes(scales + 8 * half));
            second = _mm256_sub_ps(_mm256_setzero_ps(), _mm256_mul_ps(coarse_minimum, bytes(scales + kRows + 8 * half)));
        }
        for (int n = 0; n < N; ++n) {
            const int8_t* qn = q + n * x.columns + tile * kTile;
            const int32_t s0 = sums[n * 2 * tiles + 2 * tile], s1 = sums[n * 2 * tiles + 2 * tile + 1];
            const __m256 x0 = _mm256_set1_ps(xs[n * 2 * tiles + 2 * tile]), x1 = _mm256_set1_ps(xs[n * 2 * tiles + 2 * tile + 1]);
            __m256i a = _mm256_set1_epi32(-f.offset * s0), b = _mm256_set1_epi32(-f.offset * s1);
            for (int s = 0; s < 4; ++s) {
                a = dot<K>(a, w[s], qn + 4 * s);
                b = dot<K>(b, w[s + 4], qn + 16 + 4 * s);
            }
            const __m256 low = _mm256_mul_ps(_mm256_cvtepi32_ps(a), x0);
            if constexpr (f.half_tiles) {
                const __m256 high = _mm256_mul_ps(_mm256_cvtepi32_ps(b), x1);
                sum[n] = _mm256_fmadd_ps(high, second, _mm256_fmadd_ps(low, scale, sum[n]));
            } else {
                sum[n] = _mm256_fmadd_ps(_mm256_fmadd_ps(_mm256_cvtepi32_ps(b), x1, low), scale, sum[n]);
                if constexpr (f.minimum)
                    sum[n] = _mm256_fmadd_ps(_mm256_set1_ps(totals[n * tiles + tile]), second, sum[n]);
            }
        }
        group += tile_bytes(f);
    }
    for (int n = 0; n < N; ++n) _mm256_storeu_ps(out[n], sum[n]);
}

template <Kind K, int N>
void both_halves(const uint8_t* group, const Activations& x, int64_t first, float* y, int64_t stride, int64_t valid) {
    for (int half = 0; half < 2 && 8 * half < valid; ++half) {
        float out[N][8];
        rows<K, N>(group, half, x, first, out);
        const int64_t count = valid - 8 * half < 8 ? valid - 8 * half : 8;
        for (int n = 0; n < N; ++n)
            std::memcpy(y + (first + n) * stride + 8 * half, out[n], sizeof(float) * static_cast<size_t>(count));
    }
}

template <Kind K>
void product(const uint8_t* group, const Activations& x, int64_t first, int64_t count, float* y, int64_t stride,
             int64_t valid_rows) {
    for (; count >= 4; first += 4, count -= 4) both_halves<K, 4>(group, x, first, y, stride, valid_rows);
    for (; count > 0; ++first, --count) both_halves<K, 1>(group, x, first, y, stride, valid_rows);
}

void quantize(const float* x, int64_t columns, int8_t* q, float* scale, int32_t* sums) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    for (int64_t half = 0; half < columns / 16; ++half) {
        const __m256 low = _mm256_loadu_ps(x + 16 * half), high = _mm256_loadu_ps(x + 16 * half + 8);
        float lanes[8], most = 0.0f;
        _mm256_storeu_ps(lanes, _mm256_max_ps(_mm256_andnot_ps(sign, low), _mm256_andnot_ps(sign, high)));
        for (float lane : lanes) most = lane > most ? lane : most;
        const __m256 inverse = _mm256_set1_ps(most > 0.0f ? 127.0f / most : 0.0f);
        int32_t numbers[16], sum = 0;
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(numbers), _mm256_cvtps_epi32(_mm256_mul_ps(low, inverse)));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(numbers + 8), _mm256_cvtps_epi32(_mm256_mul_ps(high, inverse)));
        for (int j = 0; j < 16; ++j) {
            q[16 * half + j] = static_cast<int8_t>(numbers[j]);
            sum += numbers[j];
        }
        scale[half] = most / 127.0f;
        sums[half] = sum;
    }
}

#include "dense.inc"

struct Vec {
    __m256 low, high;
};
constexpr int kBlockRows = 6, kTogether = 1; // 12 registers of sums, two of weights

inline Vec load_vec(const uint8_t* at) {
    const float* floats = reinterpret_cast<const float*>(at);
    return {_mm256_loadu_ps(floats), _mm256_loadu_ps(floats + 8)};
}
inline Vec load_halves(const uint8_t* at) { return {halves(at), halves(at + 16)}; }
inline __m256 even_of(__m256i pairs) { return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)); }
inline __m256 odd_of(__m256i pairs) {
    return _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
}
inline Vec load_even(const uint8_t* at) { return {even_of(load32(at)), even_of(load32(at + 32))}; }
inline Vec load_odd(const uint8_t* at) { return {odd_of(load32(at)), odd_of(load32(at + 32))}; }
inline Vec set_vec(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
inline Vec fma_vec(Vec a, Vec b, Vec c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline void store_vec(float* at, Vec vec, int64_t valid) {
    float lanes[16];
    _mm256_storeu_ps(lanes, vec.low);
    _mm256_storeu_ps(lanes + 8, vec.high);
    std::memcpy(at, lanes, sizeof(float) * static_cast<size_t>(valid));
}

#include "exact.inc"

} // namespace

const Backend* avx2_backend() {
    static const Backend backend = {
        "avx2",
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
    const bool can =
        __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
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
const Backend* avx2_backend() { return nullptr; }
} // namespace potluck

#endif
