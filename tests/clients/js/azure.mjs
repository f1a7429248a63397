// @azure-rest/ai-inference, called as the published how-to calls it.
import ModelClient, { isUnexpected } from "@azure-rest/ai-inference";
import { AzureKeyCredential } from "@azure/core-auth";
import { createSseStream } from "@azure/core-sse";

import { answerLines } from "./lines.mjs";

// Without the option the client sends no key over plain HTTP.
const clientOf = ({ endpoint, key }) =>
  new ModelClient(endpoint, new AzureKeyCredential(key), { allowInsecureConnection: true });

function bodyOf(response) {
  if (isUnexpected(response)) {
    throw { ...response.body.error, status: response.status };
  }
  return response.body;
}

await answerLines({
  info: async (given) => bodyOf(await clientOf(given).path("info").get()),

  complete: async (given) => {
    const { body, headers } = given;
    return bodyOf(await clientOf(given).path("/chat/completions").post({ body, headers }));
  },

  // The pieces that the how-to's loop prints.
  stream: async (given) => {
    const response = await clientOf(given)
      .path("/chat/completions")
      .post({ body: { ...given.body, stream: true } })
      .asNodeStream();
    if (response.status !== "200") {
      throw new Error(`Failed to get chat completions: ${response.status}`);
    }
    const pieces = [];
    for await (const event of createSseStream(response.body)) {
      if (event.data === "[DONE]") {
        return pieces;
      }
      for (const choice of JSON.parse(event.data).choices) {
        pieces.push(choice.delta?.content ?? "");
      }
    }
    throw new Error("no [DONE]");
  },

  elsewhere: async (given) => bodyOf(await clientOf(given).path("/nowhere").get()),
});
