// The picture that goes with the next question.

import { drawCrops, readPicture, tiling } from "./picture.js";

const byId = (id) => document.getElementById(id);

export class Attachment {
  /** rules: → { crop_size, tokens_per_side, num_crops }, or null while they are not known. */
  constructor(rules) {
    this.rules = rules;
    this.picture = null;
    byId("picture").addEventListener("change", () => this.attach(byId("picture").files[0]));
    byId("remove-picture").addEventListener("click", () => {
      this.set(null);
      byId("question").focus();
    });
    document.addEventListener("paste", (event) => {
      const [file] = event.clipboardData.files;
      if (!file?.type.startsWith("image/")) return;
      event.preventDefault();
      this.attach(file);
    });
    document.addEventListener("dragover", (event) => {
      event.preventDefault();
      document.body.classList.add("dropping");
    });
    document.addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) document.body.classList.remove("dropping");
    });
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      document.body.classList.remove("dropping");
      this.attach(event.dataTransfer.files[0]);
    });
  }

  async attach(file) {
    if (!file) return;
    try {
      this.set(await readPicture(file, file.name));
    } catch (error) {
      this.set(null);
      byId("picture-error").textContent = error.message;
    }
  }

  async attachSample(name) {
    const response = await fetch(`playground/${name}`);
    await this.attach(new File([await response.blob()], name, { type: "image/png" }));
  }

  set(picture) {
    this.picture = picture;
    byId("picture").value = "";
    byId("picture-error").textContent = "";
    this.show();
  }

  show() {
    const rules = this.rules();
    byId("attachment").hidden = !this.picture || !rules;
    if (byId("attachment").hidden) return;
    const { name, bitmap } = this.picture;
    const tiles = tiling(bitmap, rules);
    drawCrops(byId("crops"), bitmap, tiles, rules);
    byId("crops").setAttribute("aria-label", `${name} as it is cut`);
    byId("picture-facts").textContent =
      `${name}, ${bitmap.width} × ${bitmap.height}: ${tiles.cols} × ${tiles.rows} ` +
      `crop${tiles.cols * tiles.rows > 1 ? "s" : ""} and the whole, ${tiles.tokens} tokens`;
  }
}
