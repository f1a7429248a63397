// A client that a test drives: a line of JSON in, {call, ...}, for each line of JSON out.
import { createInterface } from "node:readline";

export async function answerLines(calls) {
  for await (const line of createInterface({ input: process.stdin })) {
    const { call, ...given } = JSON.parse(line);
    let answer;
    try {
      answer = { returned: await calls[call](given) };
    } catch (thrown) {
      const { name, message, code, param, status } = thrown;
      answer = { thrown: { name, message, code, param, status } };
    }
    console.log(JSON.stringify(answer));
  }
}
