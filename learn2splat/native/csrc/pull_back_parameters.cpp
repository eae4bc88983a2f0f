// Fifth pass: from the rows of (Gaussian, tile) derivatives to the raw parameters. Rows of a Gaussian lie next to
// each other and are summed in a fixed order, so no atomics are needed and the result is the same on every machine
// with this vector width.
#include "projection.h"

namespace l2s {
namespace {

// Derivatives before the chain through the camera-independent part of the parameters.
struct Partial {
    Vec3 mean;
    vf factor[3][3];
    vf log_alpha;  // by ln(opacity)
    vf sh[3 * kMaxCoefficients];
};

struct Raw {
    vf mean[3], log_scale[3], quat[4], logit_opacity[1], sh[3 * kMaxCoefficients];
};

struct Chunk {
    int64_t first;
    int lanes, coefficients;  // harmonics in use, times 3
};

L2S_INLINE vf dot(const vf* a, const vf* b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }

// Colour: basis x cotangent, and through the viewing direction to the mean.
L2S_INLINE void pull_back_color(const L2sScene& scene, const View& view, const Vec3& mean, const vf* sh,
                                const vf sums[kRowFields], Partial& out) {
    vf inverse_distance, basis[kMaxCoefficients], color[3], cotangent[3], along[kMaxCoefficients];
    Vec3 dir = direction(mean, view, &inverse_distance);
    evaluate_color(dir, scene.sh_degree, sh, basis, color);
    for (int c = 0; c < 3; ++c) cotangent[c] = keep(less_equal(vf{}, color[c]), sums[kRed + c]);
    int used = (scene.sh_degree + 1) * (scene.sh_degree + 1);
    for (int k = 0; k < used; ++k) {
        for (int c = 0; c < 3; ++c) out.sh[3 * k + c] = fma(basis[k], cotangent[c], out.sh[3 * k + c]);
        along[k] = dot(sh + 3 * k, cotangent);
    }
    Vec3 g = harmonics_derivative(dir, scene.sh_degree, along);
    vf radial = g.x * dir.x + g.y * dir.y + g.z * dir.z;
    out.mean.x += (g.x - radial * dir.x) * inverse_distance;
    out.mean.y += (g.y - radial * dir.y) * inverse_distance;
    out.mean.z += (g.z - radial * dir.z) * inverse_distance;
}

// Screen centre, screen covariance and depth -> mean and factor.
L2S_INLINE void pull_back_screen(const L2sRendering& r, const View& view, const Shape& shape, const vf sums[kRowFields],
                                 Partial& out, vf mean2d[2]) {
    Seen s = look(shape, view, r);
    mean2d[0] = 2.0f * kLn2 * s.a * sums[kGu];
    mean2d[1] = 2.0f * kLn2 * (s.b * sums[kGu] + s.c * sums[kGv]);

    // by the covariance: Sigma^-1 (sum of g d d^T) Sigma^-1 / 2, with Sigma^-1 d = 2 ln 2 L^T (u, v)
    vf pu = s.a * sums[kGuu], qu = s.b * sums[kGuu] + s.c * sums[kGuv];
    vf pv = s.a * sums[kGuv], qv = s.b * sums[kGuv] + s.c * sums[kGvv];
    constexpr float twice = 4.0f * kLn2 * kLn2;  // cov = f f^T, so d/df takes the symmetric matrix twice
    vf by_xx = twice * s.a * pu, by_xy = twice * (s.b * pu + s.c * pv), by_yy = twice * (s.b * qu + s.c * qv);

    vf jx = view.fx * s.inverse_z, jy = view.fy * s.inverse_z;
    vf by_factor[3][3], f[3], g[3];
    for (int k = 0; k < 3; ++k) {
        f[k] = by_xx * s.screen_factor[0][k] + by_xy * s.screen_factor[1][k];
        g[k] = by_xy * s.screen_factor[0][k] + by_yy * s.screen_factor[1][k];
        by_factor[0][k] = jx * f[k];
        by_factor[1][k] = jy * g[k];
        by_factor[2][k] = -(s.slope_x * by_factor[0][k] + s.slope_y * by_factor[1][k]);
    }
    // the Jacobian's rows are jx (1, 0, -slope_x) and jy (0, 1, -slope_y), with j proportional to 1/z
    vf by_jx = dot(f, s.screen_factor[0]), by_jy = dot(g, s.screen_factor[1]);  // times jx, jy
    vf by_slope_x = -jx * dot(f, s.camera_factor[2]), by_slope_y = -jy * dot(g, s.camera_factor[2]);
    vf by_x = view.fx * mean2d[0] + keep(s.free_x, by_slope_x);  // by x/z
    vf by_y = view.fy * mean2d[1] + keep(s.free_y, by_slope_y);
    vf camera[3] = {by_x * s.inverse_z, by_y * s.inverse_z, {}};
    camera[2] = sums[kDepth] - s.inverse_z * (camera[0] * s.camera.x + camera[1] * s.camera.y + by_jx + by_jy);

    const float(*R)[3] = view.rotation;
    out.mean.x += R[0][0] * camera[0] + R[1][0] * camera[1] + R[2][0] * camera[2];
    out.mean.y += R[0][1] * camera[0] + R[1][1] * camera[1] + R[2][1] * camera[2];
    out.mean.z += R[0][2] * camera[0] + R[1][2] * camera[1] + R[2][2] * camera[2];
    for (int i = 0; i < 3; ++i)
        for (int k = 0; k < 3; ++k)
            out.factor[i][k] += R[0][i] * by_factor[0][k] + R[1][i] * by_factor[1][k] + R[2][i] * by_factor[2][k];
}

// The activations and the unit quaternion's rotation.
L2S_INLINE void finish(const Shape& shape, const Partial& partial, const Chunk& chunk, Raw& raw) {
    raw.mean[0] = partial.mean.x;
    raw.mean[1] = partial.mean.y;
    raw.mean[2] = partial.mean.z;
    raw.logit_opacity[0] = partial.log_alpha * (1.0f - shape.opacity);
    vf by[3][3];  // by the rotation matrix
    for (int k = 0; k < 3; ++k) {
        raw.log_scale[k] = vf{};
        for (int i = 0; i < 3; ++i) {
            by[i][k] = partial.factor[i][k] * shape.scale[k];
            raw.log_scale[k] += by[i][k] * shape.rotation[i][k];
        }
    }
    vf w = shape.quat[0], x = shape.quat[1], y = shape.quat[2], z = shape.quat[3];
    vf q[4];
    q[0] = 2.0f * (x * (by[2][1] - by[1][2]) + y * (by[0][2] - by[2][0]) + z * (by[1][0] - by[0][1]));
    q[1] = 2.0f * (y * (by[0][1] + by[1][0]) + z * (by[0][2] + by[2][0]) + w * (by[2][1] - by[1][2]) -
                   2.0f * x * (by[1][1] + by[2][2]));
    q[2] = 2.0f * (x * (by[0][1] + by[1][0]) + z * (by[1][2] + by[2][1]) + w * (by[0][2] - by[2][0]) -
                   2.0f * y * (by[0][0] + by[2][2]));
    q[3] = 2.0f * (x * (by[0][2] + by[2][0]) + y * (by[1][2] + by[2][1]) + w * (by[1][0] - by[0][1]) -
                   2.0f * z * (by[0][0] + by[1][1]));
    vf radial = q[0] * w + q[1] * x + q[2] * y + q[3] * z;
    for (int i = 0; i < 4; ++i) raw.quat[i] = (q[i] - radial * shape.quat[i]) * shape.inverse_norm;
    for (int k = 0; k < chunk.coefficients; ++k) raw.sh[k] = partial.sh[k];
}

void store_raw(const L2sGradient& out, const L2sScene& scene, const Raw& raw, const Chunk& chunk, int64_t offset) {
    int64_t first = offset + chunk.first;
    int stride = 3 * scene.sh_stored;
    scatter_rows(raw.mean, 3, chunk.lanes, out.means + 3 * first, 3);
    scatter_rows(raw.log_scale, 3, chunk.lanes, out.log_scales + 3 * first, 3);
    scatter_rows(raw.quat, 4, chunk.lanes, out.quats + 4 * first, 4);
    scatter_rows(raw.logit_opacity, 1, chunk.lanes, out.logit_opacities + first, 1);
    scatter_rows(raw.sh, chunk.coefficients, chunk.lanes, out.sh + stride * first, stride);
    int inactive = stride - chunk.coefficients;
    if (!inactive) return;
    for (int i = 0; i < chunk.lanes; ++i)
        std::memset(out.sh + stride * (first + i) + chunk.coefficients, 0, inactive * sizeof(float));
}

void store_mean2d(float* out, const vf mean2d[2], const L2sRendering& r, int v, const Chunk& chunk) {
    if (out) scatter_rows(mean2d, 2, chunk.lanes, out + 2 * (v * r.count + chunk.first), 2);
}

// Adds one view's derivatives to `partial`. Returns whether the view saw the chunk.
L2S_INLINE bool add_view(const L2sRendering& r, const L2sScene& scene, const Shape& shape, const vf* sh, int v,
                         const Chunk& chunk, float* means2d, Partial& partial) {
    vf sums[kRowFields], mean2d[2] = {};
    bool found = sum_rows(r, r.rows, v, chunk.first, chunk.lanes, sums);
    if (found) {
        partial.log_alpha += sums[kG];
        pull_back_screen(r, r.view[v], shape, sums, partial, mean2d);
        pull_back_color(scene, r.view[v], shape.mean, sh, sums, partial);
    }
    store_mean2d(means2d, mean2d, r, v, chunk);
    return found;
}

L2S_INLINE void accumulate(const Raw& one, const Chunk& chunk, Raw& total, Raw& squares) {
    constexpr int others = 11;
    static_assert(sizeof(Raw) == sizeof(vf) * (others + 3 * kMaxCoefficients), "only vectors, the harmonics last");
    const vf* x = reinterpret_cast<const vf*>(&one);
    vf *sum = reinterpret_cast<vf*>(&total), *square = reinterpret_cast<vf*>(&squares);
    for (int k = 0; k < others + chunk.coefficients; ++k) {
        sum[k] += x[k];
        square[k] = fma(x[k], x[k], square[k]);
    }
}

void pull_back_chunk(const L2sRendering& r, const L2sScene& scene, const L2sGradients& out, const Chunk& chunk) {
    Shape shape = load_shape(scene, chunk.first, chunk.lanes);
    vf sh[3 * kMaxCoefficients] = {};
    load_harmonics(scene, chunk.first, chunk.lanes, sh);
    Partial partial = Partial{};
    Raw total = {};
    if (!out.view_squares.means && !out.per_view.means) {
        bool seen = false;
        for (int v = 0; v < r.views; ++v) seen |= add_view(r, scene, shape, sh, v, chunk, out.means2d, partial);
        if (seen) finish(shape, partial, chunk, total);
    } else {
        Raw squares = {};
        for (int v = 0; v < r.views; ++v) {
            partial = Partial{};
            Raw one = {};
            if (add_view(r, scene, shape, sh, v, chunk, out.means2d, partial)) {
                finish(shape, partial, chunk, one);
                accumulate(one, chunk, total, squares);
            }
            if (out.per_view.means) store_raw(out.per_view, scene, one, chunk, v * r.count);
        }
        if (out.view_squares.means) store_raw(out.view_squares, scene, squares, chunk, 0);
    }
    store_raw(out.total, scene, total, chunk, 0);
}

}  // namespace

void pull_back_parameters(const L2sRendering& r, const L2sScene& scene, const L2sGradients& out, int threads) {
    int64_t chunks = (r.count + W - 1) / W;
    int coefficients = 3 * (scene.sh_degree + 1) * (scene.sh_degree + 1);
#pragma omp parallel for schedule(dynamic, 16) num_threads(threads) if (threads > 1)
    for (int64_t c = 0; c < chunks; ++c) {
        int64_t left = r.count - c * W;
        pull_back_chunk(r, scene, out, {c * W, (int)(left < W ? left : W), coefficients});
    }
}

}  // namespace l2s
