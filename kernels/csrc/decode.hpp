// The halves of a transformer layer for a few rows, a call each: what lies between two sums of a group.
//
// The same operations in the same order as one call for each of them, so with the same bits. What they read is said by
// integers, which kernels/halves.py writes down in this order:
//
//   product: columns, rows, bias or 0, exact, number of pieces; for each piece: kind, packed, rows
//   attention half: norm, eps as bits, heads, KV heads, width of a head, head norm or 0, its eps, pool, slots of a block,
//                   scale as bits, half; the product of queries, keys and values; that of the output
//   FFN half: norm, eps as bits, gelu; the product of gate and up; that of the way down
//   layer: attention half, kind of its step, norm after it or 0, FFN half, norm after it or 0, eps of both as bits
//   step: rows, slots, cos, sin, meta and blocks as in Attend, slots of the longest row
#pragma once

#include <cstdint>

namespace potluck {

// x and out: (rows, width of the residual stream). Every row is a sequence's only one; its keys and values are written.
void attention_half(const int64_t* half, const int64_t* step, const float* x, float* out);
void ffn_half(const int64_t* half, const int64_t* step, const float* x, float* out);

// Makes so many numbers of this member's the sum of the group's; not 0 where it cannot, with Python's error set.
using Sum = int (*)(void* context, float* part, int64_t count);

// Layers one after the other, x (rows, width) in place; `steps` by kind. What a half gives is summed where there is a
// sum. What the first sum that failed returned, or 0.
int decode_layers(const int64_t* layers, int64_t count, const int64_t* steps, float* x, int64_t width, Sum sum,
                  void* context);

} // namespace potluck
