// A question of the chat that is being asked in other words.

const byId = (id) => document.getElementById(id);

export class Editing {
  /** attachment: the picture beside the question. */
  constructor(attachment) {
    this.attachment = attachment;
    this.turn = null;
    this.draft = null;
    byId("cancel-edit").addEventListener("click", () => this.cancel());
  }

  /** Put a turn's question into the box; what was being written there comes back afterwards. */
  begin(turn) {
    this.draft ??= this.written();
    this.turn = turn;
    this.fill(turn);
    byId("editing").hidden = false;
  }

  cancel() {
    this.fill(this.end().draft);
  }

  /** The turn that was edited and what was being written before, or null and nothing. */
  end() {
    const { turn, draft } = this;
    this.turn = this.draft = null;
    byId("editing").hidden = true;
    return { turn, draft: draft ?? { text: "", picture: null } };
  }

  written() {
    return { text: byId("question").value, picture: this.attachment.picture };
  }

  fill({ text, picture }) {
    byId("question").value = text;
    this.attachment.set(picture);
    byId("question").focus();
  }
}
