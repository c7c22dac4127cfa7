() => {
  // Runs once in each page: what Gradio's components do not do by themselves.
  const step = () => document.querySelector("[id^=step-][id$=-button][aria-selected=true]");
  const thumbnails = () => [...document.querySelectorAll("#inspected .thumbnail-item")];
  const shown = () => Number(document.querySelector("#verdict [data-place]")?.dataset.place);
  const mark = (place) => thumbnails().forEach((item, i) => item.classList.toggle("shown", i === place));
  let waits = false;
  let begun = false; // the history names the step that this page opened with
  let asked = null; // the picture that the keys went on to, until it is shown
  let timer = 0; // of a key that is held down, only where it stops counts

  // "hidden", as Gradio has it and our style cannot change, would keep what is sticky from following the window.
  document.querySelector(".gradio-container")?.style.setProperty("overflow", "clip");

  // The browser's Back goes one step back. What the history itself holds decides whether a step is new: a note of
  // ours would lag behind it by a frame, in which Back or Forward may be pressed again.
  function remember() {
    const now = step()?.id, kept = history.state?.step;
    if (!now || (begun && now === kept)) return;
    if (begun && kept) history.pushState({ step: now }, "");
    else history.replaceState({ step: now }, ""); // after a reload too: the app decides where it opens
    begun = true;
  }
  addEventListener("popstate", (event) => {
    const wanted = event.state?.step;
    if (wanted && wanted !== step()?.id) document.getElementById(wanted)?.click();
  });

  // The words of our own pieces of HTML, in the visitor's language where it is one that we have.
  const offered = window.gradio_config?.i18n_translations ?? {};
  const language = navigator.languages.map((tag) => tag.split("-")[0]).find((tag) => offered[tag]) ?? "en";
  const words = language === "en" ? null : offered[language];
  function translate() {
    for (const piece of document.querySelectorAll(".prose:not(:has(.md))")) {
      const texts = document.createTreeWalker(piece, NodeFilter.SHOW_TEXT);
      while (texts.nextNode()) {
        const said = words[texts.currentNode.data.trim()];
        if (said) texts.currentNode.data = texts.currentNode.data.replace(/\S(.*\S)?/s, () => said);
      }
    }
  }

  // The picture that is shown is marked among the others, however it was chosen.
  function look() {
    waits = false;
    remember();
    if (words) translate();
    const place = shown();
    if (Number.isNaN(place)) return;
    if (asked === place || asked >= thumbnails().length) asked = null;
    mark(asked ?? place);
  }
  new MutationObserver(() => {
    if (waits) return;
    waits = true;
    requestAnimationFrame(look);
  }).observe(document.body, { childList: true, subtree: true, attributeFilter: ["aria-selected", "data-place"] });
  look();

  // Left and right go through the pictures inspected, unless something else that is focused wants these keys.
  const wantsKeys = "input, textarea, select, canvas, video, [contenteditable=true], [role=tab], [role=slider], table";
  addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    if (event.target.closest?.(wantsKeys) || step()?.id !== "step-inspect-button") return;
    const items = thumbnails(), place = (asked ?? shown()) + move;
    if (!items[place]) return;
    event.preventDefault();
    items[place].scrollIntoView({ block: "nearest" });
    asked = place;
    mark(place);
    clearTimeout(timer);
    timer = setTimeout(() => thumbnails()[place]?.click(), 100);
  });
  addEventListener("pointerdown", () => (asked = null), true);

  // An answer may come in the middle of a press and move what is pressed from under the pointer; a browser then takes it
  // for no press at all. Who moves the pointer away means that; who does not has pressed.
  const STILL = 4; // pixels that the pointer may move all the same
  const pressed = "button, summary, a[href], label:has([type=radio], [type=checkbox])";
  let press = null;
  addEventListener("pointerdown", (event) => {
    const control = event.button === 0 ? event.target.closest?.(pressed) : null;
    press = control ? { control, x: event.clientX, y: event.clientY } : null;
  }, true);
  addEventListener("pointerup", (event) => {
    const { control, x, y } = press ?? {};
    press = null;
    if (!control || control.contains(event.target)) return;
    if (Math.hypot(event.clientX - x, event.clientY - y) < STILL) control.click();
  }, true);
}
