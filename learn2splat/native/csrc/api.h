// The plain C interface of the library. Python mirrors these structures in learn2splat/native/loader.py.
//
// All arrays are dense, row-major float32 unless said otherwise. A null pointer means "not given" for inputs marked
// optional and "not wanted" for outputs; what is not wanted costs nothing. Every function is deterministic: its
// results do not depend on the number of threads.
#pragma once

#include <cstdint>

#define L2S_PUBLIC __attribute__((visibility("default")))

extern "C" {

// N Gaussians by their raw parameters.
struct L2sScene {
    const float* means;            // [N, 3]
    const float* log_scales;       // [N, 3]
    const float* quats;            // [N, 4] wxyz, any norm but zero
    const float* logit_opacities;  // [N]
    const float* sh;               // [N, stored, 3]
    int64_t count;                 // N
    int32_t sh_stored;             // coefficients per Gaussian in memory: 1, 4, 9 or 16
    int32_t sh_degree;             // degree in use, 0..3, (degree + 1)^2 <= stored
};

// V pinhole cameras of one image size.
struct L2sCameras {
    const float* intrinsics;      // [V, 3, 3] pixels
    const float* cam_from_world;  // [V, 4, 4]
    const float* background;      // [V, 3], optional
    int32_t views, width, height;
};

struct L2sSettings {
    float near_plane, far_plane, eps2d, max_alpha;
};

struct L2sImages {
    float* image;      // [V, H, W, 3]
    float* alpha;      // [V, H, W]
    float* depth;      // [V, H, W], optional
    int32_t* radii;    // [V, N]
};

// Derivatives of a scalar by the images.
struct L2sCotangents {
    const float* image;  // [V, H, W, 3]
    const float* alpha;  // [V, H, W], optional
    const float* depth;  // [V, H, W], optional; needs a rendering with depth
};

// Arrays of the raw parameters' shapes.
struct L2sGradient {
    float *means, *log_scales, *quats, *logit_opacities, *sh;
};

struct L2sGradients {
    L2sGradient total;         // summed over views
    L2sGradient view_squares;  // sum over views of the squared gradient of that view; means = null: not wanted
    L2sGradient per_view;      // [V, ...] arrays; means = null: not wanted
    float* means2d;            // [V, N, 2], optional
};

// A direction in the space of the raw parameters; arrays of their shapes.
struct L2sTangent {
    const float *means, *log_scales, *quats, *logit_opacities, *sh;
};

// Second derivatives of half the weighted sum of squares of the images' change, J^T W J.
struct L2sCurvature {
    L2sGradient diagonal;
    float* blocks;  // [N, 10, 10] of means, log_scales and quats of one Gaussian, optional
};

// What the last calls on a rendering did, for benchmarks.
struct L2sStatistics {
    int64_t tile_entries;                                    // (Gaussian, tile) pairs
    int64_t forward_lanes, backward_lanes;                   // pixel evaluations of the two raster loops
    double forward_raster_seconds, backward_raster_seconds;  // CPU time of all threads in them
};

struct L2sRendering;  // what the backward pass needs of a forward pass

// Lanes of a vector in this build.
L2S_PUBLIC int32_t l2s_vector_lanes();

// Render. Returns a rendering to be freed with l2s_free, or null when memory ran out.
L2S_PUBLIC L2sRendering* l2s_render(const L2sScene*, const L2sCameras*, const L2sSettings*, const L2sImages*,
                                    int32_t threads);

// Transposed derivative of a rendering. `scene` must hold the values that were rendered. Returns 0, or 1 when memory
// ran out. May be called repeatedly.
L2S_PUBLIC int32_t l2s_pull_back(L2sRendering*, const L2sScene*, const L2sCotangents*, const L2sGradients*,
                                 int32_t threads);

// Derivative of a rendering along `tangent`, into image, alpha and, for a rendering with depth, depth; radii are not
// written. Sorting, culling and stops are those of the rendering, so that l2s_pull_back is the exact transpose.
// `wanted` [V, tiles down, tiles across] (optional) names the tiles of 16 x 16 pixels that are not left at zero.
// Other arguments, result and repetition as for l2s_pull_back.
L2S_PUBLIC int32_t l2s_push_forward(L2sRendering*, const L2sScene*, const L2sTangent* tangent, const L2sImages*,
                                    int32_t threads, const uint8_t* wanted);

// J^T W J of the image; weights [V, H, W, 3] are the diagonal of W, optional: 1. Otherwise as l2s_pull_back.
L2S_PUBLIC int32_t l2s_curvature(L2sRendering*, const L2sScene*, const float* weights, const L2sCurvature*,
                                 int32_t threads);

L2S_PUBLIC void l2s_statistics(const L2sRendering*, L2sStatistics*);

// Give a rendering's memory back to the pool that the next rendering draws from.
L2S_PUBLIC void l2s_free(L2sRendering*);

// Mean absolute error and mean SSIM of each view, over all pixels and channels, of images [views, height, width, 3].
// `gradient` (optional) receives the derivative of mean over views of (1 - ssim_weight) l1 + ssim_weight (1 - ssim)
// by `image`. SSIM: 11 x 11 Gaussian window of sigma 1.5 px, zeros outside the image. Returns 0, or 1 without memory.
L2S_PUBLIC int32_t l2s_photometric(const float* image, const float* target, int32_t views, int32_t height,
                                   int32_t width, float ssim_weight, double* l1, double* ssim, float* gradient,
                                   int32_t threads);

// Fused multiply-adds per second that one core reaches when it does nothing else, counted as 2 flop per lane.
L2S_PUBLIC double l2s_peak_flops();

// Bias correction of a moment that has seen `age` gradients: table[min(age, last)].
struct L2sCorrection {
    const float* table;
    int32_t last;
};

// One parameter of a scene and its moments; arrays are [rows, width], outputs may not overlap inputs.
struct L2sAdamGroup {
    const float *grad, *m, *v;
    float *m_out, *v_out, *update;
    const int32_t* ages;        // [rows] gradients seen, this one included
    const float* row_rates;     // [rows], optional: 1
    const float* column_rates;  // [width]
    int64_t rows;
    int32_t width;              // at most 64
};

// update = -rate * (m * correct_m + damping * grad) / (sqrt(v) * correct_v + eps), with the new m and v.
struct L2sAdamConstants {
    float beta1, beta2, eps, damping;
    L2sCorrection correct_m, correct_v;  // 1 / (1 - beta1^t), 1 / sqrt(1 - beta2^t)
};

L2S_PUBLIC void l2s_adam_step(
    const L2sAdamGroup* groups, int32_t count, const L2sAdamConstants* constants, int32_t threads);

// One parameter under the learned rule; arrays are [rows, width] unless said otherwise, outputs may not overlap inputs.
struct L2sRuleParameter {
    const float *grad, *m, *m_slow, *v, *v_fast;         // m_slow and v_fast are [rows, full_width]
    float *m_out, *m_slow_out, *v_out, *v_fast_out;      // likewise
    float *update;
    const float* column_rates;  // [width]
    const float *slow, *newest, *fast_scale, *shared_scale;  // [width] weights of the directions, one for a group
    const float* squares;       // [rows, group_stride] mean second moment of each group, after the step
    const float* gains;         // [groups, rows] factors on the steps
    const int32_t* ages;        // [rows] gradients seen, this one included
    int64_t rows;
    int32_t width;              // at most 64
    int32_t full_width;         // how many columns, the first ones, have all directions; 1 or more
    int32_t groups;             // groups of columns that share a second moment: 1 or 2
    int32_t group_stride;
    int32_t group_ends[2];      // end column of each, ascending
    double* products;           // [rows / 128 rounded up, groups, 3] sums of g m, g g and m m, with m before the step,
    int64_t product_stride;     // so many numbers apart
};

// What one parameter and its state have to say on the gains; arrays are [rows, width] unless said otherwise.
struct L2sGainParameter {
    const float* grad;
    const float* squares;       // [rows, groups], rows `squares_stride` apart: mean second moment before the step
    const int32_t* ages;        // [rows] gradients seen, this one included
    int64_t squares_stride;
    int32_t width, groups;
    int32_t first_group;        // among all
    int32_t group_ends[2];      // end column of each, ascending
};

constexpr int32_t L2S_RULE_GROUPS = 6;

// Factors on the steps of N Gaussians in each group.
struct L2sGains {
    const float* log_scales;    // [N, 3]
    const float* footprint;     // [N] size of a pixel at each, world units
    const float* visibility;    // [N] share of recent steps in which it was drawn, before the step
    const uint8_t* visible;     // [N] 1 if drawn in this one
    const float* powers;        // [3, groups] of size, loudness and visibility
    float* squares_out;         // [N, groups] mean second moments after the step; 0 for groups that no parameter has
    float* visibility_out;      // [N]
    float* gains;               // [groups, N]
    float* traits;              // [groups + 2, N] scratch, with room for another 16 numbers
    double* sums;               // [N / 64 rounded up, groups + 3] scratch
    int64_t rows;
    float decay_v, decay_visibility;
    float most, most_log_gain, tiny;  // bounds of traits and of the gains' logarithm; least number under a logarithm
    L2sCorrection correct_v;    // 1 / (1 - decay_v^t)
};

struct L2sRuleConstants {
    float m, m_slow, v, v_fast, eps, damping;  // decays; weight of the gradient in the base
    L2sCorrection correct_m, correct_m_slow, correct_v, correct_v_fast;
};

L2S_PUBLIC void l2s_rule_gains(
    const L2sGains* gains, const L2sGainParameter* parameters, int32_t count, int32_t threads);

// update = -gain * column_rate * (base + sum of weight x direction); see optim/learned/moments.py.
L2S_PUBLIC void l2s_rule_step(
    const L2sRuleParameter* parameters, int32_t count, const L2sRuleConstants* constants, int32_t threads);

}
