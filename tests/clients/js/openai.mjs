// OpenAI's client for Node.
import OpenAI from "openai";

import { answerLines } from "./lines.mjs";

const clientOf = ({ endpoint, key }) => new OpenAI({ baseURL: `${endpoint}/v1`, apiKey: key });

await answerLines({
  models: async (given) => (await clientOf(given).models.list()).data,

  model: (given) => clientOf(given).models.retrieve(given.name),

  complete: (given) => clientOf(given).chat.completions.create(given.body),

  // The pieces of the answer, and the usage if the body asks for it.
  stream: async (given) => {
    const chunks = await clientOf(given).chat.completions.create({ ...given.body, stream: true });
    const pieces = [];
    let usage = null;
    for await (const chunk of chunks) {
      pieces.push(...chunk.choices.map((choice) => choice.delta.content ?? ""));
      usage = chunk.usage ?? usage;
    }
    return { pieces, usage };
  },

  // What the streaming helper gathers.
  gathered: (given) => clientOf(given).chat.completions.stream(given.body).finalChatCompletion(),
});
