"""Attention over the paged cache: one interface, and a backend for each kind of device.

`sdpa` runs anywhere and is the reference; `cpu` needs a processor with AVX-512, `compiled` a C++
compiler; `flash_attn` needs CUDA and its package.
"""
