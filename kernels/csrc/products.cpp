#include "products.hpp"

#include <cstring>
#include <vector>

#include "pool.hpp"

namespace potluck {

const Backend* g_backend = nullptr;

const Backend* named_backend(const char* name) {
    for (const Backend* backend :
         {neon_backend(), neon_plain_backend(), avx512_backend(), avx2_backend(), generic_backend()})
        if (backend && (!*name || !std::strcmp(name, backend->name))) return backend;
    return nullptr;
}

namespace {

struct Scratch {
    std::vector<int8_t> q;
    std::vector<float> scale, totals;
    std::vector<int32_t> sums;
    std::vector<uint8_t> blocks, panels;
};

Scratch& own_scratch() {
    static thread_local Scratch scratch;
    return scratch;
}

template <typename T> void at_least(std::vector<T>& vector, size_t size) {
    if (vector.size() < size) vector.resize(size);
}

void quantize_row(const float* x, int64_t columns, int64_t row, Scratch& out) {
    float* scale = out.scale.data() + row * (columns / 16);
    int32_t* sums = out.sums.data() + row * (columns / 16);
    float* totals = out.totals.data() + row * (columns / kTile);
    g_backend->quantize(x + row * columns, columns, out.q.data() + row * columns, scale, sums);
    for (int64_t tile = 0; tile < columns / kTile; ++tile)
        totals[tile] = scale[2 * tile] * static_cast<float>(sums[2 * tile]) +
                       scale[2 * tile + 1] * static_cast<float>(sums[2 * tile + 1]);
}

} // namespace

void round_rows(const float* x, int64_t count, int64_t columns) {
    Scratch& scratch = own_scratch(); // a lambda in another thread would see that thread's
    const size_t tiles = static_cast<size_t>(count * columns / kTile);
    at_least(scratch.q, tiles * kTile);
    at_least(scratch.scale, 2 * tiles);
    at_least(scratch.sums, 2 * tiles);
    at_least(scratch.totals, tiles);
    Pool::shared().run(count, 16, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) quantize_row(x, columns, row, scratch);
    });
}

void multiply_rounded(const Exact& work) {
    const Scratch& scratch = own_scratch();
    const Activations activations = {scratch.q.data(), scratch.scale.data(), scratch.sums.data(), scratch.totals.data(),
                                     work.columns};
    const size_t size = group_bytes(format(work.kind), work.columns);
    const GroupProduct product = g_backend->products[static_cast<int>(work.kind)];
    Pool::shared().run((work.rows + kRows - 1) / kRows, 4, [&](int64_t begin, int64_t end) {
        for (int64_t g = begin; g < end; ++g) {
            const int64_t valid = work.rows - g * kRows < kRows ? work.rows - g * kRows : kRows;
            product(work.packed + static_cast<size_t>(g) * size, activations, 0, work.count, work.y + g * kRows, work.stride,
                    valid);
        }
    });
}

void multiply_exact(const Exact& work) {
    Scratch& scratch = own_scratch();
    const Format f = format(work.kind);
    const int which = is_plain(f) ? static_cast<int>(work.kind) - kQuantized : g_backend->panel;
    const ExactProducts products = g_backend->plain[which];
    const int64_t count = (work.count + g_backend->block_rows - 1) / g_backend->block_rows;
    at_least(scratch.blocks, static_cast<size_t>(count) * products.block_bytes(work));
    Pool& pool = Pool::shared();
    pool.run(count, 2, [&](int64_t begin, int64_t end) {
        for (int64_t block = begin; block < end; ++block) products.lay_out(work, block, scratch.blocks.data());
    });
    const uint8_t* blocks = scratch.blocks.data();
    pool.run((work.rows + kRows - 1) / kRows, 4, [&](int64_t begin, int64_t end) {
        std::vector<uint8_t>& panels = own_scratch().panels;
        if (!is_plain(f)) at_least(panels, static_cast<size_t>(4 * 4 * kRows * work.columns));
        products.multiply(work, blocks, begin, end, panels.data());
    });
}

void attend_rows(const Attend& work, int64_t rows, int64_t most) {
    const int64_t slots = 4 * (most + 16); // four queries at a time
    Pool::shared().run(rows * work.kv_heads, 1, [&](int64_t begin, int64_t end) {
        static thread_local std::vector<float> scores;
        if (static_cast<int64_t>(scores.size()) < slots) scores.resize(static_cast<size_t>(slots));
        for (int64_t i = begin; i < end; ++i)
            g_backend->attend(work, i / work.kv_heads, i % work.kv_heads, scores.data());
    });
}

} // namespace potluck
