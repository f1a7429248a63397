// The page: a question goes in, an answer comes out, and everything around it.

import { Attachment } from "./attachment.js";
import { ServerError, getHealth, getModel, streamChat } from "./api.js";
import { codeFor } from "./code.js";
import { Conversation } from "./conversation.js";
import { Editing } from "./editing.js";
import { facts } from "./facts.js";
import { element } from "./markdown.js";
import * as settings from "./settings.js";

const byId = (id) => document.getElementById(id);
const conversation = new Conversation(byId("log"));
const question = byId("question");
const endpoint = location.href.replace(/[?#].*/, "").replace(/\/playground$/, "");
let model = null;
let answering = null; // an AbortController while an answer comes
const attachment = new Attachment(() => model && { ...model.images, num_crops: settings.numCrops(model) }, showCode);
const editing = new Editing(attachment);

// The model: known as soon as the server tells, which may take a key, and the weights' time.

async function meetModel() {
  try {
    const before = model;
    model = await getModel(settings.key());
    if (!before) settings.showDefaults(model);
    byId("model-name").textContent = model.model_name;
    document.title = `${model.model_name} · playground`;
    byId("notice").hidden = !model.notice;
    byId("notice").textContent = model.notice ?? "";
    const health = await getHealth();
    const isLoading = health.status === "loading" || health.status === "starting";
    const context = model.context_length && !isLoading && ` · context ${model.context_length.toLocaleString("en")} tokens`;
    say("status", health.status + (context || ""));
    byId("progress").textContent = isLoading ? `${Math.round(health.percent)} %` : "";
    if (!model.context_length || health.status === "warming") setTimeout(meetModel, 1000);
    attachment.show();
    showCode();
  } catch (error) {
    const isKeyWanted = error.status === 401;
    say("status", isKeyWanted ? "This server wants a key: it goes below Sampling." : messageOf(error));
    byId("progress").textContent = "";
    if (isKeyWanted) byId("key").focus();
    else setTimeout(meetModel, 2000);
  }
}

/** Say it to a screen reader, too, once. */
function say(id, text) {
  if (byId(id).textContent !== text) byId(id).textContent = text;
}

function messageOf(error) {
  return error instanceof ServerError ? error.message : "The server does not answer.";
}

// Asking.

function ask(text, withPicture) {
  byId("welcome").hidden = true;
  const turn = conversation.add("user", text, withPicture);
  const edit = element("button", "Edit");
  edit.type = "button";
  edit.addEventListener("click", () => {
    answering?.abort();
    editing.begin(turn);
  });
  turn.footer.append(edit);
  showCode();
  return answer();
}

function requestBody(turns) {
  const { messages, pictures } = conversation.messages(model.images.kept, turns);
  const body = {
    messages: [...settings.systemMessages(), ...messages],
    ...settings.parameters(model),
    stream: true,
    stream_options: { include_usage: true, include_timings: true },
  };
  return { body, pictures };
}

async function answer() {
  const { body } = requestBody();
  const turn = conversation.add("assistant", "");
  const begun = performance.now();
  const seen = { first: null, usage: null, timings: null, reason: null };
  say("announcement", "");
  setAnswering(new AbortController());
  try {
    for await (const event of streamChat(body, settings.key(), answering.signal)) {
      const choice = event.choices[0];
      if (choice?.delta.content) {
        seen.first ??= performance.now() - begun;
        conversation.write(turn, turn.text + choice.delta.content);
      }
      seen.reason = choice?.finish_reason ?? seen.reason;
      seen.usage = event.usage ?? seen.usage;
      seen.timings = event.timings_ms ?? seen.timings;
    }
    if (body.response_format) conversation.writeJson(turn);
    say("announcement", turn.text);
  } catch (error) {
    if (error.name === "AbortError") {
      seen.reason = "stopped";
      say("announcement", "Stopped.");
    } else conversation.fail(turn, messageOf(error));
    if (error.status === 401) byId("key").focus();
  } finally {
    setAnswering(null);
  }
  conversation.follow(() => turn.footer.append(element("span", facts(seen)), retryButton(turn)));
  showCode();
}

function retryButton(turn) {
  const retry = element("button", "Retry");
  retry.type = "button";
  retry.className = "retry";
  retry.addEventListener("click", () => {
    if (answering || !isSound()) return;
    conversation.cutFrom(turn);
    question.focus(); // the button is gone
    answer();
  });
  return retry;
}

function setAnswering(controller) {
  // A button that hides, or is disabled, loses the focus to nowhere.
  if (!controller && document.activeElement === byId("stop")) question.focus();
  answering = controller;
  byId("stop").hidden = !controller;
  byId("send").setAttribute("aria-disabled", String(Boolean(controller)));
}

/** Whether what is set can be sent; where it cannot, the schema's panel says why. */
function isSound() {
  try {
    settings.parameters(model);
    return true;
  } catch {
    settings.showSchema();
    return false;
  }
}

function showCode() {
  if (byId("panel-code").hidden || !model) return;
  try {
    const { body, pictures } = requestBody(turnsToShow());
    byId("code").textContent = codeFor(byId("language").value, body, pictures, endpoint, settings.key() !== "");
  } catch (error) {
    byId("code").textContent = error.message;
  }
}

// The chat up to the question that is being written, else up to the last one.
function turnsToShow() {
  const text = question.value.trim();
  const turns = editing.turn ? conversation.before(editing.turn) : conversation.turns;
  if (text || turns.length === 0) return [...turns, { role: "user", text: text || "Hello!", picture: attachment.picture }];
  return turns.slice(0, turns.findLastIndex((turn) => turn.role === "user") + 1);
}

async function copyCode() {
  const text = byId("code").textContent;
  try {
    await navigator.clipboard.writeText(text);
    byId("copy").textContent = "Copied";
  } catch {
    // Without https a page may not; what is selected can be copied by hand.
    getSelection().selectAllChildren(byId("code"));
    byId("copy").textContent = "Selected";
  }
  setTimeout(() => (byId("copy").textContent = "Copy"), 2000);
}

// Everything that a hand can do.

byId("composer").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (!(await attachment.isThere())) return;
  const text = question.value.trim();
  if (!text || answering || !model || !isSound()) return;
  const picture = attachment.picture;
  const { turn, draft } = editing.end();
  if (turn) conversation.cutFrom(turn);
  question.value = draft.text;
  attachment.set(draft.picture);
  ask(text, picture);
});
question.addEventListener("keydown", (event) => {
  // The Enter that ends a word of Chinese, say: in Safari only its code tells.
  const isComposing = event.isComposing || event.keyCode === 229;
  if (event.key === "Enter" && !event.shiftKey && !isComposing) {
    event.preventDefault();
    byId("composer").requestSubmit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") answering?.abort();
});
byId("stop").addEventListener("click", () => answering?.abort());
byId("clear").addEventListener("click", () => {
  answering?.abort();
  if (editing.turn) editing.cancel();
  if (conversation.turns.length) conversation.cutFrom(conversation.turns[0]);
  byId("welcome").hidden = false;
  say("announcement", "");
  question.focus();
  showCode();
});
for (const button of document.querySelectorAll("[data-sample]")) {
  button.addEventListener("click", () => {
    question.value = button.dataset.question;
    question.focus();
    attachment.attachSample(button.dataset.sample);
  });
}
byId("copy").addEventListener("click", copyCode);
byId("key").addEventListener("change", meetModel);
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault(); // Enter has changed the key, and that does it.
});
settings.setUp(() => {
  attachment.show();
  showCode();
});
question.addEventListener("input", showCode);
meetModel();
