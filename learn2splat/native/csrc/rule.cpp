// One step of the learned rule: moments of four decays, and a mixture of descent directions with constants per column.
#include <cstddef>
#include <cstdint>

#include "api.h"
#include "moments.h"

using namespace l2s;

namespace {

constexpr int64_t kBlockRows = 32;
constexpr int32_t kMaxWidth = 64;
// Rows are laid end to end, so that narrow parameters fill vectors too; at least one row of any width.
constexpr int32_t kTile = 512;

// What each number of a tile of rows is multiplied with: constants of its column, and what depends on its row.
struct Tile {
    float column_rates[kTile], slow[kTile], newest[kTile], fast_scale[kTile], shared_scale[kTile];
    float correct_m[kTile], correct_m_slow[kTile], correct_v[kTile], correct_v_fast[kTile], root_shared[kTile];
    float rates[kTile];
    float across[kTile], squared[kTile], squared_m[kTile];  // running sums of g m, g g and m m
    int64_t rows;

    explicit Tile(const L2sRuleParameter& p) : rows(kTile / p.width < kBlockRows ? kTile / p.width : kBlockRows) {
        for (int32_t i = 0; i < rows * p.width; ++i) {
            const int32_t column = i % p.width;
            column_rates[i] = p.column_rates[column];
            slow[i] = p.slow[column];
            newest[i] = p.newest[column];
            fast_scale[i] = p.fast_scale[column];
            shared_scale[i] = p.shared_scale[column];
        }
    }

    void clear_sums() {
        for (int32_t i = 0; i < kTile; ++i) across[i] = squared[i] = squared_m[i] = 0;
    }

    // Takes up what belongs to `count` rows from `first`.
    void load(const L2sRuleParameter& p, const L2sRuleConstants& c, int64_t first, int64_t count) {
        for (int64_t row = first, i = 0; row < first + count; ++row) {
            const int32_t age = p.ages[row];
            const float of_m = correction(c.correct_m, age), of_m_slow = correction(c.correct_m_slow, age);
            const float of_v = correction(c.correct_v, age), of_v_fast = correction(c.correct_v_fast, age);
            for (int32_t column = 0, group = 0; group < p.groups; ++group) {
                const float shared = root(p.squares[row * p.group_stride + group], of_v, c.eps);
                const float gain = p.gains[row * p.group_stride + group];
                for (; column < p.group_ends[group]; ++column, ++i) {
                    correct_m[i] = of_m;
                    correct_m_slow[i] = of_m_slow;
                    correct_v[i] = of_v;
                    correct_v_fast[i] = of_v_fast;
                    root_shared[i] = shared;
                    rates[i] = -(gain * column_rates[i]);
                }
            }
        }
    }

    // Adds the sums of each group's columns to `products`, [groups, 3].
    void add_products(const L2sRuleParameter& p, double* products) const {
        float by_column[3][kMaxWidth] = {};
        for (int64_t row = 0; row < rows; ++row) {
#pragma omp simd
            for (int32_t i = 0; i < p.width; ++i) {
                by_column[0][i] += across[row * p.width + i];
                by_column[1][i] += squared[row * p.width + i];
                by_column[2][i] += squared_m[row * p.width + i];
            }
        }
        for (int32_t column = 0, group = 0; group < p.groups; ++group)
            for (; column < p.group_ends[group]; ++column)
                for (int32_t i = 0; i < 3; ++i) products[3 * group + i] += by_column[i][column];
    }
};

// Moments and update of `count` rows from `first`, at most as many as the tile has.
void step_tile(const L2sRuleParameter& p, const L2sRuleConstants& c, Tile& tile, int64_t first, int64_t count) {
    tile.load(p, c, first, count);
    const int64_t at = first * p.width, numbers = count * p.width;
    const float *grad = p.grad + at, *m = p.m + at, *m_slow = p.m_slow + at, *v = p.v + at, *v_fast = p.v_fast + at;
    float *m_out = p.m_out + at, *m_slow_out = p.m_slow_out + at, *v_out = p.v_out + at;
    float *v_fast_out = p.v_fast_out + at, *update = p.update + at;
#pragma omp simd
    for (int64_t i = 0; i < numbers; ++i) {
        const float g = grad[i], new_m = first_moment(m[i], g, c.m), new_slow = first_moment(m_slow[i], g, c.m_slow);
        const float new_v = second_moment(v[i], g, c.v), new_fast = second_moment(v_fast[i], g, c.v_fast);
        tile.across[i] += g * m[i];
        tile.squared[i] += g * g;
        tile.squared_m[i] += m[i] * m[i];
        const float root_v = root(new_v, tile.correct_v[i], c.eps);
        const float root_fast = root(new_fast, tile.correct_v_fast[i], c.eps);
        const float momentum = new_m * tile.correct_m[i];
        const float own = tile.slow[i] * (new_slow * tile.correct_m_slow[i]) + tile.newest[i] * g;
        const float others = tile.fast_scale[i] / root_fast + tile.shared_scale[i] / tile.root_shared[i];
        const float mixed = (momentum + c.damping * g + own) / root_v + momentum * others;
        m_out[i] = new_m;
        m_slow_out[i] = new_slow;
        v_out[i] = new_v;
        v_fast_out[i] = new_fast;
        update[i] = mixed * tile.rates[i];
    }
}

void step_block(const L2sRuleParameter& p, const L2sRuleConstants& c, Tile& tile, int64_t first, int64_t end) {
    tile.clear_sums();
    for (int64_t row = first; row < end; row += tile.rows)
        step_tile(p, c, tile, row, row + tile.rows < end ? tile.rows : end - row);
    double* products = p.products + first / kBlockRows * p.groups * 3;
    for (int32_t i = 0; i < p.groups * 3; ++i) products[i] = 0;
    tile.add_products(p, products);
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
        if (!p.rows) continue;
        Tile tile(p);
#pragma omp for schedule(static) nowait
        for (int64_t first = 0; first < p.rows; first += kBlockRows)
            step_block(p, *constants, tile, first, first + kBlockRows < p.rows ? first + kBlockRows : p.rows);
    }
}
