// The picture that goes with the next question.

import { drawCrops, readPicture, readSample, tiling } from "./picture.js";

const byId = (id) => document.getElementById(id);

export class Attachment {
  /** rules: → { crop_size, tokens_per_side, num_crops }, or null while they are not known.
   * onChange: called after a picture has come or gone. */
  constructor(rules, onChange) {
    this.rules = rules;
    this.onChange = onChange;
    this.picture = null;
    this.reading = null; // a promise while a picture is on its way: true, or false if it failed
    byId("picture").addEventListener("change", () => this.attach(byId("picture").files[0]));
    byId("remove-picture").addEventListener("click", () => {
      this.set(null);
      byId("question").focus();
    });
    document.addEventListener("paste", (event) => {
      const { files, types } = event.clipboardData;
      const [file] = files;
      // Cells of a sheet come as text and as a picture of it: the text is meant.
      const isRichText = types.includes("text/plain") && types.includes("text/html");
      if (!file?.type.startsWith("image/") || isRichText) return;
      event.preventDefault();
      this.attach(file);
    });
    // Text that is dragged into a box is the box's own affair.
    const bringsFile = (event) => event.dataTransfer.types.includes("Files");
    document.addEventListener("dragover", (event) => {
      if (!bringsFile(event)) return;
      event.preventDefault();
      document.body.classList.add("dropping");
    });
    document.addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) document.body.classList.remove("dropping");
    });
    document.addEventListener("drop", (event) => {
      if (!bringsFile(event)) return;
      event.preventDefault();
      document.body.classList.remove("dropping");
      this.attach(event.dataTransfer.files[0]);
    });
  }

  attach(file) {
    if (file) this.take(readPicture(file, file.name));
  }

  attachSample(name) {
    this.take(readSample(name));
  }

  /** Put a picture here once it has been read, unless another came meanwhile. */
  take(coming) {
    const reading = coming.then(
      (picture) => {
        if (this.reading === reading) this.set(picture);
        return true;
      },
      (error) => {
        if (this.reading === reading) this.set(this.picture, error.message);
        return false;
      },
    );
    this.reading = reading;
  }

  /** Wait for the picture that is being read, if one is; false where it could not be. */
  async isThere() {
    let isRead = true;
    while (this.reading) isRead = await this.reading;
    return isRead;
  }

  set(picture, error = "") {
    this.picture = picture;
    this.reading = null;
    byId("picture").value = "";
    byId("picture-error").textContent = error;
    this.show();
    this.onChange();
  }

  show() {
    const rules = this.rules();
    byId("attachment").hidden = !this.picture || !rules;
    if (byId("attachment").hidden) return;
    const { name, width, height } = this.picture;
    const tiles = tiling(this.picture, rules);
    drawCrops(byId("crops"), this.picture, tiles, rules);
    byId("crops").setAttribute("aria-label", `${name} as it is cut`);
    byId("picture-facts").textContent =
      `${name}, ${width} × ${height}: ${tiles.cols} × ${tiles.rows} ` +
      `crop${tiles.cols * tiles.rows > 1 ? "s" : ""} and the whole, ${tiles.tokens} tokens`;
  }
}
