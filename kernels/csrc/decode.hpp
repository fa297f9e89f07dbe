// The halves of a transformer layer for a few rows, a call each: what lies between two sums of a group.
//
// The same operations in the same order as one call for each of them, so with the same bits. What they read is said by
// integers, which kernels/halves.py writes down in this order:
//
//   product: columns, rows, bias or 0, exact, number of pieces; for each piece: kind, packed, rows
//   attention half: norm, eps as bits, heads, KV heads, width of a head, head norm or 0, its eps, pool, slots of a block,
//                   scale as bits, half; the product of queries, keys and values; that of the output
//   FFN half: norm, eps as bits, gelu; the product of gate and up; that of the way down
//   step: rows, slots, cos, sin, meta and blocks as in Attend, slots of the longest row
#pragma once

#include <cstdint>

namespace potluck {

// x and out: (rows, width of the residual stream). Every row is a sequence's only one; its keys and values are written.
void attention_half(const int64_t* half, const int64_t* step, const float* x, float* out);
void ffn_half(const int64_t* half, const int64_t* step, const float* x, float* out);

} // namespace potluck
