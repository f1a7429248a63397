"""Attention over the paged cache: one interface, and a backend for each kind of device.

`sdpa` runs anywhere and is the reference; `cpu` needs a processor with AVX-512, `compiled` a C++
compiler; `triton` and `flash_attn` need CUDA and their packages. choose.py takes the first that
self_test.py finds right.
"""
