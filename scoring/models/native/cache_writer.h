// Rotary positions, and keys and values to their places in the cache (its layout: attention.h).
#pragma once

#include <algorithm>
#include <vector>

#include "dtypes.h"
#include "team.h"

namespace {

template <class D>
void rotate(const typename D::T* x, const typename D::T* cos, const typename D::T* sin,
            typename D::T* out, long head_dim) {
    long half = head_dim / 2;
    for (long i = 0; i < half; i += LANES) {
        __m512 a = D::load(x + i), b = D::load(x + half + i);
        __m512 first = _mm512_mul_ps(b, D::load(sin + i));
        __m512 second = _mm512_mul_ps(a, D::load(sin + half + i));
        D::store(out + i, _mm512_fmsub_ps(a, D::load(cos + i), first));
        D::store(out + half + i, _mm512_fmadd_ps(b, D::load(cos + half + i), second));
    }
}

// Tokens first … first + num of the batch, whose places in the cache follow one another within 16
// that share their lines of memory: lane, the first one's among these. start: of the 16 tokens'
// first numbers in the cache.
struct Run {
    long first, num, lane, start;
};

template <class D>
struct CacheWriter {
    using T = typename D::T;
    const T *qkv, *cos, *sin;
    T *query, *keys, *values;
    const int64_t* slots;
    long heads, head_dim, block_size;

    std::vector<Run> runs_of(long rows) const {
        std::vector<Run> runs;
        for (long r = 0; r < rows; r++) {
            long lane = slots[r] % LANES;
            if (r && lane && slots[r] == slots[r - 1] + 1) {
                runs.back().num++;
            } else {
                long token = slots[r] % block_size, block = slots[r] - token;
                runs.push_back({r, 1, lane, (block * heads + token - lane) * head_dim});
            }
        }
        return runs;
    }

    T* lines(T* cache, const Run& run, long head) const {
        return cache + run.start + head * block_size * head_dim;
    }

    void write_key(const Run& run, long i, long head) const {
        alignas(64) T key[512];
        long width = heads * head_dim, column = head * head_dim, r = run.first + i;
        const T *from = qkv + r * 3 * width + column, *c = cos + r * head_dim, *s = sin + r * head_dim;
        rotate<D>(from, c, s, query + r * width + column, head_dim);
        rotate<D>(from + width, c, s, key, head_dim);
        Unit* to = (Unit*)lines(keys, run, head) + run.lane + i;
        for (long u = 0; u < head_dim / D::PER_UNIT; u++) to[u * LANES] = ((const Unit*)key)[u];
    }

    const T* value_of(long r, long head) const {
        return qkv + (r * 3 + 2) * heads * head_dim + head * head_dim;
    }

    void write_values(const Run& run, long head) const {
        T* to = lines(values, run, head);
        for (long i = 0; i < run.num; i++) {
            const T* value = value_of(run.first + i, head);
            long lane = run.lane + i;
            if constexpr (D::PER_UNIT == 1) {
                std::copy_n(value, head_dim, to + lane * head_dim);
            } else if (lane % 2) {
                write_pairs(nullptr, value, to + (lane - 1) * head_dim);
            } else {  // the other's place may hold anything, even a NaN: it is written, or cleared
                bool is_followed = i + 1 < run.num;
                const T* other = is_followed ? value_of(run.first + i + 1, head) : nullptr;
                write_pairs(value, other, to + lane * head_dim);
                i += is_followed;
            }
        }
    }

    // Two tokens' 16-bit numbers as units. No first: what is there stays. No second: zeros.
    void write_pairs(const T* first, const T* second, T* to) const {
        for (long d = 0; d < head_dim; d += LANES) {
            __m512i low, high = _mm512_setzero_si512(), *place = (__m512i*)(to + 2 * d);
            if (first) low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(first + d)));
            else low = _mm512_and_si512(_mm512_loadu_si512(place), _mm512_set1_epi32(0xffff));
            if (second) high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(second + d)));
            _mm512_storeu_si512(place, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
        }
    }

    // A store that waits for its line would hold up all stores after it.
    void fetch(const Run& run, long head) const {
        for (T* cache : {keys, values}) {
            const char* line = (const char*)lines(cache, run, head);
            for (long i = 0; i < LANES * head_dim * (long)sizeof(T); i += 64)
                _mm_prefetch(line + i, _MM_HINT_ET0);
        }
    }

    void write(const Run& run) const {
        for (long head = 0; head < heads; head++) {
            if (head + 1 < heads) fetch(run, head + 1);
            for (long i = 0; i < run.num; i++) write_key(run, i, head);
            write_values(run, head);
        }
    }

    void write_all(long rows, int threads) const {
        std::vector<Run> runs = runs_of(rows);
#pragma omp parallel for num_threads(team(rows, threads))
        for (size_t i = 0; i < runs.size(); i++) write(runs[i]);
    }
};

}  // namespace
