// The pictures, worst first, as a list that is stepped through with the arrow keys.

/** Those that could not be scored come last, as they came. */
const isBefore = (a, b) => (a.reason ? false : b.reason ? true : a.score > b.score);

export class PictureList {
  items = [];
  chosen = null;
  #element;
  #onChoose;
  #n = 0;

  constructor(element, onChoose) {
    [this.#element, this.#onChoose] = [element, onChoose];
    element.addEventListener("click", ({ target }) => {
      const row = target.closest(".row");
      if (row) this.choose(this.items.find((item) => item.row === row), true);
    });
  }

  /** Put in an item that was scored, or has a reason why not. */
  add(item, judge) {
    item.row = document.createElement("div");
    item.row.className = "row";
    item.row.id = `row-${++this.#n}`;
    item.row.setAttribute("role", "option");
    item.row.setAttribute("aria-selected", "false");
    const picture = document.createElement(item.thumbnail ? "img" : "span");
    if (item.thumbnail) Object.assign(picture, { src: item.thumbnail, alt: "" });
    else picture.className = "none";
    const words = document.createElement("div");
    const [name, said, score] = ["name", "said", "score"].map((kind) => {
      const part = document.createElement("div");
      part.className = kind;
      return part;
    });
    name.textContent = name.title = item.name;
    words.append(name, said);
    item.row.append(picture, words, score);
    let [low, high] = [0, this.items.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (isBefore(item, this.items[middle])) high = middle;
      else low = middle + 1;
    }
    this.#element.insertBefore(item.row, this.items[low]?.row ?? null);
    this.items.splice(low, 0, item);
    this.#element.hidden = false;
    this.#judgeOne(item, judge);
  }

  /** Say every verdict again. */
  judge(judge) {
    for (const item of this.items) this.#judgeOne(item, judge);
  }

  #judgeOne(item, judge) {
    const [said, score] = [item.row.querySelector(".said"), item.row.querySelector(".score")];
    if (item.reason) {
      said.className = "said failed";
      said.textContent = `Not scored. It ${item.reason}`;
      return;
    }
    const { words, kind } = judge(item.score);
    said.className = `said ${kind}`;
    said.textContent = words;
    score.textContent = item.score.toPrecision(4);
    item.row.dataset.score = item.score;
  }

  choose(item, isByUser = false) {
    if (!item) return;
    this.chosen?.row.setAttribute("aria-selected", "false");
    this.chosen = item;
    item.row.setAttribute("aria-selected", "true");
    this.#element.setAttribute("aria-activedescendant", item.row.id);
    // Only the list itself scrolls: the page stays where the result is seen.
    const [row, box] = [item.row, this.#element];
    const top = row.offsetTop - box.offsetTop;
    if (top < box.scrollTop) box.scrollTop = top;
    else if (top + row.offsetHeight > box.scrollTop + box.clientHeight) box.scrollTop = top + row.offsetHeight - box.clientHeight;
    this.#onChoose(item, isByUser);
  }

  /** The next, or the one before. */
  step(by) {
    const at = this.items.indexOf(this.chosen);
    this.choose(this.items[Math.min(this.items.length - 1, Math.max(0, at + by))], true);
  }

  clear() {
    for (const { thumbnail } of this.items) if (thumbnail) URL.revokeObjectURL(thumbnail);
    this.items = [];
    this.chosen = null;
    this.#element.replaceChildren();
    this.#element.hidden = true;
    this.#element.removeAttribute("aria-activedescendant");
  }
}

/** All verdicts as CSV, numbers in full. */
export function asCsv(items, calibration) {
  const quoted = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const lines = items.map(({ name, score, reason, notices }) => {
    if (reason) return [name, "", calibration.threshold, "", "not scored", reason];
    const said = calibration.verdict(score);
    const verdict = said === "suspected" ? "anomalous" : said; // as scores.csv has called it from the first
    return [name, score, calibration.threshold, calibration.pValue(score), verdict, notices.join("; ")];
  });
  const table = [["picture", "score", "threshold", "p_value", "verdict", "notes"], ...lines];
  return `${table.map((line) => line.map((value) => quoted(String(value))).join(",")).join("\r\n")}\r\n`;
}
