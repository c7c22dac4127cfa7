// The page's side of the worker: a promise for each picture, and a new worker where one broke.

export const GIVEN_UP = "was given up: this page judges nothing here.";

export class Scorer {
  #worker = null;
  #pending = new Map();
  #nextId = 1;
  #settings;
  #on;
  #canUseGpu;
  #isRefused = false;

  /**
   * @param settings the model's, from model.json.
   * @param on {progress(loaded, total), ready(engine, seconds), engine(engine, reason), refused(reason)}.
   * @param canUseGpu whether WebGPU is tried too, or a promise of it, for which nothing waits.
   */
  constructor(settings, on, canUseGpu) {
    [this.#settings, this.#on, this.#canUseGpu] = [settings, on, canUseGpu];
    this.#start();
  }

  /** Score a file; rejects with an Error whose message is the reason. */
  score(file) {
    return this.#ask({ kind: "score", file });
  }

  /** Score a camera's frame, which is used up. */
  frame(bitmap) {
    return this.#ask({ kind: "frame", bitmap }, [bitmap]);
  }

  #ask(message, transferred = []) {
    if (this.#isRefused) return Promise.reject(new Error(GIVEN_UP));
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { message: { ...message, id }, resolve, reject });
      this.#worker.postMessage({ ...message, id }, transferred);
    });
  }

  async #start() {
    const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    this.#worker = worker;
    worker.onmessage = ({ data }) => this.#answered(data);
    worker.onerror = (event) => this.#refuse(`The scoring script could not be started: ${event.message || event.type}`);
    worker.postMessage({ kind: "start", settings: this.#settings, base: new URL("./", import.meta.url).href });
    worker.postMessage({ kind: "gpu", isThere: await this.#canUseGpu });
  }

  #refuse(reason) {
    this.#isRefused = true;
    this.#worker.terminate();
    this.#on.refused(reason);
    for (const { reject } of this.#pending.values()) reject(new Error(GIVEN_UP));
    this.#pending.clear();
  }

  #answered({ kind, id, ...content }) {
    if (kind === "progress") this.#on.progress(content.loaded, content.total);
    else if (kind === "ready") this.#on.ready(content.engine, content.seconds);
    else if (kind === "engine") this.#on.engine(content.engine, content.reason);
    else if (kind === "refused") this.#refuse(content.reason);
    else {
      const asked = this.#pending.get(id);
      if (!asked) return; // it was given up already
      this.#pending.delete(id);
      if (kind === "scored") asked.resolve(content);
      else asked.reject(new Error(content.reason));
      if (kind === "broken") this.#restart();
    }
  }

  #restart() {
    this.#worker.terminate();
    const waiting = [...this.#pending.values()];
    this.#pending.clear();
    this.#start();
    for (const { message, resolve, reject } of waiting) {
      if (message.kind === "frame") reject(new Error("was lost."));
      else {
        this.#pending.set(message.id, { message, resolve, reject });
        this.#worker.postMessage(message);
      }
    }
  }
}
