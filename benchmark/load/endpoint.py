"""Where chats are posted, in Azure's style or OpenAI's, and how to tell which an address speaks."""

import ssl
from dataclasses import dataclass, field
from typing import Any, Literal, get_args
from urllib.parse import urlsplit, urlunsplit

import msgspec

ApiStyle = Literal["azure", "openai"]
API_STYLES: tuple[ApiStyle, ...] = get_args(ApiStyle)
Message = dict[str, Any]

_AZURE_VERSION = "api-version=2024-05-01-preview"
_CHAT = "/chat/completions"
_PROBE_TIMEOUT_S = 30.0


class EndpointError(Exception):
    """The address is none that chats can be posted to. The message is for the user."""


@dataclass(frozen=True)
class Endpoint:
    """url: the whole address of chat completions, its query included. model: None to send none.
    extra_body: more fields of every request's body."""

    url: str
    style: ApiStyle
    model: str | None = None
    api_key: str | None = None
    extra_body: dict[str, Any] = field(default_factory=dict)

    def request(self, messages: list[Message], max_tokens: int) -> bytes:
        """The bytes of one greedy streamed request, head and body."""
        body: dict[str, Any] = {
            "messages": messages,
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
        }
        if self.model is not None:
            body["model"] = self.model
        if self.style == "openai":  # Azure's streams tell the usage unasked
            body["stream_options"] = {"include_usage": True}
        payload = msgspec.json.encode(body | self.extra_body)
        address = urlsplit(self.url)
        target = address.path + (f"?{address.query}" if address.query else "")
        lines = [
            f"POST {target} HTTP/1.1",
            f"Host: {address.netloc}",
            "Content-Type: application/json",
            "Accept: text/event-stream",
            f"Content-Length: {len(payload)}",
        ]
        lines += [f"{name}: {value}" for name, value in self._headers().items()]
        return "\r\n".join([*lines, "", ""]).encode() + payload

    def _headers(self) -> dict[str, str]:
        headers = _key_headers(self.api_key)
        if self.style == "azure" and self.extra_body:
            headers["extra-parameters"] = "pass-through"
        return headers


def find_endpoint(
    url: str,
    style: ApiStyle | None,
    model: str | None,
    api_key: str | None,
    extra_body: dict[str, Any],
) -> Endpoint:
    """The endpoint at an address as users give it: a server's root, a /v1, or the whole address of
    its chat completions. Asks the server for what is not given: its style, and in OpenAI's style
    its first model. Raises EndpointError."""
    _check(url)
    style = style or _style(url, api_key)
    chat = chat_url(url, style)
    if style == "openai" and model is None:
        model = _first_model(chat.removesuffix(_CHAT), api_key)
    return Endpoint(chat, style, model, api_key, extra_body)


def _check(url: str) -> None:
    """Raises EndpointError, which repeats no password."""
    if "@" in url.split("//", 1)[-1].split("/", 1)[0]:
        raise EndpointError("--url holds a user name or password; a key goes into --key")
    try:
        address = urlsplit(url)
        is_one = address.scheme in ("http", "https") and address.hostname and address.port != 0
    except ValueError:  # brackets that do not match; a port that is no number, or beyond 65,535
        is_one = False
    if not is_one:
        raise EndpointError(f"--url {url} is not an address of the form http://host:port")


def chat_url(url: str, style: ApiStyle) -> str:
    """The whole address of chat completions under a server's root or /v1."""
    address = urlsplit(url)
    path = address.path.rstrip("/")
    if not path.endswith(_CHAT):
        if style == "openai" and not path.endswith("/v1"):
            path += "/v1"
        path += _CHAT
    query = address.query or (_AZURE_VERSION if style == "azure" else "")
    return urlunsplit((address.scheme, address.netloc, path, query, ""))


def _style(url: str, api_key: str | None) -> ApiStyle:
    path = urlsplit(url).path.rstrip("/")
    if path.endswith(("/v1", f"/v1{_CHAT}")):
        return "openai"
    if path.endswith(_CHAT):
        return "azure"
    root = url.rstrip("/")
    if "model_name" in _get(f"{root}/info?{_AZURE_VERSION}", api_key):
        return "azure"
    if "data" in _get(f"{root}/v1/models", api_key):
        return "openai"
    raise EndpointError(
        f"{url} answers neither GET /info (Azure's style) nor GET /v1/models (OpenAI's) as such a "
        "server does; is the key right? --api-style says which it is"
    )


def _first_model(base: str, api_key: str | None) -> str:
    try:
        return str(_get(f"{base}/models", api_key)["data"][0]["id"])
    except (KeyError, IndexError, TypeError):
        raise EndpointError(f"{base}/models names no model; give --model") from None


def _get(url: str, api_key: str | None) -> dict[str, Any]:
    """The JSON object at an address; an empty one where there is none."""
    import httpx

    try:
        # As the load's own client connects: by no proxy.
        response = httpx.get(
            url,
            headers=_key_headers(api_key),
            timeout=_PROBE_TIMEOUT_S,
            trust_env=False,
            verify=ssl.create_default_context(),
        )
        found = response.json() if response.status_code == httpx.codes.OK else {}
    except httpx.HTTPError as error:
        raise EndpointError(f"{url} cannot be reached: {error}") from error
    except ValueError:
        found = {}
    return found if isinstance(found, dict) else {}


def _key_headers(api_key: str | None) -> dict[str, str]:
    if api_key is None:
        return {}
    # The first is OpenAI's way and that of Azure ML's endpoints, the second Azure AI's.
    return {"Authorization": f"Bearer {api_key}", "api-key": api_key}
