"""Where the genuine flash-attn is installed, the tests' stand-in has its signatures."""

import inspect
import runpy
from pathlib import Path

import pytest

STAND_IN = Path(__file__).parents[1] / "stand_ins" / "flash_attn" / "__init__.py"


def test_the_stand_in_has_the_signatures_of_the_package():
    genuine = pytest.importorskip("flash_attn", "2.8")
    ours = runpy.run_path(str(STAND_IN))

    for name in ("flash_attn_varlen_func", "flash_attn_with_kvcache"):
        signatures = [inspect.signature(f) for f in (ours[name], getattr(genuine, name))]
        names, expected = (
            [(p.name, p.default) for p in signature.parameters.values()] for signature in signatures
        )
        assert names == expected
