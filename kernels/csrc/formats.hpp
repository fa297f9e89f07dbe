// How quantised weights lie in memory once packed, and how they lie in GGUF files.
//
// Packed: rows in groups of 16, columns in tiles of 32. A tile holds, for its 16 rows, the low four bits of every
// weight (256 bytes), then its higher bits, then its scales. Bytes stand in the order in which a dot product of four
// neighbours at a time reads them: step s takes columns 4 s to 4 s + 3, and byte 4 r + k of a step is row r, column
// 4 s + k. Two steps share 64 bytes: the even one has the low nibbles. Formats with two levels of scales put those of
// 256 columns in front of every eight tiles; groups of 128 columns put their scale and zero point in front of every four.
// No number is rounded on the way: q, scales and minima are the file's own.
//
// Weights that are plain numbers lie as their product reads them: 16 rows of a column side by side (F32, F16), or 16 rows
// of two neighbouring columns (BF16; an odd last column has a zero beside it).
#pragma once

#include <cstddef>
#include <cstdint>

namespace potluck {

constexpr int kRows = 16;
constexpr int kTile = 32;

enum class Kind : int {
    Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K,   // GGUF
    INT4_G32, INT4_G128, INT8_G32, INT8_G128,         // groups with a zero point, as GPTQ and AWQ have them
    F32, BF16, F16,                                   // plain numbers
    Count
};
constexpr int kQuantized = static_cast<int>(Kind::F32); // kinds before this have products with 8-bit activations

struct Format {
    int bits;          // of a weight's number q, which is never negative here
    int offset;        // weight = scale * (q - offset) [+ minimum]
    bool minimum;      // whether there is one
    bool two_levels;   // scales are 8-bit numbers times one of 256 columns
    int block_columns; // as stored, before packing
    int block_bytes;
    bool half_tiles;   // a scale for every 16 columns instead of 32
    bool zero;         // the minimum is stored as a zero point: minimum = -scale * zero
    int super_tiles;   // tiles that share what stands in front of them; 0: nothing does
};

constexpr Format kFormats[static_cast<int>(Kind::Count)] = {
    {4, 8, false, false, 32, 18, false, false, 0},   // Q4_0
    {4, 0, true, false, 32, 20, false, false, 0},    // Q4_1
    {5, 16, false, false, 32, 22, false, false, 0},  // Q5_0
    {5, 0, true, false, 32, 24, false, false, 0},    // Q5_1
    {8, 128, false, false, 32, 34, false, false, 0}, // Q8_0
    {4, 0, true, true, 256, 144, false, false, 8},   // Q4_K
    {5, 0, true, true, 256, 176, false, false, 8},   // Q5_K
    {6, 32, false, true, 256, 210, true, false, 8},  // Q6_K
    {4, 0, true, false, 32, 20, false, true, 0},     // INT4_G32
    {4, 0, true, false, 128, 68, false, true, 4},    // INT4_G128
    {8, 0, true, false, 32, 36, false, true, 0},     // INT8_G32
    {8, 0, true, false, 128, 132, false, true, 4},   // INT8_G128
    {32, 0, false, false, 1, 4, false, false, 0},    // F32
    {16, 0, false, false, 1, 2, false, false, 0},    // BF16
    {16, 0, false, false, 1, 2, false, false, 0},    // F16
};

constexpr Format format(Kind kind) { return kFormats[static_cast<int>(kind)]; }

// Bytes of a tile's planes: 256 for four bits, and 64 (one bit of each weight) for every bit above; eight bits lie plain.
constexpr int plane_bytes(Format f) { return f.bits == 8 ? 512 : 256 + (f.bits - 4) * 64; }

// One level: half-precision scales, then minima. Two: a byte per scale, and a byte per minimum or second half's scale.
constexpr int scale_bytes(Format f) {
    if (f.two_levels) return 2 * kRows;
    if (f.super_tiles) return 0;
    return f.minimum ? 4 * kRows : 2 * kRows;
}

constexpr int tile_bytes(Format f) { return plane_bytes(f) + scale_bytes(f); }

// Half-precision scale, and for those that have one, minimum or zero point, of the tiles that share them.
constexpr int super_bytes(Format f) { return !f.super_tiles ? 0 : (f.minimum ? 4 * kRows : 2 * kRows); }

constexpr bool is_plain(Format f) { return f.bits >= 16; }

constexpr size_t group_bytes(Format f, int64_t columns) {
    if (is_plain(f)) return static_cast<size_t>(kRows * (f.bits / 8) * (f.bits == 16 ? (columns + 1) / 2 * 2 : columns));
    const int64_t tiles = columns / kTile;
    return static_cast<size_t>(tiles * tile_bytes(f) + (f.super_tiles ? tiles / f.super_tiles * super_bytes(f) : 0));
}

inline size_t packed_bytes(Kind kind, int64_t rows, int64_t columns) {
    return group_bytes(format(kind), columns) * static_cast<size_t>((rows + kRows - 1) / kRows);
}

float half_to_float(uint16_t half);
void pack(Kind kind, const uint8_t* blocks, int64_t rows, int64_t columns, uint8_t* packed);
void unpack_row(Kind kind, const uint8_t* packed, int64_t columns, int64_t row, float* out);

// Activations of T rows: signed bytes with a scale for every 16 columns (32, as elsewhere, scatter a token's
// log-probability by a third more: SmolLM2, 0.084 against 0.063 nats), the sums of every 16 bytes, and what the numbers
// of a tile add up to.
struct Activations {
    const int8_t* q;     // (T, columns)
    const float* scale;  // (T, columns / 16)
    const int32_t* sums; // (T, columns / 16)
    const float* totals; // (T, columns / 32)
    int64_t columns;
};

// y[t * stride + r] = x[t] . w[r] for `count` rows of activations and the 16 rows of one group.
using GroupProduct = void (*)(const uint8_t* group, const Activations& x, int64_t first, int64_t count, float* y,
                              int64_t stride, int64_t valid_rows);
using Quantize = void (*)(const float* x, int64_t columns, int8_t* q, float* scale, int32_t* sums);

// Products whose activations are not rounded to 8 bits: x is laid out anew once, in blocks of rows, then every pair of
// groups is multiplied by all of it. Weights with fewer than 16 bits are unpacked first, a pair of groups at a time.
struct Exact {
    Kind kind;
    const uint8_t* packed;
    int64_t rows, columns;
    const float* x; // (count, columns)
    int64_t count;
    float* y;
    int64_t stride;
};

constexpr int64_t kMostWidth = 512; // of a head

// Queries and keys turned by their positions (after a norm per head where `norm` is given), keys and values put into
// their slots of the KV pool (slots, 2, kv_heads, width). `half`: bfloat16 instead of float32.
struct Turn {
    const void* qkv; // (rows, heads + 2 kv_heads, width)
    const float *cos, *sin; // (rows, width), sin with the sign of the rotation
    const float* norm;      // (heads + kv_heads, width)
    float eps;
    void* q; // (rows, heads, width)
    void* pool;
    const int64_t* slots;
    int64_t rows, heads, kv_heads, width;
    bool half_in, half;
};

// Single rows over their own blocks of the pool. meta: packed row, first slot, slot after the last, begin of its table.
struct Attend {
    const void *q, *pool;
    void* out;
    const int64_t *meta, *blocks;
    int64_t heads, kv_heads, width, block;
    float scale;
    bool half;
};

// `lay_out` writes block number b of x, each `block_bytes` long; `multiply` takes groups [begin, end) and scratch for
// four unpacked groups.
struct ExactProducts {
    size_t (*block_bytes)(const Exact& work);
    void (*lay_out)(const Exact& work, int64_t block, uint8_t* blocks);
    void (*multiply)(const Exact& work, const uint8_t* blocks, int64_t begin, int64_t end, uint8_t* scratch);
};

struct Backend {
    const char* name;
    GroupProduct products[kQuantized];
    Quantize quantize;
    int block_rows;                                          // of x that lie together
    ExactProducts plain[3];                                  // F32, BF16, F16
    int panel;                                               // which of them multiplies unpacked weights
    void (*norm)(const float* x, const float* weight, float eps, int64_t rows, int64_t width, void* out, bool half);
    void (*gate)(const void* x, int64_t rows, int64_t width, bool gelu, void* out, bool half);
    void (*turn)(const Turn& work);
    void (*attend)(const Attend& work, int64_t row, int64_t kv_head, float* scores);
};

const Backend* generic_backend();
const Backend* avx2_backend();
const Backend* avx512_backend();
const Backend* neon_backend();       // with the dot product extension where there is
const Backend* neon_plain_backend(); // without

} // namespace potluck
