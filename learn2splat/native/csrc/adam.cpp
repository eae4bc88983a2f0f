// One fused step of Adam over all parameters of a scene: nine memory streams instead of some thirty.
#include <cstddef>
#include <cstdint>

#include "api.h"
#include "moments.h"

using namespace l2s;

namespace {

constexpr int64_t kBlockRows = 32;
constexpr int32_t kMaxWidth = 64;

// What is given per row or column, for each number of a block.
struct Block {
    float rate[kBlockRows * kMaxWidth], correct_m[kBlockRows * kMaxWidth], correct_v[kBlockRows * kMaxWidth];
};

void expand(const L2sAdamGroup& g, const L2sAdamConstants& c, int64_t first, int64_t rows, Block& block) {
    for (int64_t row = 0; row < rows; ++row) {
        const float of_row = g.row_rates ? g.row_rates[first + row] : 1.0f;
        const float of_m = correction(c.correct_m, g.ages[first + row]);
        const float of_v = correction(c.correct_v, g.ages[first + row]);
        const int64_t at = row * g.width;
        for (int32_t column = 0; column < g.width; ++column) {
            block.rate[at + column] = of_row * g.column_rates[column];
            block.correct_m[at + column] = of_m;
            block.correct_v[at + column] = of_v;
        }
    }
}

void step(const L2sAdamGroup& g, const L2sAdamConstants c, int64_t first, int64_t rows, const Block& block) {
    const int64_t begin = first * g.width, count = rows * g.width;
    const float *grad = g.grad + begin, *m = g.m + begin, *v = g.v + begin;
    float *m_out = g.m_out + begin, *v_out = g.v_out + begin, *update = g.update + begin;
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
        m_out[i] = first_moment(m[i], grad[i], c.beta1);
        v_out[i] = second_moment(v[i], grad[i], c.beta2);
        const float root_v = root(v_out[i], block.correct_v[i], c.eps);
        update[i] = -block.rate[i] * (damped(m_out[i] * block.correct_m[i], grad[i], c.damping) / root_v);
    }
}

}  // namespace

extern "C" L2S_PUBLIC void l2s_adam_step(
    const L2sAdamGroup* groups, int32_t count, const L2sAdamConstants* constants, int32_t threads) {
#pragma omp parallel num_threads(threads)
    for (int32_t i = 0; i < count; ++i) {
        const L2sAdamGroup& g = groups[i];
        const int64_t blocks = (g.rows + kBlockRows - 1) / kBlockRows;
#pragma omp for schedule(static) nowait
        for (int64_t index = 0; index < blocks; ++index) {
            const int64_t first = index * kBlockRows;
            const int64_t rows = first + kBlockRows < g.rows ? kBlockRows : g.rows - first;
            Block block;
            expand(g, *constants, first, rows, block);
            step(g, *constants, first, rows, block);
        }
    }
}
