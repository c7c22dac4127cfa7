// The model in ONNX Runtime Web: WebAssembly with SIMD, and with threads where the page may have them; or WebGPU.

const MAX_THREADS = 4;
const FILES = {
  wasm: ["ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"],
  webgpu: ["ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm"],
};

/** A file's bytes, which says how many it has so far; `integrity` as in HTML. */
export async function fetched(address, onProgress = () => {}, integrity = "") {
  const response = await fetch(address, integrity ? { integrity, mode: "cors" } : {});
  if (!response.ok) throw new Error(`${address} answers ${response.status}`);
  const parts = [];
  let n = 0;
  const reader = response.body.getReader();
  for (let step = await reader.read(); !step.done; step = await reader.read()) {
    parts.push(step.value);
    n += step.value.length;
    onProgress(n);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

/** ONNX Runtime's module, and where it finds its two other files. */
async function runtime(kind, { runtime: { base, files, is_remote: isRemote } }, page) {
  const folder = new URL(base, page);
  let addresses = FILES[kind].map((name) => new URL(name, folder).href);
  if (isRemote) {
    // Code from another host runs only if it is what was pinned; an import could not be held to that.
    addresses = await Promise.all(
      addresses.map(async (address, i) => {
        const bytes = await fetched(address, undefined, files[FILES[kind][i]]);
        const type = address.endsWith(".wasm") ? "application/wasm" : "text/javascript";
        return URL.createObjectURL(new Blob([bytes], { type }));
      }),
    );
  }
  const ort = await import(addresses[0]);
  ort.env.wasm.wasmPaths = { mjs: addresses[1], wasm: addresses[2] };
  // One core stays free for decoding, drawing and whatever else runs: threads that wait for each other on busy cores are
  // slower than one alone.
  const nFree = (navigator.hardwareConcurrency || 2) - 1;
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(MAX_THREADS, Math.max(1, nFree)) : 1;
  ort.env.logLevel = "error";
  // It compiles its code with the first session. An empty model makes none, but the code is there when the real one is.
  await ort.InferenceSession.create(new Uint8Array(0)).catch(() => {});
  return ort;
}

export class Engine {
  #ort;
  #session;
  #model;

  /**
   * @param kind "wasm" or "webgpu".
   * @param model what model.json says.
   * @param page where the page's files are.
   * @param coming a promise of the model's bytes, which are loaded while the runtime starts.
   */
  static async open(kind, model, page, coming) {
    const [ort, bytes] = await Promise.all([runtime(kind, model, page), coming]);
    const session = await ort.InferenceSession.create(bytes, { executionProviders: [kind] });
    return new Engine(ort, session, model, kind);
  }

  constructor(ort, session, model, kind) {
    [this.#ort, this.#session, this.#model] = [ort, session, model];
    const n = ort.env.wasm.numThreads;
    this.name = kind === "webgpu" ? "WebGPU" : `WebAssembly, ${n} thread${n === 1 ? "" : "s"}`;
  }

  /** Raw score, and the map of the picture's size: Float32Array (height, width), NaN where nothing was scored. */
  async score({ pixels, width, height }) {
    const image = new this.#ort.Tensor("uint8", pixels, [height, width, 3]);
    const found = await this.#session.run({ image }, ["score", "map"]);
    const result = { score: found.score.data[0], map: await found.map.getData() };
    image.dispose();
    return result;
  }

  /** Whether the model's own picture scores here what it scored in PyTorch. */
  async check(picture) {
    const began = performance.now();
    const { score } = await this.score(picture);
    const ms = performance.now() - began;
    const { probe, threshold } = this.#model;
    const apart = Math.abs(score - probe.score) / Math.max(Math.abs(probe.score), threshold);
    return { agrees: apart <= probe.tolerance, score, ms };
  }
}
