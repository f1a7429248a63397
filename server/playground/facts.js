// What an answer cost.

const ms = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;

/** A line. first: milliseconds until the first token came, as this page saw it. usage, timings: the
 * server's, as far as it came to tell them. reason: why the answer ended. */
export function facts({ first, usage, timings, reason }) {
  const parts = [];
  if (reason === "stopped") parts.push("stopped");
  if (reason === "length") parts.push("cut off at its most tokens");
  if (timings) {
    parts.push(`queue ${ms(timings.queue ?? 0)}`);
    const pictures = (timings.decode_images ?? 0) + (timings.encode_images ?? 0);
    if (timings.decode_images !== undefined) parts.push(`picture ${ms(pictures)}`);
  }
  if (first !== null) parts.push(`first token ${ms(first)}`);
  if (usage) {
    const decoded = usage.completion_tokens - 1;
    if (timings?.decode > 0 && decoded > 0) parts.push(`${((decoded / timings.decode) * 1000).toFixed(1)} tokens/s`);
    const { cached_tokens: cached, image_tokens: image } = usage.prompt_tokens_details;
    parts.push(
      `${usage.prompt_tokens} tokens in${image ? `, ${image} of them picture` : ""}${cached ? `, ${cached} cached` : ""}; ` +
        `${usage.completion_tokens} out`,
    );
  }
  return parts.join(" · ");
}

