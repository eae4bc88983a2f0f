// J, from W Gaussians' raw parameters to their screen quantities in one view: the transpose of the fifth pass. The
// result is a `Row` that reads: d ln(alpha) = field[kG] + field[kGu] u + ... + field[kGvv] v^2, and the tangents of
// colour and depth.
#pragma once

#include "projection.h"

namespace l2s {

// Tangents of the raw parameters but the harmonics.
constexpr int kGeometry = 11;
struct RawTangent {
    vf mean[3], log_scale[3], quat[4], logit_opacity[1];
};
static_assert(sizeof(RawTangent) == kGeometry * sizeof(vf), "only vectors");

// Tangents of what does not depend on the camera.
struct ShapeTangent {
    vf mean[3], factor[3][3];
    vf log_alpha;
};

L2S_INLINE ShapeTangent push_shape(const Shape& shape, const RawTangent& raw) {
    ShapeTangent t;
    vf w = shape.quat[0], x = shape.quat[1], y = shape.quat[2], z = shape.quat[3], d[4];
    vf radial = raw.quat[0] * w + raw.quat[1] * x + raw.quat[2] * y + raw.quat[3] * z;
    for (int i = 0; i < 4; ++i) d[i] = (raw.quat[i] - radial * shape.quat[i]) * shape.inverse_norm;
    vf xx = x * d[1], yy = y * d[2], zz = z * d[3];  // halves of the squares' tangents
    vf xy = d[1] * y + x * d[2], xz = d[1] * z + x * d[3], yz = d[2] * z + y * d[3];
    vf wx = d[0] * x + w * d[1], wy = d[0] * y + w * d[2], wz = d[0] * z + w * d[3];
    vf rotation[3][3] = {{-4.0f * (yy + zz), 2.0f * (xy - wz), 2.0f * (xz + wy)},
                         {2.0f * (xy + wz), -4.0f * (xx + zz), 2.0f * (yz - wx)},
                         {2.0f * (xz - wy), 2.0f * (yz + wx), -4.0f * (xx + yy)}};
    for (int i = 0; i < 3; ++i) {
        t.mean[i] = raw.mean[i];
        for (int k = 0; k < 3; ++k)
            t.factor[i][k] = fma(rotation[i][k], shape.scale[k], shape.factor[i][k] * raw.log_scale[k]);
    }
    t.log_alpha = raw.logit_opacity[0] * (1.0f - shape.opacity);
    return t;
}

// All of the row but the colours.
L2S_INLINE void push_screen(const Seen& s, const View& view, const ShapeTangent& t, vf row[kUsedRowFields]) {
    vf camera[3], factor[3][3];
    for (int i = 0; i < 3; ++i) {
        const float* R = view.rotation[i];
        camera[i] = R[0] * t.mean[0] + R[1] * t.mean[1] + R[2] * t.mean[2];
        for (int k = 0; k < 3; ++k)
            factor[i][k] = R[0] * t.factor[0][k] + R[1] * t.factor[1][k] + R[2] * t.factor[2][k];
    }
    vf nearer = -s.inverse_z * camera[2];  // d ln(1/z), which is also that of the Jacobian's scale
    vf slope_x = s.inverse_z * fma(s.camera.x, nearer, camera[0]);
    vf slope_y = s.inverse_z * fma(s.camera.y, nearer, camera[1]);
    vf mean_x = view.fx * slope_x, mean_y = view.fy * slope_y;
    slope_x = keep(s.free_x, slope_x);
    slope_y = keep(s.free_y, slope_y);

    vf jx = view.fx * s.inverse_z, jy = view.fy * s.inverse_z, xx = {}, xy = {}, yy = {};
    for (int k = 0; k < 3; ++k) {
        vf f = s.screen_factor[0][k], g = s.screen_factor[1][k], depth = s.camera_factor[2][k];
        vf df = nearer * f + jx * (factor[0][k] - s.slope_x * factor[2][k] - slope_x * depth);
        vf dg = nearer * g + jy * (factor[1][k] - s.slope_y * factor[2][k] - slope_y * depth);
        xx = fma(f, df, xx);  // half the covariance's tangent
        xy = fma(f, dg, fma(g, df, xy));
        yy = fma(g, dg, yy);
    }
    // d ln(alpha) = (Sigma^-1 d)^T dmean + (Sigma^-1 d)^T dSigma (Sigma^-1 d) / 2, with Sigma^-1 d = 2 ln 2 L^T (u, v)
    constexpr float once = 2.0f * kLn2, twice = once * once;
    row[kG] = t.log_alpha;
    row[kGu] = once * (s.a * mean_x + s.b * mean_y);
    row[kGv] = once * s.c * mean_y;
    vf ax = s.a * xx, by = s.b * yy;
    row[kGuu] = twice * (s.a * (ax + s.b * xy) + s.b * by);
    row[kGuv] = twice * s.c * (s.a * xy + 2.0f * by);
    row[kGvv] = twice * s.c * s.c * yy;
    row[kDepth] = camera[2];
}

// Colour of W Gaussians in one view, as far as its derivative by the direction needs it.
struct Shade {
    Vec3 direction;
    vf inverse_distance, basis[kMaxCoefficients];
    vm free[3];       // where the floor at 0 did nothing
    Vec3 by_mean[3];  // of each channel
};

L2S_INLINE Shade shade(const L2sScene& scene, const View& view, const Vec3& mean, const vf* sh) {
    Shade s;
    vf color[3], along[kMaxCoefficients];
    s.direction = direction(mean, view, &s.inverse_distance);
    evaluate_color(s.direction, scene.sh_degree, sh, s.basis, color);
    int used = (scene.sh_degree + 1) * (scene.sh_degree + 1);
    for (int c = 0; c < 3; ++c) {
        s.free[c] = less_equal(vf{}, color[c]);
        for (int k = 0; k < used; ++k) along[k] = sh[3 * k + c];
        Vec3 g = harmonics_derivative(s.direction, scene.sh_degree, along), d = s.direction;
        vf radial = g.x * d.x + g.y * d.y + g.z * d.z, scale = keep(s.free[c], s.inverse_distance);
        s.by_mean[c] = {(g.x - radial * d.x) * scale, (g.y - radial * d.y) * scale, (g.z - radial * d.z) * scale};
    }
    return s;
}

}  // namespace l2s
