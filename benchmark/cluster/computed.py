"""Step times that nobody has measured: half of what a card's data sheet allows.

For asking what routing does where steps are a hundred times as short as on a CPU, and a report's
second a hundred times as long. See benchmark/sizing.py for the limits.
"""

from scoring.engine_builder import SHARES
from scoring.kv_cache import bytes_per_token

from ..gpu_check.cost import picture_flops, prompt_flops, weights_read
from ..sizing import HALF, MODEL, Card
from .step_times import StepTimes

_OF_THE_LIMIT = 0.5
_TOKENS = (1, 8, 32, 64, 128, 256, 512, 1024, 2048)


def computed_step_times(card: Card) -> StepTimes:
    bandwidth = card.bandwidth * 1e9 * _OF_THE_LIMIT
    flops = card.half * 1e12 * _OF_THE_LIMIT
    text = MODEL.text
    weights = weights_read(text) * HALF.itemsize / bandwidth
    per_pair = 4 * text.hidden_size * text.num_layers / flops
    per_token = (prompt_flops(text, [2048]) / flops - per_pair * 2048 * 2049 / 2) / 2048
    prompt_share, crops_share = SHARES["cuda"]
    return StepTimes(
        of_tokens=tuple((tokens, max(weights, tokens * per_token)) for tokens in _TOKENS),
        per_context=bytes_per_token(MODEL, HALF) / bandwidth,
        per_pair=per_pair,
        per_crop=picture_flops(MODEL, 1, MODEL.vision.tokens_per_crop) / flops,
        prompt_share=prompt_share,
        crops_share=crops_share,
        source={"computed": f"half of the limits of one {card.name}, by its data sheet"},
    )
