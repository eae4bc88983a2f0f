// Vectors of the machine's native width, and the few functions that C++ operators do not give.
//
// The kernels are written once, over `vf` (W floats), `vi` (W int32) and `vm` (W truth values). W is 16 with AVX-512,
// 8 with AVX2 and 4 elsewhere (SSE2, NEON): GCC emulates wider vectors than the machine has, at a tenth of the speed.
// Only AVX-512 needs intrinsics, because its comparisons live in mask registers.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace l2s {

#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX2__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

typedef float vf __attribute__((vector_size(4 * W)));
typedef int32_t vi __attribute__((vector_size(4 * W)));
#if defined(__AVX512F__)
typedef __mmask16 vm;
#else
typedef vi vm;
#endif

#define L2S_INLINE inline __attribute__((always_inline))

L2S_INLINE vf load(const float* p) {
    vf v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

L2S_INLINE void store(float* p, vf v) { std::memcpy(p, &v, sizeof v); }

// Store past the caches, to an aligned address: for what is read much later. Ends with `finish_streams`.
L2S_INLINE void stream(float* p, vf v) {
#if defined(__AVX512F__)
    _mm512_stream_ps(p, v);
#elif defined(__AVX2__)
    _mm256_stream_ps(p, v);
#elif defined(__x86_64__)
    _mm_stream_ps(p, v);
#else
    store(p, v);
#endif
}

L2S_INLINE void finish_streams() {
#if defined(__x86_64__)
    _mm_sfence();
#endif
}

L2S_INLINE vf as_float(vi v) { return (vf)v; }
L2S_INLINE vi as_int(vf v) { return (vi)v; }

L2S_INLINE vi lane_index() {
    vi v;
    for (int i = 0; i < W; ++i) v[i] = i;
    return v;
}

#if defined(__AVX512F__)

L2S_INLINE vf splat(float x) { return _mm512_set1_ps(x); }
L2S_INLINE vi splat_int(int32_t x) { return (vi)_mm512_set1_epi32(x); }
L2S_INLINE vf fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
L2S_INLINE vf fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); }
L2S_INLINE vf min(vf a, vf b) { return _mm512_min_ps(a, b); }
L2S_INLINE vf max(vf a, vf b) { return _mm512_max_ps(a, b); }
L2S_INLINE vf sqrt(vf a) { return _mm512_sqrt_ps(a); }
L2S_INLINE vf floor(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
L2S_INLINE vf ceil(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC); }
L2S_INLINE vi to_int(vf a) { return (vi)_mm512_cvttps_epi32(a); }
L2S_INLINE vf to_float(vi a) { return _mm512_cvtepi32_ps((__m512i)a); }
L2S_INLINE vm less(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
L2S_INLINE vm less_equal(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
L2S_INLINE vm less_equal_int(vi a, vi b) { return _mm512_cmple_epi32_mask((__m512i)a, (__m512i)b); }
L2S_INLINE vm less_equal_if(vm m, vf a, vf b) { return _mm512_mask_cmp_ps_mask(m, a, b, _CMP_LE_OQ); }
L2S_INLINE vf select(vm m, vf a, vf b) { return _mm512_mask_mov_ps(b, m, a); }
L2S_INLINE vi select(vm m, vi a, vi b) { return (vi)_mm512_mask_mov_epi32((__m512i)b, m, (__m512i)a); }
L2S_INLINE vf keep(vm m, vf a) { return _mm512_maskz_mov_ps(m, a); }
L2S_INLINE bool any(vm m) { return m != 0; }
L2S_INLINE uint32_t bits(vm m) { return m; }

// 1 / a to about one unit in the last place, for normal a.
L2S_INLINE vf reciprocal(vf a) {
    vf r = _mm512_rcp14_ps(a);
    return fma(fnma(a, r, splat(1.0f)), r, r);
}

#else

L2S_INLINE vf splat(float x) {
    vf v;
    for (int i = 0; i < W; ++i) v[i] = x;
    return v;
}

L2S_INLINE vi splat_int(int32_t x) {
    vi v;
    for (int i = 0; i < W; ++i) v[i] = x;
    return v;
}

#if defined(__FMA__)
L2S_INLINE vf fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
L2S_INLINE vf fnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); }
#else
L2S_INLINE vf fma(vf a, vf b, vf c) { return a * b + c; }
L2S_INLINE vf fnma(vf a, vf b, vf c) { return c - a * b; }
#endif

L2S_INLINE vf min(vf a, vf b) { return a < b ? a : b; }
L2S_INLINE vf max(vf a, vf b) { return a > b ? a : b; }
L2S_INLINE vi to_int(vf a) { return __builtin_convertvector(a, vi); }
L2S_INLINE vf to_float(vi a) { return __builtin_convertvector(a, vf); }
L2S_INLINE vm less(vf a, vf b) { return a < b; }
L2S_INLINE vm less_equal(vf a, vf b) { return a <= b; }
L2S_INLINE vm less_equal_int(vi a, vi b) { return a <= b; }
L2S_INLINE vm less_equal_if(vm m, vf a, vf b) { return m & (a <= b); }
L2S_INLINE vf select(vm m, vf a, vf b) { return m ? a : b; }
L2S_INLINE vi select(vm m, vi a, vi b) { return m ? a : b; }
L2S_INLINE vf keep(vm m, vf a) { return as_float(m & as_int(a)); }
L2S_INLINE vf reciprocal(vf a) { return 1.0f / a; }

L2S_INLINE vf sqrt(vf a) {
    for (int i = 0; i < W; ++i) a[i] = __builtin_sqrtf(a[i]);
    return a;
}

// Floor and ceiling of |a| < 2^23 (callers clamp first): SSE2 has no rounding instruction.
L2S_INLINE vf floor(vf a) {
    vf whole = to_float(to_int(a));
    return whole - keep(a < whole, splat(1.0f));
}
L2S_INLINE vf ceil(vf a) {
    vf whole = to_float(to_int(a));
    return whole + keep(whole < a, splat(1.0f));
}

// One bit per lane, lane 0 lowest.
L2S_INLINE uint32_t bits(vm m) {
#if defined(__AVX2__)
    return (uint32_t)_mm256_movemask_ps((__m256)m);
#elif defined(__x86_64__)
    return (uint32_t)_mm_movemask_ps((__m128)m);
#else
    uint32_t b = 0;
    for (int i = 0; i < W; ++i) b |= (uint32_t)(m[i] & 1) << i;
    return b;
#endif
}

L2S_INLINE bool any(vm m) { return bits(m) != 0; }

#endif

L2S_INLINE vf clamp(vf x, vf low, vf high) { return max(low, min(x, high)); }

// Adding and subtracting 1.5 * 2^23 rounds |x| < 2^22 to the nearest integer, which is left in the low mantissa bits.
constexpr float kRoundingShift = 12582912.0f;

// 2^f for |f| <= 1/2: minimax polynomial, relative error 7.5e-8.
L2S_INLINE vf exp2_fraction(vf f) {
    vf p = splat(1.3276471987e-03f);
    p = fma(p, f, splat(9.6755413344e-03f));
    p = fma(p, f, splat(5.5507132735e-02f));
    p = fma(p, f, splat(2.4022119724e-01f));
    p = fma(p, f, splat(6.9314696706e-01f));
    return fma(p, f, splat(1.0000000717f));
}

// 2^x for -126 <= x <= 127; meaningless elsewhere.
#if defined(__AVX512F__)
// Bits of 2^(i / 32), less i << 18: adding n << 18 yields 2^(n / 32) for all n = i modulo 32.
alignas(64) constexpr int32_t kExp2Steps[32] = {
    0x3f800000, 0x3f7ecd87, 0x3f7daac3, 0x3f7c980f, 0x3f7b95c2, 0x3f7aa43a, 0x3f79c3d3, 0x3f78f4f0,
    0x3f7837f0, 0x3f778d3a, 0x3f76f532, 0x3f767043, 0x3f75fed7, 0x3f75a15b, 0x3f75583f, 0x3f7523f6,
    0x3f7504f3, 0x3f74fbaf, 0x3f7508a4, 0x3f752c4d, 0x3f75672a, 0x3f75b9be, 0x3f76248c, 0x3f76a81e,
    0x3f7744fd, 0x3f77fbb8, 0x3f78ccdf, 0x3f79b907, 0x3f7ac0c7, 0x3f7be4ba, 0x3f7d257d, 0x3f7e83b3,
};
L2S_INLINE vf exp2(vf x) {
    constexpr float shift = kRoundingShift / 32;  // rounds to 1/32
    vf shifted = x + shift, f = x - (shifted - shift);
    __m512i low = _mm512_load_si512(kExp2Steps), high = _mm512_load_si512(kExp2Steps + 16);
    vi steps = (vi)_mm512_permutex2var_epi32(low, (__m512i)shifted, high);
    vf step = as_float(steps + (as_int(shifted) << 18));
    return fma(step, f * fma(f, splat(2.40226507e-01f), splat(6.93157344e-01f)), step);  // error 1.6e-7
}
#else
L2S_INLINE vf exp2(vf x) {
    vf shifted = x + kRoundingShift;
    vf f = x - (shifted - kRoundingShift);
    return as_float(as_int(exp2_fraction(f)) + (as_int(shifted) << 23));
}
#endif

// e^x for |x| <= 87 (clamped), relative error about 1e-7: the whole part is removed with ln 2 in two pieces.
L2S_INLINE vf exp(vf x) {
    constexpr float log2_e = 1.44269504f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
    x = clamp(x, splat(-87.0f), splat(87.0f));
    vf shifted = fma(x, splat(log2_e), splat(kRoundingShift));
    vf whole = shifted - kRoundingShift;
    vf rest = fnma(whole, splat(ln2_low), fnma(whole, splat(ln2_high), x));
    return as_float(as_int(exp2_fraction(rest * log2_e)) + (as_int(shifted) << 23));
}

// Natural logarithm of normal positive x: 2 artanh((m - 1) / (m + 1)) of the mantissa m in [sqrt(1/2), sqrt(2)).
L2S_INLINE vf log(vf x) {
    constexpr int32_t sqrt_half = 0x3f3504f3;
    vi exponent = (as_int(x) - sqrt_half) >> 23;
    vf m1 = as_float(as_int(x) - (exponent << 23)) - 1.0f;
    vf s = m1 / (m1 + 2.0f), z = s * s;
    vf series = fma(z, fma(z, fma(z, splat(2.0f / 9), splat(2.0f / 7)), splat(2.0f / 5)), splat(2.0f / 3));
    return fma(to_float(exponent), splat(0.693147181f), fma(s * z, series, s + s));
}

L2S_INLINE float sum(vf v) {
    float total = 0;
    for (int i = 0; i < W; ++i) total += v[i];
    return total;
}

// From h = 4 on, in each group of 2h lanes: the pairwise sums of a's halves, then those of b's. Below, in each group of
// four lanes: the sums of a's neighbours, then those of b's. Two such steps order the same, and their shuffle is fast.
template <int h>
L2S_INLINE vf fold(vf a, vf b) {
    vi first, second;
    for (int i = 0; i < W; ++i) {
        constexpr int size = h < 4 ? 4 : 2 * h;
        int group = i / size * size, within = i % (size / 2), from = i % size < size / 2 ? 0 : W;
        first[i] = from + group + (h < 4 ? 2 * within : within);
        second[i] = first[i] + (h < 4 ? 1 : h);
    }
    return __builtin_shuffle(a, b, first) + __builtin_shuffle(a, b, second);
}

// Lane k of the result is the sum over all lanes of v[k]; v holds W vectors. Known zeros fold away at compile time.
template <int h = W / 2>
L2S_INLINE vf sum_each(const vf* v) {
    if constexpr (h == 0) {
        return v[0];
    } else {
        return fold<h>(sum_each<h / 2>(v), sum_each<h / 2>(v + h));
    }
}

// Exchange bit h of the vector's number with bit h of the lane's number; over all bits that is the transpose.
template <int h = W / 2>
L2S_INLINE void transpose(vf* m) {
    vi first, second;
    for (int i = 0; i < W; ++i) {
        first[i] = i & h ? W + i - h : i;
        second[i] = i & h ? W + i : i + h;
    }
    for (int i = 0; i < W; ++i) {
        if (i & h) continue;
        vf a = m[i], b = m[i + h];
        m[i] = __builtin_shuffle(a, b, first);
        m[i + h] = __builtin_shuffle(a, b, second);
    }
    if constexpr (h > 1) transpose<h / 2>(m);
}

// Every third of 3 W floats, from the one of number c on.
template <int c>
L2S_INLINE vf every_third(const float* p) {
    vi early, all;
    for (int i = 0; i < W; ++i) {
        int from = 3 * i + c;
        early[i] = from < 2 * W ? from : 0;
        all[i] = from < 2 * W ? i : from - W;
    }
    return __builtin_shuffle(__builtin_shuffle(load(p), load(p + W), early), load(p + 2 * W), all);
}

// Vector number k of the three of a b c a b c ...
template <int k>
L2S_INLINE vf interleaved(vf a, vf b, vf c) {
    vi two, all;
    for (int i = 0; i < W; ++i) {
        int from = (k * W + i) / 3, channel = (k * W + i) % 3;
        two[i] = channel < 2 ? channel * W + from : 0;
        all[i] = channel < 2 ? i : W + from;
    }
    return __builtin_shuffle(__builtin_shuffle(a, b, two), c, all);
}

// `lanes` rows that lie `stride` floats apart -> one vector per field.
L2S_INLINE void gather_rows(const float* rows, int64_t stride, int fields, int lanes, vf* out) {
    const int whole = lanes == W ? fields / W * W : 0;
    for (int k = 0; k < whole; k += W) {
        for (int i = 0; i < W; ++i) out[k + i] = load(rows + i * stride + k);
        transpose(out + k);
    }
    for (int i = 0; i < lanes; ++i)
        for (int k = whole; k < fields; ++k) reinterpret_cast<float*>(out + k)[i] = rows[i * stride + k];
}

// The other way round.
L2S_INLINE void scatter_rows(const vf* in, int fields, int lanes, float* rows, int64_t stride) {
    const int whole = lanes == W ? fields / W * W : 0;
    for (int k = 0; k < whole; k += W) {
        vf block[W];
        for (int i = 0; i < W; ++i) block[i] = in[k + i];
        transpose(block);
        for (int i = 0; i < W; ++i) store(rows + i * stride + k, block[i]);
    }
    for (int i = 0; i < lanes; ++i)
        for (int k = whole; k < fields; ++k) rows[i * stride + k] = reinterpret_cast<const float*>(in + k)[i];
}

}  // namespace l2s
