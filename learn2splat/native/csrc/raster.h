// What the two raster loops share: geometry of a tile's blocks and the evaluation of one Gaussian at one block.
// Coordinates are relative to the tile's centre, which keeps them small and hence exact.
#pragma once

#include <cstddef>

#include "rendering.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace l2s {

// Pixel centres of each block's lanes, and the rectangle they span, relative to the tile's centre.
struct BlockGrid {
    vf x[kBlocks], y[kBlocks];
    float left[kBlocks], top[kBlocks];

    BlockGrid() {
        for (int block = 0; block < kBlocks; ++block) {
            int x0 = block % kBlocksPerRow * kBlockWidth, y0 = block / kBlocksPerRow * kBlockHeight;
            left[block] = x0 + 0.5f - kTile / 2;
            top[block] = y0 + 0.5f - kTile / 2;
            for (int lane = 0; lane < W; ++lane) {
                x[block][lane] = left[block] + lane % kBlockWidth;
                y[block][lane] = top[block] + lane / kBlockWidth;
            }
        }
    }
};

// One channel of a tile's pixels, from blocks to rows.
struct RowPlane {
    alignas(64) float at[kTile][kTile];

    L2S_INLINE void set_block(int block, vf v) {
        float* corner = &at[block / kBlocksPerRow * kBlockHeight][block % kBlocksPerRow * kBlockWidth];
        for (int row = 0; row < kBlockHeight; ++row)
            std::memcpy(corner + row * kTile, reinterpret_cast<const float*>(&v) + row * kBlockWidth, kBlockWidth * 4);
    }
};

// The other way round. Reading whole what was written in pieces is slow just afterwards: set all rows, then read.
struct BlockPlane {
    alignas(64) float at[kBlocks][W];

    L2S_INLINE void set_row(int y, const float* row) {
        for (int column = 0; column < kBlocksPerRow; ++column)
            std::memcpy(&at[y / kBlockHeight * kBlocksPerRow + column][y % kBlockHeight * kBlockWidth],
                        row + column * kBlockWidth, kBlockWidth * 4);
    }
    L2S_INLINE vf block(int block) const { return load(at[block]); }
};

// Rows of a tile, of which the image has `width` pixels; the rest reads as 0. Colours lie as red green blue red ...
L2S_INLINE void load_colors(const float* rgb, int width, int y, BlockPlane& red, BlockPlane& green, BlockPlane& blue) {
    float row[3][kTile], padded[3 * kTile];
    if (width < kTile) {
        std::memset(padded, 0, sizeof padded);
        std::memcpy(padded, rgb, 3 * width * sizeof(float));
        rgb = padded;
    }
    for (int x = 0; x < kTile; x += W) {
        store(row[0] + x, every_third<0>(rgb + 3 * x));
        store(row[1] + x, every_third<1>(rgb + 3 * x));
        store(row[2] + x, every_third<2>(rgb + 3 * x));
    }
    red.set_row(y, row[0]);
    green.set_row(y, row[1]);
    blue.set_row(y, row[2]);
}
L2S_INLINE void load_row(const float* from, int width, int y, BlockPlane& to) {
    float padded[kTile];
    if (width < kTile) {
        std::memset(padded, 0, sizeof padded);
        std::memcpy(padded, from, width * sizeof(float));
        from = padded;
    }
    to.set_row(y, from);
}
L2S_INLINE void store_colors(float* rgb, int width, const float* red, const float* green, const float* blue) {
    float padded[3 * kTile];
    float* to = width < kTile ? padded : rgb;
    for (int x = 0; x < kTile; x += W) {
        vf r = load(red + x), g = load(green + x), b = load(blue + x);
        store(to + 3 * x, interleaved<0>(r, g, b));
        store(to + 3 * x + W, interleaved<1>(r, g, b));
        store(to + 3 * x + 2 * W, interleaved<2>(r, g, b));
    }
    if (width < kTile) std::memcpy(rgb, padded, 3 * width * sizeof(float));
}

// A tile of one view.
struct Tile {
    int view, x, y;       // x, y in tiles
    int64_t index;        // view * tiles + y * tiles_x + x
    float center_x, center_y;
    int width, height;    // pixels inside the image

    Tile(const L2sRendering& r, int64_t index) : index(index) {
        view = (int)(index / r.tiles());
        int within = (int)(index % r.tiles());
        x = within % r.tiles_x;
        y = within / r.tiles_x;
        center_x = (x + 0.5f) * kTile;
        center_y = (y + 0.5f) * kTile;
        width = r.width - x * kTile < kTile ? r.width - x * kTile : kTile;
        height = r.height - y * kTile < kTile ? r.height - y * kTile : kTile;
    }

    // Index of the pixel (x, y) of this tile in a [views, height, width] image.
    int64_t pixel(const L2sRendering& r, int px, int py) const {
        return ((int64_t)view * r.height + y * kTile + py) * r.width + x * kTile + px;
    }
};

// The images of a tile, gathered from its blocks.
struct TileImages {
    RowPlane left, red, green, blue, depth;

    template <class Blended>
    L2S_INLINE void set_block(int block, const Blended& b, const float background[3]) {
        left.set_block(block, b.transmittance);
        red.set_block(block, b.red + b.transmittance * background[0]);
        green.set_block(block, b.green + b.transmittance * background[1]);
        blue.set_block(block, b.blue + b.transmittance * background[2]);
        depth.set_block(block, b.depth);
    }

    // `opaque` is the alpha where nothing is left of the transmittance.
    void write(const L2sRendering& r, const Tile& tile, float opaque, const L2sImages& out) const {
        for (int y = 0; y < tile.height; ++y) {
            int64_t pixel = tile.pixel(r, 0, y);
            store_colors(out.image + 3 * pixel, tile.width, red.at[y], green.at[y], blue.at[y]);
            for (int x = 0; x < tile.width; ++x) out.alpha[pixel + x] = opaque - left.at[y][x];
            if (out.depth) std::memcpy(out.depth + pixel, depth.at[y], tile.width * sizeof(float));
        }
    }
};

// A splat with its mean folded in: u = a x + b y + u0, v = c y + v0. Laid out like `Splat`, to be copied as a whole.
struct alignas(64) TileSplat {
    float u0, v0;
    float a, b, c;
    float log2_opacity;
    float red, green, blue;
    float depth;
    float unused[6];

    // In place: a temporary copied as a whole would wait for its single fields to be written.
    L2S_INLINE void set(const Splat& s, const Tile& tile) {
        std::memcpy(this, &s, sizeof *this);
        float mean_x = s.mean_x - tile.center_x, mean_y = s.mean_y - tile.center_y;
        u0 = -(s.a * mean_x + s.b * mean_y);
        v0 = -s.c * mean_y;
    }
};
static_assert(sizeof(TileSplat) == sizeof(Splat), "same layout");
static_assert(offsetof(TileSplat, depth) == offsetof(Splat, depth), "same layout");

// Forward and backward must take the same decisions, so there is one definition of alpha, in explicit FMAs.
struct Whitened {
    vf u, v;
};
L2S_INLINE Whitened whiten(const TileSplat& s, vf x, vf y) {
    return {fma(splat(s.a), x, fma(splat(s.b), y, splat(s.u0))), fma(splat(s.c), y, splat(s.v0))};
}
L2S_INLINE vf log2_alpha(const TileSplat& s, Whitened w) {
    return fnma(w.v, w.v, fnma(w.u, w.u, splat(s.log2_opacity)));
}

// Which blocks of the tile have a point, not necessarily a pixel, where u^2 + v^2 <= cut: the exact minimum over each
// block's rectangle of pixel centres lies at the mean or on one of the two sides that face it.
L2S_INLINE BlockMask blocks_reached(const Splat& s, const Tile& tile, const BlockGrid& grid) {
    float mean_x = s.mean_x - tile.center_x, mean_y = s.mean_y - tile.center_y;
    BlockMask reached = 0;
    for (int block = 0; block < kBlocks; block += W) {
        vf x_low = load(grid.left + block) - mean_x, x_high = x_low + (float)(kBlockWidth - 1);
        vf y_low = load(grid.top + block) - mean_y, y_high = y_low + (float)(kBlockHeight - 1);
        vf x_near = clamp(vf{}, x_low, x_high), y_near = clamp(vf{}, y_low, y_high);
        vf y_best = clamp(s.y_per_x * x_near, y_low, y_high), x_best = clamp(s.x_per_y * y_near, x_low, x_high);
        vf u1 = s.a * x_near + s.b * y_best, v1 = s.c * y_best;
        vf u2 = s.a * x_best + s.b * y_near, v2 = s.c * y_near;
        vf least = min(u1 * u1 + v1 * v1, u2 * u2 + v2 * v2);
        reached |= (BlockMask)((BlockMask)bits(less_equal(least, splat(s.cut))) << block);
    }
    return reached;
}

constexpr int kBatch = 96;  // entries prepared at a time: their tables stay in the first-level cache

// The splats of a batch that reach each block.
struct BlockLists {
    BlockMask masks[kBatch];
    uint32_t indices[kBlocks][kBatch + W];
    int lengths[kBlocks];

    // From `masks` of n entries. Two more list entries are valid but mean nothing, as blending looks ahead.
    void fill(int n, BlockMask live) {
        for (int i = n; i < kBatch && i % W; ++i) masks[i] = 0;
#if defined(__AVX512F__)
        for (int block = 0; block < kBlocks; ++block) {
            lengths[block] = 0;
            if (!(live >> block & 1)) continue;
            int length = 0;
            __m512i bit = _mm512_set1_epi32(1 << block), index = (__m512i)lane_index();
            for (int i = 0; i < n; i += W, index = _mm512_add_epi32(index, _mm512_set1_epi32(W))) {
                __m512i chunk = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(masks + i)));
                __mmask16 hit = _mm512_test_epi32_mask(chunk, bit);
                _mm512_storeu_si512(indices[block] + length, _mm512_maskz_compress_epi32(hit, index));
                length += __builtin_popcount(hit);
            }
            lengths[block] = length;
        }
#else
        for (int block = 0; block < kBlocks; ++block) lengths[block] = 0;
        for (int i = 0; i < n; ++i)
            for (uint64_t m = masks[i] & live; m; m &= m - 1) {
                int block = __builtin_ctzll(m);
                indices[block][lengths[block]++] = i;
            }
#endif
        for (int block = 0; block < kBlocks; ++block)
            indices[block][lengths[block]] = indices[block][lengths[block] + 1] = 0;
    }
};

// Transmittance behind stopped pixels decays into denormal numbers, which some CPUs handle a hundred times slower.
class FlushDenormals {
  public:
#if defined(__x86_64__)
    FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040); }
    ~FlushDenormals() { _mm_setcsr(saved_); }

  private:
    unsigned saved_;
#endif
};

}  // namespace l2s
