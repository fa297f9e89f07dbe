// NEON, with the dot product extension where there is: 16 rows as four quads, a register for a quad's four columns.
#include "formats.hpp"

#if defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__))

#include <arm_neon.h>

#include <bit>
#include <cmath>
#include <cstring>

#if defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

// Older versions of clang declare these instructions only where every function may use them.
#if defined(__ARM_FEATURE_DOTPROD) || !defined(__clang__) || __clang_major__ >= 16
#define POTLUCK_DOTPROD 1
#else
#define POTLUCK_DOTPROD 0
#endif

namespace potluck {
namespace {

inline float32x4_t halves(const uint8_t* at) { return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(at))); }

inline uint8x8_t four(const uint8_t* at) {
    uint32_t word;
    std::memcpy(&word, at, 4);
    return vcreate_u8(word);
}

inline float32x4_t bytes(const uint8_t* at) {
    return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(four(at)))));
}

inline float32x4_t signed_bytes(const uint8_t* at) {
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(four(at))))));
}

// The numbers of four rows of a tile, eight steps of 4 rows x 4 columns. Those of 8 bits become signed: 128 less.
template <Kind K> inline void load(const uint8_t* tile, int quad, int8x16_t w[8]) {
    constexpr Format f = format(K);
    const uint8_t* at = tile + 16 * quad;
    if constexpr (f.bits == 8) {
        for (int s = 0; s < 8; ++s) w[s] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(at + 64 * s), vdupq_n_u8(0x80)));
        return;
    }
    uint8x16_t q[8];
    for (int v = 0; v < 4; ++v) {
        const uint8x16_t both = vld1q_u8(at + 64 * v);
        q[2 * v] = vandq_u8(both, vdupq_n_u8(15));
        q[2 * v + 1] = vshrq_n_u8(both, 4);
    }
    const uint8_t first = static_cast<uint8_t>(2 * quad), second = static_cast<uint8_t>(2 * quad + 1);
    const uint8x16_t which = vcombine_u8(vdup_n_u8(first), vdup_n_u8(second));
    const uint8x16_t set = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201ull));
    for (int bit = 4; bit < f.bits; ++bit) {
        const uint8x16_t one = vdupq_n_u8(static_cast<uint8_t>(1 << bit));
        for (int v = 0; v < 4; ++v) { // one bit of each number: eight bytes a step, two of them for these rows
            const uint8x16_t plane = vld1q_u8(tile + 256 + 64 * (bit - 4) + 16 * v);
            const uint8x16_t even = vtstq_u8(vqtbl1q_u8(plane, which), set);
            const uint8x16_t odd = vtstq_u8(vqtbl1q_u8(plane, vaddq_u8(which, vdupq_n_u8(8))), set);
            q[2 * v] = vorrq_u8(q[2 * v], vandq_u8(even, one));
            q[2 * v + 1] = vorrq_u8(q[2 * v + 1], vandq_u8(odd, one));
        }
    }
    for (int s = 0; s < 8; ++s) w[s] = vreinterpretq_s8_u8(q[s]);
}

// Of four rows of a tile; `second` is its other half's scale, or what is added to each weight.
struct Scales {
    float32x4_t scale, second;
};

template <Kind K> inline Scales scales_of(const uint8_t* own, const uint8_t* super, int quad) {
    constexpr Format f = format(K);
    if constexpr (f.two_levels) {
        const uint8_t* second = own + kRows + 4 * quad;
        const float32x4_t coarse = halves(super + 8 * quad);
        if constexpr (f.half_tiles)
            return {vmulq_f32(coarse, signed_bytes(own + 4 * quad)), vmulq_f32(coarse, signed_bytes(second))};
        const float32x4_t minimum = vmulq_f32(halves(super + 2 * kRows + 8 * quad), bytes(second));
        return {vmulq_f32(coarse, bytes(own + 4 * quad)), vnegq_f32(minimum)};
    } else {
        const uint8_t* at = (f.super_tiles ? super : own) + 8 * quad;
        Scales by = {halves(at), vdupq_n_f32(0.0f)};
        if constexpr (f.minimum) by.second = halves(at + 2 * kRows);
        if constexpr (f.zero) by.second = vnegq_f32(vmulq_f32(by.scale, by.second));
        return by;
    }
}

struct Vec {
    float32x4_t a, b, c, d;
};
constexpr int kBlockRows = 6, kTogether = 1; // 24 registers of sums, four of weights

inline void store_vec(float* at, Vec vec, int64_t valid) {
    float lanes[16];
    float* to = valid == kRows ? at : lanes;
    vst1q_f32(to, vec.a);
    vst1q_f32(to + 4, vec.b);
    vst1q_f32(to + 8, vec.c);
    vst1q_f32(to + 12, vec.d);
    if (valid != kRows) std::memcpy(at, lanes, sizeof(float) * static_cast<size_t>(valid));
}

namespace plain {

template <int lane> inline int8x16_t step_of(int8x16_t x) {
    return vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(x), lane));
}

struct Products { // of two rows each, four neighbours of a row side by side
    int16x8_t low, high;
};

inline Products multiplied(int8x16_t w, int8x16_t x) {
    return {vmull_s8(vget_low_s8(w), vget_low_s8(x)), vmull_high_s8(w, x)};
}

inline Products multiplied(Products sum, int8x16_t w, int8x16_t x) {
    return {vmlal_s8(sum.low, vget_low_s8(w), vget_low_s8(x)), vmlal_high_s8(sum.high, w, x)};
}

inline int32x4_t added(int32x4_t sum, Products of) {
    return vaddq_s32(sum, vpaddq_s32(vpaddlq_s16(of.low), vpaddlq_s16(of.high)));
}

// 16 bits hold two products of 8-bit numbers, and four of 6-bit numbers with 8-bit ones.
template <int bits> inline int32x4_t dots(int32x4_t sum, const int8x16_t w[4], int8x16_t x) {
    Products of = multiplied(multiplied(w[0], step_of<0>(x)), w[1], step_of<1>(x));
    if constexpr (bits == 8) {
        sum = added(sum, of);
        of = multiplied(w[2], step_of<2>(x));
    } else {
        of = multiplied(of, w[2], step_of<2>(x));
    }
    return added(sum, multiplied(of, w[3], step_of<3>(x)));
}

#include "neon_products.inc"

} // namespace plain

#if POTLUCK_DOTPROD

#if defined(__ARM_FEATURE_DOTPROD)
#elif defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif

namespace dotprod {

template <int bits> inline int32x4_t dots(int32x4_t sum, const int8x16_t w[4], int8x16_t x) {
    sum = vdotq_laneq_s32(sum, w[0], x, 0);
    sum = vdotq_laneq_s32(sum, w[1], x, 1);
    sum = vdotq_laneq_s32(sum, w[2], x, 2);
    return vdotq_laneq_s32(sum, w[3], x, 3);
}

#include "neon_products.inc"

} // namespace dotprod

#if defined(__ARM_FEATURE_DOTPROD)
#elif defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#else
namespace dotprod = plain;
#endif

bool has_dot_products() {
#if defined(__ARM_FEATURE_DOTPROD)
    return true;
#elif defined(__linux__)
    constexpr unsigned long kDotProducts = 1ul << 20; // HWCAP_ASIMDDP, which old headers lack
    return getauxval(AT_HWCAP) & kDotProducts;
#elif defined(__APPLE__)
    int has = 0;
    size_t size = sizeof has;
    return !sysctlbyname("hw.optional.arm.FEAT_DotProd", &has, &size, nullptr, 0) && has;
#else
    return false;
#endif
}

void quantize(const float* x, int64_t columns, int8_t* q, float* scale, int32_t* sums) {
    for (int64_t half = 0; half < columns / 16; ++half, x += 16) {
        const float32x4_t in[4] = {vld1q_f32(x), vld1q_f32(x + 4), vld1q_f32(x + 8), vld1q_f32(x + 12)};
        const float32x4_t low = vmaxq_f32(vabsq_f32(in[0]), vabsq_f32(in[1]));
        const float32x4_t high = vmaxq_f32(vabsq_f32(in[2]), vabsq_f32(in[3]));
        const float most = vmaxvq_f32(vmaxq_f32(low, high)), inverse = most > 0.0f ? 127.0f / most : 0.0f;
        int16x4_t words[4];
        for (int i = 0; i < 4; ++i) words[i] = vqmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(in[i], inverse)));
        const int8x16_t numbers = vcombine_s8(vqmovn_s16(vcombine_s16(words[0], words[1])),
                                              vqmovn_s16(vcombine_s16(words[2], words[3])));
        vst1q_s8(q + 16 * half, numbers);
        scale[half] = most / 127.0f;
        sums[half] = vaddlvq_s8(numbers);
    }
}

#include "dense.inc"

inline float32x4_t quad_of(const uint8_t* at) { return vreinterpretq_f32_u8(vld1q_u8(at)); }
inline float32x4_t even_of(const uint8_t* at) {
    return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_u8(vld1q_u8(at)), 16));
}
inline float32x4_t odd_of(const uint8_t* at) {
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_u8(vld1q_u8(at)), vdupq_n_u32(0xffff0000u)));
}
inline Vec load_vec(const uint8_t* at) { return {quad_of(at), quad_of(at + 16), quad_of(at + 32), quad_of(at + 48)}; }
inline Vec load_halves(const uint8_t* at) { return {halves(at), halves(at + 8), halves(at + 16), halves(at + 24)}; }
inline Vec load_even(const uint8_t* at) { return {even_of(at), even_of(at + 16), even_of(at + 32), even_of(at + 48)}; }
inline Vec load_odd(const uint8_t* at) { return {odd_of(at), odd_of(at + 16), odd_of(at + 32), odd_of(at + 48)}; }
inline Vec set_vec(float value) {
    const float32x4_t all = vdupq_n_f32(value);
    return {all, all, all, all};
}
inline Vec fma_vec(Vec a, Vec b, Vec c) {
    return {vfmaq_f32(c.a, a.a, b.a), vfmaq_f32(c.b, a.b, b.b), vfmaq_f32(c.c, a.c, b.c), vfmaq_f32(c.d, a.d, b.d)};
}

#include "exact.inc"

Backend backend_with(const char* name, const GroupProduct products[kQuantized]) {
    Backend backend = {
        name,
        {},
        quantize,
        kBlockRows,
        {exact_products<PlainF32>(), exact_products<PlainBF16>(), exact_products<PlainF16>()},
        0,
        norm,
        gate,
        turn,
        attend,
    };
    std::memcpy(backend.products, products, sizeof backend.products);
    return backend;
}

} // namespace

const Backend* neon_backend() {
    static const Backend backend = backend_with("neon", has_dot_products() ? dotprod::kProducts : plain::kProducts);
    return &backend;
}

const Backend* neon_plain_backend() {
    static const Backend backend = backend_with("neon_plain", plain::kProducts);
    return &backend;
}

} // namespace potluck

#else

namespace potluck {
const Backend* neon_backend() { return nullptr; }
const Backend* neon_plain_backend() { return nullptr; }
} // namespace potluck

#endif
