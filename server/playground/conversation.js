// The turns of a chat, and how they look.

import { laidOut } from "./json.js";
import { element, render } from "./markdown.js";

// How far from its end the log may be, in pixels, and still be taken to be there.
const NEAR = 40;

/** A turn: { role, text, picture, failed } and its elements, { article, words, footer }. */
export class Conversation {
  constructor(log) {
    this.log = log;
    this.turns = [];
  }

  add(role, text, picture = null) {
    const article = element("article", element("h3", role === "user" ? "You" : "Model"));
    article.className = `turn ${role}`;
    if (picture) {
      const image = document.createElement("img");
      image.src = picture.url;
      image.alt = `Picture: ${picture.name}`;
      image.addEventListener("load", () => this.scrollToEnd());
      article.append(image);
    }
    const words = document.createElement("div");
    words.className = "text";
    const footer = document.createElement("footer");
    article.append(words, footer);
    this.log.append(article);
    const turn = { role, text: "", picture, article, words, footer };
    this.turns.push(turn);
    this.write(turn, text);
    this.scrollToEnd();
    return turn;
  }

  write(turn, text) {
    turn.text = text;
    this.follow(() => {
      if (turn.role === "user") turn.words.textContent = text;
      else turn.words.replaceChildren(render(text));
    });
  }

  /** Make a change, and keep its end in sight, unless the reader has scrolled back. */
  follow(change) {
    const isAtEnd = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < NEAR;
    change();
    if (isAtEnd) this.scrollToEnd();
  }

  scrollToEnd() {
    this.log.scrollTop = this.log.scrollHeight;
  }

  /** An answer by a schema, laid out. */
  writeJson(turn) {
    try {
      turn.words.replaceChildren(element("pre", element("code", laidOut(turn.text))));
    } catch {
      // Cut off, then: it stays as it came.
    }
  }

  fail(turn, message) {
    const error = element("p", message);
    error.className = "error";
    error.setAttribute("role", "alert");
    turn.words.append(error);
    turn.failed = true;
    this.scrollToEnd();
  }

  before(turn) {
    return this.turns.slice(0, this.turns.indexOf(turn));
  }

  /** Take off this turn and all after it. */
  cutFrom(turn) {
    for (const gone of this.turns.splice(this.turns.indexOf(turn))) gone.article.remove();
  }

  /** What goes over the wire of these turns: no answer that failed, nor its question, which would be
   * refused again. Only the last pictures reach the model; older ones stay here. */
  messages(picturesKept, turns = this.turns) {
    const spoken = turns.filter((turn, index) =>
      turn.role === "user" ? !turns[index + 1]?.failed : turn.text && !turn.failed,
    );
    const pictures = spoken.filter((turn) => turn.picture).slice(-picturesKept);
    return {
      messages: spoken.map((turn) => messageOf(turn.role, turn.text, pictures.includes(turn) && turn.picture)),
      pictures: pictures.map((turn) => turn.picture),
    };
  }
}

function messageOf(role, text, picture) {
  if (!picture) return { role, content: text };
  return {
    role,
    content: [
      { type: "text", text },
      { type: "image_url", image_url: { url: picture.url } },
    ],
  };
}
