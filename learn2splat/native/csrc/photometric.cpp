// Mean absolute error, SSIM (Wang et al. 2004) and the derivative of their mixture, by separable filters on rows of
// interleaved RGB: along a row the taps are 3 floats apart.
//
// Both passes work on one image row at a time: filter vertically straight from the whole rows above and below into a
// padded line, then filter that line horizontally. Rows are independent, hence any thread may take any row.
#include <cmath>
#include <new>

#include "api.h"
#include "memory.h"
#include "simd.h"

#if defined(_OPENMP)
#include <omp.h>
#endif

using namespace l2s;

namespace {

constexpr int kRadius = 5;
constexpr int kChannels = 3;
constexpr int kPadding = 16;  // floats left and right of a line: at least kRadius * kChannels
constexpr float kC1 = 0.01f * 0.01f, kC2 = 0.03f * 0.03f;

struct Window {
    float weight[kRadius + 1];  // by distance from the centre

    Window() {
        double raw[kRadius + 1], total = 0;
        for (int i = 0; i <= kRadius; ++i) {
            raw[i] = std::exp(-0.5 * i * i / (1.5 * 1.5));
            total += i ? 2 * raw[i] : raw[i];
        }
        for (int i = 0; i <= kRadius; ++i) weight[i] = (float)(raw[i] / total);
    }
};

struct Size {
    int height, length;  // length: floats of a row
    int64_t line() const { return ((int64_t)length + W - 1) / W * W + 2 * kPadding; }
};

// Horizontal filter at the W floats from `p` on.
L2S_INLINE vf across(const Window& window, const float* p) {
    vf total = load(p) * window.weight[0];
    for (int i = 1; i <= kRadius; ++i)
        total = fma(load(p - kChannels * i) + load(p + kChannels * i), splat(window.weight[i]), total);
    return total;
}

// The end of a row may be shorter than a vector.
L2S_INLINE vf load_part(const float* p, int n) {
    if (n >= W) return load(p);
    vf v = {};
    std::memcpy(&v, p, n * sizeof(float));
    return v;
}
L2S_INLINE void store_part(float* p, vf v, int n) { std::memcpy(p, &v, (n < W ? n : W) * sizeof(float)); }

L2S_INLINE vf absolute(vf x) { return max(x, -x); }

struct Sums {
    double absolute_error, ssim;
};

// SSIM of one row, and with kGradient its derivative by the filtered image, the filtered square and the filtered
// product: maps[0..2], [height, length] each.
template <bool kGradient>
Sums compare_row(const Window& window, Size size, const float* image, const float* target, int row, float* lines,
                 float* const maps[3]) {
    int64_t line = size.line();
    int top = row < kRadius ? -row : -kRadius;
    int bottom = row + kRadius >= size.height ? size.height - 1 - row : kRadius;
    for (int i = 0; i < size.length; i += W) {
        vf x1 = {}, y1 = {}, xx = {}, yy = {}, xy = {};
        for (int k = top; k <= bottom; ++k) {
            int64_t at = (int64_t)(row + k) * size.length + i;
            vf x = load_part(image + at, size.length - i), y = load_part(target + at, size.length - i);
            vf weight = splat(window.weight[k < 0 ? -k : k]), wx = weight * x, wy = weight * y;
            x1 += wx;
            y1 += wy;
            xx = fma(wx, x, xx);
            yy = fma(wy, y, yy);
            xy = fma(wx, y, xy);
        }
        float* out = lines + kPadding + i;
        store(out, x1);
        store(out + line, y1);
        store(out + 2 * line, xx);
        store(out + 3 * line, yy);
        store(out + 4 * line, xy);
    }

    vf error_sum = {}, ssim_sum = {};
    const vf valid_end = splat((float)size.length);
    for (int i = 0; i < size.length; i += W) {
        const float* in = lines + kPadding + i;
        vf mx = across(window, in), my = across(window, in + line);
        vf exx = across(window, in + 2 * line), eyy = across(window, in + 3 * line);
        vf exy = across(window, in + 4 * line);
        vf mean_squares = mx * mx + my * my;
        vf a1 = 2.0f * mx * my + kC1, a2 = 2.0f * (exy - mx * my) + kC2;
        vf b1 = mean_squares + kC1, b2 = exx + eyy - mean_squares + kC2;
        vf inverse = 1.0f / (b1 * b2);
        vf s = a1 * a2 * inverse;

        int64_t at = (int64_t)row * size.length + i;
        int left = size.length - i;
        vf x = load_part(image + at, left), y = load_part(target + at, left);
        error_sum += absolute(x - y);
        ssim_sum += keep(less(to_float(lane_index() + i), valid_end), s);
        if (kGradient) {
            vf by_mean = 2.0f * inverse * (my * (a2 - a1) - s * mx * (b2 - b1));
            store_part(maps[0] + at, by_mean, left);
            store_part(maps[1] + at, -s * inverse * b1, left);
            store_part(maps[2] + at, 2.0f * a1 * inverse, left);
        }
    }
    return {sum(error_sum), sum(ssim_sum)};
}

// The filter is symmetric, so its transpose is itself.
void differentiate_row(const Window& window, Size size, const float* image, const float* target, int row, float* lines,
                       float* const maps[3], float error_scale, float ssim_scale, float* gradient) {
    int64_t line = size.line();
    int top = row < kRadius ? -row : -kRadius;
    int bottom = row + kRadius >= size.height ? size.height - 1 - row : kRadius;
    for (int i = 0; i < size.length; i += W) {
        vf total[3] = {};
        for (int k = top; k <= bottom; ++k) {
            vf weight = splat(window.weight[k < 0 ? -k : k]);
            for (int m = 0; m < 3; ++m) {
                const float* from = maps[m] + (int64_t)(row + k) * size.length + i;
                total[m] = fma(load_part(from, size.length - i), weight, total[m]);
            }
        }
        for (int m = 0; m < 3; ++m) store(lines + m * line + kPadding + i, total[m]);
    }
    for (int i = 0; i < size.length; i += W) {
        const float* in = lines + kPadding + i;
        int64_t at = (int64_t)row * size.length + i;
        int left = size.length - i;
        vf x = load_part(image + at, left), y = load_part(target + at, left);
        vf by_mean = across(window, in), by_square = across(window, in + line);
        vf by_product = across(window, in + 2 * line);
        vf ssim = by_mean + 2.0f * x * by_square + y * by_product;
        vf sign = select(less(y, x), splat(error_scale), vf{}) - select(less(x, y), splat(error_scale), vf{});
        store_part(gradient + at, fnma(splat(ssim_scale), ssim, sign), left);
    }
}

struct Job {
    Size size;
    const float *image, *target;
    float error_scale, ssim_scale;  // of the gradient
    float* gradient;
    double *l1, *ssim;
};

// One view, by all threads of the enclosing parallel region.
void compare_view(const Window& window, const Job& job, int v, float* lines, float* all_maps, Sums* sums) {
    int64_t pixels = (int64_t)job.size.height * job.size.length;
    const float *image = job.image + v * pixels, *target = job.target + v * pixels;
    float* maps[3] = {all_maps, all_maps + pixels, all_maps + 2 * pixels};
#pragma omp for schedule(static)
    for (int row = 0; row < job.size.height; ++row)
        sums[row] = job.gradient ? compare_row<true>(window, job.size, image, target, row, lines, maps)
                                 : compare_row<false>(window, job.size, image, target, row, lines, maps);
    if (job.gradient) {
#pragma omp for schedule(static)
        for (int row = 0; row < job.size.height; ++row)
            differentiate_row(window, job.size, image, target, row, lines, maps, job.error_scale, job.ssim_scale,
                              job.gradient + v * pixels);
    }
#pragma omp single
    {
        double error = 0, ssim = 0;
        for (int row = 0; row < job.size.height; ++row) {
            error += sums[row].absolute_error;
            ssim += sums[row].ssim;
        }
        job.l1[v] = error / (double)pixels;
        job.ssim[v] = ssim / (double)pixels;
    }
}

}  // namespace

int32_t l2s_photometric(const float* image, const float* target, int32_t views, int32_t height, int32_t width,
                        float ssim_weight, double* l1, double* ssim, float* gradient, int32_t threads) try {
    static const Window window;
    static thread_local Buffer<float> lines_buffer, maps_buffer;
    static thread_local Buffer<Sums> sums_buffer;
    Size size = {height, kChannels * width};
    int64_t pixels = (int64_t)height * size.length, line = size.line();
    float scale = 1.0f / ((float)views * (float)pixels);
    Job job = {size, image, target, (1.0f - ssim_weight) * scale, ssim_weight * scale, gradient, l1, ssim};
    lines_buffer.resize(threads * 5 * line);
    maps_buffer.resize(gradient ? 3 * pixels : 0);
    sums_buffer.resize(height);
    std::memset(lines_buffer.data(), 0, sizeof(float) * lines_buffer.size());  // zeros outside the image
    float *all_lines = lines_buffer.data(), *maps = maps_buffer.data();
    Sums* sums = sums_buffer.data();
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
#if defined(_OPENMP)
        float* lines = all_lines + omp_get_thread_num() * 5 * line;
#else
        float* lines = all_lines;
#endif
        for (int v = 0; v < views; ++v) compare_view(window, job, v, lines, maps, sums);
    }
    return 0;
} catch (const std::bad_alloc&) {
    return 1;
}
