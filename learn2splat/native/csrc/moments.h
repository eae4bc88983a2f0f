// Running moments and the direction that Adam and the learned rule have in common; shared so that both round alike.
#pragma once

#include <cmath>

#include "api.h"

namespace l2s {

inline float correction(const L2sCorrection& c, int32_t age) { return c.table[age < c.last ? age : c.last]; }

// a b + c, in one rounding where the build has such an instruction: which products the compiler fuses differs by place.
inline float multiply_add(float a, float b, float c) {
#if defined(__FMA__)
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

inline float first_moment(float old, float grad, float decay) { return multiply_add(1 - decay, grad - old, old); }

inline float second_moment(float old, float grad, float decay) {
    return multiply_add(decay, old, (1 - decay) * grad * grad);
}

// `correct` is 1 / sqrt(1 - decay^t).
inline float root(float second, float correct, float eps) { return multiply_add(std::sqrt(second), correct, eps); }

// What is divided by the root of the second moment; `momentum` is the first moment, corrected.
inline float damped(float momentum, float grad, float damping) { return multiply_add(damping, grad, momentum); }

}  // namespace l2s
