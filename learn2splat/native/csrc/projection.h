// W Gaussians from raw parameters to the screen of one camera, shared by the forward and the backward pass so that
// both see the same numbers.
#pragma once

#include "harmonics.h"
#include "rendering.h"

namespace l2s {

// What does not depend on the camera.
struct Shape {
    Vec3 mean;
    vf quat[4], inverse_norm;    // unit quaternion wxyz; 1 / norm of the raw one
    vf scale[3], rotation[3][3];
    vf factor[3][3];             // rotation diag(scale): covariance = factor factor^T
    vf opacity;
};

// What one camera sees. Culled lanes hold finite values that must not be used.
struct Seen {
    vm drawn;
    Vec3 camera;             // mean in the camera frame; z replaced by 1 where culled
    vf inverse_z;
    vf slope_x, slope_y;     // x/z and y/z, clamped to the image and a margin
    vm free_x, free_y;       // where that clamp did nothing
    vf camera_factor[3][3];  // camera rotation times Shape::factor
    vf screen_factor[2][3];  // Jacobian times camera_factor
    vf mean_x, mean_y;
    vf cov_xx, cov_xy, cov_yy;
    vf a, b, c;              // whitening of the screen ellipse, see Splat
};

L2S_INLINE Shape load_shape(const L2sScene& scene, int64_t first, int lanes) {
    vf raw[11] = {};
    raw[6] = splat(1.0f);  // lanes past the end need a valid rotation
    gather_rows(scene.means + 3 * first, 3, 3, lanes, raw);
    gather_rows(scene.log_scales + 3 * first, 3, 3, lanes, raw + 3);
    gather_rows(scene.quats + 4 * first, 4, 4, lanes, raw + 6);
    gather_rows(scene.logit_opacities + first, 1, 1, lanes, raw + 10);

    Shape s;
    s.mean = {raw[0], raw[1], raw[2]};
    s.inverse_norm = 1.0f / sqrt(raw[6] * raw[6] + raw[7] * raw[7] + raw[8] * raw[8] + raw[9] * raw[9]);
    for (int i = 0; i < 4; ++i) s.quat[i] = raw[6 + i] * s.inverse_norm;
    vf w = s.quat[0], x = s.quat[1], y = s.quat[2], z = s.quat[3];
    vf rotation[3][3] = {{1.0f - 2.0f * (y * y + z * z), 2.0f * (x * y - w * z), 2.0f * (x * z + w * y)},
                         {2.0f * (x * y + w * z), 1.0f - 2.0f * (x * x + z * z), 2.0f * (y * z - w * x)},
                         {2.0f * (x * z - w * y), 2.0f * (y * z + w * x), 1.0f - 2.0f * (x * x + y * y)}};
    for (int k = 0; k < 3; ++k) {
        s.scale[k] = exp(raw[3 + k]);
        for (int i = 0; i < 3; ++i) {
            s.rotation[i][k] = rotation[i][k];
            s.factor[i][k] = rotation[i][k] * s.scale[k];
        }
    }
    s.opacity = 1.0f / (1.0f + exp(-raw[10]));
    return s;
}

// Everything but the screen box; `drawn` is only the depth test so far.
L2S_INLINE Seen look(const Shape& shape, const View& view, const L2sRendering& r) {
    Seen s;
    vf p[3];
    for (int i = 0; i < 3; ++i) {
        const float* row = view.rotation[i];
        p[i] = row[0] * shape.mean.x + row[1] * shape.mean.y + row[2] * shape.mean.z + view.translation[i];
        for (int k = 0; k < 3; ++k)
            s.camera_factor[i][k] =
                row[0] * shape.factor[0][k] + row[1] * shape.factor[1][k] + row[2] * shape.factor[2][k];
    }
    s.drawn = less_equal_if(less_equal(splat(r.settings.near_plane), p[2]), p[2], splat(r.settings.far_plane));
    s.camera = {p[0], p[1], select(s.drawn, p[2], splat(1.0f))};
    s.inverse_z = 1.0f / s.camera.z;
    vf x = p[0] * s.inverse_z, y = p[1] * s.inverse_z;
    s.mean_x = view.fx * x + view.cx;
    s.mean_y = view.fy * y + view.cy;

    float width = (float)r.width, height = (float)r.height;
    float margin_x = 0.15f * width / view.fx, margin_y = 0.15f * height / view.fy;
    s.slope_x = clamp(x, splat(-(view.cx / view.fx + margin_x)), splat((width - view.cx) / view.fx + margin_x));
    s.slope_y = clamp(y, splat(-(view.cy / view.fy + margin_y)), splat((height - view.cy) / view.fy + margin_y));
    s.free_x = less_equal_if(less_equal(s.slope_x, x), x, s.slope_x);
    s.free_y = less_equal_if(less_equal(s.slope_y, y), y, s.slope_y);

    vf jx = view.fx * s.inverse_z, jy = view.fy * s.inverse_z;
    for (int k = 0; k < 3; ++k) {
        s.screen_factor[0][k] = jx * (s.camera_factor[0][k] - s.slope_x * s.camera_factor[2][k]);
        s.screen_factor[1][k] = jy * (s.camera_factor[1][k] - s.slope_y * s.camera_factor[2][k]);
    }
    const vf *f = s.screen_factor[0], *g = s.screen_factor[1];
    vf ff = f[0] * f[0] + f[1] * f[1] + f[2] * f[2], gg = g[0] * g[0] + g[1] * g[1] + g[2] * g[2];
    s.cov_xy = f[0] * g[0] + f[1] * g[1] + f[2] * g[2];
    s.cov_xx = ff + r.settings.eps2d;
    s.cov_yy = gg + r.settings.eps2d;
    // |f x g|^2 instead of ff gg - (f.g)^2: for a needle the latter is all rounding error
    vf n0 = f[1] * g[2] - f[2] * g[1], n1 = f[2] * g[0] - f[0] * g[2], n2 = f[0] * g[1] - f[1] * g[0];
    float eps = r.settings.eps2d;
    vf determinant = n0 * n0 + n1 * n1 + n2 * n2 + eps * (ff + gg) + eps * eps;

    constexpr float half_log2_e = 0.5f / kLn2;  // exp(-d/2) = 2^(-d half_log2_e)
    s.a = sqrt(half_log2_e * s.cov_yy / determinant);
    s.b = -s.a * (s.cov_xy / s.cov_yy);
    s.c = sqrt(half_log2_e / s.cov_yy);
    return s;
}

// Unit vector from the camera to the mean (zero at the camera), and 1 / distance.
L2S_INLINE Vec3 direction(const Vec3& mean, const View& view, vf* inverse_distance) {
    vf x = mean.x - view.center[0], y = mean.y - view.center[1], z = mean.z - view.center[2];
    vf squared = x * x + y * y + z * z;
    vm apart = less(vf{}, squared);
    *inverse_distance = keep(apart, 1.0f / sqrt(select(apart, squared, splat(1.0f))));
    return {x * *inverse_distance, y * *inverse_distance, z * *inverse_distance};
}

// [coefficient][channel] vectors of the coefficients in use.
L2S_INLINE void load_harmonics(const L2sScene& scene, int64_t first, int lanes, vf* sh) {
    int used = (scene.sh_degree + 1) * (scene.sh_degree + 1);
    int stride = 3 * scene.sh_stored;
    gather_rows(scene.sh + first * stride, stride, 3 * used, lanes, sh);
}

// 0.5 + harmonics, not floored; `basis` is left for the backward pass.
L2S_INLINE void evaluate_color(const Vec3& dir, int degree, const vf* sh, vf* basis, vf color[3]) {
    harmonics(dir, degree, basis);
    int used = (degree + 1) * (degree + 1);
    for (int c = 0; c < 3; ++c) color[c] = splat(0.5f);
    for (int k = 0; k < used; ++k)
        for (int c = 0; c < 3; ++c) color[c] = fma(basis[k], sh[3 * k + c], color[c]);
}

// Sums what a sweep left of W Gaussians in one view, in the order of tiles. Returns whether there was anything.
template <class Row>
L2S_INLINE bool sum_rows(const L2sRendering& r, const Buffer<Row>& buffer, int v, int64_t first, int lanes, vf* sums) {
    constexpr int fields = sizeof(Row) / sizeof(float), parts = fields / W;
    const uint8_t* touched = r.touched.data() + r.row_begin[v];
    const Row* rows = buffer.data() + r.row_begin[v];
    const TileBox* boxes = r.boxes.data() + v * r.count + first;
    int64_t row = r.first_row[v * r.count + first];
    Row totals[W] = {};
    bool found = false;
    for (int i = 0; i < lanes; ++i) {
        vf total[parts] = {};
        for (int64_t end = row + boxes[i].count(); row < end; ++row) {
            if (!touched[row]) continue;
            for (int part = 0; part < parts; ++part) total[part] += load(rows[row].field + part * W);
            found = true;
        }
        for (int part = 0; part < parts; ++part) store(totals[i].field + part * W, total[part]);
    }
    if (found) gather_rows(totals[0].field, fields, fields, W, sums);
    return found;
}

}  // namespace l2s
