"use strict";
// A window of attention on its tokens: pick a query to see where it looks, pick a key to see who looks at it.
//
// view: queries, keys: { first, texts } (texts null: positions stand for tokens); weight(q, k) of places in the window.
// start: the query to begin with. Returns { redraw } for when the weights change.
headprobe.attention = (root, view) => {
  const { make, token, flow, show, count, shadeToken, mixed, picture, BLUE, ORANGE } = headprobe;
  const height = view.queries.size, width = view.keys.size;
  let pinned = { side: "query", index: Math.min(view.start || 0, height - 1) };

  const name = (side, index) => (side.texts ? side.texts[index] : String(side.first + index));
  const places = (side) => count(side.first) + "–" + count(side.first + side.size - 1);
  const weights = (chosen) => chosen.side === "query" ?
    Array.from({ length: width }, (_, key) => view.weight(chosen.index, key)) :
    Array.from({ length: height }, (_, query) => view.weight(query, chosen.index));

  function block(kind, side, label, hint) {
    const tokens = Array.from({ length: side.size }, (_, index) => token(name(side, index), {
      role: "option", tabindex: -1, "data-side": kind, "data-index": index,
      title: name(side, index) + " at " + count(side.first + index), class: side.texts ? null : "hx-gap",
    }));
    const list = make("div", { class: "hx-text", role: "listbox", "aria-label": label + ", " + hint }, flow(tokens));
    return { tokens, element: make("div", { class: "hx-block" },
      make("p", { class: "hx-head" }, make("b", {}, label), " " + places(side) + " ", make("span", {}, hint)), list) };
  }

  const blocks = {
    query: block("query", view.queries, "Queries", "pick one to see where it looks"),
    key: block("key", view.keys, "Keys", "pick one to see who looks at it"),
  };
  const said = make("p", { class: "hx-said", role: "status" });
  const frame = make("div", { class: "hx-frame", "aria-hidden": "true" });
  const mark = make("div", { class: "hx-mark" });
  const heat = make("figure", { class: "hx-heat" }, frame,
    make("figcaption", {}, "The window as a map: queries down, keys across. Point at a row."));
  root.replaceChildren(heat, make("div", { class: "hx-reading" }, said, blocks.query.element, blocks.key.element));

  function redraw() {
    frame.replaceChildren(picture(width, height, (at) =>
      mixed(view.weight(Math.floor(at / width), at % width), BLUE)), mark);
    pick(pinned);
  }

  // Shade what the chosen token looks at, or what looks at it, and say it in a line.
  function pick(chosen) {
    const other = chosen.side === "query" ? "key" : "query";
    const values = weights(chosen), colour = chosen.side === "query" ? BLUE : ORANGE;
    blocks[other].tokens.forEach((element, index) => shadeToken(element, values[index], colour));
    for (const kind of ["query", "key"]) {
      blocks[kind].tokens.forEach((element, index) => {
        const mine = kind === chosen.side && index === chosen.index;
        element.classList.toggle("hx-picked", mine);
        element.setAttribute("aria-selected", mine);
        element.tabIndex = (kind === pinned.side ? index === pinned.index : index === 0) ? 0 : -1;
        if (kind === chosen.side) shadeToken(element, 0, colour);
      });
    }
    const share = (index, size) => (100 * index) / size + "%";
    const across = chosen.side === "query";
    Object.assign(mark.style, {
      top: across ? share(chosen.index, height) : 0, height: across ? share(1, height) : "100%",
      left: across ? 0 : share(chosen.index, width), width: across ? "100%" : share(1, width),
    });
    say(chosen, values);
  }

  function say(chosen, values) {
    const mine = view[chosen.side === "query" ? "queries" : "keys"];
    const theirs = view[chosen.side === "query" ? "keys" : "queries"];
    const best = values.map((value, index) => [value, index]).filter(([value]) => value >= 0.005)
      .sort((a, b) => b[0] - a[0]).slice(0, 3);
    const sum = values.reduce((total, value) => total + value, 0);
    const shown = best.flatMap(([value, index], place) =>
      [place ? ", " : " ", token(name(theirs, index), { class: "hx-chip" }), " " + show(value)]);
    const verb = chosen.side === "query" ? " looks at" : " is looked at by";
    said.replaceChildren(token(name(mine, chosen.index), { class: "hx-chip hx-picked" }),
      " (" + count(mine.first + chosen.index) + ")" + (best.length ? verb : verb + " nothing here above 0.005"), ...shown,
      chosen.side === "query" ? ". These keys get " + show(sum) + " of its attention." : ".");
  }

  const spot = (event) => {
    const element = event.target.closest("[data-side]");
    return element && { side: element.dataset.side, index: Number(element.dataset.index) };
  };
  const inMap = (event) => {
    const box = frame.getBoundingClientRect();
    const row = Math.floor(((event.clientY - box.top) / box.height) * height);
    return { side: "query", index: Math.min(height - 1, Math.max(0, row)) };
  };
  for (const { element } of Object.values(blocks)) {
    element.addEventListener("pointerover", (event) => { const at = spot(event); if (at) pick(at); });
    element.addEventListener("pointerleave", () => pick(pinned));
    element.addEventListener("click", (event) => { const at = spot(event); if (at) pick((pinned = at)); });
    element.addEventListener("focusin", (event) => {
      const at = spot(event);
      if (at && event.target.matches(":focus-visible")) pick((pinned = at));
    });
    element.addEventListener("keydown", (event) => {
      const at = spot(event), step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!at || !step) return;
      event.preventDefault();
      const next = blocks[at.side].tokens[at.index + step];
      if (next) next.focus();
    });
  }
  frame.addEventListener("pointermove", (event) => pick(inMap(event)));
  frame.addEventListener("pointerleave", () => pick(pinned));
  frame.addEventListener("click", (event) => pick((pinned = inMap(event))));
  redraw();
  return { redraw };
};
