// One fused step of Adam over all parameters of a scene: nine memory streams instead of some thirty.
#include <cstddef>
#include <cstdint>

#include "api.h"
#include "moments.h"

using namespace l2s;

namespace {

constexpr int64_t kBlockRows = 64;  // the rates of so many rows are expanded at a time
constexpr int32_t kMaxWidth = 64;


void step(const L2sAdamGroup& g, const L2sAdamConstants& c, int64_t first, int64_t rows, const float* rate) {
    const int64_t begin = first * g.width, count = rows * g.width;
    const float *grad = g.grad + begin, *m = g.m + begin, *v = g.v + begin;
    float *m_out = g.m_out + begin, *v_out = g.v_out + begin, *update = g.update + begin;
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
        m_out[i] = first_moment(m[i], grad[i], c.beta1);
        v_out[i] = second_moment(v[i], grad[i], c.beta2);
        const float root_v = root(v_out[i], c.correction2, c.eps);
        update[i] = -rate[i] * base_direction(m_out[i] * c.correction1, grad[i], c.damping, root_v);
    }
}

}  // namespace

extern "C" L2S_PUBLIC void l2s_adam(
    const L2sAdamGroup* groups, int32_t count, const L2sAdamConstants* constants, int32_t threads) {
#pragma omp parallel num_threads(threads)
    for (int32_t i = 0; i < count; ++i) {
        const L2sAdamGroup& g = groups[i];
        const int64_t blocks = (g.rows + kBlockRows - 1) / kBlockRows;
#pragma omp for schedule(static) nowait
        for (int64_t block = 0; block < blocks; ++block) {
            float rate[kBlockRows * kMaxWidth];
            const int64_t first = block * kBlockRows;
            const int64_t rows = first + kBlockRows < g.rows ? kBlockRows : g.rows - first;
            for (int64_t row = 0; row < rows; ++row) {
                const float of_row = g.row_rates ? g.row_rates[first + row] : 1.0f;
                for (int32_t column = 0; column < g.width; ++column)
                    rate[row * g.width + column] = of_row * g.column_rates[column];
            }
            step(g, *constants, first, rows, rate);
        }
    }
}
