"use strict";
// A window of one layer's attention on its tokens, with a chooser where there are several heads.
headprobe.attention_view = async (root, data) => {
  const { make, unpack, mixed, picture, BLUE } = headprobe;
  const weights = await unpack(data.weights), [heads, height, width] = data.weights.shape;
  const at = (head, query, key) => weights[(head * height + query) * width + key] / data.whole;
  const side = (one) => ({ first: one.first, size: one.texts.length, texts: one.texts });
  let chosen = data.head;

  const place = make("div", { class: "hx-attention hx-large" });
  const buttons = data.names.map((name, head) => make("button", { type: "button", role: "radio", "data-index": head },
    picture(width, height, (cell) => mixed(at(head, Math.floor(cell / width), cell % width), BLUE),
      { "aria-hidden": "true", role: null }), name));
  const chooser = make("div", { class: "hx-chooser", role: "radiogroup", "aria-label": "Head" }, buttons);

  root.classList.add("hx");
  root.replaceChildren(heads > 1 ? chooser : "", place);
  const view = headprobe.attention(place, { queries: side(data.queries), keys: side(data.keys), start: data.start,
    weight: (query, key) => at(chosen, query, key) });

  function choose(head, focus) {
    chosen = head;
    buttons.forEach((button, index) => {
      button.setAttribute("aria-checked", index === head);
      button.tabIndex = index === head ? 0 : -1;
    });
    if (focus) buttons[head].focus();
    view.redraw();
  }
  chooser.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) choose(Number(button.dataset.index), true);
  });
  chooser.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    choose((chosen + step + heads) % heads, true);
  });
  choose(chosen, false);
  root.dataset.ready = "true";
};
