"""How near a run came to what the hardware allows, from the model's sizes and the device's rates.

A decode step cannot beat reading the weights and its rows' keys and values once, at the memory's
bandwidth; a prompt cannot beat its matrix products, at the device's matrix rate. A fraction is
limit ÷ measured, so 1 is the most there is. What a picture costs in the vision tower is left out:
prompts with pictures reach more than their fraction says.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from .answer import Answer
from .summary import Summary

_BYTES_OF_DTYPE = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")


class ModelSizeError(Exception):
    """The sizes cannot be known. The message is for the user."""


@dataclass(frozen=True)
class DeviceRates:
    """bandwidth: bytes per second read; flops: floating-point operations per second in matrix
    products. None where unknown; source says where they are from, or why not."""

    bandwidth: float | None
    flops: float | None
    source: str


@dataclass(frozen=True)
class ModelSize:
    """What a step reads and computes at least.

    weights: parameters that a decode step reads: all but the embeddings, of which it reads a row
    per sequence. prompt_weights: parameters that every token of a prompt is multiplied with: all
    but the output layer's, which the last token alone needs. kv_bytes: of a token's keys and values
    in all layers; pair_flops: of attention, for a token and one before it. The last two are 0 where
    only the number of parameters is known.
    """

    weights: float
    prompt_weights: float
    bytes_per_param: float
    kv_bytes: float
    pair_flops: float
    source: str

    @classmethod
    def of_params(cls, params: float, bytes_per_param: float) -> "ModelSize":
        """Of a model of which only the number of parameters is known."""
        source = f"{params / 1e9:.2f} billion parameters; keys, values and attention not counted"
        return cls(params, params, bytes_per_param, 0.0, 0.0, source)

    @classmethod
    def of_config(cls, directory: Path, bytes_per_param: float | None) -> "ModelSize":
        """Of a decoder as Llama's and Phi-3's, from its config.json: three matrices in the MLP.
        bytes_per_param: None for that of the dtype in the file. Raises ModelSizeError."""
        file = directory / "config.json"
        try:
            config: dict[str, Any] = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise ModelSizeError(f"{file} cannot be read: {error}") from error
        text = config.get("text_config") or config
        if any(text.get(name) for name in _EXPERTS):
            raise ModelSizeError(
                f"{file}: how much a mixture of experts reads depends on its router"
            )
        if bytes_per_param is None:
            dtype = text.get("dtype") or text.get("torch_dtype") or config.get("torch_dtype")
            bytes_per_param = _BYTES_OF_DTYPE.get(str(dtype))
            if bytes_per_param is None:
                raise ModelSizeError(f"{file} names the dtype {dtype}: give --bytes-per-param")
        try:
            return cls._of_decoder(text, bytes_per_param)
        except KeyError as error:
            raise ModelSizeError(f"{file} has no {error}") from None

    @classmethod
    def _of_decoder(cls, text: dict[str, Any], bytes_per_param: float) -> "ModelSize":
        width, layers = text["hidden_size"], text["num_hidden_layers"]
        heads = text["num_attention_heads"]
        head = text.get("head_dim") or width // heads
        queries, keys = heads * head, (text.get("num_key_value_heads") or heads) * head
        attention = 2 * width * queries + 2 * width * keys
        in_layers = layers * (attention + 3 * width * text["intermediate_size"])
        read = in_layers + text["vocab_size"] * width
        return cls(
            weights=read,
            prompt_weights=in_layers,
            bytes_per_param=bytes_per_param,
            kv_bytes=layers * 2 * keys * 2.0,  # in 16 bits, as servers keep them
            pair_flops=4.0 * queries * layers,
            source=f"config.json: {read / 1e9:.2f} billion parameters read per step",
        )

    def step_bytes(self, num_rows: float, context: float) -> float:
        """A decode step reads at least so much, of rows with so many tokens each."""
        return self.weights * self.bytes_per_param + num_rows * context * self.kv_bytes

    def prompt_flops(self, num_tokens: int, num_cached: int) -> float:
        """A prompt costs at least so many operations, its cached tokens none but their pairs."""
        new = num_tokens - num_cached
        pairs = new * num_cached + new * (new + 1) / 2
        output_layer = 2 * (self.weights - self.prompt_weights)
        return 2 * self.prompt_weights * new + self.pair_flops * pairs + output_layer


@dataclass(frozen=True)
class OfLimit:
    """decode: the least time of a step with as many rows as decoded on average, over the median
    time per output token. prefill: the median over requests of a prompt's least time over its time
    to first token, which includes waiting: under load it says little of the device. None where
    unknown: notes say why, and what else must be known of the figures."""

    decode: float | None
    prefill: float | None
    notes: list[str]


def of_limit(
    answers: list[Answer], summary: Summary, size: ModelSize | None, rates: DeviceRates
) -> OfLimit:
    if size is None:
        return OfLimit(None, None, ["unknown: the model's size was not given"])
    notes: list[str] = []
    decode = prefill = None
    if rates.bandwidth is None or rates.flops is None:
        notes.append(rates.source)
    tpot = summary.tpot_ms.p50
    if rates.bandwidth is not None and tpot is not None and tpot > 0:
        context = (summary.prompt_tokens or 0.0) + (summary.output_tokens or 0.0) / 2
        least = size.step_bytes(max(summary.num_decoding, 1.0), context) / rates.bandwidth
        decode = least / (tpot / 1e3)
    elif rates.bandwidth is not None:
        notes.append(
            "decode unknown: no answer had two tokens"
            if tpot is None
            else "decode unknown: answers came in one piece"
        )
    told = [a for a in answers if a.error is None and a.num_prompt_tokens]
    if rates.flops is not None and told:
        prefill = median(
            size.prompt_flops(a.num_prompt_tokens, a.num_cached_tokens) / rates.flops / a.ttft_s
            for a in told
        )
    elif rates.flops is not None:
        notes.append("prefill unknown: no stream told how many tokens its prompt has")
    if max(decode or 0.0, prefill or 0.0) > 1:
        notes.append(
            "more than the limit: the model, its type or the device is another than was given, or "
            "the weights are so few that they stay in a processor's cache"
        )
    return OfLimit(decode, prefill, notes)
