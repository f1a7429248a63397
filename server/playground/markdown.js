// A model's text → elements: paragraphs, headings, lists, code, emphasis. Everything else, links
// and HTML among it, stays the text that it is.

export function render(text) {
  const blocks = document.createDocumentFragment();
  const lines = text.split("\n");
  for (let index = 0; index < lines.length; ) {
    const line = lines[index];
    const fence = fenceOf(line);
    if (fence) {
      const code = [];
      index += 1;
      while (index < lines.length && !lines[index].trimStart().startsWith(fence)) code.push(lines[index++]);
      index += 1;
      blocks.append(element("pre", element("code", code.join("\n"))));
    } else if (/^#{1,6}\s/.test(line)) {
      blocks.append(element("h4", ...spans(line.replace(/^#+\s+/, ""))));
      index += 1;
    } else if (itemOf(line)) {
      const { ordered, number } = itemOf(line);
      const list = document.createElement(ordered ? "ol" : "ul");
      if (ordered) list.start = number;
      for (let item; (item = itemOf(lines[index] ?? ""))?.ordered === ordered; index += 1) {
        list.append(element("li", ...spans(item.text)));
      }
      blocks.append(list);
    } else if (line.trim() === "") {
      index += 1;
    } else {
      const paragraph = document.createElement("p");
      const isText = (l) => l !== undefined && l.trim() !== "" && !fenceOf(l) && !/^#{1,6}\s/.test(l) && !itemOf(l);
      for (let first = true; isText(lines[index]); index += 1, first = false) {
        if (!first) paragraph.append(document.createElement("br"));
        paragraph.append(...spans(lines[index]));
      }
      blocks.append(paragraph);
    }
  }
  return blocks;
}

// A line of backticks that go on to close is code within the line.
function fenceOf(line) {
  const match = line.match(/^\s*(?:(```+)[^`]*$|(~~~+))/);
  return match && (match[1] ?? match[2]);
}

function itemOf(line) {
  const match = line.match(/^\s*(?:[-*+]|(\d{1,9})[.)])\s+(.*)$/);
  return match && { ordered: match[1] !== undefined, number: Number(match[1]), text: match[2] };
}

const CODE = /```[^`]+```|``[^`]+``|`[^`]+`/;
const STRONG = /\*\*[^*\s](?:[^*]*[^*\s])?\*\*/;
const EMPHASIS = /\*[^*\s](?:[^*]*[^*\s])?\*/;
// Asterisks between letters or digits are products, 2*3*4; beside spaces they are that, too, or *.py.
const SPAN = new RegExp(`(${CODE.source}|(?<![\\w*])(?:${STRONG.source}|${EMPHASIS.source})(?![\\w*]))`);

function spans(text) {
  const parts = text.split(SPAN);
  return parts.map((part, index) => {
    if (index % 2 === 0) return part;
    if (part.startsWith("`")) return element("code", part.replace(/^`+|`+$/g, ""));
    if (part.startsWith("**")) return element("strong", part.slice(2, -2));
    return element("em", part.slice(1, -1));
  });
}

export function element(name, ...children) {
  const made = document.createElement(name);
  made.append(...children);
  return made;
}
