// Second pass: for each tile the Gaussians that may reach it, front to back. Gaussians are sorted by depth once per
// view and then appended to their tiles in that order; sorting (tile, depth) pairs would move far more data.
#include <algorithm>

#include "rendering.h"

namespace l2s {
namespace {

constexpr int kDigitBits = 11;
constexpr int kDigits = 1 << kDigitBits;

// Stable radix sort of (key << 32 | value) by key, least significant digit first. Returns the sorted one of a and b.
uint64_t* sort_by_key(uint64_t* a, uint64_t* b, int64_t n, uint32_t largest_key) {
    for (int shift = 0; shift < 32 && largest_key >> shift; shift += kDigitBits) {
        uint32_t begin[kDigits + 1] = {};
        for (int64_t i = 0; i < n; ++i) ++begin[((uint32_t)(a[i] >> 32) >> shift) % kDigits + 1];
        for (int d = 0; d < kDigits; ++d) begin[d + 1] += begin[d];
        for (int64_t i = 0; i < n; ++i) b[begin[((uint32_t)(a[i] >> 32) >> shift) % kDigits]++] = a[i];
        std::swap(a, b);
    }
    return a;
}

// Front-to-back order of the view's Gaussians that have a tile. Bits of positive floats order like the floats.
void sort_view(L2sRendering& r, int v) {
    const TileBox* boxes = r.boxes.data() + v * r.count;
    const float* depths = r.depths.data() + v * r.count;
    uint64_t* keys = r.sort_scratch.data() + 2 * v * r.count;
    uint32_t least = ~0u, most = 0;
    int64_t n = 0;
    for (int64_t i = 0; i < r.count; ++i) {
        if (!boxes[i].count()) continue;
        uint32_t key;
        std::memcpy(&key, depths + i, 4);
        least = std::min(least, key);
        most = std::max(most, key);
        keys[n++] = (uint64_t)key << 32 | (uint32_t)i;
    }
    for (int64_t i = 0; i < n; ++i) keys[i] -= (uint64_t)least << 32;
    const uint64_t* sorted = sort_by_key(keys, keys + r.count, n, most - least);
    uint32_t* order = r.depth_order.data() + v * r.count;
    for (int64_t i = 0; i < n; ++i) order[i] = (uint32_t)sorted[i];
    r.drawn[v] = (int32_t)n;
}

// Places of each Gaussian's rows relative to the view's first, and the number of entries of each tile.
void count_view(L2sRendering& r, int v) {
    const TileBox* boxes = r.boxes.data() + v * r.count;
    int32_t* first_row = r.first_row.data() + v * r.count;
    int64_t* counts = r.tile_begin.data() + 1 + (int64_t)v * r.tiles();
    const int tiles_x = r.tiles_x;
    std::fill_n(counts, r.tiles(), 0);
    int32_t rows = 0;
    for (int64_t i = 0; i < r.count; ++i) {
        TileBox box = boxes[i];
        first_row[i] = rows;
        rows += box.count();
        for (int y = box.y0; y < box.y1; ++y)
            for (int x = box.x0; x < box.x1; ++x) ++counts[y * tiles_x + x];
    }
    r.row_begin[v + 1] = rows;
}

// Fill the tiles of rows [y0, y1) of one view.
void fill_tiles(L2sRendering& r, int v, int y0, int y1, int64_t* next) {
    const TileBox* boxes = r.boxes.data() + v * r.count;
    const uint32_t* order = r.depth_order.data() + v * r.count;
    const int64_t* begin = r.tile_begin.data() + (int64_t)v * r.tiles();
    const int32_t* first_row = r.first_row.data() + v * r.count;
    Entry* entries = r.entries.data();
    const int tiles_x = r.tiles_x, drawn = r.drawn[v];
    std::copy(begin + y0 * tiles_x, begin + y1 * tiles_x, next + y0 * tiles_x);
    for (int k = 0; k < drawn; ++k) {
        if (k + kPrefetchAhead < drawn) __builtin_prefetch(boxes + order[k + kPrefetchAhead]);
        uint32_t i = order[k];
        TileBox box = boxes[i];
        int top = std::max<int>(box.y0, y0), bottom = std::min<int>(box.y1, y1);
        uint32_t row = first_row[i] + (top - box.y0) * (box.x1 - box.x0);
        for (int y = top; y < bottom; ++y)
            for (int x = box.x0; x < box.x1; ++x) entries[next[y * tiles_x + x]++] = {i, row++};
    }
}

}  // namespace

void bin(L2sRendering& r, int threads) {
    int64_t all_tiles = (int64_t)r.views * r.tiles();
    r.tile_begin.resize(2 * all_tiles + 1);  // the second half is where fill_tiles counts
    r.row_begin.resize(r.views + 1);
    r.drawn.resize(r.views);
    r.first_row.resize(r.views * r.count);
    r.depth_order.resize(r.views * r.count);
    r.sort_scratch.resize(2 * r.views * r.count);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
    for (int job = 0; job < 2 * r.views; ++job) {
        if (job % 2 == 0) sort_view(r, job / 2);
        else count_view(r, job / 2);
    }

    r.tile_begin[0] = r.row_begin[0] = 0;
    for (int v = 0; v < r.views; ++v) r.row_begin[v + 1] += r.row_begin[v];
    for (int64_t t = 0; t < all_tiles; ++t) r.tile_begin[t + 1] += r.tile_begin[t];
    r.entries.resize(r.tile_begin[all_tiles]);
    int64_t* next = r.tile_begin.data() + all_tiles + 1;

    int bands = r.views >= threads ? 1 : std::min(threads, r.tiles_y);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
    for (int job = 0; job < r.views * bands; ++job) {
        int v = job / bands, band = job % bands;
        fill_tiles(r, v, r.tiles_y * band / bands, r.tiles_y * (band + 1) / bands, next + (int64_t)v * r.tiles());
    }
}

}  // namespace l2s
