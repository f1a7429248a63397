"""Settings that bound what one caller and one request may take."""

from pydantic import BaseModel, Field


class LimitSettings(BaseModel):
    """Limits, each applied before the memory is spent that it is there to save."""

    requests_per_minute: int | None = Field(
        None,
        ge=1,
        description="Requests of one caller, told apart by key; more are answered 429. Azure gives "
        "a deployment 1000. Unset: no limit.",
    )
    tokens_per_minute: int | None = Field(
        None,
        ge=1,
        description="Tokens of one caller, prompts and answers together; more are answered 429. "
        "Azure gives a deployment 200000. Unset: no limit.",
    )
    max_queued_requests: int = Field(
        128, ge=0, description="Requests that may wait for a place; more are answered 429."
    )
    max_queued_tokens: int | None = Field(
        None,
        ge=1,
        description="Prompt tokens that may wait for their first token; more are answered 429. "
        "Unset: four times the longest request, and at least 65536.",
    )
    max_queue_wait_s: float = Field(
        60, gt=0, description="Seconds a request may wait to be begun; then it is answered 429."
    )
    max_request_s: float = Field(
        600,
        gt=0,
        description="Seconds a request may take, waiting included; then it ends with what it has "
        "(finish_reason length), or with an error where that is nothing. With AZUREML_MODEL_DIR, "
        "170: the platform gives up after 180.",
    )
    max_body_mib: int = Field(
        32, ge=1, description="Size of a request's body; a larger one is answered 413."
    )
    max_receive_s: float = Field(
        10,
        gt=0,
        description="Seconds that a request's head may take to arrive, and each MiB of its body; "
        "a slower one is answered 408.",
    )
    max_stall_s: float = Field(
        60,
        gt=0,
        description="Seconds for which a client may read nothing of an answer that waits for it; "
        "then its connection is closed.",
    )
    max_text_kib: int = Field(
        2048, ge=1, description="Text of a request, all messages together; more is answered 413."
    )
