// What is set beside the chat: sampling, a JSON schema, the key.

const EXAMPLE = {
  type: "object",
  properties: { shape: { type: "string" }, color: { type: "string" } },
  required: ["shape", "color"],
  additionalProperties: false,
};
const byId = (id) => document.getElementById(id);

/** Show what a request gets that says nothing. */
export function showDefaults(model) {
  byId("temperature").value = model.temperature;
  byId("top_p").value = model.top_p;
  byId("max_tokens").value = model.max_tokens;
  byId("num_crops").value = model.images.num_crops;
  byId("schema").value = JSON.stringify(EXAMPLE, null, 2);
  for (const output of document.querySelectorAll("output")) showValue(output);
}

function showValue(output) {
  output.textContent = byId(output.htmlFor.value).value;
}

export function key() {
  return byId("key").value;
}

export function numCrops(model) {
  const given = byId("num_crops").valueAsNumber;
  return given >= 1 && given <= 16 ? Math.trunc(given) : model.images.num_crops;
}

export function systemMessages() {
  const text = byId("system").value.trim();
  return text ? [{ role: "system", content: text }] : [];
}

/** A request's parameters; throws where the schema is no JSON, and its panel says why. */
export function parameters(model) {
  const body = { temperature: byId("temperature").valueAsNumber, top_p: byId("top_p").valueAsNumber };
  for (const name of ["max_tokens", "seed"]) {
    const value = byId(name).valueAsNumber;
    if (!Number.isNaN(value)) body[name] = value;
  }
  if (numCrops(model) !== model.images.num_crops) body.num_crops = numCrops(model);
  if (byId("use-schema").checked) {
    body.response_format = { type: "json_schema", json_schema: { name: "answer", schema: schema(), strict: true } };
  }
  return body;
}

function schema() {
  const error = byId("schema-error");
  error.textContent = "";
  try {
    return JSON.parse(byId("schema").value);
  } catch (problem) {
    error.textContent = `The schema is not JSON: ${problem.message}`;
    throw new Error(error.textContent);
  }
}

/** Show the schema, and what is wrong with it: the focus has a reader read it. */
export function showSchema() {
  select(byId("tab-schema"));
  byId("schema").focus();
}

/** onChange: called after any of it has changed, or a panel is shown. */
export function setUp(onChange) {
  for (const output of document.querySelectorAll("output")) {
    byId(output.htmlFor.value).addEventListener("input", () => showValue(output));
  }
  for (const id of ["schema", "use-schema"]) {
    byId(id).addEventListener("input", () => (byId("schema-error").textContent = ""));
  }
  document.querySelector("aside").addEventListener("input", onChange);
  const tabs = [...document.querySelectorAll('[role="tab"]')];
  tabs.forEach((tab, index) => {
    tab.addEventListener("click", () => {
      select(tab);
      onChange();
    });
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = tabs[(index + step + tabs.length) % tabs.length];
      next.focus();
      next.click();
    });
  });
}

function select(chosen) {
  for (const tab of document.querySelectorAll('[role="tab"]')) {
    const isChosen = tab === chosen;
    tab.setAttribute("aria-selected", String(isChosen));
    tab.tabIndex = isChosen ? 0 : -1;
    byId(tab.getAttribute("aria-controls")).hidden = !isChosen;
  }
}
