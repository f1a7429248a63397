// The pieces of a decoder step on an x86 processor with AVX-512 and its bfloat16 dot product.
//
// One rule holds everywhere: a number of the result is computed in one order, whatever else is in
// the batch and however many threads there are. A linear layer adds up its products from the first
// to the last; attention walks a sequence's keys in groups of 64, counted from its beginning. So a
// sequence's logits do not change with its neighbours, with chunks, or with a cached prefix.
//
// Both dtypes share the code. Its unit is 32 bits: two bfloat16 values or one float32. `dot` adds,
// lane by lane, the product of two units (for bfloat16: of two pairs) to a float32.
//
// Tensors are contiguous; native_kernels.py checks what is assumed here.

#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

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

// e to the x, within 2 units in the last place; 0 below -87. NaN stays NaN.
__m512 exp16(__m512 x) {
    __mmask16 tiny = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.0f), _CMP_LT_OQ);
    __m512 n = _mm512_roundscale_ps(
        _mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.9875691500e-4f);
    for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f,
                    5.0000001201e-1f})
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
    p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
    return _mm512_mask_mov_ps(_mm512_scalef_ps(p, n), tiny, _mm512_setzero_ps());
}

// ---------------------------------------------------------------------------------------------
// Linear layers. A packed weight is a list of panels, one for 32 outputs: for each unit of the
// input, the units of the 32 outputs that are multiplied with it.

constexpr int PANEL = 2 * LANES;
constexpr int MAX_TILE = 12;  // rows at a time: 24 registers of sums

// x: the tile's rows, rearranged to (units, ROWS).
template <class D, int ROWS>
void linear_tile(const Unit* x, long units, const __m512i* panel, const typename D::T* bias,
                 typename D::T* out, long num_out, int cols) {
    __m512 sums[ROWS][2];
    for (int r = 0; r < ROWS; r++) sums[r][0] = sums[r][1] = _mm512_setzero_ps();
    for (long u = 0; u < units; u++) {
        __m512i left = panel[2 * u], right = panel[2 * u + 1];
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
void linear_rows(long rows, const Unit* x, long units, const __m512i* panel,
                 const typename D::T* bias, typename D::T* out, long num_out, int cols) {
    switch (rows) {
#define CASE(n) \
    case n: return linear_tile<D, n>(x, units, panel, bias, out, num_out, cols);
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
                for (long t = 0; t < tiles; t++) {
                    long a = num * t / tiles, size = num * (t + 1) / tiles - a;
                    linear_rows<D>(size, rearranged.data() + a * units, units,
                                   packed + p * 2 * units, bias ? bias + p * PANEL : nullptr,
                                   out + (start + a) * num_out + p * PANEL, num_out, cols);
                }
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------
// Attention over the paged cache. Within the memory of a block, values lie so that the loops below
// read them as they come, 16 tokens of a head after the other:
//
//     keys    (heads, block_size / 16, units of a key, 16 tokens)          of units
//     values  (heads, block_size / tokens in a unit, head_dim)             of units
//
// A unit of the values holds one number of each of its tokens: of two neighbours for bfloat16.

constexpr int GROUP = 64;       // keys at a time
constexpr int PARTS = GROUP / LANES;
constexpr int QUERY_TILE = 16;  // queries of one sequence that share what is read

template <class D>
struct Attention {
    using T = typename D::T;
    const T *query, *keys, *values;
    T* out;
    const int32_t *tables, *query_starts, *context_lens;
    long table_width, block_size, heads, head_dim;

    long units() const { return head_dim / D::PER_UNIT; }

    // Queries first … first + num of a row, for some heads.
    struct Task {
        long row, first, num, head, num_heads;
    };

    // A thread's working memory. It is kept from call to call: new pages would cost more than the
    // attention of a short sequence. sums, top, total: by head and query of the task.
    struct Scratch {
        std::vector<char> memory;
        std::vector<long> offsets;  // of each 16 tokens' keys, and values, of the first head
        float *sums, *top, *total;
        alignas(64) Unit weights[QUERY_TILE][GROUP];

        void prepare(long num_states, long head_dim) {
            long sum_bytes = num_states * head_dim * 4, state_bytes = num_states * 4;
            memory.resize(64 + sum_bytes + 2 * state_bytes);
            char* p = (char*)(((uintptr_t)memory.data() + 63) & ~(uintptr_t)63);
            sums = (float*)p;
            top = (float*)(p += sum_bytes);
            total = (float*)(p += state_bytes);
            std::fill(sums, sums + num_states * head_dim, 0.0f);
            std::fill(top, top + num_states, -std::numeric_limits<float>::infinity());
            std::fill(total, total + num_states, 0.0f);
        }
    };

    long position(const Task& task) const {  // of the task's first query in its sequence
        long length = query_starts[task.row + 1] - query_starts[task.row];
        return context_lens[task.row] - length + task.first;
    }

    // N queries' scores of one group of keys → their weights, and the sums so far rescaled.
    template <int N>
    void weigh(const Task& task, long h, long q, long group, long num_parts, Scratch& s) const {
        const Unit* rows[N];
        for (int i = 0; i < N; i++) {
            long token = query_starts[task.row] + task.first + q + i;
            rows[i] = (const Unit*)(query + (token * heads + task.head + h) * head_dim);
        }
        const __m512i* columns[PARTS];
        for (long g = 0; g < PARTS; g++) {  // a part that is not there is not read beyond the last
            long offset = s.offsets[group * PARTS + std::min(g, num_parts - 1)];
            columns[g] = (const __m512i*)(keys + offset + (task.head + h) * block_size * head_dim);
        }
        __m512 scores[N][PARTS];
        for (int i = 0; i < N; i++)
            for (int g = 0; g < PARTS; g++) scores[i][g] = _mm512_setzero_ps();
        for (long u = 0; u < units(); u++)
#pragma GCC unroll 4
            for (int i = 0; i < N; i++) {
                __m512i value = _mm512_set1_epi32((int)rows[i][u]);
#pragma GCC unroll 4
                for (int g = 0; g < PARTS; g++)
                    scores[i][g] = D::dot(scores[i][g], value, columns[g][u]);
            }
        __m512 scale = _mm512_set1_ps(1.0f / std::sqrt((float)head_dim));
        __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        for (int i = 0; i < N; i++) {
            __m512i last = _mm512_set1_epi32((int)(position(task) + q + i - group * GROUP));
            for (int g = 0; g < PARTS; g++) {
                __mmask16 later =
                    _mm512_cmpgt_epi32_mask(_mm512_add_epi32(lane, _mm512_set1_epi32(g * LANES)), last);
                scores[i][g] = _mm512_mask_mov_ps(_mm512_mul_ps(scores[i][g], scale), later,
                                                  _mm512_set1_ps(-INFINITY));
            }
            enter(scores[i], h * task.num + q + i, (T*)s.weights[q + i], s);
        }
    }

    // One query's scores of a group, masked → its weights; what its sums become by them.
    void enter(const __m512* scores, long state, T* weights, Scratch& s) const {
        __m512 best = _mm512_max_ps(_mm512_max_ps(scores[0], scores[1]),
                                    _mm512_max_ps(scores[2], scores[3]));
        float top = std::max(s.top[state], _mm512_reduce_max_ps(best));
        __m512 total = _mm512_setzero_ps();
        for (int g = 0; g < PARTS; g++) {
            __m512 weight = exp16(_mm512_sub_ps(scores[g], _mm512_set1_ps(top)));
            total = _mm512_add_ps(total, weight);
            D::store(weights + g * LANES, weight);
        }
        float before = std::exp(s.top[state] - top);
        s.total[state] = s.total[state] * before + _mm512_reduce_add_ps(total);
        s.top[state] = top;
        if (before != 1.0f)
            for (float *p = s.sums + state * head_dim, *end = p + head_dim; p < end; p += LANES)
                _mm512_store_ps(p, _mm512_mul_ps(_mm512_load_ps(p), _mm512_set1_ps(before)));
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
            const __m512i* rows =
                (const __m512i*)(values + s.offsets[group * PARTS + start / LANES] +
                                 (task.head + h) * block_size * head_dim) + column;
            long end = std::min<long>(num_keys - start, LANES);
            for (long k = 0; k * D::PER_UNIT < end; k++)
#pragma GCC unroll 4
                for (int i = 0; i < N; i++) {
                    __m512i weight = _mm512_set1_epi32((int)s.weights[q + i][start / D::PER_UNIT + k]);
#pragma GCC unroll 4
                    for (int c = 0; c < C; c++)
                        sum[i][c] = D::dot(sum[i][c], weight, rows[k * (head_dim / LANES) + c]);
                }
        }
        for (int i = 0; i < N; i++)
            for (int c = 0; c < C; c++)
                _mm512_store_ps(s.sums + (h * task.num + q + i) * head_dim + (column + c) * LANES,
                                sum[i][c]);
    }

    template <int N>
    void attend(const Task& task, long h, long q, long group, long num_keys, Scratch& s) const {
        weigh<N>(task, h, q, group, (num_keys + LANES - 1) / LANES, s);
        long column = 0, columns = head_dim / LANES;
        for (; column + 4 <= columns; column += 4)
            add_columns<N, 4>(task, h, q, group, num_keys, column, s);
        for (; column < columns; column += 2)
            add_columns<N, 2>(task, h, q, group, num_keys, column, s);
    }

    void attend_group(const Task& task, long h, long group, long end, Scratch& s) const {
        long num_keys = std::min<long>(GROUP, end - group * GROUP), q = 0;
        for (; q + 4 <= task.num; q += 4) attend<4>(task, h, q, group, num_keys, s);
        for (; q < task.num; q++) attend<1>(task, h, q, group, num_keys, s);
    }

    void run(const Task& task, Scratch& s) const {
        s.prepare(task.num_heads * task.num, head_dim);
        long end = position(task) + task.num, groups = (end + GROUP - 1) / GROUP;
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
                __m512 total = _mm512_set1_ps(s.total[state]);
                for (long d = 0; d < head_dim; d += LANES)
                    D::store(to + d, _mm512_div_ps(_mm512_load_ps(s.sums + state * head_dim + d), total));
            }
    }

    void run_all(long num_rows, int threads) const {
        // Tasks enough for all threads; a task's heads side by side.
        long num_tiles = 0;
        for (long row = 0; row < num_rows; row++)
            num_tiles += (query_starts[row + 1] - query_starts[row] + QUERY_TILE - 1) / QUERY_TILE;
        long parts = std::clamp((4L * threads + num_tiles - 1) / num_tiles, 1L, heads);
        std::vector<Task> tasks;
        for (long row = 0; row < num_rows; row++) {
            long length = query_starts[row + 1] - query_starts[row];
            for (long first = 0; first < length; first += QUERY_TILE)
                for (long part = 0; part < parts; part++) {
                    long head = heads * part / parts, next = heads * (part + 1) / parts;
                    tasks.push_back({row, first, std::min<long>(QUERY_TILE, length - first), head,
                                     next - head});
                }
        }
#pragma omp parallel num_threads(threads)
        {
            static thread_local Scratch scratch;
#pragma omp for schedule(dynamic, 1)
            for (size_t i = 0; i < tasks.size(); i++) run(tasks[i], scratch);
        }
    }
};

// ---------------------------------------------------------------------------------------------
// The small pieces: one pass over memory each, rows shared out among threads when there are many.

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

constexpr long ROWS_PER_THREAD = 4;

int team(long rows, int threads) {
    return (int)std::clamp<long>(rows / ROWS_PER_THREAD, 1, threads);
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

// The query goes to `query`, key and value to their places in the cache, whose layout is above.
template <class D>
void rotate_and_write(const typename D::T* qkv, const typename D::T* cos,
                      const typename D::T* sin, typename D::T* query, typename D::T* keys,
                      typename D::T* values, const int64_t* slots, long rows, long heads,
                      long head_dim, long block_size, int threads) {
    using T = typename D::T;
    constexpr long N = D::PER_UNIT;
    long width = heads * head_dim, units = head_dim / N;
#pragma omp parallel for num_threads(team(rows, threads))
    for (long r = 0; r < rows; r++) {
        const T *q = qkv + r * 3 * width, *c = cos + r * head_dim, *s = sin + r * head_dim;
        long token = slots[r] % block_size, block = (slots[r] - token) * width;
        // Of a unit's tokens the first is written first. What lies beside it may be anything, even
        // a NaN, and is cleared, unless its owner is in this batch.
        bool is_followed = r + 1 < rows && slots[r + 1] == slots[r] + 1;
        alignas(64) T key[512];
        for (long h = 0; h < heads; h++) {
            long head = block + h * block_size * head_dim;
            rotate<D>(q + h * head_dim, c, s, query + r * width + h * head_dim, head_dim);
            rotate<D>(q + width + h * head_dim, c, s, key, head_dim);
            Unit* to = (Unit*)(keys + head) + token / LANES * LANES * units + token % LANES;
            for (long u = 0; u < units; u++) to[u * LANES] = ((const Unit*)key)[u];
            const T* value = q + 2 * width + h * head_dim;
            T* place = values + head + token / N * N * head_dim;
            for (long d = 0; d < head_dim; d++) {
                place[d * N + token % N] = value[d];
                if (N > 1 && token % N == 0 && !is_followed) place[d * N + 1] = 0;
            }
        }
    }
}

template <class D>
void swiglu(const typename D::T* gate_up, typename D::T* out, long rows, long width, int threads) {
#pragma omp parallel for num_threads(team(rows, threads))
    for (long r = 0; r < rows; r++) {
        const typename D::T *gate = gate_up + r * 2 * width, *up = gate + width;
        for (long i = 0; i < width; i += LANES) {
            __m512 g = D::load(gate + i), one = _mm512_set1_ps(1.0f);
            __m512 minus = _mm512_sub_ps(_mm512_setzero_ps(), g);
            __m512 e = exp16(_mm512_min_ps(minus, _mm512_set1_ps(88.0f)));
            __m512 silu = _mm512_div_ps(g, _mm512_add_ps(one, e));
            D::store(out + r * width + i, _mm512_mul_ps(D::load(up + i), silu));
        }
    }
}

}  // namespace

// What Python calls. The dtype is a part of the name.
#define FOR_DTYPE(D, name)                                                                         \
    extern "C" void linear_##name(const void* x, const void* packed, const void* bias, void* out,  \
                                  long rows, long units, long num_out, int threads) {              \
        linear<D>((const Unit*)x, (const __m512i*)packed, (const D::T*)bias, (D::T*)out, rows,     \
                  units, num_out, threads);                                                        \
    }                                                                                              \
    extern "C" void attend_##name(const void* query, const void* keys, const void* values,         \
                                  void* out, const void* tables, const void* query_starts,         \
                                  const void* context_lens, long rows, long table_width,           \
                                  long block_size, long heads, long head_dim, int threads) {       \
        Attention<D>{(const D::T*)query,        (const D::T*)keys,                                 \
                     (const D::T*)values,       (D::T*)out,                                        \
                     (const int32_t*)tables,    (const int32_t*)query_starts,                      \
                     (const int32_t*)context_lens, table_width, block_size, heads, head_dim}       \
            .run_all(rows, threads);                                                               \
    }                                                                                              \
    extern "C" void rms_norm_##name(const void* x, const void* residual, const void* weight,       \
                                    void* out, void* sum, long rows, long width, float eps,        \
                                    int threads) {                                                 \
        rms_norm<D>((const D::T*)x, (const D::T*)residual, (const D::T*)weight, (D::T*)out,        \
                    (D::T*)sum, rows, width, eps, threads);                                        \
    }                                                                                              \
    extern "C" void rotate_and_write_##name(const void* qkv, const void* cos, const void* sin,     \
                                            void* query, void* keys, void* values,                 \
                                            const void* slots, long rows, long heads,              \
                                            long head_dim, long block_size, int threads) {         \
        rotate_and_write<D>((const D::T*)qkv, (const D::T*)cos, (const D::T*)sin, (D::T*)query,    \
                            (D::T*)keys, (D::T*)values, (const int64_t*)slots, rows, heads,        \
                            head_dim, block_size, threads);                                                    \
    }                                                                                              \
    extern "C" void swiglu_##name(const void* gate_up, void* out, long rows, long width,           \
                                  int threads) {                                                   \
        swiglu<D>((const D::T*)gate_up, (D::T*)out, rows, width, threads);                         \
    }

FOR_DTYPE(BFloat16, bfloat16)
FOR_DTYPE(Float32, float32)
