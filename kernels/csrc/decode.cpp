#include "decode.hpp"

#include <cstring>
#include <vector>

#include "products.hpp"

namespace potluck {

namespace {

class Reader {
  public:
    explicit Reader(const int64_t* at) : at_(at) {}
    int64_t next() { return *at_++; }
    float real() { return bits_as_float(next()); }
    template <typename T> T* address() { return pointer<T>(next()); }

  private:
    const int64_t* at_;
};

struct Product {
    int64_t columns, rows;
    const float* bias;
    bool exact;
    int64_t pieces;

    explicit Product(Reader& from) : columns(from.next()), rows(from.next()), bias(from.address<const float>()),
                                     exact(from.next() != 0), pieces(from.next()) {}
};

// What passes from one operation to the next: kept, since allocating it takes as long as a small operation.
enum Room { kNormed, kMultiplied, kQueries, kAttended, kWidened, kPart, kRooms };

float* room(Room which, int64_t floats) {
    constexpr size_t kLine = 64, kMore = kLine / sizeof(float);
    static thread_local std::vector<float> rooms[kRooms];
    std::vector<float>& held = rooms[which];
    if (held.size() < static_cast<size_t>(floats) + kMore) held.resize(static_cast<size_t>(floats) + kMore);
    const uintptr_t begin = reinterpret_cast<uintptr_t>(held.data());
    return reinterpret_cast<float*>((begin + kLine - 1) / kLine * kLine);
}

// The pieces are what the reader comes to next.
void multiply(const Product& product, Reader& from, const float* x, int64_t count, float* y) {
    bool rounded = false;
    float* first = y;
    for (int64_t i = 0; i < product.pieces; ++i) {
        const Kind kind = static_cast<Kind>(from.next());
        const uint8_t* packed = from.address<const uint8_t>();
        const Exact work = {kind, packed, from.next(), product.columns, x, count, first, product.rows};
        if (product.exact || is_plain(format(kind))) {
            multiply_exact(work);
        } else {
            if (!rounded) round_rows(x, count, product.columns);
            rounded = true;
            multiply_rounded(work);
        }
        first += work.rows;
    }
    if (product.bias)
        for (int64_t row = 0; row < count; ++row, y += product.rows)
            for (int64_t i = 0; i < product.rows; ++i) y[i] += product.bias[i];
}

// The pool's bfloat16, exactly.
const float* widened(const uint16_t* x, int64_t count) {
    float* out = room(kWidened, count);
    for (int64_t i = 0; i < count; ++i) {
        const uint32_t bits = static_cast<uint32_t>(x[i]) << 16;
        std::memcpy(out + i, &bits, 4);
    }
    return out;
}

} // namespace

void attention_half(const int64_t* half, const int64_t* step, const float* x, float* out) {
    Reader layer(half), rows(step);
    const float* norm = layer.address<const float>();
    const float eps = layer.real();
    Turn turn = {};
    turn.heads = layer.next(), turn.kv_heads = layer.next(), turn.width = layer.next();
    turn.norm = layer.address<const float>(), turn.eps = layer.real();
    turn.pool = layer.address<void>();
    const int64_t block = layer.next();
    const float scale = layer.real();
    turn.half = layer.next() != 0;
    turn.rows = rows.next(), turn.slots = rows.address<const int64_t>();
    turn.cos = rows.address<const float>(), turn.sin = rows.address<const float>();

    const Product qkv(layer);
    float* normed = room(kNormed, turn.rows * qkv.columns);
    g_backend->norm(x, norm, eps, turn.rows, qkv.columns, normed, false);
    float* multiplied = room(kMultiplied, turn.rows * qkv.rows);
    multiply(qkv, layer, normed, turn.rows, multiplied);

    const int64_t numbers = turn.rows * turn.heads * turn.width;
    turn.qkv = multiplied, turn.q = room(kQueries, numbers);
    g_backend->turn(turn);
    const int64_t* meta = rows.address<const int64_t>();
    const int64_t* blocks = rows.address<const int64_t>();
    float* attended = room(kAttended, numbers);
    attend_rows({turn.q, turn.pool, attended, meta, blocks, turn.heads, turn.kv_heads, turn.width, block, scale, turn.half},
                turn.rows, rows.next());

    const float* given = turn.half ? widened(reinterpret_cast<const uint16_t*>(attended), numbers) : attended;
    const Product output(layer);
    multiply(output, layer, given, turn.rows, out);
}

void ffn_half(const int64_t* half, const int64_t* step, const float* x, float* out) {
    Reader layer(half);
    const int64_t rows = *step;
    const float* norm = layer.address<const float>();
    const float eps = layer.real();
    const bool gelu = layer.next() != 0;
    const Product gate_up(layer);
    float* normed = room(kNormed, rows * gate_up.columns);
    g_backend->norm(x, norm, eps, rows, gate_up.columns, normed, false);
    float* multiplied = room(kMultiplied, rows * gate_up.rows);
    multiply(gate_up, layer, normed, rows, multiplied);
    float* gated = room(kAttended, rows * gate_up.rows / 2);
    g_backend->gate(multiplied, rows, gate_up.rows / 2, gelu, gated, false);
    const Product down(layer);
    multiply(down, layer, gated, rows, out);
}

int decode_layers(const int64_t* layers, int64_t count, const int64_t* steps, float* x, int64_t width, Sum sum,
                  void* context) {
    Reader from(layers);
    for (int64_t layer = 0; layer < count; ++layer) {
        const int64_t* attention = from.address<const int64_t>();
        const int64_t* step = pointer<const int64_t>(steps[from.next()]);
        const float* after_attention = from.address<const float>();
        const int64_t* ffn = from.address<const int64_t>();
        const float* after_ffn = from.address<const float>();
        const float eps = from.real();
        const int64_t rows = *step, numbers = rows * width;
        const auto add = [&](const float* after) {
            float* part = room(kPart, numbers);
            if (const int failed = sum ? sum(context, part, numbers) : 0) return failed;
            const float* added = part;
            if (after) {
                float* normed = room(kNormed, numbers);
                g_backend->norm(part, after, eps, rows, width, normed, false);
                added = normed;
            }
            for (int64_t i = 0; i < numbers; ++i) x[i] += added[i];
            return 0;
        };
        attention_half(attention, step, x, room(kPart, numbers));
        if (const int failed = add(after_attention)) return failed;
        ffn_half(ffn, step, x, room(kPart, numbers));
        if (const int failed = add(after_ffn)) return failed;
    }
    return 0;
}

} // namespace potluck
