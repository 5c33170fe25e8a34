import { FilesetResolver, ImageClassifier } from "./mediapipe/vision_bundle.mjs";
import { readInput } from "./tflite.js";

const MODEL = "model.tflite";
const COUNT = 5;

const [drop, file, preview, labels, error, status, about, input] = [
  "drop", "file", "preview", "labels", "error", "status", "about", "input",
].map((id) => document.getElementById(id));

/** The classifier, ready to run, and an input canvas of the network's size. */
async function load() {
  const response = await fetch(MODEL);
  if (!response.ok)
    throw new Error(`${MODEL} is missing (HTTP ${response.status}). Make it as README.md says, then build the page anew.`);
  const content = await response.arrayBuffer();
  let found;
  try {
    found = readInput(content);
  } catch (reason) {
    throw new Error(`${MODEL} cannot be used. ${reason.message}`);
  }
  if (!["uint8", "float32"].includes(found.type))
    throw new Error(`${MODEL} takes ${found.type}, and MediaPipe gives uint8. Export the model with --target app.`);
  [input.width, input.height] = [found.width, found.height];
  drop.style.setProperty("--shape", `${found.width} / ${found.height}`);

  let classifier;
  try {
    classifier = await ImageClassifier.createFromOptions(await FilesetResolver.forVisionTasks("mediapipe/wasm"), {
      baseOptions: { modelAssetBuffer: new Uint8Array(content) },
      maxResults: COUNT,
    });
    classifier.classify(input); // the first run allocates
  } catch (reason) {
    console.error(reason);
    throw new Error(`MediaPipe cannot run ${MODEL}: ${reason.message ?? reason}`);
  }
  const megabytes = (content.byteLength / 1e6).toFixed(1);
  about.textContent = `${MODEL}: ${megabytes} MB, ${found.width} × ${found.height} pixels, ${found.type}. Run by MediaPipe.`;
  return classifier;
}

/** Draws the middle of a picture on the input canvas: by halves, so that no pixel is skipped, then to size. */
function draw(picture) {
  const scale = Math.min(picture.width / input.width, picture.height / input.height);
  let [width, height] = [input.width * scale, input.height * scale];
  let [x, y] = [(picture.width - width) / 2, (picture.height - height) / 2].map(Math.floor); // half pixels would blur
  let source = picture;
  while (width >= 2 * input.width && height >= 2 * input.height) {
    const half = new OffscreenCanvas(Math.round(width / 2), Math.round(height / 2));
    paint(half, source, x, y, width, height);
    [source, x, y, width, height] = [half, 0, 0, half.width, half.height];
  }
  paint(input, source, x, y, width, height);
}

function paint(canvas, source, x, y, width, height) {
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: canvas === input });
  context.fillStyle = "white"; // behind transparent pictures
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(source, x, y, width, height, 0, 0, canvas.width, canvas.height);
}

function show(categories, milliseconds) {
  labels.replaceChildren(
    ...categories.map(({ categoryName, index, score }) => {
      const [item, name, value, bar] = ["li", "span", "data", "div"].map((tag) => document.createElement(tag));
      name.textContent = categoryName ? categoryName.replaceAll("_", " ") : `class ${index}`;
      value.value = score;
      value.textContent = `${(100 * score).toFixed(1)} %`;
      bar.className = "bar";
      bar.style.setProperty("--score", score);
      item.append(name, value, bar);
      return item;
    }),
  );
  status.textContent = `${milliseconds.toFixed(1)} ms for this picture`;
}

function fail(message) {
  error.textContent = message;
  error.hidden = false;
}

let latest = 0;

async function classify(chosen) {
  const turn = ++latest; // of pictures that come quickly one after another, the last one counts
  let picture;
  try {
    picture = await createImageBitmap(chosen);
  } catch {
    if (turn === latest) fail(`“${chosen.name}” is not a picture that this browser can read. Try a JPEG, PNG or WebP file.`);
    return;
  }
  if (turn !== latest) return;
  error.hidden = true;
  labels.replaceChildren();
  URL.revokeObjectURL(preview.src);
  preview.src = URL.createObjectURL(chosen);
  preview.alt = chosen.name;
  preview.hidden = false;
  drop.classList.add("full");
  drop.querySelector("strong").textContent = "Another picture";
  try {
    const classifier = await ready;
    if (turn !== latest) return;
    draw(picture);
    const start = performance.now();
    const [{ categories }] = classifier.classify(input).classifications;
    show(categories, performance.now() - start);
  } catch (reason) {
    fail(reason.message ?? `The picture could not be classified: ${reason}`);
  }
}

file.addEventListener("change", () => {
  if (file.files.length) classify(file.files[0]);
  file.value = ""; // the same picture may be chosen again
});

// A picture may be dropped anywhere on the page.
addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) drop.classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  const [dropped] = event.dataTransfer.files;
  if (dropped) classify(dropped);
  else fail("That was not a file. Save the picture first, then drop or choose it.");
});

const ready = load();
ready.then(
  () => {
    if (status.textContent.startsWith("Loading")) status.textContent = "Ready for a picture.";
  },
  (reason) => {
    status.textContent = "";
    fail(reason.message);
  },
);
