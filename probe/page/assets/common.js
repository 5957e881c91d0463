"use strict";
// What the explorer and the attention view share. Text enters the page as text nodes only, never as markup.
const headprobe = (() => {
  const TYPES = { uint8: Uint8Array, uint16: Uint16Array, int32: Int32Array, float32: Float32Array };
  const SVG = new Set(["svg", "path", "line", "rect", "circle", "text", "g", "title"]);

  // An element; attributes as given, children are nodes or text. `on…` adds a listener.
  function make(name, attributes = {}, ...children) {
    const made = SVG.has(name) ? document.createElementNS("http://www.w3.org/2000/svg", name) :
      document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (value === null || value === undefined || value === false) continue;
      if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else made.setAttribute(key, value === true ? "" : value);
    }
    made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
    return made;
  }

  // Arrays travel as base64 of zlib; the browser's own decompressor opens them.
  async function unpack(packed) {
    const text = atob(packed.data), bytes = new Uint8Array(text.length);
    for (let at = 0; at < bytes.length; at++) bytes[at] = text.charCodeAt(at);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const found = new TYPES[packed.dtype](await new Response(stream).arrayBuffer());
    const [rows, columns] = packed.shape.slice(-2);
    if (packed.delta) {
      for (let first = 0; first < found.length; first += rows * columns) {
        for (let at = first + columns; at < first + rows * columns; at++) found[at] += found[at - columns];
      }
    }
    return found;
  }

  // Three significant figures, as everywhere in the project.
  function show(value) {
    if (value === null || value === undefined || Number.isNaN(value)) return "n/a";
    const size = Math.abs(value);
    if (value !== 0 && (size < 1e-3 || size >= 1e5)) return value.toExponential(1).replace("e+", "e");
    if (size >= 100) return value.toFixed(0);
    return value.toFixed(size >= 10 ? 1 : size >= 0.1 ? 2 : 3);
  }

  const count = (value) => value.toLocaleString("en-US");

  function ordinal(value) {
    const end = value % 100 > 10 && value % 100 < 14 ? "th" : { 1: "st", 2: "nd", 3: "rd" }[value % 10] || "th";
    return count(value) + end;
  }

  // Which values are told from 0, 1 or −1 a row: by q where there is one, else by the interval of a metric that can be
  // negative (told_from_zero in plots/cells.py).
  function toldFromZero(columns, metric, level) {
    const part = (end) => columns[metric + end] || [];
    const values = columns[metric], q = part("_q"), low = part("_low"), high = part("_high");
    const some = (list, keep) => list.some((value) => value !== null && keep(value));
    const corrected = some(q, () => true), signed = some(values, (value) => value < 0) || some(low, (end) => end < 0);
    const sign = (row) => corrected ? (q[row] !== null && q[row] < level ? Math.sign(values[row]) : 0) :
      !signed || low[row] === null || low[row] === undefined ? 0 : low[row] > 0 ? 1 : high[row] < 0 ? -1 : 0;
    return { corrected, sign };
  }

  // A token as text. A blank before a word is a gap, as in print; any other blank is a sign, many of them a number.
  function token(text, attributes = {}) {
    const gap = /^␣[^␣]/u.test(text);
    const name = "hx-token" + (gap ? " hx-gap" : "") + (attributes.class ? " " + attributes.class : "");
    const parts = (gap ? text.slice(1) : text).split(/(␣+|[↵⏎⇥␍]+)/u).filter(Boolean).map((part) =>
      /^[␣↵⏎⇥␍]/u.test(part) ? make("span", { class: "hx-sign" },
        part[0] === "␣" && part.length > 3 ? "␣×" + part.length : part) : part);
    return make("span", { title: text, ...attributes, class: name }, parts);
  }

  // Tokens as running text, which may break where words part.
  const flow = (tokens) => tokens.flatMap((one) => one.classList.contains("hx-gap") ? [" ", one] : [one]);

  function colourAt(scale, share) {
    const at = Math.min(1, Math.max(0, share));
    const next = Math.max(1, scale.findIndex((stop) => stop[0] >= at));
    const [low, high] = [scale[next - 1], scale[next]];
    const part = (at - low[0]) / (high[0] - low[0]);
    const rgb = (colour) => [1, 3, 5].map((place) => parseInt(colour.slice(place, place + 2), 16));
    const [from, to] = [rgb(low[1]), rgb(high[1])];
    return "rgb(" + from.map((value, place) => Math.round(value + part * (to[place] - value))).join(",") + ")";
  }

  // Shade of a weight in [0, 1] behind a token: square root, so that a tenth can be seen and a whole one stands out.
  const BLUE = [8, 81, 156], ORANGE = [196, 84, 0];
  const mixed = (weight, colour) => colour.map((part) => Math.round(255 + Math.sqrt(weight) * (part - 255)));
  function shadeToken(element, weight, colour) {
    const strong = weight > 0.3;
    element.style.backgroundColor = weight > 0.0005 ? "rgb(" + mixed(weight, colour).join(",") + ")" : "";
    element.style.color = strong ? "#fff" : "";
  }

  // A picture of weights in a canvas, one pixel a cell; `rgb` gives the three parts of a cell's colour.
  function picture(width, height, rgb, attributes = {}) {
    const canvas = make("canvas", { width, height, role: "img", ...attributes });
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, height);
    for (let at = 0; at < width * height; at++) image.data.set([...rgb(at), 255], 4 * at);
    context.putImageData(image, 0, 0);
    return canvas;
  }

  return { make, unpack, show, count, ordinal, toldFromZero, token, flow, colourAt, shadeToken, mixed, picture, BLUE, ORANGE };
})();
