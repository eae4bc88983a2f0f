// Third pass: blend each tile front to back. Blocks are the outer loop, so that the state of a block's pixels stays
// in registers while the Gaussians that reach it stream by.
#include "raster.h"

namespace l2s {
namespace {

struct Blended {
    vf transmittance;  // after the last Gaussian before the stop
    vf running;        // likewise but never stopping; only its falling below the threshold matters
    vi last;
    vf red, green, blue, depth;
};

struct Workspace {
    BlockGrid grid;
    Blended blocks[kBlocks];
    TileSplat splats[kBatch];
    BlockLists lists;
    int64_t evaluations;
};

// Blend the listed splats into one block. Returns how many it took until no pixel was open any more.
//
// Three splats are under way at a time, each at another stage: whitening, exponential, blending. The stages of one
// splat are a chain of eighty cycles, of which the CPU's window would hold too few to stay busy.
template <bool kWithDepth>
int blend_block(Blended& state, const TileSplat* splats, const uint32_t* list, int length, int first, vf x, vf y,
                float max_alpha) {
    vf running = state.running, transmittance = state.transmittance;
    vf red = state.red, green = state.green, blue = state.blue, depth = state.depth;
    const vf least = splat(kLog2MinAlpha), most = splat(max_alpha), stop = splat(kMinTransmittance);
    vi last = state.last - first;  // relative to this batch, like the list
    vf exponent = log2_alpha(splats[list[0]], whiten(splats[list[0]], x, y));
    vm visible = less_equal(least, exponent);
    vf unclamped = exp2(exponent);
    exponent = log2_alpha(splats[list[1]], whiten(splats[list[1]], x, y));
    vm going;
    int k = 0;
    do {
        const TileSplat &s = splats[list[k]], &later = splats[list[k + 2]];
        vf alpha = keep(visible, min(unclamped, most));
        visible = less_equal(least, exponent);
        unclamped = exp2(exponent);
        exponent = log2_alpha(later, whiten(later, x, y));
        vf after = fnma(alpha, running, running);
        going = less(stop, after);  // stays false once it is, as `after` never rises
        vf weight = keep(going, alpha * running);
        running = after;
        transmittance = select(going, after, transmittance);
        last = select(going, splat_int((int32_t)list[k]), last);
        red = fma(weight, splat(s.red), red);
        green = fma(weight, splat(s.green), green);
        blue = fma(weight, splat(s.blue), blue);
        if (kWithDepth) depth = fma(weight, splat(s.depth), depth);
        ++k;
    } while (any(going) && k < length);
    state = {transmittance, running, last + first, red, green, blue, depth};
    return k;
}

void open_tile(Workspace& w, const Tile& tile, BlockMask* live) {
    *live = 0;
    for (int block = 0; block < kBlocks; ++block) {
        vm inside = less(w.grid.x[block], splat((float)(tile.width - kTile / 2))) &
                    less(w.grid.y[block], splat((float)(tile.height - kTile / 2)));
        vf one = keep(inside, splat(1.0f));
        w.blocks[block] = {one, one, splat_int(-1), vf{}, vf{}, vf{}, vf{}};
        if (any(inside)) *live |= (BlockMask)((BlockMask)1 << block);
    }
}

void close_tile(L2sRendering& r, const Workspace& w, const Tile& tile, const L2sImages& out) {
    const float* background = r.view[tile.view].background;
    float* transmittance = r.transmittance.data() + tile.index * kTilePixels;
    int32_t* last = r.last.data() + tile.index * kTilePixels;
    TileImages images;
    for (int block = 0; block < kBlocks; ++block) {
        const Blended& b = w.blocks[block];
        store(transmittance + block * W, b.transmittance);
        std::memcpy(last + block * W, &b.last, sizeof(vi));
        images.set_block(block, b, background);
    }
    images.write(r, tile, 1.0f, out);
}

template <bool kWithDepth>
void blend_tile(L2sRendering& r, Workspace& w, const Tile& tile, const L2sImages& out) {
    BlockMask live;
    open_tile(w, tile, &live);
    const Splat* splats = r.splats.data() + tile.view * r.count;
    int64_t begin = r.tile_begin[tile.index], end = r.tile_begin[tile.index + 1];
    const Entry* entries = r.entries.data();
    BlockMask* masks = r.masks.data();
    for (int64_t start = begin; start < end && live; start += kBatch) {
        int n = (int)(end - start < kBatch ? end - start : kBatch);
        for (int i = 0; i < n; ++i) {
            int64_t ahead = start + i + kPrefetchAhead;
            if (ahead < end) __builtin_prefetch(splats + entries[ahead].gaussian);
            const Splat& s = splats[entries[start + i].gaussian];
            w.splats[i].set(s, tile);
            w.lists.masks[i] = blocks_reached(s, tile, w.grid) & live;
            masks[start + i] = w.lists.masks[i];
        }
        w.lists.fill(n, live);
        for (int block = 0; block < kBlocks; ++block) {
            const int length = w.lists.lengths[block];
            if (!length) continue;
            const uint32_t* list = w.lists.indices[block];
            int taken = blend_block<kWithDepth>(w.blocks[block], w.splats, list, length, (int)(start - begin),
                                                w.grid.x[block], w.grid.y[block], r.settings.max_alpha);
            w.evaluations += taken;
            if (any(less(splat(kMinTransmittance), w.blocks[block].running))) continue;
            BlockMask bit = (BlockMask)((BlockMask)1 << block);
            live &= (BlockMask)~bit;
            for (int k = taken; k < length; ++k) masks[start + list[k]] &= (BlockMask)~bit;
        }
    }
    close_tile(r, w, tile, out);
}

}  // namespace

void blend(L2sRendering& r, const L2sImages& out, int threads) {
    int64_t tiles = (int64_t)r.views * r.tiles(), evaluations = 0;
    double seconds = 0;
    r.masks.resize(r.entries.size());
    r.transmittance.resize(tiles * kTilePixels);
    r.last.resize(tiles * kTilePixels);
#pragma omp parallel num_threads(threads) if (threads > 1) reduction(+ : evaluations, seconds)
    {
        double begin = thread_seconds();
        FlushDenormals flush;
        Workspace workspace;
        workspace.evaluations = 0;
#pragma omp for schedule(dynamic, 1)
        for (int64_t index = 0; index < tiles; ++index) {
            Tile tile(r, index);
            if (r.with_depth) blend_tile<true>(r, workspace, tile, out);
            else blend_tile<false>(r, workspace, tile, out);
        }
        evaluations += workspace.evaluations;
        seconds += thread_seconds() - begin;
    }
    r.statistics.forward_lanes = evaluations * W;
    r.statistics.forward_raster_seconds = seconds;
}

}  // namespace l2s
