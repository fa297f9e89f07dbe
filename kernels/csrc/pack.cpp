// From GGUF blocks to the packed layout, and single rows back (an embedding's).
#include <bit>
#include <cstring>

#include "formats.hpp"

namespace potluck {

float half_to_float(uint16_t h) {
    const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
    uint32_t exponent = (h >> 10) & 0x1fu, mantissa = h & 0x3ffu;
    uint32_t bits;
    if (exponent == 0x1f) {
        bits = sign | 0x7f800000u | (mantissa << 13);
    } else if (exponent != 0) {
        bits = sign | ((exponent + 112) << 23) | (mantissa << 13);
    } else if (mantissa == 0) {
        bits = sign;
    } else {
        exponent = 113;
        while (!(mantissa & 0x400u)) {
            mantissa <<= 1;
            --exponent;
        }
        bits = sign | (exponent << 23) | ((mantissa & 0x3ffu) << 13);
    }
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

namespace {

// One GGUF block's numbers, whatever its format: q of each column, and the scales as they are stored.
struct Block {
    uint8_t q[256];
    uint16_t d = 0, m = 0;    // half precision
    uint8_t scales[16] = {0}; // per 32 columns, or per 16
    uint8_t minima[8] = {0};
};

void low_high_nibbles(const uint8_t* qs, uint8_t* q) {
    for (int j = 0; j < 16; ++j) {
        q[j] = qs[j] & 15;
        q[j + 16] = qs[j] >> 4;
    }
}

void six_bit_scales(const uint8_t* s, Block& block) {
    for (int j = 0; j < 8; ++j) {
        if (j < 4) {
            block.scales[j] = s[j] & 63;
            block.minima[j] = s[j + 4] & 63;
        } else {
            block.scales[j] = static_cast<uint8_t>((s[j + 4] & 15) | ((s[j - 4] >> 6) << 4));
            block.minima[j] = static_cast<uint8_t>((s[j + 4] >> 4) | ((s[j] >> 6) << 4));
        }
    }
}

void read_k(Kind kind, const uint8_t* in, Block& block) {
    std::memcpy(&block.d, in, 2);
    std::memcpy(&block.m, in + 2, 2);
    six_bit_scales(in + 4, block);
    const uint8_t* high = in + 16;
    const uint8_t* qs = kind == Kind::Q5_K ? in + 48 : in + 16;
    for (int chunk = 0; chunk < 4; ++chunk) {
        for (int l = 0; l < 32; ++l) {
            uint8_t low = qs[32 * chunk + l] & 15, up = qs[32 * chunk + l] >> 4;
            if (kind == Kind::Q5_K) {
                low |= static_cast<uint8_t>(((high[l] >> (2 * chunk)) & 1) << 4);
                up |= static_cast<uint8_t>(((high[l] >> (2 * chunk + 1)) & 1) << 4);
            }
            block.q[64 * chunk + l] = low;
            block.q[64 * chunk + 32 + l] = up;
        }
    }
}

void read_q6_k(const uint8_t* in, Block& block) {
    for (int half = 0; half < 2; ++half) {
        const uint8_t *ql = in + 64 * half, *qh = in + 128 + 32 * half;
        for (int l = 0; l < 32; ++l) {
            uint8_t* q = block.q + 128 * half + l;
            q[0] = static_cast<uint8_t>((ql[l] & 15) | ((qh[l] & 3) << 4));
            q[32] = static_cast<uint8_t>((ql[l + 32] & 15) | (((qh[l] >> 2) & 3) << 4));
            q[64] = static_cast<uint8_t>((ql[l] >> 4) | (((qh[l] >> 4) & 3) << 4));
            q[96] = static_cast<uint8_t>((ql[l + 32] >> 4) | (((qh[l] >> 6) & 3) << 4));
        }
    }
    std::memcpy(block.scales, in + 192, 16);
    std::memcpy(&block.d, in + 208, 2);
}

void read_block(Kind kind, const uint8_t* in, Block& block) {
    const uint8_t* rest = in + 2;
    std::memcpy(&block.d, in, 2);
    switch (kind) {
    case Kind::INT4_G32:
    case Kind::INT4_G128:
    case Kind::INT8_G32:
    case Kind::INT8_G128: {
        const Format f = format(kind);
        std::memcpy(&block.m, in + 2, 2);
        if (f.bits == 8)
            std::memcpy(block.q, in + 4, static_cast<size_t>(f.block_columns));
        else
            for (int c = 0; c < f.block_columns; c += kTile) low_high_nibbles(in + 4 + c / 2, block.q + c);
        break;
    }
    case Kind::Q4_1:
    case Kind::Q5_1:
        std::memcpy(&block.m, in + 2, 2);
        rest = in + 4;
        [[fallthrough]];
    case Kind::Q4_0:
    case Kind::Q5_0: {
        uint32_t high = 0;
        const bool five = format(kind).bits == 5;
        if (five) std::memcpy(&high, rest, 4);
        low_high_nibbles(rest + (five ? 4 : 0), block.q);
        for (int j = 0; five && j < 32; ++j) block.q[j] |= static_cast<uint8_t>(((high >> j) & 1) << 4);
        break;
    }
    case Kind::Q8_0:
        for (int j = 0; j < 32; ++j) block.q[j] = static_cast<uint8_t>(rest[j] ^ 0x80);
        break;
    case Kind::Q6_K:
        read_q6_k(in, block);
        break;
    default:
        read_k(kind, in, block);
    }
}

void put_tile(Format f, const uint8_t* q, int row, uint8_t* tile) {
    for (int column = 0; column < kTile; ++column) {
        const int step = column / 4, place = 4 * row + column % 4;
        if (f.bits == 8) {
            tile[64 * step + place] = q[column];
            continue;
        }
        tile[64 * (step / 2) + place] |= static_cast<uint8_t>((q[column] & 15) << (4 * (step % 2)));
        for (int bit = 4; bit < f.bits; ++bit)
            tile[256 + 64 * (bit - 4) + 8 * step + place / 8] |=
                static_cast<uint8_t>(((q[column] >> bit) & 1) << (place % 8));
    }
}

// The tile of a column, and where the two levels' coarse scales before it stand.
struct Place {
    size_t tile, super;
};

Place place_of(Format f, int64_t tile) {
    if (!f.super_tiles) return {static_cast<size_t>(tile * tile_bytes(f)), 0};
    const size_t before = static_cast<size_t>(tile / f.super_tiles);
    const size_t super = before * static_cast<size_t>(super_bytes(f) + f.super_tiles * tile_bytes(f));
    return {super + static_cast<size_t>(super_bytes(f) + tile % f.super_tiles * tile_bytes(f)), super};
}

void put_half(uint8_t* at, int row, uint16_t half) { std::memcpy(at + 2 * row, &half, 2); }

void put_block(Kind kind, const Block& block, int64_t first_tile, int row, uint8_t* group) {
    const Format f = format(kind);
    for (int t = 0; t < f.block_columns / kTile; ++t) {
        const Place at = place_of(f, first_tile + t);
        uint8_t* tile = group + at.tile;
        uint8_t* scales = tile + plane_bytes(f);
        put_tile(f, block.q + kTile * t, row, tile);
        if (f.two_levels) {
            scales[row] = f.half_tiles ? block.scales[2 * t] : block.scales[t];
            scales[kRows + row] = f.half_tiles ? block.scales[2 * t + 1] : block.minima[t];
        }
        uint8_t* halves = f.super_tiles ? group + at.super : scales;
        put_half(halves, row, block.d);
        if (f.minimum) put_half(halves + 2 * kRows, row, block.m);
    }
}

// Where the bytes of a plain number stand in its group.
size_t plain_place(Kind kind, int64_t column, int row) {
    if (kind == Kind::BF16) return static_cast<size_t>(64 * (column / 2) + 4 * row + 2 * (column % 2));
    const int size = format(kind).bits / 8;
    return static_cast<size_t>((kRows * column + row) * size);
}

void pack_plain(Kind kind, const uint8_t* in, int64_t rows, int64_t columns, uint8_t* packed) {
    const size_t size = static_cast<size_t>(format(kind).bits / 8), group = group_bytes(format(kind), columns);
    for (int64_t row = 0; row < rows; ++row) {
        uint8_t* out = packed + static_cast<size_t>(row / kRows) * group;
        for (int64_t c = 0; c < columns; ++c, in += size)
            std::memcpy(out + plain_place(kind, c, static_cast<int>(row % kRows)), in, size);
    }
}

float plain_number(Kind kind, const uint8_t* at) {
    if (kind == Kind::F32) {
        float value;
        std::memcpy(&value, at, 4);
        return value;
    }
    uint16_t half;
    std::memcpy(&half, at, 2);
    return kind == Kind::F16 ? half_to_float(half) : std::bit_cast<float>(static_cast<uint32_t>(half) << 16);
}

uint16_t half_at(const uint8_t* at, int row) {
    uint16_t half;
    std::memcpy(&half, at + 2 * row, 2);
    return half;
}

} // namespace

void pack(Kind kind, const uint8_t* blocks, int64_t rows, int64_t columns, uint8_t* packed) {
    const Format f = format(kind);
    const size_t size = group_bytes(f, columns);
    const int64_t per_row = columns / f.block_columns;
    std::memset(packed, 0, packed_bytes(kind, rows, columns));
    if (is_plain(f)) return pack_plain(kind, blocks, rows, columns, packed);
    for (int64_t row = 0; row < rows; ++row) {
        uint8_t* group = packed + static_cast<size_t>(row / kRows) * size;
        for (int64_t b = 0; b < per_row; ++b) {
            Block block;
            read_block(kind, blocks + (row * per_row + b) * f.block_bytes, block);
            put_block(kind, block, b * (f.block_columns / kTile), static_cast<int>(row % kRows), group);
        }
    }
}

void unpack_row(Kind kind, const uint8_t* packed, int64_t columns, int64_t row, float* out) {
    const Format f = format(kind);
    const uint8_t* group = packed + static_cast<size_t>(row / kRows) * group_bytes(f, columns);
    const int r = static_cast<int>(row % kRows);
    for (int64_t c = 0; is_plain(f) && c < columns; ++c) out[c] = plain_number(kind, group + plain_place(kind, c, r));
    for (int64_t t = 0; !is_plain(f) && t < columns / kTile; ++t) {
        const Place at = place_of(f, t);
        const uint8_t *tile = group + at.tile, *scales = tile + plane_bytes(f), *super = group + at.super;
        for (int column = 0; column < kTile; ++column) {
            const int step = column / 4, place = 4 * r + column % 4;
            int q = f.bits == 8 ? tile[64 * step + place] : (tile[64 * (step / 2) + place] >> (4 * (step % 2))) & 15;
            for (int bit = 4; f.bits != 8 && bit < f.bits; ++bit)
                q |= ((tile[256 + 64 * (bit - 4) + 8 * step + place / 8] >> (place % 8)) & 1) << bit;
            float scale, minimum = 0.0f;
            if (!f.two_levels) {
                const uint8_t* halves = f.super_tiles ? super : scales;
                scale = half_to_float(half_at(halves, r));
                if (f.minimum) minimum = half_to_float(half_at(halves + 2 * kRows, r)) * (f.zero ? -scale : 1.0f);
            } else if (f.half_tiles) {
                scale = half_to_float(half_at(super, r)) * static_cast<int8_t>(scales[(column / 16) * kRows + r]);
            } else {
                scale = half_to_float(half_at(super, r)) * scales[r];
                minimum = -half_to_float(half_at(super + 2 * kRows, r)) * scales[kRows + r];
            }
            out[t * kTile + column] = scale * static_cast<float>(q - f.offset) + minimum;
        }
    }
}

} // namespace potluck
