// Linear layers. A packed weight is a list of panels, one for 32 outputs: for each unit of the
// input, the units of the 32 outputs that are multiplied with it.
#pragma once

#include <omp.h>

#include <algorithm>
#include <vector>

#include "dtypes.h"

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

// x: the tile's rows, rearranged to (units, ROWS).
template <class D, int ROWS>
void linear_tile(const Unit* x, long units, const __m512i* panel, Ahead ahead, const typename D::T* bias,
                 typename D::T* out, long num_out, int cols) {
    __m512 sums[ROWS][2];
    for (int r = 0; r < ROWS; r++) sums[r][0] = sums[r][1] = _mm512_setzero_ps();
    for (long u = 0; u < units; u++) {
        __m512i left = panel[2 * u], right = panel[2 * u + 1];
        if (ROWS > 2 && ahead.even) _mm_prefetch(ahead.even + u * ahead.step, _MM_HINT_T0);
        if (ROWS > 2 && ahead.odd) _mm_prefetch(ahead.odd + u * ahead.step, _MM_HINT_T0);
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; r++) {
            __m512i value = _mm512_set1_epi32((int)x[u * ROWS + r]);
            sums[r][0] = D::dot(sums[r][0], value, left);
            sums[r][1] = D::dot(sums[r][1], value, right);
        }
    }
    for (int r = 0; r < ROWS; r++) {
        alignas(64) typename D::T row[PANEL];
        for (int half = 0; half < 2; half++) {
            __m512 sum = sums[r][half];
            if (bias) sum = _mm512_add_ps(sum, D::load(bias + half * LANES));
            D::store(row + half * LANES, sum);
        }
        std::copy(row, row + cols, out + r * num_out);
    }
}

template <class D>
void linear_rows(long rows, const Unit* x, long units, const __m512i* panel, Ahead ahead,
                 const typename D::T* bias, typename D::T* out, long num_out, int cols) {
    switch (rows) {
#define CASE(n) \
    case n: return linear_tile<D, n>(x, units, panel, ahead, bias, out, num_out, cols);
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
        CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#undef CASE
    }
}

// bias: null, or padded to whole panels.
template <class D>
void linear(const Unit* x, const __m512i* packed, const typename D::T* bias, typename D::T* out,
            long rows, long units, long num_out, int threads) {
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
                int cols = (int)std::min<long>(PANEL, num_out - p * PANEL);
                const __m512i* panel = packed + p * 2 * units;
                const __m512i* next = p + 1 < last ? panel + 2 * units : nullptr;
                for (long t = 0; t < tiles; t++) {
                    long a = num * t / tiles, size = num * (t + 1) / tiles - a;
                    linear_rows<D>(size, rearranged.data() + a * units, units, panel,
                                   ahead_of(t, tiles, next, units),
                                   bias ? bias + p * PANEL : nullptr,
                                   out + (start + a) * num_out + p * PANEL, num_out, cols);
                }
            }
        }
    }
}

}  // namespace
