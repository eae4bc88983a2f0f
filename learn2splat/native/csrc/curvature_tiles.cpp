// The diagonal of J^T W J, first pass: second moments of the screen derivatives over pixels and channels.
//
// A summed gradient cannot tell them, as squares must be taken pixel by pixel. With c the colour of a splat and B what
// lies behind it per unit of transmittance, d image / d ln(alpha) = w (c - B) in each channel, w the blending weight.
#include "sweep.h"

namespace l2s {
namespace {

struct Moments {
    struct Pixels {
        vf transmittance;
        vi last;
        vf behind[3], weight[3];
    };
    using Row = CurvatureRow;
    using Input = const float*;  // weights [views, height, width, 3], optional: 1

    static int open(const L2sRendering& r, Pixels* blocks, const Tile& tile, const float* weights) {
        const float* background = r.view[tile.view].background;
        const float* transmittance = r.transmittance.data() + tile.index * kTilePixels;
        const int32_t* last = r.last.data() + tile.index * kTilePixels;
        int furthest = furthest_entry(r, tile);
        if (furthest < 0 || (weights && !any_nonzero(r, tile, weights))) return -1;
        BlockPlane planes[3];
        for (int y = 0; weights && y < tile.height; ++y)
            load_colors(weights + 3 * tile.pixel(r, 0, y), tile.width, y, planes[0], planes[1], planes[2]);
        for (int block = 0; block < kBlocks; ++block) {
            Pixels& p = blocks[block];
            p.transmittance = load(transmittance + block * W);
            std::memcpy(&p.last, last + block * W, sizeof(vi));
            vm inside = less_equal_int(vi{}, p.last);
            for (int c = 0; c < 3; ++c) {
                p.behind[c] = splat(background[c]);
                p.weight[c] = keep(inside, weights ? planes[c].block(block) : splat(1.0f));
            }
        }
        return furthest;
    }

    L2S_INLINE static void add(Pixels& p, const TileSplat& s, vf alpha, vf before, vf most, Whitened at, vf* sums) {
        const float color[3] = {s.red, s.green, s.blue};
        vf weight = alpha * before, moving = keep(less(alpha, most), weight), squared = {}, cross[3];
        for (int c = 0; c < 3; ++c) {
            vf contrast = color[c] - p.behind[c], g = moving * contrast, weighed = p.weight[c] * g;
            p.behind[c] = fma(alpha, contrast, p.behind[c]);
            squared = fma(weighed, g, squared);
            cross[c] = weighed * weight;
            sums[kColor2 + c] = fma(p.weight[c] * weight, weight, sums[kColor2 + c]);
        }
        vf uu = at.u * at.u, uv = at.u * at.v, vv = at.v * at.v;
        for (int c = 0; c < 3; ++c) {
            vf* sum = sums + kCross + 5 * c;
            sum[0] = fma(cross[c], at.u, sum[0]);
            sum[1] = fma(cross[c], at.v, sum[1]);
            sum[2] = fma(cross[c], uu, sum[2]);
            sum[3] = fma(cross[c], uv, sum[3]);
            sum[4] = fma(cross[c], vv, sum[4]);
        }
        vf s20 = squared * uu, s11 = squared * uv, s02 = squared * vv;
        sums[kM00] += squared;
        sums[kM20] += s20;
        sums[kM11] += s11;
        sums[kM02] += s02;
        sums[kM30] = fma(s20, at.u, sums[kM30]);
        sums[kM21] = fma(s20, at.v, sums[kM21]);
        sums[kM12] = fma(s02, at.u, sums[kM12]);
        sums[kM03] = fma(s02, at.v, sums[kM03]);
        sums[kM40] = fma(s20, uu, sums[kM40]);
        sums[kM31] = fma(s20, uv, sums[kM31]);
        sums[kM22] = fma(s20, vv, sums[kM22]);
        sums[kM13] = fma(s02, uv, sums[kM13]);
        sums[kM04] = fma(s02, vv, sums[kM04]);
    }
};

}  // namespace

void curvature_tiles(L2sRendering& r, const float* weights, int threads) {
    sweep_tiles<Moments>(r, weights, r.curvature_rows, threads);
}

}  // namespace l2s
