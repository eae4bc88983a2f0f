// Running moments and the direction that Adam and the learned rule have in common; shared so that both round alike.
#pragma once

#include <cmath>

#include "api.h"

namespace l2s {

inline float correction(const L2sCorrection& c, int32_t age) { return c.table[age < c.last ? age : c.last]; }

inline float first_moment(float old, float grad, float decay) { return old + (1 - decay) * (grad - old); }

inline float second_moment(float old, float grad, float decay) { return decay * old + (1 - decay) * grad * grad; }

// `correct` is 1 / sqrt(1 - decay^t).
inline float root(float second, float correct, float eps) { return std::sqrt(second) * correct + eps; }

// `momentum` is the first moment, corrected.
inline float base_direction(float momentum, float grad, float damping, float root_v) {
    return (momentum + damping * grad) / root_v;
}

}  // namespace l2s
