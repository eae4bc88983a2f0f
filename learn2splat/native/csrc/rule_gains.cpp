// Factors on the steps of each Gaussian, from traits relative to the average Gaussian; see optim/learned/traits.py.
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "api.h"
#include "moments.h"
#include "simd.h"

using namespace l2s;

namespace {

constexpr int64_t kBlockRows = 64;
constexpr int32_t kGroups = L2S_RULE_GROUPS;
constexpr int32_t kTraits = kGroups + 2;  // size, loudness of each group, visibility
constexpr int32_t kSums = kTraits + 1;    // and how many have been drawn
constexpr int32_t kMaxGroups = 2;         // of one parameter
constexpr int32_t kMaxWidth = 64;
static_assert(kBlockRows % W == 0, "blocks are whole vectors");

struct Block {
    int64_t first, count;
    alignas(64) float values[kTraits][kBlockRows];  // whose logarithms are the traits
    alignas(64) float seen[kBlockRows];
};

// Sums over each group's columns of the squared gradient, [groups, kBlockRows], of `count` rows from `first`.
void sum_squares(const L2sGainParameter& p, int64_t first, int64_t count, float (*sums)[kBlockRows]) {
    const float* grad = p.grad + first * p.width;
    for (int32_t begin = 0, group = 0; group < p.groups; begin = p.group_ends[group++]) {
        for (int64_t i = 0; i < count; ++i) {
            float sum = 0;
            for (int32_t column = begin; column < p.group_ends[group]; ++column)
                sum += grad[i * p.width + column] * grad[i * p.width + column];
            sums[group][i] = sum;
        }
    }
}

// The same where a row is whole vectors.
void sum_squares_wide(const L2sGainParameter& p, int64_t first, int64_t count, float (*sums)[kBlockRows]) {
    alignas(64) float belongs[kMaxGroups][kMaxWidth] = {};  // 1 for the group's columns
    for (int32_t column = 0, group = 0; group < p.groups; ++group)
        for (; column < p.group_ends[group]; ++column) belongs[group][column] = 1;
    for (int64_t i = 0; i < count; i += W) {
        vf totals[kMaxGroups][W] = {};
        for (int64_t lane = 0; lane < W && i + lane < count; ++lane) {
            const float* grad = p.grad + (first + i + lane) * p.width;
            for (int32_t column = 0; column < p.width; column += W) {
                vf g = load(grad + column), square = g * g;
                for (int32_t group = 0; group < p.groups; ++group)
                    totals[group][lane] = fma(square, load(belongs[group] + column), totals[group][lane]);
            }
        }
        for (int32_t group = 0; group < p.groups; ++group) store(sums[group] + i, sum_each(totals[group]));
    }
}

// Mean square of each group of columns, the second moment from it, and that without bias.
void take_squares(const L2sGains& g, const L2sGainParameter& p, Block& block) {
    alignas(64) float sums[kMaxGroups][kBlockRows];
    if (p.width % W == 0) sum_squares_wide(p, block.first, block.count, sums);
    else sum_squares(p, block.first, block.count, sums);
    for (int32_t begin = 0, group = 0; group < p.groups; begin = p.group_ends[group++]) {
        const int32_t index = p.first_group + group;
        const float share = 1.0f / (p.group_ends[group] - begin);
        for (int64_t i = 0; i < block.count; ++i) {
            const int64_t row = block.first + i;
            const float old = p.squares[row * p.squares_stride + group];
            const float square = first_moment(old, sums[group][i] * share, g.decay_v);
            g.squares_out[row * kGroups + index] = square;
            block.values[1 + index][i] = square * correction(g.correct_v, p.ages[row]);
        }
    }
}

void take_sizes(const L2sGains& g, Block& block) {
    for (int64_t i = 0; i < block.count; ++i) {
        const int64_t row = block.first + i;
        const float visibility = first_moment(g.visibility[row], g.visible[row] ? 1.0f : 0.0f, g.decay_visibility);
        g.visibility_out[row] = visibility;
        block.values[0][i] = g.footprint[row];
        block.values[kTraits - 1][i] = visibility;
        block.seen[i] = visibility > 0 ? 1.0f : 0.0f;
    }
}

// Traits of the block, not yet relative, and their sums over what has been drawn.
void take_traits(const L2sGains& g, Block& block, double* sums) {
    for (int32_t trait = 0; trait < kTraits; ++trait) {
        float* out = g.traits + trait * g.rows + block.first;
        vf total = splat(0.0f);
        for (int64_t i = 0; i < block.count; i += W) {
            vf logarithm = log(max(load(block.values[trait] + i), splat(g.tiny)));
            alignas(64) float found[W];
            store(found, trait == 0 || trait == kTraits - 1 ? logarithm : logarithm * 0.5f);
            const int64_t lanes = block.count - i < W ? block.count - i : W;
            for (int64_t lane = 0; lane < lanes; ++lane) {
                if (trait == 0) {
                    const float* scales = g.log_scales + 3 * (block.first + i + lane);
                    found[lane] = (scales[0] + scales[1] + scales[2]) / 3 - found[lane];
                }
                out[i + lane] = found[lane];
            }
            total = fma(load(found), load(block.seen + i), total);
        }
        sums[trait] = sum(total);
    }
    sums[kTraits] = 0;
    for (int64_t i = 0; i < block.count; ++i) sums[kTraits] += block.seen[i];
}

// Factors of `count` rows from `first` on the steps of one group.
void take_gains(const L2sGains& g, const float* means, int32_t group, int64_t first, int64_t count) {
    const int32_t traits[3] = {0, 1 + group, kTraits - 1};
    for (int64_t i = 0; i < count; i += W) {
        const int64_t lanes = count - i < W ? count - i : W;
        vf log_gain = splat(0.0f);
        for (int32_t k = 0; k < 3; ++k) {
            const float* trait = g.traits + traits[k] * g.rows + first + i;
            vf relative = clamp(load(trait) - means[traits[k]], splat(-g.most), splat(g.most));
            log_gain = log_gain + relative * g.powers[k * kGroups + group];
        }
        alignas(64) float found[W];
        vf gain = exp(clamp(log_gain, splat(-g.most_log_gain), splat(g.most_log_gain)));
        store(found, select(less(splat(0.0f), log_gain * log_gain), gain, splat(1.0f)));  // e^0 to the bit
        for (int64_t lane = 0; lane < lanes; ++lane) g.gains[group * g.rows + first + i + lane] = found[lane];
    }
}

}  // namespace

extern "C" L2S_PUBLIC void l2s_rule_gains(
    const L2sGains* gains, const L2sGainParameter* parameters, int32_t count, int32_t threads) {
    const L2sGains& g = *gains;
    const int64_t blocks = (g.rows + kBlockRows - 1) / kBlockRows;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (int64_t index = 0; index < blocks; ++index) {
            Block block{};
            block.first = index * kBlockRows;
            block.count = block.first + kBlockRows < g.rows ? kBlockRows : g.rows - block.first;
            for (int64_t i = 0; i < block.count * kGroups; ++i) g.squares_out[block.first * kGroups + i] = 0;
            for (int32_t i = 0; i < count; ++i) take_squares(g, parameters[i], block);
            take_sizes(g, block);
            take_traits(g, block, g.sums + index * kSums);
        }
        double totals[kSums] = {};
        for (int64_t index = 0; index < blocks; ++index)
            for (int32_t i = 0; i < kSums; ++i) totals[i] += g.sums[index * kSums + i];
        float means[kTraits];
        for (int32_t i = 0; i < kTraits; ++i)
            means[i] = static_cast<float>(totals[i] / (totals[kTraits] > 1 ? totals[kTraits] : 1));
#pragma omp for schedule(static) collapse(2)
        for (int32_t group = 0; group < kGroups; ++group)
            for (int64_t index = 0; index < blocks; ++index) {
                const int64_t first = index * kBlockRows;
                take_gains(g, means, group, first, first + kBlockRows < g.rows ? kBlockRows : g.rows - first);
            }
    }
}
