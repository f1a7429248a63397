// Pictures: read here, and shown as the server will cut them.

// What the server reads; anything else that the browser can show is sent as PNG.
const SENT_AS_THEY_ARE = ["image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp"];

// What a preview of its crops may take, in pixels.
const PREVIEW = { width: 200, height: 140 };

/** A file or blob → { name, url (a data URL), width, height, preview (a small canvas) }; throws where
 * the browser cannot show it. */
export async function readPicture(file, name) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error(`${name} is not a picture that this browser can read.`);
  }
  if (!SENT_AS_THEY_ARE.includes(file.type)) {
    const canvas = drawn(bitmap, bitmap.width, bitmap.height);
    file = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
    name = name.replace(/\.\w+$/, "") + ".png";
  }
  const { width, height } = bitmap;
  const scale = Math.min(1, PREVIEW.width / width, PREVIEW.height / height);
  const preview = drawn(bitmap, Math.ceil(width * scale), Math.ceil(height * scale));
  bitmap.close(); // four bytes for each pixel
  return { name, url: await dataUrl(file), width, height, preview };
}

/** One of the page's own pictures, as readPicture. */
export async function readSample(name) {
  const response = await fetch(`playground/${name}`).catch(() => null);
  if (!response?.ok) throw new Error("The server does not answer.");
  return readPicture(await response.blob(), name);
}

function drawn(bitmap, width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").drawImage(bitmap, 0, 0, width, height);
  return canvas;
}

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

/** How a picture is cut, as the server does it (scoring/image_processor.py): crops in each
 * direction, the size it is scaled to before it is padded with white, and its tokens. */
export function tiling(picture, rules) {
  const tall = picture.width < picture.height;
  const ratio = tall ? picture.height / picture.width : picture.width / picture.height;
  let along = 1;
  while ((along + 1) * Math.ceil((along + 1) / ratio) <= rules.num_crops) along += 1;
  const long = along * rules.crop_size;
  const short = Math.max(1, Math.trunc(long / ratio));
  const across = Math.ceil(short / rules.crop_size);
  const [cols, rows] = tall ? [across, along] : [along, across];
  const [width, height] = tall ? [short, long] : [long, short];
  const side = rules.tokens_per_side;
  const tokens = (rows * cols + 1) * side * side + (rows + 1) * side + 1;
  return { rows, cols, width, height, tokens };
}

/** Draw the padded picture with the lines along which it is cut, small. */
export function drawCrops(canvas, { preview }, tiling, rules) {
  const { cols, rows } = tiling;
  const scale = Math.min(PREVIEW.width / (cols * rules.crop_size), PREVIEW.height / (rows * rules.crop_size));
  const crop = rules.crop_size * scale;
  canvas.width = Math.round(cols * crop);
  canvas.height = Math.round(rows * crop);
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  const [width, height] = [tiling.width * scale, tiling.height * scale];
  context.drawImage(preview, (canvas.width - width) / 2, (canvas.height - height) / 2, width, height);
  context.strokeStyle = "#4267d6";
  for (let col = 1; col < cols; col += 1) context.strokeRect(col * crop, -1, 0, canvas.height + 2);
  for (let row = 1; row < rows; row += 1) context.strokeRect(-1, row * crop, canvas.width + 2, 0);
}
