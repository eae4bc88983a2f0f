// Fourth pass: derivatives by the splats' screen quantities. Gaussians are the outer loop, back to front, so that
// their ten sums stay in registers over all blocks they reach.
//
// With q = colour (and depth) dotted with the pixel's cotangent, and B the same dot product of all that lies behind,
// per unit of transmittance: d/d alpha = T (q - B), and then B <- B + alpha (q - B). B starts at what a pixel shows
// where nothing is drawn. So nothing is ever subtracted that was added before.
//
// Alpha is computed in a loop of its own, a batch of (Gaussian, block) pairs ahead. One loop for all would be a chain
// of a hundred cycles per pair, of which the CPU's window holds too few to stay busy.
#include "raster.h"

namespace l2s {
namespace {

struct Pixels {
    vf transmittance, behind;
    vi last;
    vf red, green, blue, depth;  // cotangents
};

constexpr int kPairs = 64 + kBlocks;  // a batch ends when the next Gaussian's blocks might not fit

// A Gaussian that waits for its turn.
struct Pending {
    int entry, pairs;
    int64_t row;
};

struct Workspace {
    BlockGrid grid;
    Pixels blocks[kBlocks];
    TileSplat splats[kPairs];
    Pending pending[kPairs];
    vf alpha[kPairs], raise[kPairs];  // raise: 1 / (1 - alpha)
    uint8_t pair_block[kPairs + W], pair_splat[kPairs + W];
    int64_t evaluations;
};

// Returns the last entry of the tile that any pixel blended, or -1.
int open_tile(const L2sRendering& r, Workspace& w, const Tile& tile, const L2sCotangents& cotangents) {
    const float* background = r.view[tile.view].background;
    const float* transmittance = r.transmittance.data() + tile.index * kTilePixels;
    const int32_t* last = r.last.data() + tile.index * kTilePixels;
    int furthest = -1;
    for (int i = 0; i < kTilePixels; ++i) furthest = last[i] > furthest ? last[i] : furthest;
    if (furthest < 0) return furthest;
    BlockPlane red, green, blue, alpha = {}, depth = {};
    for (int y = 0; y < tile.height; ++y) {
        int64_t pixel = tile.pixel(r, 0, y);
        load_colors(cotangents.image + 3 * pixel, tile.width, y, red, green, blue);
        if (cotangents.alpha) load_row(cotangents.alpha + pixel, tile.width, y, alpha);
        if (cotangents.depth) load_row(cotangents.depth + pixel, tile.width, y, depth);
    }
    for (int block = 0; block < kBlocks; ++block) {
        Pixels& p = w.blocks[block];
        p.transmittance = load(transmittance + block * W);
        std::memcpy(&p.last, last + block * W, sizeof(vi));
        vm inside = less_equal_int(vi{}, p.last);  // outside the image the planes hold nothing
        p.red = keep(inside, red.block(block));
        p.green = keep(inside, green.block(block));
        p.blue = keep(inside, blue.block(block));
        p.depth = depth.block(block);
        p.behind = p.red * background[0] + p.green * background[1] + p.blue * background[2] - alpha.block(block);
    }
    return furthest;
}

// Write down the blocks of `mask` as the pairs from number `pair` on.
L2S_INLINE void list_pairs(Workspace& w, int pair, int gaussian, BlockMask mask) {
#if defined(__AVX512F__)
    __m512i blocks = _mm512_maskz_compress_epi32(mask, (__m512i)lane_index());
    _mm_storeu_si128((__m128i*)(w.pair_block + pair), _mm512_cvtepi32_epi8(blocks));
    _mm_storeu_si128((__m128i*)(w.pair_splat + pair), _mm_set1_epi8((char)gaussian));
#else
    for (BlockMask m = mask; m; m &= m - 1, ++pair) {
        w.pair_block[pair] = (uint8_t)__builtin_ctzll(m);
        w.pair_splat[pair] = (uint8_t)gaussian;
    }
#endif
}

// Alpha of every pair, zero where the forward pass did not blend.
void compute_alphas(Workspace& w, int pairs, vf most) {
    const vf least = splat(kLog2MinAlpha);
    for (int pair = 0; pair < pairs; ++pair) {
        const TileSplat& s = w.splats[w.pair_splat[pair]];
        int block = w.pair_block[pair];
        vf exponent = log2_alpha(s, whiten(s, w.grid.x[block], w.grid.y[block]));
        vm reached = less_equal_int(splat_int(w.pending[w.pair_splat[pair]].entry), w.blocks[block].last);
        vf alpha = keep(less_equal_if(reached, least, exponent), min(exp2(exponent), most));
        w.alpha[pair] = alpha;
        w.raise[pair] = reciprocal(1.0f - alpha);  // exactly 1 where alpha is 0
    }
}

template <bool kWithDepth>
L2S_INLINE void pull_back_splat(Workspace& w, const TileSplat& s, int first_pair, int end_pair, vf most, Row* row) {
    vf sums[kRowFields] = {};
    for (int pair = first_pair; pair < end_pair; ++pair) {
        int block = w.pair_block[pair];
        Pixels& p = w.blocks[block];
        vf alpha = w.alpha[pair];
        vf before = p.transmittance * w.raise[pair];
        vf q = fma(splat(s.red), p.red, fma(splat(s.green), p.green, splat(s.blue) * p.blue));
        if (kWithDepth) q = fma(splat(s.depth), p.depth, q);
        vf contrast = q - p.behind;
        vf weight = alpha * before;
        p.transmittance = before;
        p.behind = fma(alpha, contrast, p.behind);
        sums[kRed] = fma(weight, p.red, sums[kRed]);
        sums[kGreen] = fma(weight, p.green, sums[kGreen]);
        sums[kBlue] = fma(weight, p.blue, sums[kBlue]);
        if (kWithDepth) sums[kDepth] = fma(weight, p.depth, sums[kDepth]);
        vf g = keep(less(alpha, most), weight * contrast);  // a clamped alpha does not move
        Whitened at = whiten(s, w.grid.x[block], w.grid.y[block]);
        vf gu = g * at.u, gv = g * at.v;
        sums[kG] += g;
        sums[kGu] += gu;
        sums[kGv] += gv;
        sums[kGuu] = fma(gu, at.u, sums[kGuu]);
        sums[kGuv] = fma(gu, at.v, sums[kGuv]);
        sums[kGvv] = fma(gv, at.v, sums[kGvv]);
    }
    for (int k = 0; k < kRowFields; k += W) stream(row->field + k, sum_each(sums + k));
}

template <bool kWithDepth>
void pull_back_batch(L2sRendering& r, Workspace& w, int gaussians, int pairs) {
    const vf most = splat(r.settings.max_alpha);
    compute_alphas(w, pairs, most);
    int pair = 0;
    for (int i = 0; i < gaussians; ++i) {
        const Pending& next = w.pending[i];
        pull_back_splat<kWithDepth>(w, w.splats[i], pair, pair + next.pairs, most, &r.rows[next.row]);
        r.touched[next.row] = 1;
        pair += next.pairs;
    }
    w.evaluations += pairs;
}

template <bool kWithDepth>
void pull_back_tile(L2sRendering& r, Workspace& w, const Tile& tile, const L2sCotangents& cotangents) {
    int64_t begin = r.tile_begin[tile.index];
    const Entry* entries = r.entries.data() + begin;
    const BlockMask* masks = r.masks.data() + begin;
    const Splat* splats = r.splats.data() + tile.view * r.count;
    const int64_t first_row = r.row_begin[tile.view];
    const uint8_t* touched = r.touched.data() + first_row;
    int gaussians = 0, pairs = 0;  // in the batch; in memory they would be a slow chain of stores and loads
    for (int i = open_tile(r, w, tile, cotangents); i >= 0; --i) {
        if (i >= kPrefetchAhead) {
            const Entry& ahead = entries[i - kPrefetchAhead];
            __builtin_prefetch(splats + ahead.gaussian);
            __builtin_prefetch(touched + ahead.row, 1);  // else the store waits for it, and all later stores too
        }
        if (!masks[i]) continue;
        w.splats[gaussians].set(splats[entries[i].gaussian], tile);
        w.pending[gaussians] = {i, __builtin_popcountll(masks[i]), first_row + entries[i].row};
        list_pairs(w, pairs, gaussians, masks[i]);
        pairs += __builtin_popcountll(masks[i]);
        ++gaussians;
        if (pairs + kBlocks <= kPairs) continue;
        pull_back_batch<kWithDepth>(r, w, gaussians, pairs);
        gaussians = pairs = 0;
    }
    pull_back_batch<kWithDepth>(r, w, gaussians, pairs);
}

}  // namespace

void pull_back_tiles(L2sRendering& r, const L2sCotangents& cotangents, int threads) {
    int64_t tiles = (int64_t)r.views * r.tiles(), evaluations = 0;
    double seconds = 0;
    r.rows.resize(r.entries.size());
    r.touched.resize(r.entries.size());
    if (r.touched.size()) std::memset(r.touched.data(), 0, r.touched.size());
#pragma omp parallel num_threads(threads) if (threads > 1) reduction(+ : evaluations, seconds)
    {
        double begin = thread_seconds();
        FlushDenormals flush;
        Workspace workspace;
        workspace.evaluations = 0;
#pragma omp for schedule(dynamic, 1)
        for (int64_t index = 0; index < tiles; ++index) {
            Tile tile(r, index);
            if (cotangents.depth) pull_back_tile<true>(r, workspace, tile, cotangents);
            else pull_back_tile<false>(r, workspace, tile, cotangents);
        }
        finish_streams();
        evaluations += workspace.evaluations;
        seconds += thread_seconds() - begin;
    }
    r.statistics.backward_lanes = evaluations * W;
    r.statistics.backward_raster_seconds = seconds;
}

}  // namespace l2s
