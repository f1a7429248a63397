"""Keys and values in 8 bits."""

import torch

from scoring.float8 import LARGEST, from_float8, to_float8
from scoring.weights import load_model

from .float8_report import differences


def test_each_vector_keeps_its_largest_number():
    vectors = torch.randn(50, 3, 96) * torch.logspace(-15, 4, 50)[:, None, None]

    read = from_float8(*to_float8(vectors), torch.float32)

    largest = vectors.abs().amax(-1)
    torch.testing.assert_close(read.abs().amax(-1), largest, rtol=1e-6, atol=0)
    # Half a step of three bits, or of the smallest number beside the largest.
    allowed = vectors.abs() / 16 + largest[..., None] * 2**-10 / LARGEST * 1.001
    assert ((read - vectors).abs() <= allowed).all()


def test_zeros_stay_and_what_is_no_number_is_none_again():
    vectors = torch.zeros(3, 96)
    vectors[1, 5], vectors[2, 5] = torch.nan, torch.inf

    read = from_float8(*to_float8(vectors), torch.float32)

    assert not read[0].any()
    assert not read[1].isfinite().all()
    assert not read[2].isfinite().all()


def test_the_published_cases_move_little(tiny, config, golden):
    """As far as bfloat16 itself is off, or two or three times that."""
    model = load_model(tiny, config, torch.device("cpu"), torch.bfloat16, lambda done, total: None)

    found = list(differences(model, config, golden))

    assert len(found) == 10
    assert max(off.largest for off in found) < 0.6
    assert max(off.divergence for off in found) < 0.02
