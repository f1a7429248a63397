// JSON, laid out for reading.

const TOKENS = /"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s"{}[\],:]+/g;

/** JSON text → the same with line breaks and indents; every name and value stays as it was written,
 * which JSON.stringify would not leave alone: 1.0, long numbers, the order of names. Throws
 * SyntaxError. */
export function laidOut(text) {
  JSON.parse(text);
  const tokens = text.match(TOKENS);
  let out = "";
  let depth = 0;
  tokens.forEach((token, index) => {
    const opens = token === "{" || token === "[";
    const closes = token === "}" || token === "]";
    if (closes) depth -= 1;
    const before = tokens[index - 1] ?? "";
    const isEmpty = closes && (before === "{" || before === "[");
    if (!isEmpty && (closes || "{[,".includes(before)) && index > 0) out += `\n${"  ".repeat(depth)}`;
    out += token === ":" ? ": " : token;
    if (opens) depth += 1;
  });
  return out;
}
