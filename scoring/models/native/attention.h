// Attention over the paged cache. Within the memory of a block, values lie so that the loops below
// read them as they come, 16 tokens of a head after the other:
//
//     keys    (heads, block_size / 16, units of a key, 16 tokens)          of units
//     values  (heads, block_size / tokens in a unit, head_dim)             of units
//
// A unit of the values holds one number of each of its tokens: of two neighbours for bfloat16.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "dtypes.h"

namespace {

constexpr int GROUP = 64;       // keys at a time
constexpr int PARTS = GROUP / LANES;
constexpr float SLACK = 8;      // how far the weights' exponents may go beyond 0
constexpr float UNSEEN = -1e30f;
constexpr int QUERY_TILE = 64;  // queries of one sequence that share what is read

template <class D>
struct Attention {
    using T = typename D::T;
    const T *query, *keys, *values;
    T* out;
    const int32_t *tables, *query_starts, *context_lens;
    long table_width, block_size, heads, head_dim;
    bool is_causal;  // else every query sees all keys

    long units() const { return head_dim / D::PER_UNIT; }

    // Queries first … first + num of a row, for some heads.
    struct Task {
        long row, first, num, head, num_heads;
    };

    // One thread's working memory. It is kept from call to call: new pages would cost more than the
    // attention of a short sequence. sums, total (in 16 parts), top: by head and query of the task.
    struct Scratch {
        std::vector<char> memory;
        std::vector<long> offsets;  // of each 16 tokens' keys, and values, of the first head
        float *sums, *top, *total;
        alignas(64) Unit weights[QUERY_TILE][GROUP];

        void prepare(long num_states, long head_dim) {
            long sum_bytes = num_states * head_dim * 4, total_bytes = num_states * LANES * 4;
            memory.resize(64 + sum_bytes + total_bytes + num_states * 4);
            char* p = (char*)(((uintptr_t)memory.data() + 63) & ~(uintptr_t)63);
            sums = (float*)p;
            total = (float*)(p += sum_bytes);
            top = (float*)(p += total_bytes);
            std::fill(sums, sums + num_states * head_dim, 0.0f);
            std::fill(top, top + num_states, UNSEEN);
            std::fill(total, total + num_states * LANES, 0.0f);
        }
    };

    // Where the keys, and values, of one part of a group lie for a head of the task: how far in.
    // A part beyond the last is the last.
    long offset(const Task& task, long h, long group, long part, const Scratch& s) const {
        long i = std::min<long>(group * PARTS + part, s.offsets.size() - 1);
        return s.offsets[i] + (task.head + h) * block_size * head_dim;
    }

    // As offset, of what a single query reads next: the next head, or the next group's first.
    long next_offset(const Task& task, long h, long group, long part, const Scratch& s) const {
        if (h + 1 < task.num_heads) return offset(task, h + 1, group, part, s);
        return offset(task, 0, group + 1, part, s);
    }

    // Of the task's query q in its sequence: the last key that it sees.
    long position(const Task& task, long q) const {
        if (!is_causal) return context_lens[task.row] - 1;
        long length = query_starts[task.row + 1] - query_starts[task.row];
        return context_lens[task.row] - length + task.first + q;
    }

    // N queries' scores of one group of keys → their weights, and the sums so far rescaled.
    template <int N>
    void weigh(const Task& task, long h, long q, long group, Scratch& s) const {
        const Unit* rows[N];
        for (int i = 0; i < N; i++) {
            long token = query_starts[task.row] + task.first + q + i;
            rows[i] = (const Unit*)(query + (token * heads + task.head + h) * head_dim);
        }
        const __m512i *columns[PARTS], *next[PARTS];
        for (long g = 0; g < PARTS; g++) {
            columns[g] = (const __m512i*)(keys + offset(task, h, group, g, s));
            next[g] = (const __m512i*)(keys + next_offset(task, h, group, g, s));
        }
        __m512 scores[N][PARTS];
        for (int i = 0; i < N; i++)
            for (int g = 0; g < PARTS; g++) scores[i][g] = _mm512_setzero_ps();
        for (long u = 0; u < units(); u++)
#pragma GCC unroll 4
            for (int i = 0; i < N; i++) {
                __m512i value = _mm512_set1_epi32((int)rows[i][u]);
#pragma GCC unroll 4
                for (int g = 0; g < PARTS; g++) {
                    if (N == 1) _mm_prefetch(next[g] + u, _MM_HINT_T0);
                    scores[i][g] = D::dot(scores[i][g], value, columns[g][u]);
                }
            }
        __m512 scale = _mm512_set1_ps(LOG2_E / std::sqrt((float)head_dim));  // powers of 2 follow
        __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        for (int i = 0; i < N; i++) {
            long last = position(task, q + i) - group * GROUP;  // of the keys that it sees
            for (int g = 0; g < PARTS; g++) scores[i][g] = _mm512_mul_ps(scores[i][g], scale);
            if (last < GROUP - 1)
                for (int g = 0; g < PARTS; g++) {
                    __mmask16 later = _mm512_cmpgt_epi32_mask(
                        lane, _mm512_set1_epi32((int)last - g * LANES));
                    scores[i][g] = _mm512_mask_mov_ps(scores[i][g], later, _mm512_set1_ps(UNSEEN));
                }
            enter(scores[i], h * task.num + q + i, (T*)s.weights[q + i], s);
        }
    }

    // One query's scores of a group, masked → its weights, relative to a top that is raised, and
    // all sums with it, when a score is beyond it by more than SLACK.
    void enter(const __m512* scores, long state, T* weights, Scratch& s) const {
        __m512 best = _mm512_max_ps(_mm512_max_ps(scores[0], scores[1]),
                                    _mm512_max_ps(scores[2], scores[3]));
        __m512 top = _mm512_set1_ps(s.top[state]), *total = (__m512*)(s.total + state * LANES);
        if (_mm512_cmp_ps_mask(best, _mm512_add_ps(top, _mm512_set1_ps(SLACK)), _CMP_GT_OQ)) {
            s.top[state] = _mm512_reduce_max_ps(best);
            __m512 before = exp2_16(_mm512_sub_ps(top, _mm512_set1_ps(s.top[state])));
            top = _mm512_set1_ps(s.top[state]);
            *total = _mm512_mul_ps(*total, before);
            for (float *p = s.sums + state * head_dim, *end = p + head_dim; p < end; p += LANES)
                _mm512_store_ps(p, _mm512_mul_ps(_mm512_load_ps(p), before));
        }
        for (int g = 0; g < PARTS; g++) {
            __m512 weight = exp2_16(_mm512_sub_ps(scores[g], top));
            *total = _mm512_add_ps(*total, weight);
            D::store(weights + g * LANES, weight);
        }
    }

    // The sums of N queries and C columns, each of 16 numbers, with a group's weighted values.
    template <int N, int C>
    void add_columns(const Task& task, long h, long q, long group, long num_keys, long column,
                     Scratch& s) const {
        __m512 sum[N][C];
        for (int i = 0; i < N; i++)
            for (int c = 0; c < C; c++)
                sum[i][c] = _mm512_load_ps(
                    s.sums + (h * task.num + q + i) * head_dim + (column + c) * LANES);
        for (long start = 0; start < num_keys; start += LANES) {
            long part = start / LANES;
            const __m512i* rows = (const __m512i*)(values + offset(task, h, group, part, s)) + column;
            const __m512i* next =
                (const __m512i*)(values + next_offset(task, h, group, part, s)) + column;
            long end = std::min<long>(num_keys - start, LANES);
            for (long k = 0; k * D::PER_UNIT < end; k++)
#pragma GCC unroll 4
                for (int i = 0; i < N; i++) {
                    __m512i weight = _mm512_set1_epi32((int)s.weights[q + i][start / D::PER_UNIT + k]);
#pragma GCC unroll 4
                    for (int c = 0; c < C; c++) {
                        long i_value = k * (head_dim / LANES) + c;
                        if (N == 1) _mm_prefetch(next + i_value, _MM_HINT_T0);
                        sum[i][c] = D::dot(sum[i][c], weight, rows[i_value]);
                    }
                }
        }
        for (int i = 0; i < N; i++)
            for (int c = 0; c < C; c++)
                _mm512_store_ps(s.sums + (h * task.num + q + i) * head_dim + (column + c) * LANES,
                                sum[i][c]);
    }

    template <int N>
    void attend(const Task& task, long h, long q, long group, long num_keys, Scratch& s) const {
        weigh<N>(task, h, q, group, s);
        long column = 0, columns = head_dim / LANES;
        for (; column + 4 <= columns; column += 4)
            add_columns<N, 4>(task, h, q, group, num_keys, column, s);
        for (; column < columns; column += 2)
            add_columns<N, 2>(task, h, q, group, num_keys, column, s);
    }

    void attend_group(const Task& task, long h, long group, long end, Scratch& s) const {
        long num_keys = std::min<long>(GROUP, end - group * GROUP);
        long q = is_causal ? std::max(0L, group * GROUP - position(task, 0)) : 0;  // the first to see any
        for (; q + 4 <= task.num; q += 4) attend<4>(task, h, q, group, num_keys, s);
        for (; q < task.num; q++) attend<1>(task, h, q, group, num_keys, s);
    }

    void run(const Task& task, Scratch& s) const {
        s.prepare(task.num_heads * task.num, head_dim);
        long end = position(task, task.num - 1) + 1, groups = (end + GROUP - 1) / GROUP;
        s.offsets.clear();
        for (long token = 0; token < end; token += LANES) {
            long block = tables[task.row * table_width + token / block_size];
            s.offsets.push_back((block * heads * block_size + token % block_size) * head_dim);
        }
        if (task.num == 1) {  // memory's speed counts: all heads of a block lie side by side
            for (long group = 0; group < groups; group++)
                for (long h = 0; h < task.num_heads; h++) attend_group(task, h, group, end, s);
        } else {
            for (long h = 0; h < task.num_heads; h++)
                for (long group = 0; group < groups; group++) attend_group(task, h, group, end, s);
        }
        for (long h = 0; h < task.num_heads; h++)
            for (long q = 0; q < task.num; q++) {
                long token = query_starts[task.row] + task.first + q, state = h * task.num + q;
                T* to = out + (token * heads + task.head + h) * head_dim;
                __m512 total = _mm512_set1_ps(
                    _mm512_reduce_add_ps(_mm512_load_ps(s.total + state * LANES)));
                for (long d = 0; d < head_dim; d += LANES)
                    D::store(to + d, _mm512_div_ps(_mm512_load_ps(s.sums + state * head_dim + d), total));
            }
    }

    // In keys times queries. A single query waits for memory: it takes as long as about ten.
    double cost(const Task& task) const {
        return (double)(position(task, task.num - 1) + 1) * std::max(task.num, 10L);
    }

    // Tasks of like cost, a few for each thread. The heads of one lie side by side.
    std::vector<Task> tasks_of(long num_rows, int threads) const {
        std::vector<Task> tiles, tasks;
        double total = 0;
        for (long row = 0; row < num_rows; row++) {
            long length = query_starts[row + 1] - query_starts[row];
            for (long first = 0; first < length; first += QUERY_TILE) {
                tiles.push_back({row, first, std::min<long>(QUERY_TILE, length - first), 0, heads});
                total += cost(tiles.back());
            }
        }
        for (const Task& tile : tiles) {
            long parts = std::clamp((long)std::ceil(cost(tile) / total * 4 * threads), 1L, heads);
            for (long part = 0; part < parts; part++) {
                long head = heads * part / parts, next = heads * (part + 1) / parts;
                tasks.push_back({tile.row, tile.first, tile.num, head, next - head});
            }
        }
        return tasks;
    }

    void run_all(long num_rows, int threads) const {
        std::vector<Task> tasks = tasks_of(num_rows, threads);
        static thread_local std::vector<Scratch> scratches;
        if ((int)scratches.size() < threads) scratches.resize(threads);
        Scratch* scratch = scratches.data();
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
        for (size_t i = 0; i < tasks.size(); i++) run(tasks[i], scratch[omp_get_thread_num()]);
    }
};

}  // namespace
