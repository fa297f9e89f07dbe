// The instructions that kernels/csrc/neon.cpp uses, a lane at a time, as the ARM architecture defines them: so that its
// tests run on processors without them. Signed numbers wrap here where the processor's do.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "formats.hpp"

typedef int8_t int8x8_t __attribute__((vector_size(8)));
typedef int8_t int8x16_t __attribute__((vector_size(16)));
typedef uint8_t uint8x8_t __attribute__((vector_size(8)));
typedef uint8_t uint8x16_t __attribute__((vector_size(16)));
typedef int16_t int16x4_t __attribute__((vector_size(8)));
typedef int16_t int16x8_t __attribute__((vector_size(16)));
typedef uint16_t uint16x4_t __attribute__((vector_size(8)));
typedef uint16_t uint16x8_t __attribute__((vector_size(16)));
typedef int32_t int32x4_t __attribute__((vector_size(16)));
typedef uint32_t uint32x4_t __attribute__((vector_size(16)));
typedef uint64_t uint64x2_t __attribute__((vector_size(16)));
typedef float float32x4_t __attribute__((vector_size(16)));
struct float16x4_t {
    uint16_t bits[4];
};

namespace emulated {

template <class To, class From> inline To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

template <class To> inline To load(const void* at) {
    To to;
    std::memcpy(&to, at, sizeof to);
    return to;
}

template <int lanes, class To, class F> inline To each(F value) {
    To to;
    for (int i = 0; i < lanes; ++i) to[i] = value(i);
    return to;
}

template <class To, class From> inline To half_of(From from, int which) {
    To to;
    std::memcpy(&to, reinterpret_cast<const char*>(&from) + which * static_cast<int>(sizeof to), sizeof to);
    return to;
}

template <class To, class From> inline To both(From low, From high) {
    To to;
    std::memcpy(&to, &low, sizeof low);
    std::memcpy(reinterpret_cast<char*>(&to) + sizeof low, &high, sizeof high);
    return to;
}

inline int64_t within(int64_t value, int64_t most) {
    return value < -most - 1 ? -most - 1 : value > most ? most : value;
}

inline int32_t nearest(float value) { // ties to even, as the rounding mode is nobody's business here
    if (std::isnan(value)) return 0;
    const double wide = value, floor = std::floor(wide), rest = wide - floor;
    const double rounded = rest < 0.5 || (rest == 0.5 && std::fmod(floor, 2.0) == 0.0) ? floor : floor + 1.0;
    return rounded >= 2147483647.0 ? INT32_MAX : rounded <= -2147483648.0 ? INT32_MIN : static_cast<int32_t>(rounded);
}

} // namespace emulated

inline uint8x8_t vld1_u8(const uint8_t* at) { return emulated::load<uint8x8_t>(at); }
inline uint8x16_t vld1q_u8(const uint8_t* at) { return emulated::load<uint8x16_t>(at); }
inline int8x16_t vld1q_s8(const int8_t* at) { return emulated::load<int8x16_t>(at); }
inline float32x4_t vld1q_f32(const float* at) { return emulated::load<float32x4_t>(at); }
inline void vst1q_f32(float* at, float32x4_t value) { std::memcpy(at, &value, sizeof value); }
inline void vst1q_s8(int8_t* at, int8x16_t value) { std::memcpy(at, &value, sizeof value); }

inline uint8x8_t vcreate_u8(uint64_t bits) { return emulated::same_bits<uint8x8_t>(bits); }
inline uint8x8_t vdup_n_u8(uint8_t value) { return value - uint8x8_t{}; }
inline uint8x16_t vdupq_n_u8(uint8_t value) { return value - uint8x16_t{}; }
inline uint32x4_t vdupq_n_u32(uint32_t value) { return value - uint32x4_t{}; }
inline uint64x2_t vdupq_n_u64(uint64_t value) { return value - uint64x2_t{}; }
inline int32x4_t vdupq_n_s32(int32_t value) { return value - int32x4_t{}; }
inline float32x4_t vdupq_n_f32(float value) { return value - float32x4_t{}; }
inline int32x4_t vdupq_laneq_s32(int32x4_t from, int lane) { return vdupq_n_s32(from[lane]); }

inline float16x4_t vreinterpret_f16_u8(uint8x8_t from) { return emulated::same_bits<float16x4_t>(from); }
inline int8x8_t vreinterpret_s8_u8(uint8x8_t from) { return emulated::same_bits<int8x8_t>(from); }
inline int8x16_t vreinterpretq_s8_u8(uint8x16_t from) { return emulated::same_bits<int8x16_t>(from); }
inline int8x16_t vreinterpretq_s8_s32(int32x4_t from) { return emulated::same_bits<int8x16_t>(from); }
inline int32x4_t vreinterpretq_s32_s8(int8x16_t from) { return emulated::same_bits<int32x4_t>(from); }
inline uint8x16_t vreinterpretq_u8_u64(uint64x2_t from) { return emulated::same_bits<uint8x16_t>(from); }
inline uint32x4_t vreinterpretq_u32_u8(uint8x16_t from) { return emulated::same_bits<uint32x4_t>(from); }
inline float32x4_t vreinterpretq_f32_u8(uint8x16_t from) { return emulated::same_bits<float32x4_t>(from); }
inline float32x4_t vreinterpretq_f32_u32(uint32x4_t from) { return emulated::same_bits<float32x4_t>(from); }

inline int8x8_t vget_low_s8(int8x16_t from) { return emulated::half_of<int8x8_t>(from, 0); }
inline int16x4_t vget_low_s16(int16x8_t from) { return emulated::half_of<int16x4_t>(from, 0); }
inline uint16x4_t vget_low_u16(uint16x8_t from) { return emulated::half_of<uint16x4_t>(from, 0); }
inline uint8x16_t vcombine_u8(uint8x8_t low, uint8x8_t high) { return emulated::both<uint8x16_t>(low, high); }
inline int8x16_t vcombine_s8(int8x8_t low, int8x8_t high) { return emulated::both<int8x16_t>(low, high); }
inline int16x8_t vcombine_s16(int16x4_t low, int16x4_t high) { return emulated::both<int16x8_t>(low, high); }

inline uint8x16_t vaddq_u8(uint8x16_t a, uint8x16_t b) { return a + b; }
inline uint8x16_t vandq_u8(uint8x16_t a, uint8x16_t b) { return a & b; }
inline uint8x16_t vorrq_u8(uint8x16_t a, uint8x16_t b) { return a | b; }
inline uint8x16_t veorq_u8(uint8x16_t a, uint8x16_t b) { return a ^ b; }
inline uint8x16_t vshrq_n_u8(uint8x16_t a, int bits) { return a >> static_cast<uint8_t>(bits); }
inline uint32x4_t vandq_u32(uint32x4_t a, uint32x4_t b) { return a & b; }
inline uint32x4_t vshlq_n_u32(uint32x4_t a, int bits) { return a << static_cast<uint32_t>(bits); }
inline uint8x16_t vtstq_u8(uint8x16_t a, uint8x16_t b) {
    return emulated::each<16, uint8x16_t>([&](int i) { return static_cast<uint8_t>(a[i] & b[i] ? 255 : 0); });
}
inline uint8x16_t vqtbl1q_u8(uint8x16_t table, uint8x16_t index) {
    return emulated::each<16, uint8x16_t>([&](int i) { return index[i] < 16 ? table[index[i]] : uint8_t{0}; });
}

inline uint16x8_t vmovl_u8(uint8x8_t a) { return __builtin_convertvector(a, uint16x8_t); }
inline int16x8_t vmovl_s8(int8x8_t a) { return __builtin_convertvector(a, int16x8_t); }
inline uint32x4_t vmovl_u16(uint16x4_t a) { return __builtin_convertvector(a, uint32x4_t); }
inline int32x4_t vmovl_s16(int16x4_t a) { return __builtin_convertvector(a, int32x4_t); }
inline int16x4_t vqmovn_s32(int32x4_t a) {
    return emulated::each<4, int16x4_t>([&](int i) { return static_cast<int16_t>(emulated::within(a[i], INT16_MAX)); });
}
inline int8x8_t vqmovn_s16(int16x8_t a) {
    return emulated::each<8, int8x8_t>([&](int i) { return static_cast<int8_t>(emulated::within(a[i], INT8_MAX)); });
}

inline int16x8_t vmull_s8(int8x8_t a, int8x8_t b) { return vmovl_s8(a) * vmovl_s8(b); }
inline int16x8_t vmull_high_s8(int8x16_t a, int8x16_t b) {
    return vmull_s8(emulated::half_of<int8x8_t>(a, 1), emulated::half_of<int8x8_t>(b, 1));
}
inline int16x8_t vmlal_s8(int16x8_t sum, int8x8_t a, int8x8_t b) {
    const int16x8_t product = vmull_s8(a, b);
    return emulated::each<8, int16x8_t>([&](int i) { return static_cast<int16_t>(sum[i] + product[i]); });
}
inline int16x8_t vmlal_high_s8(int16x8_t sum, int8x16_t a, int8x16_t b) {
    return vmlal_s8(sum, emulated::half_of<int8x8_t>(a, 1), emulated::half_of<int8x8_t>(b, 1));
}
inline int32x4_t vpaddlq_s16(int16x8_t a) {
    return emulated::each<4, int32x4_t>([&](int i) { return int32_t{a[2 * i]} + a[2 * i + 1]; });
}
inline int32x4_t vpaddq_s32(int32x4_t a, int32x4_t b) {
    return int32x4_t{a[0] + a[1], a[2] + a[3], b[0] + b[1], b[2] + b[3]};
}
inline int32x4_t vaddq_s32(int32x4_t a, int32x4_t b) { return a + b; }
inline int16_t vaddlvq_s8(int8x16_t a) {
    int sum = 0;
    for (int i = 0; i < 16; ++i) sum += a[i];
    return static_cast<int16_t>(sum);
}
inline int32x4_t vdotq_laneq_s32(int32x4_t sum, int8x16_t a, int8x16_t b, int lane) {
    for (int i = 0; i < 16; ++i) sum[i / 4] += a[i] * b[4 * lane + i % 4];
    return sum;
}

inline float32x4_t vcvt_f32_f16(float16x4_t a) {
    return emulated::each<4, float32x4_t>([&](int i) { return potluck::half_to_float(a.bits[i]); });
}
inline float32x4_t vcvtq_f32_s32(int32x4_t a) { return __builtin_convertvector(a, float32x4_t); }
inline float32x4_t vcvtq_f32_u32(uint32x4_t a) { return __builtin_convertvector(a, float32x4_t); }
inline int32x4_t vcvtnq_s32_f32(float32x4_t a) {
    return emulated::each<4, int32x4_t>([&](int i) { return emulated::nearest(a[i]); });
}
inline float32x4_t vabsq_f32(float32x4_t a) {
    return emulated::each<4, float32x4_t>([&](int i) { return std::fabs(a[i]); });
}
inline float32x4_t vnegq_f32(float32x4_t a) { return -a; }
inline float32x4_t vmulq_f32(float32x4_t a, float32x4_t b) { return a * b; }
inline float32x4_t vmulq_n_f32(float32x4_t a, float b) { return a * b; }
inline float32x4_t vmaxq_f32(float32x4_t a, float32x4_t b) {
    return emulated::each<4, float32x4_t>([&](int i) { return std::isnan(a[i]) || a[i] > b[i] ? a[i] : b[i]; });
}
inline float vmaxvq_f32(float32x4_t a) {
    const float32x4_t high = vmaxq_f32(a, float32x4_t{a[2], a[3], a[2], a[3]});
    return vmaxq_f32(high, float32x4_t{high[1], high[1], high[1], high[1]})[0];
}
inline float32x4_t vfmaq_f32(float32x4_t sum, float32x4_t a, float32x4_t b) {
    return emulated::each<4, float32x4_t>([&](int i) { return std::fma(a[i], b[i], sum[i]); });
}
inline float32x4_t vfmaq_n_f32(float32x4_t sum, float32x4_t a, float b) { return vfmaq_f32(sum, a, vdupq_n_f32(b)); }
