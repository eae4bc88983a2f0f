// Fourth pass: derivatives by the splats' screen quantities.
//
// With q = colour (and depth) dotted with the pixel's cotangent, and B the same dot product of all that lies behind,
// per unit of transmittance: d/d alpha = T (q - B), and then B <- B + alpha (q - B). B starts at what a pixel shows
// where nothing is drawn. So nothing is ever subtracted that was added before.
#include "sweep.h"

namespace l2s {
namespace {

template <bool kWithDepth>
struct Gradient {
    struct Pixels {
        vf transmittance, behind;
        vi last;
        vf red, green, blue, depth;  // cotangents
    };
    using Row = l2s::Row;
    using Input = L2sCotangents;

    static int open(const L2sRendering& r, Pixels* blocks, const Tile& tile, const L2sCotangents& cotangents) {
        const float* background = r.view[tile.view].background;
        const float* transmittance = r.transmittance.data() + tile.index * kTilePixels;
        const int32_t* last = r.last.data() + tile.index * kTilePixels;
        int furthest = furthest_entry(r, tile);
        bool only_image = !cotangents.alpha && !cotangents.depth;
        if (furthest < 0 || (only_image && !any_nonzero(r, tile, cotangents.image))) return -1;
        BlockPlane red, green, blue, alpha = {}, depth = {};
        for (int y = 0; y < tile.height; ++y) {
            int64_t pixel = tile.pixel(r, 0, y);
            load_colors(cotangents.image + 3 * pixel, tile.width, y, red, green, blue);
            if (cotangents.alpha) load_row(cotangents.alpha + pixel, tile.width, y, alpha);
            if (cotangents.depth) load_row(cotangents.depth + pixel, tile.width, y, depth);
        }
        for (int block = 0; block < kBlocks; ++block) {
            Pixels& p = blocks[block];
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

    L2S_INLINE static void add(Pixels& p, const TileSplat& s, vf alpha, vf before, vf most, Whitened at, vf* sums) {
        vf q = fma(splat(s.red), p.red, fma(splat(s.green), p.green, splat(s.blue) * p.blue));
        if (kWithDepth) q = fma(splat(s.depth), p.depth, q);
        vf contrast = q - p.behind;
        vf weight = alpha * before;
        p.behind = fma(alpha, contrast, p.behind);
        sums[kRed] = fma(weight, p.red, sums[kRed]);
        sums[kGreen] = fma(weight, p.green, sums[kGreen]);
        sums[kBlue] = fma(weight, p.blue, sums[kBlue]);
        if (kWithDepth) sums[kDepth] = fma(weight, p.depth, sums[kDepth]);
        vf g = keep(less(alpha, most), weight * contrast);  // a clamped alpha does not move
        vf gu = g * at.u, gv = g * at.v;
        sums[kG] += g;
        sums[kGu] += gu;
        sums[kGv] += gv;
        sums[kGuu] = fma(gu, at.u, sums[kGuu]);
        sums[kGuv] = fma(gu, at.v, sums[kGuv]);
        sums[kGvv] = fma(gv, at.v, sums[kGvv]);
    }
};

}  // namespace

void pull_back_tiles(L2sRendering& r, const L2sCotangents& cotangents, int threads) {
    if (cotangents.depth) sweep_tiles<Gradient<true>>(r, cotangents, r.rows, threads);
    else sweep_tiles<Gradient<false>>(r, cotangents, r.rows, threads);
}

}  // namespace l2s
