// Real spherical harmonics up to degree 3 and their derivative by the direction, for W directions at once.
// Signs and order are 3DGS's; learn2splat/scene/harmonics.py is the readable definition.
#pragma once

#include "simd.h"

namespace l2s {

constexpr int kMaxCoefficients = 16;
constexpr float kC0 = 0.28209479177387814f, kC1 = 0.4886025119029199f;
constexpr float kC2[3] = {1.0925484305920792f, 0.31539156525252005f, 0.5462742152960396f};
constexpr float kC3[5] = {0.5900435899266435f, 2.890611442640554f, 0.4570457994644658f, 0.3731763325901154f,
                          1.445305721320277f};

struct Vec3 {
    vf x, y, z;
};

L2S_INLINE void harmonics(Vec3 d, int degree, vf basis[kMaxCoefficients]) {
    vf x = d.x, y = d.y, z = d.z;
    basis[0] = splat(kC0);
    if (degree < 1) return;
    basis[1] = -kC1 * y;
    basis[2] = kC1 * z;
    basis[3] = -kC1 * x;
    if (degree < 2) return;
    vf xx = x * x, yy = y * y, zz = z * z;
    basis[4] = kC2[0] * x * y;
    basis[5] = -kC2[0] * y * z;
    basis[6] = kC2[1] * (2.0f * zz - xx - yy);
    basis[7] = -kC2[0] * x * z;
    basis[8] = kC2[2] * (xx - yy);
    if (degree < 3) return;
    basis[9] = -kC3[0] * y * (3.0f * xx - yy);
    basis[10] = kC3[1] * x * y * z;
    basis[11] = -kC3[2] * y * (4.0f * zz - xx - yy);
    basis[12] = kC3[3] * z * (2.0f * zz - 3.0f * xx - 3.0f * yy);
    basis[13] = -kC3[2] * x * (4.0f * zz - xx - yy);
    basis[14] = kC3[4] * z * (xx - yy);
    basis[15] = -kC3[0] * x * (xx - 3.0f * yy);
}

// Derivative of sum_k s[k] basis[k] by the direction, its three components taken as independent.
L2S_INLINE Vec3 harmonics_derivative(Vec3 d, int degree, const vf s[kMaxCoefficients]) {
    Vec3 g = {vf{}, vf{}, vf{}};
    if (degree < 1) return g;
    vf x = d.x, y = d.y, z = d.z;
    g.x = -kC1 * s[3];
    g.y = -kC1 * s[1];
    g.z = kC1 * s[2];
    if (degree < 2) return g;
    g.x += kC2[0] * (y * s[4] - z * s[7]) + 2.0f * x * (kC2[2] * s[8] - kC2[1] * s[6]);
    g.y += kC2[0] * (x * s[4] - z * s[5]) - 2.0f * y * (kC2[2] * s[8] + kC2[1] * s[6]);
    g.z += -kC2[0] * (y * s[5] + x * s[7]) + 4.0f * kC2[1] * z * s[6];
    if (degree < 3) return g;
    vf xx = x * x, yy = y * y, zz = z * z, xy = x * y, xz = x * z, yz = y * z;
    g.x += -kC3[0] * (6.0f * xy * s[9] + 3.0f * (xx - yy) * s[15]) + kC3[1] * yz * s[10] +
           kC3[2] * (2.0f * xy * s[11] - (4.0f * zz - 3.0f * xx - yy) * s[13]) - 6.0f * kC3[3] * xz * s[12] +
           2.0f * kC3[4] * xz * s[14];
    g.y += -kC3[0] * (3.0f * (xx - yy) * s[9] - 6.0f * xy * s[15]) + kC3[1] * xz * s[10] -
           kC3[2] * ((4.0f * zz - xx - 3.0f * yy) * s[11] - 2.0f * xy * s[13]) - 6.0f * kC3[3] * yz * s[12] -
           2.0f * kC3[4] * yz * s[14];
    g.z += kC3[1] * xy * s[10] - 8.0f * kC3[2] * (yz * s[11] + xz * s[13]) +
           3.0f * kC3[3] * (2.0f * zz - xx - yy) * s[12] + kC3[4] * (xx - yy) * s[14];
    return g;
}

}  // namespace l2s
