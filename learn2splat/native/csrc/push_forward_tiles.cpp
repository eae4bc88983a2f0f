// J v, second pass: blend the tangents front to back, with the decisions of the forward pass.
//
// With L = d ln(alpha), polynomial in (u, v), and blending weight w = alpha T: dw = alpha (dT + T L), and after the
// Gaussian T <- T - w, dT <- dT - dw; the image's tangent is the sum of dw color + w dcolor.
#include "raster.h"

namespace l2s {
namespace {

struct Pushed {
    vf before;         // transmittance
    vf transmittance;  // its tangent, and those of the images
    vf red, green, blue, depth;
    vi last;
};

struct Workspace {
    BlockGrid grid;
    Pushed blocks[kBlocks];
    TileSplat splats[kBatch];
    Row tangents[kBatch];
    BlockLists lists;
};

// The tangents of the listed splats at one block. Three splats are under way at a time, as in blending.
template <bool kWithDepth>
void push_block(Pushed& state, const TileSplat* splats, const Row* tangents, const uint32_t* list, int length,
                int first, vf x, vf y, float max_alpha) {
    Pushed p = state;
    const vf least = splat(kLog2MinAlpha), most = splat(max_alpha);
    const vi last = p.last - first;
    Whitened at = whiten(splats[list[0]], x, y), next_at = whiten(splats[list[1]], x, y);
    vf exponent = log2_alpha(splats[list[0]], at);
    vm visible = less_equal(least, exponent);
    vf unclamped = exp2(exponent);
    exponent = log2_alpha(splats[list[1]], next_at);
    for (int k = 0; k < length; ++k) {
        const TileSplat &s = splats[list[k]], &later = splats[list[k + 2]];
        const float* t = tangents[list[k]].field;
        vm reached = less_equal_int(splat_int((int32_t)list[k]), last) & visible;
        vf alpha = keep(reached, min(unclamped, most));
        vf by_u = fma(splat(t[kGuu]), at.u, fma(splat(t[kGuv]), at.v, splat(t[kGu])));
        vf by_v = fma(splat(t[kGvv]), at.v, splat(t[kGv]));
        vf slope = keep(less(alpha, most), fma(by_u, at.u, fma(by_v, at.v, splat(t[kG]))));
        at = next_at;
        next_at = whiten(later, x, y);
        visible = less_equal(least, exponent);
        unclamped = exp2(exponent);
        exponent = log2_alpha(later, next_at);
        vf weight = alpha * p.before, moved = alpha * fma(p.before, slope, p.transmittance);
        p.before -= weight;
        p.transmittance -= moved;
        p.red = fma(moved, splat(s.red), fma(weight, splat(t[kRed]), p.red));
        p.green = fma(moved, splat(s.green), fma(weight, splat(t[kGreen]), p.green));
        p.blue = fma(moved, splat(s.blue), fma(weight, splat(t[kBlue]), p.blue));
        if (kWithDepth) p.depth = fma(moved, splat(s.depth), fma(weight, splat(t[kDepth]), p.depth));
    }
    state = p;
}

template <bool kWithDepth>
void push_tile(const L2sRendering& r, Workspace& w, const Tile& tile, const L2sImages& out) {
    const int32_t* last = r.last.data() + tile.index * kTilePixels;
    for (int block = 0; block < kBlocks; ++block) {
        w.blocks[block] = {splat(1.0f), vf{}, vf{}, vf{}, vf{}, vf{}, vi{}};
        std::memcpy(&w.blocks[block].last, last + block * W, sizeof(vi));
    }
    const Splat* splats = r.splats.data() + tile.view * r.count;
    const Row* tangents = r.tangents.data() + tile.view * r.count;
    int64_t begin = r.tile_begin[tile.index], end = r.tile_begin[tile.index + 1];
    const Entry* entries = r.entries.data();
    for (int64_t start = begin; start < end; start += kBatch) {
        int n = (int)(end - start < kBatch ? end - start : kBatch);
        BlockMask any_of_batch = 0;
        for (int i = 0; i < n; ++i) {
            int64_t ahead = start + i + kPrefetchAhead;
            if (ahead < end && r.masks[ahead]) {
                __builtin_prefetch(splats + entries[ahead].gaussian);
                __builtin_prefetch(tangents + entries[ahead].gaussian);
            }
            BlockMask mask = r.masks[start + i];
            w.lists.masks[i] = mask;
            any_of_batch |= mask;
            if (!mask) continue;
            w.splats[i].set(splats[entries[start + i].gaussian], tile);
            w.tangents[i] = tangents[entries[start + i].gaussian];
        }
        if (!any_of_batch) continue;
        w.lists.fill(n, any_of_batch);
        for (int block = 0; block < kBlocks; ++block)
            if (w.lists.lengths[block])
                push_block<kWithDepth>(w.blocks[block], w.splats, w.tangents, w.lists.indices[block],
                                       w.lists.lengths[block], (int)(start - begin), w.grid.x[block],
                                       w.grid.y[block], r.settings.max_alpha);
    }
    TileImages images;
    for (int block = 0; block < kBlocks; ++block)
        images.set_block(block, w.blocks[block], r.view[tile.view].background);
    images.write(r, tile, 0.0f, out);
}

}  // namespace

void push_forward_tiles(const L2sRendering& r, const L2sImages& out, int threads, const uint8_t* wanted) {
    int64_t tiles = (int64_t)r.views * r.tiles();
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        FlushDenormals flush;
        Workspace workspace = {};
#pragma omp for schedule(dynamic, 1)
        for (int64_t index = 0; index < tiles; ++index) {
            Tile tile(r, index);
            if (wanted && !wanted[index]) TileImages{}.write(r, tile, 0.0f, out);
            else if (out.depth) push_tile<true>(r, workspace, tile, out);
            else push_tile<false>(r, workspace, tile, out);
        }
    }
}

}  // namespace l2s
