// A request → the program that sends it.

/** body: of POST /v1/chat/completions. pictures: [{ name, url }] in the order of their appearance in
 * it; a program reads them from files of these names. endpoint: without a slash at its end. */
export function codeFor(language, body, pictures, endpoint, hasKey) {
  return { curl, python, javascript }[language](body, pictures, endpoint, hasKey);
}

const mark = (index) => `\u0000${index}\u0000`;
const typeOf = (url) => url.slice(0, url.indexOf(","));

// The body with a mark in place of each picture.
function marked(body, pictures) {
  let next = 0;
  const messages = body.messages.map((message) =>
    typeof message.content === "string"
      ? message
      : {
          ...message,
          content: message.content.map((part) =>
            part.type === "image_url" ? { ...part, image_url: { url: mark(next++) } } : part,
          ),
        },
  );
  if (next !== pictures.length) throw new Error("a picture is missing");
  return { ...body, messages };
}

function replaceMarks(text, pictures, toCode) {
  return pictures.reduce((code, picture, index) => {
    const quoted = JSON.stringify(mark(index));
    return code.replace(quoted, () => toCode(picture));
  }, text);
}

function curl(body, pictures, endpoint, hasKey) {
  const json = JSON.stringify(marked(body, pictures), null, 2).replace(/[\\$`]/g, "\\$&");
  const escapedMark = (index) => JSON.stringify(mark(index)).replace(/\\/g, "\\\\");
  const filled = pictures.reduce(
    (code, picture, index) =>
      code.replace(
        escapedMark(index),
        () => `"${typeOf(picture.url)},$(base64 < ${shellQuoted(picture.name)} | tr -d '\\n')"`,
      ),
    json,
  );
  const key = hasKey ? ` \\\n  -H "Authorization: Bearer $KEY"` : "";
  return `curl -sN "${endpoint}/v1/chat/completions" \\
  -H "Content-Type: application/json"${key} \\
  -d @- <<BODY
${filled}
BODY
`;
}

const shellQuoted = (name) => `'${name.replace(/'/g, `'\\''`)}'`;

// JSON's literals, but for three words, are Python's.
function pythonLiteral(value, indent) {
  const pad = " ".repeat(indent);
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  const items = Array.isArray(value)
    ? value.map((item) => pythonLiteral(item, indent + 4))
    : Object.entries(value).map(([key, item]) => `${JSON.stringify(key)}: ${pythonLiteral(item, indent + 4)}`);
  if (items.length === 0) return open + close;
  return `${open}\n${items.map((item) => `${pad}    ${item},`).join("\n")}\n${pad}${close}`;
}

function python(body, pictures, endpoint, hasKey) {
  const { messages, stream, stream_options: _, response_format: format, num_crops: crops, ...rest } = marked(body, pictures);
  const reader = pictures.length
    ? `
def picture(path: str, prefix: str) -> str:
    with open(path, "rb") as file:
        return prefix + "," + base64.b64encode(file.read()).decode()

`
    : "";
  const parameters = Object.entries(rest).map(([name, value]) => `    ${name}=${pythonLiteral(value, 4)},`);
  if (format) {
    const { name, schema, strict } = format.json_schema;
    parameters.push(
      `    response_format=JsonSchemaFormat(name=${JSON.stringify(name)}, schema=${pythonLiteral(schema, 4)}, strict=${pythonLiteral(strict)}),`,
    );
  }
  if (crops !== undefined) parameters.push(`    model_extras={"num_crops": ${crops}},`);
  if (stream) parameters.push("    stream=True,");
  const code = `# pip install azure-ai-inference
${pictures.length ? "import base64\n" : ""}${hasKey ? "import os\n" : ""}
from azure.ai.inference import ChatCompletionsClient
${format ? "from azure.ai.inference.models import JsonSchemaFormat\n" : ""}from azure.core.credentials import AzureKeyCredential

${reader}
client = ChatCompletionsClient(${JSON.stringify(endpoint)}, AzureKeyCredential(${hasKey ? 'os.environ["KEY"]' : '"none"'}))
updates = client.complete(
    messages=${pythonLiteral(messages, 4)},
${parameters.join("\n")}
)
for update in updates:
    print(update.choices[0].delta.content, end="", flush=True)
print()
`;
  return replaceMarks(code, pictures, (picture) => `picture(${JSON.stringify(picture.name)}, ${JSON.stringify(typeOf(picture.url))})`);
}

function javascript(body, pictures, endpoint, hasKey) {
  const { stream_options: _, ...rest } = marked(body, pictures);
  const json = JSON.stringify({ model: "any", ...rest }, null, 2);
  const reader = pictures.length
    ? `
const picture = (path, prefix) => \`\${prefix},\${readFileSync(path).toString("base64")}\`;
`
    : "";
  const code = `// npm install openai
${pictures.length ? 'import { readFileSync } from "node:fs";\n' : ""}import OpenAI from "openai";
${reader}
const client = new OpenAI({
  baseURL: ${JSON.stringify(`${endpoint}/v1`)},
  apiKey: ${hasKey ? "process.env.KEY" : '"none"'},
});
const chunks = await client.chat.completions.create(${json});
for await (const chunk of chunks) process.stdout.write(chunk.choices[0]?.delta.content ?? "");
process.stdout.write("\\n");
`;
  return replaceMarks(code, pictures, (picture) => `picture(${JSON.stringify(picture.name)}, ${JSON.stringify(typeOf(picture.url))})`);
}
