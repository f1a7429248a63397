// The server, as the page sees it. Addresses are relative: a proxy may put a prefix before them.

export class ServerError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

function headersWith(key) {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function refusal(response) {
  const text = await response.text();
  try {
    return new ServerError(response.status, JSON.parse(text).error.message);
  } catch {
    return new ServerError(response.status, `The server answered ${response.status}.`);
  }
}

/** The model's name and rules; throws ServerError. */
export async function getModel(key) {
  const response = await fetch("playground/model", { headers: headersWith(key) });
  if (!response.ok) throw await refusal(response);
  return response.json();
}

/** What the readiness probe says, ready or not. */
export async function getHealth() {
  return (await fetch("health/ready")).json();
}

/** Yields a stream's events, parsed, until [DONE]; throws ServerError, and AbortError when told. */
export async function* streamChat(body, key, signal) {
  const response = await fetch("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json", ...headersWith(key) },
    body: JSON.stringify(body),
    signal,
  });
  if (!response.ok) throw await refusal(response);
  for await (const data of eventsOf(response.body)) {
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw new ServerError(event.error.status, event.error.message);
    yield event;
  }
  throw new ServerError(0, "The connection ended before the answer did.");
}

async function* eventsOf(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) yield event.replace(/^data: /, "");
  }
}
