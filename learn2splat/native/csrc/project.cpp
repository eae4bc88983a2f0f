// First pass: all Gaussians into all cameras. Parameters are read once and used for every view.
#include "projection.h"

namespace l2s {
namespace {

struct Chunk {
    int64_t first;
    int lanes;
};

// Pixels whose centres lie within `reach` of `mean`, clipped to the image: [first, last], empty if last < first.
struct PixelRange {
    vf first, last;
};

L2S_INLINE PixelRange pixels_within(vf mean, vf reach, int size) {
    // the margin keeps rounding from dropping a pixel on the very edge, which blending then decides
    vf wide = reach * 1.0001f + 0.001f;
    return {ceil(clamp(mean - wide - 0.5f, vf{}, splat((float)size))),
            floor(clamp(mean + wide - 0.5f, splat(-1.0f), splat((float)(size - 1))))};
}

L2S_INLINE vm overlaps(vf mean, vf half_width, int size) {
    return less_equal_if(less(vf{}, mean + half_width), mean - half_width, splat((float)size)) &
           less(mean - half_width, splat((float)size));
}

void write_splats(const Seen& s, vf log_opacity, vf cut, const vf color[3], const Chunk& chunk, Splat* splats,
                  uint32_t drawn) {
    vf fields[sizeof(Splat) / sizeof(float)] = {s.mean_x,
                               s.mean_y,
                               s.a,
                               s.b,
                               s.c,
                               log_opacity * (1.0f / kLn2),
                               max(color[0], vf{}),
                               max(color[1], vf{}),
                               max(color[2], vf{}),
                               s.camera.z,
                               s.cov_xy / s.cov_yy,
                               s.cov_xy / s.cov_xx,
                               cut};
    Splat rows[W];
    scatter_rows(fields, sizeof(Splat) / sizeof(float), W, &rows[0].mean_x, sizeof(Splat) / sizeof(float));
    for (int i = 0; i < chunk.lanes; ++i)
        if (drawn >> i & 1) splats[i] = rows[i];
}

void project_chunk(L2sRendering& r, const L2sScene& scene, const Shape& shape, const Chunk& chunk, int v,
                   const vf* sh, int32_t* radii) {
    const View& view = r.view[v];
    Seen s = look(shape, view, r);

    // alpha falls to 1/255 where u^2 + v^2 = log2(255 opacity)
    vf log_opacity = log(shape.opacity);
    vf decay = max(log_opacity + 5.541263545f, vf{});
    vf extent = min(sqrt(2.0f * decay), splat(kMaxExtentSigma));
    vf reach_x = extent * sqrt(s.cov_xx), reach_y = extent * sqrt(s.cov_yy);
    vf largest = splat(4e6f);  // far beyond any image, and an exact integer
    vf half_x = ceil(min(reach_x, largest)), half_y = ceil(min(reach_y, largest));
    vm finite = less_equal(s.cov_xx + s.cov_yy, splat(3e38f));
    vm drawn = s.drawn & finite & less_equal(splat(kMinAlpha), shape.opacity) & less(vf{}, half_x) &
               less(vf{}, half_y) & overlaps(s.mean_x, half_x, r.width) & overlaps(s.mean_y, half_y, r.height);

    PixelRange xs = pixels_within(s.mean_x, reach_x, r.width), ys = pixels_within(s.mean_y, reach_y, r.height);
    vm reached = drawn & less_equal(xs.first, xs.last) & less_equal(ys.first, ys.last);
    vi radius = to_int(max(half_x, half_y));
    vi x0 = to_int(xs.first) >> 4, x1 = (to_int(xs.last) >> 4) + 1;
    vi y0 = to_int(ys.first) >> 4, y1 = (to_int(ys.last) >> 4) + 1;
    static_assert(kTile == 16, "the shifts above");
    uint32_t drawn_bits = bits(drawn), reached_bits = bits(reached);
    TileBox* boxes = r.boxes.data() + v * r.count + chunk.first;
    float* depths = r.depths.data() + v * r.count + chunk.first;
    for (int i = 0; i < chunk.lanes; ++i) {
        radii[v * r.count + chunk.first + i] = drawn_bits >> i & 1 ? radius[i] : 0;
        boxes[i] = reached_bits >> i & 1
                       ? TileBox{(uint16_t)x0[i], (uint16_t)y0[i], (uint16_t)x1[i], (uint16_t)y1[i]}
                       : TileBox{0, 0, 0, 0};
        depths[i] = s.camera.z[i];
    }
    if (!reached_bits) return;

    vf inverse_distance, basis[kMaxCoefficients], color[3];
    evaluate_color(direction(shape.mean, view, &inverse_distance), scene.sh_degree, sh, basis, color);
    vf cut = decay * (1.0f / kLn2) * 1.0001f + 0.001f;
    write_splats(s, log_opacity, cut, color, chunk, r.splats.data() + v * r.count + chunk.first, reached_bits);
}

}  // namespace

void project(L2sRendering& r, const L2sScene& scene, int32_t* radii, int threads) {
    int64_t chunks = (r.count + W - 1) / W;
#pragma omp parallel for schedule(dynamic, 16) num_threads(threads) if (threads > 1)
    for (int64_t c = 0; c < chunks; ++c) {
        Chunk chunk = {c * W, (int)(r.count - c * W < W ? r.count - c * W : W)};
        Shape shape = load_shape(scene, chunk.first, chunk.lanes);
        vf sh[3 * kMaxCoefficients] = {};
        load_harmonics(scene, chunk.first, chunk.lanes, sh);
        for (int v = 0; v < r.views; ++v) project_chunk(r, scene, shape, chunk, v, sh, radii);
    }
}

}  // namespace l2s
