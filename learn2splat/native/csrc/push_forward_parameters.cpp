// J v, first pass: tangents of the raw parameters to tangents of all splats. Parameters are read once for all views.
#include "tangent.h"

namespace l2s {
namespace {

bool any_drawn(const L2sRendering& r, int v, int64_t first, int lanes) {
    const TileBox* boxes = r.boxes.data() + v * r.count + first;
    for (int i = 0; i < lanes; ++i)
        if (boxes[i].count()) return true;
    return false;
}

L2S_INLINE RawTangent load_tangent(const L2sTangent& tangent, int64_t first, int lanes) {
    RawTangent raw = {};
    gather_rows(tangent.means + 3 * first, 3, 3, lanes, raw.mean);
    gather_rows(tangent.log_scales + 3 * first, 3, 3, lanes, raw.log_scale);
    gather_rows(tangent.quats + 4 * first, 4, 4, lanes, raw.quat);
    gather_rows(tangent.logit_opacities + first, 1, 1, lanes, raw.logit_opacity);
    return raw;
}

void push_chunk(L2sRendering& r, const L2sScene& scene, const L2sTangent& tangent, int64_t first, int lanes) {
    Shape shape = load_shape(scene, first, lanes);
    ShapeTangent moved = push_shape(shape, load_tangent(tangent, first, lanes));
    vf sh[3 * kMaxCoefficients] = {}, sh_moved[3 * kMaxCoefficients] = {};
    load_harmonics(scene, first, lanes, sh);
    int used = (scene.sh_degree + 1) * (scene.sh_degree + 1), stride = 3 * scene.sh_stored;
    gather_rows(tangent.sh + first * stride, stride, 3 * used, lanes, sh_moved);
    for (int v = 0; v < r.views; ++v) {
        if (!any_drawn(r, v, first, lanes)) continue;
        const View& view = r.view[v];
        vf row[kRowFields] = {};
        push_screen(look(shape, view, r), view, moved, row);
        Shade s = shade(scene, view, shape.mean, sh);
        for (int c = 0; c < 3; ++c) {
            vf color = {};
            for (int k = 0; k < used; ++k) color = fma(s.basis[k], sh_moved[3 * k + c], color);
            const Vec3& g = s.by_mean[c];
            row[kRed + c] = keep(s.free[c], color) + g.x * moved.mean[0] + g.y * moved.mean[1] + g.z * moved.mean[2];
        }
        scatter_rows(row, kRowFields, lanes, r.tangents[v * r.count + first].field, kRowFields);
    }
}

}  // namespace

void push_forward_parameters(L2sRendering& r, const L2sScene& scene, const L2sTangent& tangent, int threads) {
    int64_t chunks = (r.count + W - 1) / W;
    r.tangents.resize(r.views * r.count);
#pragma omp parallel for schedule(dynamic, 16) num_threads(threads) if (threads > 1)
    for (int64_t c = 0; c < chunks; ++c) {
        int64_t left = r.count - c * W;
        push_chunk(r, scene, tangent, c * W, (int)(left < W ? left : W));
    }
}

}  // namespace l2s
