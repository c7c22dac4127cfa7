// How long pictures took, over the last of them.

const N_KEPT = 60;

export class Speed {
  #kept = [];

  /** @param ms {pixels, model, all}: to decode, to score, and both. */
  add(ms) {
    this.#kept = [...this.#kept.slice(1 - N_KEPT), ms];
  }

  clear() {
    this.#kept = [];
  }

  /** What was measured, in words; empty before the first. */
  statement(engine) {
    const n = this.#kept.length;
    if (!n) return "";
    const quantile = (part, at) => {
      const values = this.#kept.map((ms) => ms[part]).sort((a, b) => a - b);
      return values[Math.min(n - 1, Math.ceil(at * n) - 1)];
    };
    const mean = this.#kept.reduce((sum, ms) => sum + ms.all, 0) / n;
    const rate = 1000 / mean;
    return (
      `${rate.toFixed(rate < 10 ? 1 : 0)} FPS; p50 ${quantile("all", 0.5).toFixed(0)} ms, ` +
      `p95 ${quantile("all", 0.95).toFixed(0)} ms over the last ${n === 1 ? "picture" : `${n} pictures`}, ` +
      `from file or frame to score and map (model ${quantile("model", 0.5).toFixed(0)} ms, ` +
      `pixels ${quantile("pixels", 0.5).toFixed(0)} ms; without drawing). ${engine}.`
    );
  }
}
