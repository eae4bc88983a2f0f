// The diagonal of J^T W J, second pass: with K the row of a raw parameter's unit tangent and M the second moments of
// the first pass, its entry is the sum over views of K^T M K. Likewise the blocks of a Gaussian's mean, scales and
// quaternion.
#include "tangent.h"

namespace l2s {
namespace {

// u, v, u^2, u v, v^2, red, green, blue: how ln(alpha) and the colour move with a parameter.
constexpr int kMoving = 8;

// M K.
L2S_INLINE void moments_times(const vf* m, const vf* k, vf* out) {
    out[0] = m[kM20] * k[0] + m[kM11] * k[1] + m[kM30] * k[2] + m[kM21] * k[3] + m[kM12] * k[4];
    out[1] = m[kM11] * k[0] + m[kM02] * k[1] + m[kM21] * k[2] + m[kM12] * k[3] + m[kM03] * k[4];
    out[2] = m[kM30] * k[0] + m[kM21] * k[1] + m[kM40] * k[2] + m[kM31] * k[3] + m[kM22] * k[4];
    out[3] = m[kM21] * k[0] + m[kM12] * k[1] + m[kM31] * k[2] + m[kM22] * k[3] + m[kM13] * k[4];
    out[4] = m[kM12] * k[0] + m[kM03] * k[1] + m[kM22] * k[2] + m[kM13] * k[3] + m[kM04] * k[4];
    for (int c = 0; c < 3; ++c) {
        const vf* cross = m + kCross + 5 * c;
        out[5 + c] = m[kColor2 + c] * k[5 + c];
        for (int i = 0; i < 5; ++i) {
            out[i] = fma(cross[i], k[5 + c], out[i]);
            out[5 + c] = fma(cross[i], k[i], out[5 + c]);
        }
    }
}

L2S_INLINE vf dot_moving(const vf* a, const vf* b) {
    vf sum = a[0] * b[0];
    for (int i = 1; i < kMoving; ++i) sum = fma(a[i], b[i], sum);
    return sum;
}

// Diagonal and lower triangle of the blocks, of W Gaussians.
struct Curvature {
    vf geometry[kGeometry], sh[3 * kMaxCoefficients];
    vf block[kBlockSide][kBlockSide];
};

L2S_INLINE void add_view(const L2sRendering& r, const L2sScene& scene, const Shape& shape, const vf* sh, int v,
                         const vf* moments, bool with_blocks, Curvature& out) {
    const View& view = r.view[v];
    Seen seen = look(shape, view, r);
    Shade s = shade(scene, view, shape.mean, sh);
    vf moving[kBlockSide][kMoving];
    for (int i = 0; i < kBlockSide; ++i) {
        RawTangent unit = {};
        reinterpret_cast<vf*>(&unit)[i] = splat(1.0f);
        vf row[kUsedRowFields], product[kMoving];
        push_screen(seen, view, push_shape(shape, unit), row);
        for (int k = 0; k < 5; ++k) moving[i][k] = row[kGu + k];
        for (int c = 0; c < 3; ++c) {
            const Vec3& g = s.by_mean[c];
            moving[i][5 + c] = i == 0 ? g.x : i == 1 ? g.y : i == 2 ? g.z : vf{};
        }
        moments_times(moments, moving[i], product);
        out.geometry[i] += dot_moving(moving[i], product);
        for (int j = 0; with_blocks && j <= i; ++j) out.block[i][j] += dot_moving(moving[j], product);
    }
    vf fade = 1.0f - shape.opacity;
    out.geometry[kBlockSide] += fade * fade * moments[kM00];
    int used = (scene.sh_degree + 1) * (scene.sh_degree + 1);
    for (int k = 0; k < used; ++k)
        for (int c = 0; c < 3; ++c)
            out.sh[3 * k + c] += keep(s.free[c], s.basis[k] * s.basis[k] * moments[kColor2 + c]);
}

void store_curvature(const L2sScene& scene, const Curvature& sum, const L2sCurvature& out, int64_t first, int lanes) {
    int used = 3 * (scene.sh_degree + 1) * (scene.sh_degree + 1), stride = 3 * scene.sh_stored;
    const vf* g = sum.geometry;
    scatter_rows(g, 3, lanes, out.diagonal.means + 3 * first, 3);
    scatter_rows(g + 3, 3, lanes, out.diagonal.log_scales + 3 * first, 3);
    scatter_rows(g + 6, 4, lanes, out.diagonal.quats + 4 * first, 4);
    scatter_rows(g + 10, 1, lanes, out.diagonal.logit_opacities + first, 1);
    vf sh[3 * kMaxCoefficients] = {};
    for (int k = 0; k < used; ++k) sh[k] = sum.sh[k];
    scatter_rows(sh, stride, lanes, out.diagonal.sh + stride * first, stride);
    if (!out.blocks) return;
    constexpr int entries = kBlockSide * kBlockSide;
    vf block[entries];
    for (int i = 0; i < kBlockSide; ++i)
        for (int j = 0; j < kBlockSide; ++j) block[i * kBlockSide + j] = sum.block[i > j ? i : j][i > j ? j : i];
    scatter_rows(block, entries, lanes, out.blocks + entries * first, entries);
}

void add_chunk(const L2sRendering& r, const L2sScene& scene, const L2sCurvature& out, int64_t first, int lanes) {
    Shape shape = load_shape(scene, first, lanes);
    vf sh[3 * kMaxCoefficients] = {}, moments[kCurvatureFields];
    load_harmonics(scene, first, lanes, sh);
    Curvature sum = {};
    for (int v = 0; v < r.views; ++v)
        if (sum_rows(r, r.curvature_rows, v, first, lanes, moments))
            add_view(r, scene, shape, sh, v, moments, out.blocks != nullptr, sum);
    store_curvature(scene, sum, out, first, lanes);
}

}  // namespace

void curvature_parameters(const L2sRendering& r, const L2sScene& scene, const L2sCurvature& out, int threads) {
    int64_t chunks = (r.count + W - 1) / W;
#pragma omp parallel for schedule(dynamic, 16) num_threads(threads) if (threads > 1)
    for (int64_t c = 0; c < chunks; ++c) {
        int64_t left = r.count - c * W;
        add_chunk(r, scene, out, c * W, (int)(left < W ? left : W));
    }
}

}  // namespace l2s
