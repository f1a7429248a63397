// The norm and the MLP's gate: one pass over memory each.
#pragma once

#include <cmath>

#include "dtypes.h"
#include "team.h"

namespace {

template <class D>
void norm_row(const typename D::T* x, const typename D::T* weight, typename D::T* out, long width,
              float eps) {
    __m512 squares = _mm512_setzero_ps();
    for (long i = 0; i < width; i += LANES) {
        __m512 v = D::load(x + i);
        squares = _mm512_fmadd_ps(v, v, squares);
    }
    __m512 scale = _mm512_set1_ps(1.0f / std::sqrt(_mm512_reduce_add_ps(squares) / width + eps));
    for (long i = 0; i < width; i += LANES) {
        __m512 normed = D::round(_mm512_mul_ps(D::load(x + i), scale));
        D::store(out + i, _mm512_mul_ps(D::load(weight + i), normed));
    }
}

// residual: null, or added first; the sum goes to `sum`.
template <class D>
void rms_norm(const typename D::T* x, const typename D::T* residual, const typename D::T* weight,
              typename D::T* out, typename D::T* sum, long rows, long width, float eps,
              int threads) {
#pragma omp parallel for num_threads(team(rows, threads))
    for (long r = 0; r < rows; r++) {
        const typename D::T* source = x + r * width;
        if (residual) {
            for (long i = r * width; i < (r + 1) * width; i += LANES)
                D::store(sum + i, _mm512_add_ps(D::load(residual + i), D::load(x + i)));
            source = sum + r * width;
        }
        norm_row<D>(source, weight, out + r * width, width, eps);
    }
}

template <class D>
void swiglu(const typename D::T* gate_up, typename D::T* out, long rows, long width, int threads) {
#pragma omp parallel for num_threads(team(rows, threads))
    for (long r = 0; r < rows; r++) {
        const typename D::T *gate = gate_up + r * 2 * width, *up = gate + width;
        for (long i = 0; i < width; i += LANES) {
            __m512 g = D::load(gate + i), one = _mm512_set1_ps(1.0f);
            __m512 e = exp2_16(_mm512_mul_ps(g, _mm512_set1_ps(-LOG2_E)));
            __m512 silu = _mm512_div_ps(g, _mm512_add_ps(one, e));
            D::store(out + r * width + i, _mm512_mul_ps(D::load(up + i), silu));
        }
    }
}

}  // namespace
