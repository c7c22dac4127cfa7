// Scores raw pixels with ONNX Runtime Web in Node: `node in_node.mjs JOB.json`, which names the runtime's folder, the
// model, and for each picture a file of uint8 RGB, its size, and where its results go. What it prints is JSON.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const job = JSON.parse(readFileSync(process.argv[2], "utf8"));
const ort = await import(pathToFileURL(join(job.assets, "ort.wasm.bundle.min.mjs")));
ort.env.wasm.wasmBinary = readFileSync(join(job.assets, "ort-wasm-simd-threaded.wasm")); // Node fetches no files
ort.env.wasm.numThreads = 1; // its threads are a browser's workers
const session = await ort.InferenceSession.create(readFileSync(job.model), { executionProviders: ["wasm"] });
const found = [];
for (const picture of job.pictures) {
  const image = new ort.Tensor("uint8", readFileSync(picture.pixels), [picture.height, picture.width, 3]);
  const started = performance.now();
  const results = await session.run({ image });
  const seconds = (performance.now() - started) / 1000;
  const outputs = {};
  for (const name of session.outputNames) {
    const file = `${picture.results}.${name}`;
    const data = results[name].data;
    writeFileSync(file, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    outputs[name] = { file, size: results[name].dims };
  }
  found.push({ seconds, outputs });
}
console.log(JSON.stringify({ version: ort.env.versions.web, found }));
process.exit(0);
