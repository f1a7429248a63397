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

#include "attention.h"
#include "cache_writer.h"
#include "dtypes.h"
#include "linear.h"
#include "norm.h"

// What Python calls. The dtype is a part of the name.
#define FOR_DTYPE(D, name)                                                                         \
    extern "C" void linear_##name(const void* x, const void* packed, const void* bias, void* out,  \
                                  long rows, long units, long num_out, int threads) {              \
        linear<D>(Plain<D>{(const D::T*)bias}, (const Unit*)x, (const __m512i*)packed, (D::T*)out, \
                  rows, units, num_out, threads);                                                  \
    }                                                                                              \
    extern "C" void linear_int8_##name(const void* x, const void* packed, const void* scales,      \
                                       const void* offsets, void* out, long rows, long units,      \
                                       long num_out, int threads) {                                \
        linear_int8<D>((const D::T*)x, (const __m512i*)packed, (const float*)scales,               \
                       (const int32_t*)offsets, (D::T*)out, rows, units, num_out, threads);        \
    }                                                                                              \
    extern "C" void attend_##name(const void* query, const void* keys, const void* values,         \
                                  void* out, const void* tables, const void* query_starts,         \
                                  const void* context_lens, long rows, long table_width,           \
                                  long block_size, long heads, long head_dim, int is_causal,       \
                                  int threads) {                                                   \
        Attention<D>{(const D::T*)query,        (const D::T*)keys,                                 \
                     (const D::T*)values,       (D::T*)out,                                        \
                     (const int32_t*)tables,    (const int32_t*)query_starts,                      \
                     (const int32_t*)context_lens, table_width, block_size, heads, head_dim, (bool)is_causal}\
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
        CacheWriter<D>{(const D::T*)qkv,      (const D::T*)cos, (const D::T*)sin,                  \
                       (D::T*)query,          (D::T*)keys,      (D::T*)values,                     \
                       (const int64_t*)slots, heads,            head_dim,      block_size}         \
            .write_all(rows, threads);                                                             \
    }                                                                                              \
    extern "C" void swiglu_##name(const void* gate_up, void* out, long rows, long width,           \
                                  int threads) {                                                   \
        swiglu<D>((const D::T*)gate_up, (D::T*)out, rows, width, threads);                         \
    }

FOR_DTYPE(BFloat16, bfloat16)
FOR_DTYPE(Float32, float32)
