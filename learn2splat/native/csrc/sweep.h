// The back-to-front sweep over a tile that the transposed passes share. Gaussians are the outer loop, so that their
// sums stay in registers over all blocks they reach.
//
// What is summed is a policy: a class with
//   Pixels        state of a block, with at least `transmittance` and `last`
//   Row           what is kept of one (Gaussian, tile): an array `field` of a multiple of 16 floats
//   Input         cotangents or weights of the images
//   open(r, blocks, tile, input)                       fills the blocks; last entry that any pixel blended, or -1
//   add(p, splat, alpha, before, most, at, sums)       one Gaussian at one block
//
// Alpha is computed in a loop of its own, a batch of (Gaussian, block) pairs ahead. One loop for all would be a chain
// of a hundred cycles per pair, of which the CPU's window holds too few to stay busy.
#pragma once

#include "raster.h"

namespace l2s {

constexpr int kPairs = 64 + kBlocks;  // a batch ends when the next Gaussian's blocks might not fit

// A Gaussian that waits for its turn.
struct Pending {
    int entry, pairs;
    int64_t row;
};

// Index of the last entry of the tile that any pixel blended, or -1.
inline int furthest_entry(const L2sRendering& r, const Tile& tile) {
    const int32_t* last = r.last.data() + tile.index * kTilePixels;
    int furthest = -1;
    for (int i = 0; i < kTilePixels; ++i) furthest = last[i] > furthest ? last[i] : furthest;
    return furthest;
}

// Whether any of the tile's pixels in an image of three channels is not zero; if none is, a sweep would add nothing.
inline bool any_nonzero(const L2sRendering& r, const Tile& tile, const float* image) {
    for (int y = 0; y < tile.height; ++y) {
        const float* row = image + 3 * tile.pixel(r, 0, y);
        for (int i = 0; i < 3 * tile.width; ++i)
            if (row[i] != 0.0f) return true;
    }
    return false;
}

template <class Policy>
struct Sweep {
    using Row = typename Policy::Row;
    static constexpr int kFields = sizeof(Row) / sizeof(float);

    BlockGrid grid;
    typename Policy::Pixels blocks[kBlocks];
    TileSplat splats[kPairs];
    Pending pending[kPairs];
    vf alpha[kPairs], raise[kPairs];  // raise: 1 / (1 - alpha)
    uint8_t pair_block[kPairs + W], pair_splat[kPairs + W];
    int64_t evaluations = 0;

    // Write down the blocks of `mask` as the pairs from number `pair` on.
    L2S_INLINE void list_pairs(int pair, int gaussian, BlockMask mask) {
#if defined(__AVX512F__)
        __m512i listed = _mm512_maskz_compress_epi32(mask, (__m512i)lane_index());
        _mm_storeu_si128((__m128i*)(pair_block + pair), _mm512_cvtepi32_epi8(listed));
        _mm_storeu_si128((__m128i*)(pair_splat + pair), _mm_set1_epi8((char)gaussian));
#else
        for (BlockMask m = mask; m; m &= m - 1, ++pair) {
            pair_block[pair] = (uint8_t)__builtin_ctzll(m);
            pair_splat[pair] = (uint8_t)gaussian;
        }
#endif
    }

    // Alpha of every pair, zero where the forward pass did not blend.
    void compute_alphas(int pairs, vf most) {
        const vf least = splat(kLog2MinAlpha);
        for (int pair = 0; pair < pairs; ++pair) {
            const TileSplat& s = splats[pair_splat[pair]];
            int block = pair_block[pair];
            vf exponent = log2_alpha(s, whiten(s, grid.x[block], grid.y[block]));
            vm reached = less_equal_int(splat_int(pending[pair_splat[pair]].entry), blocks[block].last);
            vf a = keep(less_equal_if(reached, least, exponent), min(exp2(exponent), most));
            alpha[pair] = a;
            raise[pair] = reciprocal(1.0f - a);  // exactly 1 where alpha is 0
        }
    }

    L2S_INLINE void add_splat(const TileSplat& s, int first_pair, int end_pair, vf most, Row* row) {
        vf sums[kFields] = {};
        for (int pair = first_pair; pair < end_pair; ++pair) {
            int block = pair_block[pair];
            typename Policy::Pixels& p = blocks[block];
            vf before = p.transmittance * raise[pair];
            p.transmittance = before;
            Policy::add(p, s, alpha[pair], before, most, whiten(s, grid.x[block], grid.y[block]), sums);
        }
        for (int k = 0; k < kFields; k += W) stream(row->field + k, sum_each(sums + k));
    }

    void add_batch(Row* rows, uint8_t* touched, int gaussians, int pairs, vf most) {
        compute_alphas(pairs, most);
        int pair = 0;
        for (int i = 0; i < gaussians; ++i) {
            const Pending& next = pending[i];
            add_splat(splats[i], pair, pair + next.pairs, most, rows + next.row);
            touched[next.row] = 1;
            pair += next.pairs;
        }
        evaluations += pairs;
    }

    void add_tile(const L2sRendering& r, const Tile& tile, const typename Policy::Input& input, Row* rows,
                  uint8_t* touched) {
        int64_t begin = r.tile_begin[tile.index];
        const Entry* entries = r.entries.data() + begin;
        const BlockMask* masks = r.masks.data() + begin;
        const Splat* seen = r.splats.data() + tile.view * r.count;
        const int64_t first_row = r.row_begin[tile.view];
        const vf most = splat(r.settings.max_alpha);
        int gaussians = 0, pairs = 0;  // in the batch; in memory they would be a slow chain of stores and loads
        for (int i = Policy::open(r, blocks, tile, input); i >= 0; --i) {
            if (i >= kPrefetchAhead) {
                const Entry& ahead = entries[i - kPrefetchAhead];
                __builtin_prefetch(seen + ahead.gaussian);
                __builtin_prefetch(touched + first_row + ahead.row, 1);  // else the store waits for it, and all later
            }
            if (!masks[i]) continue;
            splats[gaussians].set(seen[entries[i].gaussian], tile);
            pending[gaussians] = {i, __builtin_popcountll(masks[i]), first_row + entries[i].row};
            list_pairs(pairs, gaussians, masks[i]);
            pairs += __builtin_popcountll(masks[i]);
            ++gaussians;
            if (pairs + kBlocks <= kPairs) continue;
            add_batch(rows, touched, gaussians, pairs, most);
            gaussians = pairs = 0;
        }
        add_batch(rows, touched, gaussians, pairs, most);
    }
};

// Sweep over all tiles into `rows`; notes the work in the rendering's statistics.
template <class Policy>
void sweep_tiles(L2sRendering& r, const typename Policy::Input& input, Buffer<typename Policy::Row>& rows,
                 int threads) {
    int64_t tiles = (int64_t)r.views * r.tiles(), evaluations = 0;
    double seconds = 0;
    rows.resize(r.entries.size());
    r.touched.resize(r.entries.size());
    if (r.touched.size()) std::memset(r.touched.data(), 0, r.touched.size());
#pragma omp parallel num_threads(threads) if (threads > 1) reduction(+ : evaluations, seconds)
    {
        double begin = thread_seconds();
        FlushDenormals flush;
        Sweep<Policy> sweep;
#pragma omp for schedule(dynamic, 1)
        for (int64_t index = 0; index < tiles; ++index)
            sweep.add_tile(r, Tile(r, index), input, rows.data(), r.touched.data());
        finish_streams();
        evaluations += sweep.evaluations;
        seconds += thread_seconds() - begin;
    }
    r.statistics.backward_lanes = evaluations * W;
    r.statistics.backward_raster_seconds = seconds;
}

}  // namespace l2s
