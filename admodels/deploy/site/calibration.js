// What held-out normals say: threshold, p-value, verdict and their sentence, number for number as
// admodels/core/calibration.py and results.py have it, so that a verdict is the same wherever it is given.

/** The ⌈(n + 1)(1 − rate)⌉-th smallest value; the largest where n is too small for the rate. */
function conformal(values, rate) {
  return values[Math.min(rank(values.length, rate), values.length) - 1];
}

function rank(n, rate) {
  // The subtraction keeps (n + 1)·(1 − rate) from being pushed over a whole number by rounding.
  return Math.max(1, Math.ceil((n + 1) * (1 - rate) - 1e-9));
}

/** How many held-out normals it takes for a threshold to promise this rate. */
function needed(rate) {
  return Math.ceil(1 / rate - 1e-9) - 1; // the quotient may be a rounding above a whole number
}

function median(values) {
  const ordered = Float64Array.from(values, Math.abs).sort();
  const middle = ordered.length >> 1;
  return ordered.length % 2 ? ordered[middle] : (ordered[middle - 1] + ordered[middle]) / 2;
}

/** How many of ascending values lie below x; with `orEqual` also those equal to it. */
function countBelow(values, x, orEqual = false) {
  let low = 0;
  let high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] < x || (orEqual && values[middle] === x)) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** A fraction as Python's `{:.2%}` writes it: where it lies in the middle, to the even digit. */
export function percent(fraction, digits) {
  const value = fraction * 100;
  const [whole, decimals] = value.toFixed(100).split(".");
  if (!/^50*$/.test(decimals.slice(digits))) return `${value.toFixed(digits)}%`;
  const lower = digits ? `${whole}.${decimals.slice(0, digits)}` : whole;
  const isEven = Number(lower.at(-1)) % 2 === 0;
  return `${isEven ? lower : (Number(lower) + 10 ** -digits).toFixed(digits)}%`;
}

const BORDERLINE_P = 0.05;

/** Held-out scores with one rate, or with a threshold set by hand. Frozen; `withRate` gives another. */
export class Calibration {
  /** @param kept the model's calibration as its file has it. */
  constructor(kept) {
    Object.assign(this, {
      scores: Float64Array.from(kept.scores),
      mapMaxima: Float64Array.from(kept.map_maxima),
      rate: kept.false_alarm_rate,
      nFolds: kept.n_folds ?? 0,
      handThreshold: kept.hand_threshold ?? null,
      roundingRatio: kept.rounding_ratio ?? 0,
    });
    this.isByHand = this.handThreshold !== null;
    this.threshold = this.isByHand ? this.handThreshold : this.#beyondRounding(this.scores, this.rate);
    this.nAbove = this.scores.length - countBelow(this.scores, this.threshold, true);
    const mapRate = this.isByHand ? (1 + this.nAbove) / (this.scores.length + 1) : this.rate;
    this.mapThreshold = this.#beyondRounding(this.mapMaxima, mapRate);
    Object.freeze(this);
  }

  withRate(rate) {
    return new Calibration({
      scores: this.scores,
      map_maxima: this.mapMaxima,
      false_alarm_rate: rate,
      n_folds: this.nFolds,
      rounding_ratio: this.roundingRatio,
    });
  }

  /** (1 + number of held-out scores ≥ score) / (n + 1). */
  pValue(score) {
    return (1 + this.scores.length - countBelow(this.scores, score)) / (this.scores.length + 1);
  }

  /** The fraction of held-out normals whose score is below this one. */
  rarerThan(score) {
    return countBelow(this.scores, score) / this.scores.length;
  }

  /**
   * "suspected" above the threshold; below it "borderline" where no more than 5 % of good pictures score as high;
   * else "good".
   */
  verdict(score) {
    if (score > this.threshold) return "suspected";
    return this.pValue(score) <= BORDERLINE_P ? "borderline" : "good";
  }

  /** How the threshold was set, in one plain sentence. */
  get statement() {
    const n = this.scores.length;
    const how = this.nFolds ? `, each once, in ${this.nFolds} folds,` : "";
    if (this.isByHand) {
      return `Set by hand: ${this.nAbove} of ${n} good pictures kept aside${how} (${percent(this.nAbove / n, 1)}) lie above it.`;
    }
    if (rank(n, this.rate) <= n) {
      const most = this.nFolds ? "at most about" : "at most";
      return `Set so that ${most} ${percent(this.rate, 2)} of good pictures alarm, from ${n} kept aside${how.replace(/,$/, "")}.`;
    }
    return (
      `${n} good pictures kept aside${how} can promise ${percent(1 / (n + 1), 1)} false alarms at best: the threshold is the ` +
      `largest of their scores. For ${percent(this.rate, 2)} it takes ${needed(this.rate).toLocaleString("en")}.`
    );
  }

  #beyondRounding(values, rate) {
    const value = conformal(values, rate);
    return value + this.roundingRatio * Math.max(Math.abs(value), median(values));
  }
}
