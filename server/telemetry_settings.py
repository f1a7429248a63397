"""Settings of what the server tells its operators."""

from collections.abc import Mapping
from uuid import UUID

from pydantic import BaseModel, Field

from scoring.logs import LogFormat


class TelemetrySettings(BaseModel):
    """Logs and traces; metrics are always there."""

    log_level: str = Field(
        "info", pattern="^(debug|info|warning|error)$", description="How much to say."
    )
    log_format: LogFormat = Field(
        "auto", description="json: an object a line. auto: text on a terminal, else json."
    )
    log_prompts: bool = Field(
        False,
        description="Log every conversation, with pictures as their size and hash. For debugging: "
        "what users write is then wherever the logs go.",
    )
    otlp_endpoint: str | None = Field(
        None,
        pattern="^https?://",
        description="Where traces go: the base URL of an OpenTelemetry collector, "
        "http://localhost:4318 say. Unset: OTEL_EXPORTER_OTLP_ENDPOINT, else nowhere.",
    )
    app_insights: str | None = Field(
        None,
        pattern="InstrumentationKey=",
        description="Where traces go, too: a connection string of Azure Application Insights. "
        "Unset: APPLICATIONINSIGHTS_CONNECTION_STRING, else AML_APP_INSIGHTS_KEY where "
        "AML_APP_INSIGHTS_ENABLED is true.",
    )


_OTLP = "OTEL_EXPORTER_OTLP_ENDPOINT"
_CONNECTION = "APPLICATIONINSIGHTS_CONNECTION_STRING"
_AML_KEY = "AML_APP_INSIGHTS_KEY"


def telemetry_of(environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """The settings that variables of other names hold, OpenTelemetry's and Azure's: each with its
    value and the variable."""
    found = {}
    if endpoint := environ.get(_OTLP):
        found["otlp_endpoint"] = endpoint, _OTLP
    if connection := environ.get(_CONNECTION):
        found["app_insights"] = connection, _CONNECTION
    elif environ.get("AML_APP_INSIGHTS_ENABLED", "").lower() == "true":
        key = environ.get(_AML_KEY, "")
        if _is_uuid(key):
            found["app_insights"] = f"InstrumentationKey={key}", _AML_KEY
    return found


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
