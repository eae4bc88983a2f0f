// One step of the learned rule: moments of four decays, and a mixture of descent directions with constants per column.
#include <cstddef>
#include <cstdint>

#include "api.h"
#include "moments.h"

using namespace l2s;

namespace {

constexpr int64_t kBlockRows = 32;
constexpr int32_t kMaxWidth = 64;

// Adds a row's <g, m>, <g, g> and <m, m> to those of its groups.
void add_products(const L2sRuleParameter& p, const float* grad, const float* m, double* products) {
    for (int32_t begin = 0, group = 0; group < p.groups; begin = p.group_ends[group++]) {
        float across = 0, squared = 0, squared_m = 0;
#pragma omp simd reduction(+ : across, squared, squared_m)
        for (int32_t i = begin; i < p.group_ends[group]; ++i) {
            across += grad[i] * m[i];
            squared += grad[i] * grad[i];
            squared_m += m[i] * m[i];
        }
        products[3 * group] += across;
        products[3 * group + 1] += squared;
        products[3 * group + 2] += squared_m;
    }
}

// Moments and update of `rows` rows from `first`.
void step_rows(const L2sRuleParameter& p, const L2sRuleConstants& c, int64_t first, int64_t rows) {
    const int32_t width = p.width;
    float shared[kMaxWidth], rate[kMaxWidth];
    double* products = p.products + first / kBlockRows * p.groups * 3;
    for (int32_t i = 0; i < p.groups * 3; ++i) products[i] = 0;
    for (int64_t row = first; row < first + rows; ++row) {
        const int64_t at = row * width;
        const float *grad = p.grad + at, *m = p.m + at, *m_slow = p.m_slow + at, *v = p.v + at, *v_fast = p.v_fast + at;
        float *m_out = p.m_out + at, *m_slow_out = p.m_slow_out + at, *v_out = p.v_out + at;
        float *v_fast_out = p.v_fast_out + at, *update = p.update + at;
        add_products(p, grad, m, products);
        const int32_t age = p.ages[row];
        const float correct_m = correction(c.correct_m, age), correct_m_slow = correction(c.correct_m_slow, age);
        const float correct_v = correction(c.correct_v, age), correct_v_fast = correction(c.correct_v_fast, age);
#pragma omp simd
        for (int32_t i = 0; i < width; ++i) {
            m_out[i] = first_moment(m[i], grad[i], c.m);
            m_slow_out[i] = first_moment(m_slow[i], grad[i], c.m_slow);
            v_out[i] = second_moment(v[i], grad[i], c.v);
            v_fast_out[i] = second_moment(v_fast[i], grad[i], c.v_fast);
        }
        for (int32_t begin = 0, group = 0; group < p.groups; begin = p.group_ends[group++]) {
            const float inverse = 1.0f / root(p.squares[row * p.group_stride + group], correct_v, c.eps);
            const float gain = p.gains[row * p.group_stride + group];
            for (int32_t i = begin; i < p.group_ends[group]; ++i) {
                shared[i] = inverse;
                rate[i] = gain * p.column_rates[i];
            }
        }
#pragma omp simd
        for (int32_t i = 0; i < width; ++i) {
            const float root_v = root(v_out[i], correct_v, c.eps);
            const float root_fast = root(v_fast_out[i], correct_v_fast, c.eps);
            const float momentum = m_out[i] * correct_m;
            const float base = base_direction(momentum, grad[i], c.damping, root_v);
            const float own = p.slow[i] * (m_slow_out[i] * correct_m_slow) + p.newest[i] * grad[i];
            const float mixed = base + own / root_v + p.fast_scale[i] * (momentum / root_fast) +
                                p.shared_scale[i] * (momentum * shared[i]);
            update[i] = mixed * -rate[i];
        }
    }
}

}  // namespace

extern "C" L2S_PUBLIC void l2s_group_squares(const L2sGroupSquares* parameters, int32_t count, int32_t threads) {
#pragma omp parallel num_threads(threads)
    for (int32_t i = 0; i < count; ++i) {
        const L2sGroupSquares& p = parameters[i];
#pragma omp for schedule(static) nowait
        for (int64_t row = 0; row < p.rows; ++row) {
            const float* grad = p.grad + row * p.width;
            for (int32_t begin = 0, group = 0; group < p.groups; begin = p.group_ends[group++]) {
                float sum = 0;
#pragma omp simd reduction(+ : sum)
                for (int32_t column = begin; column < p.group_ends[group]; ++column) sum += grad[column] * grad[column];
                p.squares[row * p.group_stride + group] = sum / (p.group_ends[group] - begin);
            }
        }
    }
}

extern "C" L2S_PUBLIC void l2s_rule_step(
    const L2sRuleParameter* parameters, int32_t count, const L2sRuleConstants* constants, int32_t threads) {
#pragma omp parallel num_threads(threads)
    for (int32_t i = 0; i < count; ++i) {
        const L2sRuleParameter& p = parameters[i];
#pragma omp for schedule(static) nowait
        for (int64_t first = 0; first < p.rows; first += kBlockRows)
            step_rows(p, *constants, first, first + kBlockRows < p.rows ? kBlockRows : p.rows - first);
    }
}
