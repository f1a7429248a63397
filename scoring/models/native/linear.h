// Linear layers. A packed weight is a list of panels, one for 32 outputs: for each unit of the
// input, the units of the 32 outputs that are multiplied with it.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "dtypes.h"
#include "team.h"

namespace {

constexpr int PANEL = 2 * LANES;
constexpr int MAX_TILE = 12;  // rows at a time: 24 registers of sums

// Lines of the next panel that a tile fetches while it computes, for each unit a line of both; null:
// none. The memory would stand idle else while a panel's second and later tiles are computed.
struct Ahead {
    const __m512i *even, *odd;
    long step;
};

Ahead ahead_of(long tile, long tiles, const __m512i* next, long units) {
    if (!next || tile + 2 < tiles) return {nullptr, nullptr, 0};
    if (tiles == 1) return {next, next + 1, 2};
    return {tile + 1 == tiles ? next + units : next, nullptr, 1};  // a half each
}

// How products are added up, and what becomes of the sum of a row and 16 outputs: in the dtype …
template <class D>
struct Plain {
    using Sum = __m512;
    const typename D::T* bias;  // null, or padded to whole panels
    static Sum zero() { return _mm512_setzero_ps(); }
    static Sum dot(Sum sum, __m512i a, __m512i b) { return D::dot(sum, a, b); }
    __m512 finish(Sum sum, long, long output) const {
        return bias ? _mm512_add_ps(sum, D::load(bias + output)) : sum;
    }
};

// … or in bytes, four in a unit: rows as `quantize` makes them, weights signed and with a scale for
// each output. The whole numbers come out exact; offsets are what the rows' 128 adds to them.
struct Int8 {
    using Sum = __v16si;  // not __m512i: the compiler would keep copies of that in memory
    const float *row_scales, *scales;
    const int32_t* offsets;
    static Sum zero() { return Sum{}; }
    static Sum dot(Sum sum, __m512i a, __m512i b) {
        return (Sum)_mm512_dpbusd_epi32((__m512i)sum, a, b);
    }
    __m512 finish(Sum sum, long row, long output) const {
        __m512i whole = _mm512_sub_epi32((__m512i)sum, _mm512_loadu_si512(offsets + output));
        __m512 scale = _mm512_mul_ps(_mm512_set1_ps(row_scales[row]), _mm512_loadu_ps(scales + output));
        return _mm512_mul_ps(_mm512_cvtepi32_ps(whole), scale);
    }
};

// Rows of numbers → bytes from 1 to 255, 128 for zero, and each row's scale: its largest number's
// share of 127. A row with NaN or infinity gets such a scale, so that the result is none, either.
template <class D>
void quantize(const typename D::T* x, uint8_t* bytes, float* scales, long rows, long width,
              int threads) {
#pragma omp parallel for num_threads(team(rows, threads))
    for (long r = 0; r < rows; r++) {
        __m512 top = _mm512_setzero_ps();
        __mmask16 nan = 0;
        for (long i = r * width; i < (r + 1) * width; i += LANES) {
            __m512 v = D::load(x + i);
            nan |= _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
            top = _mm512_max_ps(top, _mm512_abs_ps(v));
        }
        float largest = _mm512_reduce_max_ps(top);
        scales[r] = nan ? NAN : largest / 127;
        __m512 inverse = _mm512_set1_ps(largest > 0 ? 127 / largest : 0);
        for (long i = r * width; i < (r + 1) * width; i += LANES) {
            __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(D::load(x + i), inverse));
            whole = _mm512_add_epi32(whole, _mm512_set1_epi32(128));
            _mm_storeu_si128((__m128i*)(bytes + i), _mm512_cvtepi32_epi8(whole));
        }
    }
}

// x: the tile's rows, rearranged to (units, ROWS); row, output: its first ones.
template <class D, class M, int ROWS>
void linear_tile(const M& m, const Unit* x, long units, const __m512i* panel, Ahead ahead, long row,
                 long output, typename D::T* out, long num_out) {
    typename M::Sum sums[ROWS][2];
    for (int r = 0; r < ROWS; r++) sums[r][0] = sums[r][1] = M::zero();
    for (long u = 0; u < units; u++) {
        __m512i left = panel[2 * u], right = panel[2 * u + 1];
        if (ROWS > 2 && ahead.even) _mm_prefetch(ahead.even + u * ahead.step, _MM_HINT_T0);
        if (ROWS > 2 && ahead.odd) _mm_prefetch(ahead.odd + u * ahead.step, _MM_HINT_T0);
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; r++) {
            __m512i value = _mm512_set1_epi32((int)x[u * ROWS + r]);
            sums[r][0] = M::dot(sums[r][0], value, left);
            sums[r][1] = M::dot(sums[r][1], value, right);
        }
    }
    long cols = std::min<long>(PANEL, num_out - output);
    for (int r = 0; r < ROWS; r++) {
        alignas(64) typename D::T numbers[PANEL];
        for (int half = 0; half < 2; half++) {
            long first = half * LANES;
            D::store(numbers + first, m.finish(sums[r][half], row + r, output + first));
        }
        std::copy(numbers, numbers + cols, out + (row + r) * num_out + output);
    }
}

template <class D, class M>
void linear_rows(long rows, const M& m, const Unit* x, long units, const __m512i* panel, Ahead ahead,
                 long row, long output, typename D::T* out, long num_out) {
    switch (rows) {
#define CASE(n) \
    case n: return linear_tile<D, M, n>(m, x, units, panel, ahead, row, output, out, num_out);
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
        CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#undef CASE
    }
}

template <class D, class M>
void linear(const M& m, const Unit* x, const __m512i* packed, typename D::T* out, long rows,
            long units, long num_out, int threads) {
    long panels = (num_out + PANEL - 1) / PANEL;
    // Rows that stay in the second-level cache while the panels pass by.
    long chunk = std::max(1L, (768L << 10) / (units * 4 * MAX_TILE)) * MAX_TILE;
#pragma omp parallel num_threads(threads)
    {
        long id = omp_get_thread_num(), team = omp_get_num_threads();
        long first = panels * id / team, last = panels * (id + 1) / team;
        // As they lie, the rows of a tile may compete for the same places in the first-level cache.
        std::vector<Unit> rearranged(std::min(rows, chunk) * units);
        for (long start = 0; start < rows; start += chunk) {
            long num = std::min(rows - start, chunk), tiles = (num + MAX_TILE - 1) / MAX_TILE;
            for (long t = 0; t < tiles; t++) {
                long a = num * t / tiles, size = num * (t + 1) / tiles - a;
                for (long r = 0; r < size; r++)
                    for (long u = 0; u < units; u++)
                        rearranged[a * units + u * size + r] = x[(start + a + r) * units + u];
            }
            for (long p = first; p < last; p++) {
                const __m512i* panel = packed + p * 2 * units;
                const __m512i* next = p + 1 < last ? panel + 2 * units : nullptr;
                for (long t = 0; t < tiles; t++) {
                    long a = num * t / tiles, size = num * (t + 1) / tiles - a;
                    linear_rows<D>(size, m, rearranged.data() + a * units, units, panel,
                                   ahead_of(t, tiles, next, units), start + a, p * PANEL, out,
                                   num_out);
                }
            }
        }
    }
}

template <class D>
void linear_int8(const typename D::T* x, const __m512i* packed, const float* scales,
                 const int32_t* offsets, typename D::T* out, long rows, long units, long num_out,
                 int threads) {
    // Kept from call to call: new pages would cost more than the work.
    static thread_local std::vector<Unit> bytes;
    static thread_local std::vector<float> row_scales;
    if ((long)bytes.size() < rows * units) bytes.resize(rows * units);
    if ((long)row_scales.size() < rows) row_scales.resize(rows);
    quantize<D>(x, (uint8_t*)bytes.data(), row_scales.data(), rows, units * 4, threads);
    linear<D>(Int8{row_scales.data(), scales, offsets}, bytes.data(), packed, out, rows, units,
              num_out, threads);
}

}  // namespace
