// One step of the learned rule: moments of four decays, and a mixture of descent directions with constants per column.
#include <cstddef>
#include <cstdint>

#include "api.h"
#include "moments.h"

using namespace l2s;

namespace {

constexpr int64_t kBlockRows = 128;
constexpr int32_t kMaxWidth = 64;
// Rows are laid end to end, so that narrow parameters fill vectors too; at least one row of any width.
constexpr int32_t kTile = 384;

// Sums over each group's columns, three numbers apart.
void sum_groups(const L2sRuleParameter& p, const float* by_column, double* sums) {
    for (int32_t column = 0, group = 0; group < p.groups; ++group) {
        sums[3 * group] = 0;
        for (; column < p.group_ends[group]; ++column) sums[3 * group] += by_column[column];
    }
}

// What each number of a tile of rows is multiplied with: constants of its column, and what depends on its row.
struct Tile {
    float column_rates[kTile], slow[kTile], newest[kTile], fast_scale[kTile];
    float correct_m[kTile], correct_m_slow[kTile], correct_v[kTile], correct_v_fast[kTile];
    float shared[kTile], rates[kTile];                      // weight / root of the shared second moment; minus the step
    float across[kTile], squared[kTile], squared_m[kTile];  // running sums of g m, g g and m m
    int32_t width;                                          // of its rows, the first columns of the parameter's
    int64_t rows;
    int32_t age = -1;  // of all rows that the corrections were laid out for

    Tile(const L2sRuleParameter& p, int32_t width)
        : width(width), rows(kTile / width < kBlockRows ? kTile / width : kBlockRows) {
        for (int64_t row = 0, i = 0; row < rows; ++row) {
            for (int32_t column = 0; column < width; ++column, ++i) {
                column_rates[i] = p.column_rates[column];
                slow[i] = p.slow[column];
                newest[i] = p.newest[column];
                fast_scale[i] = p.fast_scale[column];
            }
        }
        clear_sums();
    }

    void clear_sums() {
        for (int64_t i = 0; i < rows * width; ++i) across[i] = squared[i] = squared_m[i] = 0;
    }

    // Takes up what belongs to `count` rows from `first`.
    void load(const L2sRuleParameter& p, const L2sRuleConstants& c, int64_t first, int64_t count) {
        load_corrections(p, c, first, count);
        for (int32_t begin = 0, group = 0; begin < width; begin = p.group_ends[group++]) {
            const int32_t end = p.group_ends[group] < width ? p.group_ends[group] : width;
            const float weight = p.shared_scale[begin], *gains = p.gains + group * p.rows;
            for (int64_t row = 0; row < count; ++row) {
                const float square = p.squares[(first + row) * p.group_stride + group];
                const float of_row = weight / root(square, correct_v[row * width], c.eps), gain = gains[first + row];
                for (int64_t i = row * width + begin; i < row * width + end; ++i) {
                    shared[i] = of_row;
                    rates[i] = -(gain * column_rates[i]);
                }
            }
        }
    }

    // Rows mostly have one age: what was laid out for the tile before then still holds.
    void load_corrections(const L2sRuleParameter& p, const L2sRuleConstants& c, int64_t first, int64_t count) {
        bool uniform = true;
        for (int64_t row = first; row < first + count; ++row) uniform &= p.ages[row] == p.ages[first];
        if (uniform && p.ages[first] == age) return;
        age = uniform ? p.ages[first] : -1;
        for (int64_t row = 0; row < (uniform ? rows : count); ++row) {
            const int32_t of_row = p.ages[uniform ? first : first + row];
            const float of_m = correction(c.correct_m, of_row), of_m_slow = correction(c.correct_m_slow, of_row);
            const float of_v = correction(c.correct_v, of_row), of_v_fast = correction(c.correct_v_fast, of_row);
            for (int64_t i = row * width; i < (row + 1) * width; ++i) {
                correct_m[i] = of_m;
                correct_m_slow[i] = of_m_slow;
                correct_v[i] = of_v;
                correct_v_fast[i] = of_v_fast;
            }
        }
    }

    // The sums of each group's columns, [groups, 3].
    void sum_products(const L2sRuleParameter& p, double* products) const {
        const float* sums[3] = {across, squared, squared_m};
        for (int32_t kind = 0; kind < 3; ++kind) {
            if (p.groups == 1) {
                float all = 0;
#pragma omp simd reduction(+ : all)
                for (int64_t i = 0; i < rows * width; ++i) all += sums[kind][i];
                products[kind] = all;
                continue;
            }
            float by_column[kMaxWidth] = {};
            for (int64_t row = 0; row < rows; ++row)
#pragma omp simd
                for (int32_t column = 0; column < width; ++column)
                    by_column[column] += sums[kind][row * width + column];
            sum_groups(p, by_column, products + kind);
        }
    }
};

// Numbers of consecutive rows.
struct Streams {
    const float *grad, *m, *m_slow, *v, *v_fast;
    float *m_out, *m_slow_out, *v_out, *v_fast_out, *update;
};

// Moments and update of so many numbers.
void step_numbers(const Streams s, const L2sRuleConstants c, Tile& tile, int64_t numbers) {
#pragma omp simd
    for (int64_t i = 0; i < numbers; ++i) {
        const float g = s.grad[i], m = s.m[i], new_m = first_moment(m, g, c.m), new_v = second_moment(s.v[i], g, c.v);
        const float new_slow = first_moment(s.m_slow[i], g, c.m_slow);
        const float new_fast = second_moment(s.v_fast[i], g, c.v_fast);
        tile.across[i] += g * m;
        tile.squared[i] += g * g;
        tile.squared_m[i] += m * m;
        const float root_v = root(new_v, tile.correct_v[i], c.eps), momentum = new_m * tile.correct_m[i];
        const float root_fast = root(new_fast, tile.correct_v_fast[i], c.eps);
        const float own = tile.slow[i] * (new_slow * tile.correct_m_slow[i]) + tile.newest[i] * g;
        const float others = tile.fast_scale[i] / root_fast + tile.shared[i];
        const float mixed = (damped(momentum, g, c.damping) + own) / root_v + momentum * others;
        s.m_out[i] = new_m;
        s.m_slow_out[i] = new_slow;
        s.v_out[i] = new_v;
        s.v_fast_out[i] = new_fast;
        s.update[i] = mixed * tile.rates[i];
    }
}

// The rows from `first` to `end`, at most as many as a block has, of a parameter whose columns all have four moments.
void step_full(const L2sRuleParameter& p, const L2sRuleConstants& c, Tile& tile, int64_t first, int64_t end) {
    tile.clear_sums();
    for (int64_t row = first; row < end; row += tile.rows) {
        const int64_t count = row + tile.rows < end ? tile.rows : end - row, at = row * p.width;
        tile.load(p, c, row, count);
        Streams s{p.grad + at,  p.m + at,          p.m_slow + at, p.v + at,          p.v_fast + at,
                  p.m_out + at, p.m_slow_out + at, p.v_out + at,  p.v_fast_out + at, p.update + at};
        step_numbers(s, c, tile, count * p.width);
    }
    tile.sum_products(p, p.products + first / kBlockRows * p.product_stride);
}

// The same with two moments, and with what the last group has of its row in the place of the others'.
void step_lean(const L2sRuleParameter& p, const L2sRuleConstants c, int64_t first, int64_t end) {
    const int32_t group = p.groups - 1, width = p.width;
    const float *newest = p.newest, *column_rates = p.column_rates;
    const float weight = p.shared_scale[p.width - 1];
    float sums[3][kMaxWidth] = {};
    for (int64_t row = first; row < end; ++row) {
        const int64_t at = row * width;
        const float *grad = p.grad + at, *old_m = p.m + at, *old_v = p.v + at;
        float *m_out = p.m_out + at, *v_out = p.v_out + at, *update = p.update + at;
        const float correct_m = correction(c.correct_m, p.ages[row]), correct_v = correction(c.correct_v, p.ages[row]);
        const float others = weight / root(p.squares[row * p.group_stride + group], correct_v, c.eps);
        const float gain = p.gains[group * p.rows + row];
#pragma omp simd
        for (int32_t i = 0; i < width; ++i) {
            const float g = grad[i], m = old_m[i];
            const float new_m = first_moment(m, g, c.m), new_v = second_moment(old_v[i], g, c.v);
            sums[0][i] += g * m;
            sums[1][i] += g * g;
            sums[2][i] += m * m;
            const float momentum = new_m * correct_m, own = newest[i] * g;
            const float mixed = (damped(momentum, g, c.damping) + own) / root(new_v, correct_v, c.eps) + momentum * others;
            m_out[i] = new_m;
            v_out[i] = new_v;
            update[i] = mixed * -(gain * column_rates[i]);
        }
    }
    double* products = p.products + first / kBlockRows * p.product_stride;
    for (int32_t kind = 0; kind < 3; ++kind) sum_groups(p, sums[kind], products + kind);
}

// The update of the first columns, which have four moments, after `step_lean`.
void step_first(const L2sRuleParameter& p, const L2sRuleConstants& c, Tile& tile, int64_t first, int64_t end) {
    float grad[kTile], m[kTile], v[kTile], m_out[kTile], v_out[kTile], update[kTile];
    for (int64_t row = first; row < end; row += tile.rows) {
        const int64_t count = row + tile.rows < end ? tile.rows : end - row, at = row * p.full_width;
        tile.load(p, c, row, count);
        for (int64_t i = 0, k = 0; i < count; ++i) {
            for (int32_t column = 0; column < p.full_width; ++column, ++k) {
                const int64_t from = (row + i) * p.width + column;
                grad[k] = p.grad[from];
                m[k] = p.m[from];
                v[k] = p.v[from];
            }
        }
        Streams s{grad,  m,                 p.m_slow + at, v,                 p.v_fast + at,
                  m_out, p.m_slow_out + at, v_out,         p.v_fast_out + at, update};
        step_numbers(s, c, tile, count * p.full_width);
        for (int64_t i = 0, k = 0; i < count; ++i)
            for (int32_t column = 0; column < p.full_width; ++column, ++k)
                p.update[(row + i) * p.width + column] = update[k];
    }
}

}  // namespace

extern "C" L2S_PUBLIC void l2s_rule_step(
    const L2sRuleParameter* parameters, int32_t count, const L2sRuleConstants* constants, int32_t threads) {
#pragma omp parallel num_threads(threads)
    for (int32_t i = 0; i < count; ++i) {
        const L2sRuleParameter& p = parameters[i];
        if (!p.rows) continue;
        Tile tile(p, p.full_width);
#pragma omp for schedule(static) nowait
        for (int64_t first = 0; first < p.rows; first += kBlockRows) {
            const int64_t end = first + kBlockRows < p.rows ? first + kBlockRows : p.rows;
            if (p.full_width == p.width) {
                step_full(p, *constants, tile, first, end);
            } else {
                step_lean(p, *constants, first, end);
                step_first(p, *constants, tile, first, end);
            }
        }
    }
}
