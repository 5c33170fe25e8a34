// Puts the page, and the files of MediaPipe that it needs, into dist/.
import { cp, mkdir, rm } from "node:fs/promises";
import { existsSync } from "node:fs";

const here = new URL("./", import.meta.url);
const page = new URL("public/", here);
const mediapipe = new URL("node_modules/@mediapipe/tasks-vision/", here);
const dist = new URL("dist/", here);

// A browser loads one of the two: with SIMD, or, if it is old, without.
const files = [
  "vision_bundle.mjs",
  "wasm/vision_wasm_internal.js",
  "wasm/vision_wasm_internal.wasm",
  "wasm/vision_wasm_nosimd_internal.js",
  "wasm/vision_wasm_nosimd_internal.wasm",
];

if (!existsSync(mediapipe)) {
  console.error("MediaPipe is not installed. Run `npm ci` first.");
  process.exit(1);
}
await rm(dist, { recursive: true, force: true });
await mkdir(new URL("mediapipe/wasm/", dist), { recursive: true });
await cp(page, dist, { recursive: true });
for (const file of files) await cp(new URL(file, mediapipe), new URL(`mediapipe/${file}`, dist));
if (!existsSync(new URL("model.tflite", page)))
  console.warn("public/model.tflite is missing. The page will say so; README.md says how to make it.");
console.log("Built dist/. Serve it over HTTP, for example: python3 -m http.server --directory dist 8000");
