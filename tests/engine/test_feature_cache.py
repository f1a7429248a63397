"""The cache of picture features: bounded in bytes, the least recently used goes first."""

import torch

from scoring.picture_encoder import FeatureCache


def features(num_floats: int) -> torch.Tensor:
    return torch.zeros(num_floats)  # of four bytes each


def test_what_was_put_is_found_and_counted():
    cache, tensor = FeatureCache(1000), features(10)
    cache.put(b"chart", tensor)

    assert cache.get(b"chart") is tensor
    assert cache.get(b"photo") is None
    assert cache.num_bytes == 40


def test_the_bound_is_in_bytes_and_the_least_recently_used_goes_first():
    cache = FeatureCache(100)
    cache.put(b"a", features(10))
    cache.put(b"b", features(10))
    cache.get(b"a")

    cache.put(b"c", features(10))

    assert [name for name in (b"a", b"b", b"c") if cache.get(name) is not None] == [b"a", b"c"]
    assert cache.num_bytes == 80


def test_the_newest_features_stay_even_where_they_alone_exceed_the_bound():
    """Its prompt needs a picture for as many steps as it has chunks."""
    cache = FeatureCache(100)
    cache.put(b"small", features(10))
    cache.put(b"large", features(26))

    assert cache.get(b"small") is None
    assert cache.get(b"large") is not None
    assert cache.num_bytes == 104


def test_putting_twice_counts_once():
    cache = FeatureCache(100)
    cache.put(b"a", features(10))
    cache.put(b"a", features(10))

    assert cache.num_bytes == 40
