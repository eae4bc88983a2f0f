// The yardstick of the benchmark: what a core does when it only multiplies and adds.
#include <algorithm>

#include "rendering.h"

using namespace l2s;

extern "C" double l2s_peak_flops() {
    constexpr int chains = 12, rounds = 400000, repeats = 15;  // more chains than latency x throughput of any core
    double flops[repeats];
    for (double& result : flops) {
        vf sums[chains], factor = splat(0.999f), addend = splat(0.001f);
        for (int i = 0; i < chains; ++i) sums[i] = splat(1.0f + 0.01f * i);
        double begin = thread_seconds();
        for (int k = 0; k < rounds; ++k) {
            for (int i = 0; i < chains; ++i) sums[i] = fma(sums[i], factor, addend);
            asm volatile("" ::: "memory");  // keeps the loop
        }
        result = 2.0 * W * chains * rounds / (thread_seconds() - begin);
        vf total = {};
        for (int i = 0; i < chains; ++i) total += sums[i];
        volatile float sink = sum(total);
        (void)sink;
    }
    std::nth_element(flops, flops + repeats / 2, flops + repeats);  // the median: a virtual CPU's clock may jump
    return flops[repeats / 2];
}
