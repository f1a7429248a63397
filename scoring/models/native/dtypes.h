// Vectors of 16 numbers: their dtypes, their dot products, their exponential.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace {

using Unit = uint32_t;
constexpr int LANES = 16;

struct BFloat16 {
    using T = uint16_t;
    static constexpr int PER_UNIT = 2;
    static __m512 dot(__m512 sum, __m512i a, __m512i b) {
        return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
    }
    static __m512 load(const T* p) {
        return _mm512_castsi512_ps(
            _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
    }
    static void store(T* p, __m512 v) {
        _mm256_storeu_si256((__m256i*)p, (__m256i)_mm512_cvtneps_pbh(v));
    }
    static __m512 round(__m512 v) {
        return _mm512_castsi512_ps(
            _mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(v)), 16));
    }
};

struct Float32 {
    using T = float;
    static constexpr int PER_UNIT = 1;
    static __m512 dot(__m512 sum, __m512i a, __m512i b) {
        return _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum);
    }
    static __m512 load(const T* p) { return _mm512_loadu_ps(p); }
    static void store(T* p, __m512 v) { _mm512_storeu_ps(p, v); }
    static __m512 round(__m512 v) { return v; }
};

constexpr float LOG2_E = 1.44269504f;

// 2 to the x, within 2 units in the last place; 0 far below, infinity far above. NaN stays NaN.
__m512 exp2_16(__m512 x) {
    __m512 r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);  // x - floor(x)
    __m512 p = _mm512_set1_ps(1.87757669e-3f);
    for (float c : {8.98934063e-3f, 5.58263175e-2f, 2.40153611e-1f, 6.93153083e-1f, 9.9999994e-1f})
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
    return _mm512_scalef_ps(p, x);  // times 2 to the floor of x
}

}  // namespace
