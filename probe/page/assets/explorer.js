"use strict";
// The explorer: a map of all heads, and everything that was kept of the one that is chosen.
//
// data: `explorer_data`, table: `table_data`. Returns when all is drawn; `root.choose(name)` then opens a head.
headprobe.explorer = async (root, data, table) => {
  const { make, unpack, show, count, ordinal, token, flow, colourAt, picture } = headprobe;
  const { columns, names, roles, metrics } = table;
  const isEffect = (metric) => /^(ablation|attribution)_/.test(metric);
  const measured = Object.keys(metrics).filter((metric) => columns[metric].some((value) => value !== null));
  const texts = new Map(data.texts.flatMap(([first, run]) => run.map((text, index) => [first + index, text])));
  const state = { group: data.groups[0], row: data.start.row, metric: data.start.metric, only: "", cells: new Map() };

  let trouble = null;
  try {
    await Promise.all(data.groups.flatMap((group) => Object.entries(group.arrays).map(async ([name, packed]) => {
      group[name] = { values: await unpack(packed), size: packed.shape.slice(1).reduce((a, b) => a * b, 1) };
    })));
  } catch (error) {
    trouble = "This browser could not open what was kept of each head (" + error.message + ").";
  }

  // What a group keeps of a head, or null.
  function kept(name, row) {
    const group = data.groups.find((one) => one.rows.includes(row)), array = group[name];
    const at = group.rows.indexOf(row);
    return array ? array.values.subarray(at * array.size, (at + 1) * array.size) : null;
  }

  const interval = (metric, row) => {
    const low = columns[metric + "_low"], high = columns[metric + "_high"];
    return low && high && low[row] !== null && high[row] !== null ? "[" + show(low[row]) + ", " + show(high[row]) + "]" : "";
  };
  const corrected = (metric, row) => {
    const q = columns[metric + "_q"];
    return q && q[row] !== null ? "q = " + show(q[row]) : "";
  };
  const told = (metric, row) => [show(columns[metric][row]), interval(metric, row), corrected(metric, row)]
    .filter(Boolean).join(" ");
  const words = (text) => text.replaceAll("_", " ");
  const here = (position) => texts.has(position) ? texts.get(position) : null;
  const ranked = () => state.group.rows.filter((row) => columns[state.metric][row] !== null && belongs(row))
    .sort((a, b) => columns[state.metric][b] - columns[state.metric][a] || a - b);

  // Which heads the map shows in full colour: all, those of a role, or those of a circuit.
  function belongs(row) {
    const [kind, name] = [state.only.slice(0, 5), state.only.slice(5)];
    if (kind === "role:") return roles[row].includes(name);
    if (kind === "task:") return Boolean((data.circuits[Number(name)].nodes[row] || [])[3]);
    return true;
  }

  // the map
  const grid = make("div", { class: "hx-map", role: "grid", "aria-label": "All heads: layers down, heads across" });
  const legend = make("div", { class: "hx-legend" }), read = make("p", { class: "hx-read" });
  const definition = make("p", { class: "hx-quiet" }), live = make("p", { class: "hx-hidden", role: "status" });
  const panel = make("div", { class: "hx-panel" });

  function drawGrid() {
    const rows = state.group.rows, layers = [...new Set(rows.map((row) => columns.layer[row]))];
    const heads = [...new Set(rows.map((row) => columns.head[row]))].sort((a, b) => a - b);
    const step = (size) => [1, 2, 5, 10, 20, 50].find((one) => size <= 18 * one) || 100;
    const label = (text, index, every) => make("span", { class: "hx-tick", "aria-hidden": "true" },
      index % every ? "" : String(text));
    const at = new Map(rows.map((row) => [columns.layer[row] + "/" + columns.head[row], row]));
    state.cells.clear();
    const lines = layers.map((layer, place) => make("div", { class: "hx-line", role: "row" },
      label(layer, place, step(layers.length)),
      heads.map((head) => {
        const row = at.get(layer + "/" + head);
        if (row === undefined) return make("span", { class: "hx-cell hx-none", role: "gridcell" });
        const cell = make("span", { class: "hx-cell", role: "gridcell", tabindex: -1, "data-row": row });
        state.cells.set(row, cell);
        return cell;
      })));
    const top = make("div", { class: "hx-line", "aria-hidden": "true" }, make("span", { class: "hx-tick" }, ""),
      heads.map((head, place) => label(head, place, step(heads.length))));
    root.style.setProperty("--hx-side", heads.length > 16 ? "400px" : "320px");
    grid.style.setProperty("--hx-row", Math.max(7, Math.min(26, Math.round(520 / layers.length))) + "px");
    grid.replaceChildren(top, ...lines);
    state.at = at;
    paint();
  }

  function paint() {
    const { metric } = state;
    if (metric === null) return;
    const values = state.group.rows.map((row) => columns[metric][row]).filter((value) => value !== null);
    const largest = Math.max(...values.map(Math.abs), 0) || 1, signed = values.some((value) => value < 0);
    const scale = signed ? table.colours.diverging : table.colours.sequential;
    const { corrected: byQ, sign } = headprobe.toldFromZero(columns, metric, table.marks.level);
    let marked = false;
    for (const [row, cell] of state.cells) {
      const value = columns[metric][row];
      cell.style.backgroundColor = value === null ? "" :
        colourAt(scale, signed ? (value / largest + 1) / 2 : value / largest);
      cell.classList.toggle("hx-dim", !belongs(row));
      cell.classList.toggle("hx-above", sign(row) > 0);
      cell.classList.toggle("hx-below", sign(row) < 0);
      cell.classList.toggle("hx-bare", !byQ);
      marked = marked || sign(row) !== 0;
      cell.setAttribute("aria-label", names[row] + ", " + words(metric) + " " + told(metric, row) +
        (roles[row].length ? ", " + words(roles[row].join(", ")) : ""));
    }
    legend.replaceChildren(signed ? show(-largest) : "0",
      picture(96, 1, (at) => colourAt(scale, at / 95).match(/\d+/g).map(Number), { "aria-label": "Colour scale" }),
      show(largest), marked ? make("span", {}, table.marks.names[byQ ? 0 : 1]) : "");
    definition.textContent = metrics[metric].title + ": " + metrics[metric].formula + ".";
    hover(state.row);
  }

  function hover(row) {
    if (state.metric === null) return;
    read.replaceChildren(make("b", {}, names[row]), " " + told(state.metric, row) +
      (roles[row].length ? " · " + words(roles[row].join(", ")) : ""));
  }

  function choose(row, focus) {
    if (!state.group.rows.includes(row)) {
      state.group = data.groups.find((group) => group.rows.includes(row));
      drawGrid();
    }
    const before = state.cells.get(state.row);
    if (before) { before.removeAttribute("aria-selected"); before.tabIndex = -1; }
    state.row = row;
    const cell = state.cells.get(row);
    cell.setAttribute("aria-selected", "true");
    cell.tabIndex = 0;
    if (focus) cell.focus({ preventScroll: true });
    hover(row);
    drawPanel();
    live.textContent = names[row] + " chosen" + (roles[row].length ? ": " + words(roles[row].join(", ")) : "") + ". " +
      (state.metric === null ? "" : words(state.metric) + " " + told(state.metric, row));
  }

  function step(event) {
    const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!move) return;
    event.preventDefault();
    let [layer, head] = [columns.layer[state.row], columns.head[state.row]];
    const layers = [...new Set(state.group.rows.map((row) => columns.layer[row]))];
    layer = layers[layers.indexOf(layer) + move[0]];
    const row = state.at.get(layer + "/" + (head + move[1]));
    if (row !== undefined) choose(row, true);
  }

  const rowOf = (event) => {
    const cell = event.target.closest("[data-row]");
    return cell ? Number(cell.dataset.row) : null;
  };
  grid.addEventListener("click", (event) => { const row = rowOf(event); if (row !== null) choose(row, true); });
  grid.addEventListener("pointerover", (event) => { const row = rowOf(event); if (row !== null) hover(row); });
  grid.addEventListener("pointerleave", () => hover(state.row));
  grid.addEventListener("keydown", step);

  // the chosen head
  const part = (title, note, ...content) => make("section", { class: "hx-part" }, make("h4", {}, title),
    note ? make("p", { class: "hx-quiet" }, note) : null, content);
  const head = (row) => make("button", { type: "button", class: "hx-link", "data-head": row }, names[row]);

  function drawPanel() {
    const { row } = state;
    const close = data.left_out.includes(row) ?
      [part("Where it looks", "Left out of this page to keep it small; its numbers are all here.")] :
      [looks(row), pairs(row), windowOf(row), writes(row)];
    panel.replaceChildren(...[title(row), close, effects(row), circuits(row), numbers(row)].flat(2).filter(Boolean));
  }

  function title(row) {
    const chips = roles[row].map((role) => make("li", { title: data.rules[role] || null }, words(role)));
    const line = make("div", { class: "hx-title" }, make("h3", {}, names[row]),
      make("ul", { class: "hx-roles" }, chips.length ? chips : make("li", { class: "hx-no" }, "no role")));
    if (state.metric === null) return line;
    const order = ranked(), place = order.indexOf(row);
    const go = (label, sign, to) => make("button", { type: "button", class: "hx-step", "aria-label": label,
      disabled: to === undefined, onclick: () => { choose(to, false); root.querySelector(
        "[aria-label='" + label + "']:not([disabled])")?.focus(); } }, sign);
    const among = state.only ? " of " + count(order.length) + " shown" : " of " + count(order.length);
    const where = place < 0 ? "not among the heads shown" : ordinal(place + 1) + among + ", highest first";
    return [line, make("div", { class: "hx-rank" },
      go("Next higher head", "‹", place < 0 ? undefined : order[place - 1]),
      make("span", {}, make("b", {}, words(state.metric)), " " + told(state.metric, row) + " · " + where),
      go("Next lower head", "›", place < 0 ? order[0] : order[place + 1]))];
  }

  function looks(row) {
    const codes = kept("thumbnail", row), figures = [];
    if (codes) {
      const side = Math.sqrt(codes.length);
      figures.push(make("figure", { class: "hx-whole" },
        picture(side, side, (at) => data.shades[codes[at]] || [225, 225, 225],
          { "aria-label": "Whole attention map of " + names[row] }),
        make("figcaption", {}, "The whole map: queries down, keys across. Each quarter of the scale from white to dark " +
          "blue is a factor of 10.")));
    }
    const mass = kept("offset_mass", row), received = kept("received", row);
    const side = [mass ? distances(mass) : null, received ? receives(row, received) : null].filter(Boolean);
    if (side.length) figures.push(make("div", { class: "hx-lines" }, side));
    return figures.length ? part("Where it looks", null, make("div", { class: "hx-looks" }, figures)) : null;
  }

  function distances(mass) {
    const top = Math.max(...mass) || 1, bins = [...mass];
    const name = (bin) => bin < 2 ? String(bin) : count(2 ** (bin - 1)) + "–" + count(2 ** bin - 1);
    const bars = bins.map((value, bin) => make("span", { class: "hx-bar", title: "distance " + name(bin) + ": " + show(value),
      style: "height:" + Math.max(1, (100 * value) / top) + "%" }));
    const strongest = bins.indexOf(Math.max(...bins));
    const caption = "How far back: most at " + (strongest === 0 ? "the token itself" : name(strongest) +
      (strongest === 1 ? " token" : " tokens")) + " (" + show(bins[strongest]) + " of its attention).";
    return make("figure", { class: "hx-spectrum" }, make("div", { class: "hx-bars", role: "img", "aria-label": caption }, bars),
      make("div", { class: "hx-axis" }, make("span", {}, "0"), make("span", {}, "tokens back, doubling bins"),
        make("span", {}, count(2 ** (bins.length - 1) - 1))), make("figcaption", {}, caption));
  }

  function receives(row, codes) {
    const edges = data.groups.find((group) => group.rows.includes(row)).edges, last = edges[edges.length - 1];
    const x = (position) => (300 * Math.log(position + 1)) / Math.log(last + 1);
    const y = (code) => 78 - (70 * code) / data.received.levels;
    let path = "";
    codes.forEach((code, bin) => {
      if (code !== 255) path += (path ? "L" : "M") + x(edges[bin]).toFixed(1) + " " + y(code).toFixed(1) + "H" + x(edges[bin + 1]).toFixed(1);
    });
    const at = kept("peak_at", row), peak = kept("peak", row);
    const named = [...at].map((position, index) => position < 0 ? null : [index ? ", " : " ",
      here(position) === null ? null : token(here(position), { class: "hx-chip" }),
      " position " + count(position) + ": " + show(peak[index])]).filter(Boolean).flat();
    const drawing = make("svg", { viewBox: "0 0 300 80", preserveAspectRatio: "none", role: "img",
      "aria-label": "Attention received by position, both axes logarithmic" },
      make("path", { d: path, fill: "none", stroke: "#0b5a94", "stroke-width": 1.5, "vector-effect": "non-scaling-stroke" }));
    return make("figure", { class: "hx-received" }, drawing, make("div", { class: "hx-axis" }, make("span", {}, "0"),
      make("span", {}, "position, logarithmic"), make("span", {}, count(last - 1))),
      make("figcaption", {}, "What positions receive (mean over sequences; words of the first). Most:", named));
  }

  function context(position, before, after) {
    const first = Math.max(0, position - before), own = here(position);
    if (own === null) return make("span", { class: "hx-context" }, make("mark", {}, "position " + count(position)));
    const run = Array.from({ length: position + 1 + after - first }, (_, index) => first + index)
      .filter((place) => here(place) !== null)
      .map((place) => token(here(place), { class: place === position ? "hx-marked" : null }));
    return make("span", { class: "hx-context", dir: "ltr" }, first > 0 ? "… " : "", flow(run), " ",
      make("small", {}, count(position)));
  }

  function pairs(row) {
    const query = kept("pair_query", row), key = kept("pair_key", row), weight = kept("pair_weight", row);
    if (!query) return kept("thumbnail", row) ?
      part("Strongest pairs", "Not kept in this table: scan again with this version to see them.") : null;
    const shown = [...query].map((_, index) => index).filter((index) => query[index] >= 0);
    if (!shown.length) return part("Strongest pairs", "None: this head gives nothing to a key after the first " +
      count((data.closeups || {}).skipped_keys || 0) + ".");
    const distance = (index) => query[index] - key[index];
    const rows = shown.map((index, place) => make("li", { class: place < 5 ? null : "hx-more" },
      make("span", { class: "hx-weight" }, make("i", { style: "width:" + 100 * weight[index] + "%" }), make("b", {}, show(weight[index]))),
      make("span", { class: "hx-query" }, context(query[index], 7, 2)),
      make("span", { class: "hx-far" }, distance(index) === 0 ? "looks at itself" :
        "looks " + count(Math.abs(distance(index))) + (distance(index) > 0 ? " back at" : " ahead at")),
      make("span", { class: "hx-target" }, context(key[index], 7, 3))));
    const list = make("ol", { class: "hx-pairs" }, rows);
    const more = shown.length > 5 ? make("button", { type: "button", class: "hx-button", "aria-expanded": "false",
      onclick: (event) => {
        const open = list.classList.toggle("hx-open");
        event.target.setAttribute("aria-expanded", open);
        event.target.textContent = open ? "Show five" : "Show all " + shown.length;
      } }, "Show all " + shown.length) : null;
    const skipped = (data.closeups || {}).skipped_keys;
    return part("Strongest pairs", "Queries whose strongest key gets most weight" + (skipped ? ", the first " + skipped +
      " tokens left out" : "") + (data.closeups && data.closeups.length ? "; first sequence, " +
      count(data.closeups.length) + " tokens" : "") + ".", list, more);
  }

  function windowOf(row) {
    const cells = kept("window", row), at = kept("window_at", row), query = kept("pair_query", row);
    if (!cells || !at || at[0] < 0) return null;
    const span = Math.sqrt(cells.length), length = (data.closeups || {}).length || Infinity;
    const side = (first) => {
      const size = Math.min(span, length - first);
      const run = Array.from({ length: size }, (_, index) => here(first + index));
      return { first, size, texts: run.includes(null) ? null : run };
    };
    const place = make("div", { class: "hx-attention" });
    headprobe.attention(place, { queries: side(at[0]), keys: side(at[1]), start: query ? query[0] - at[0] : 0,
      weight: (q, k) => cells[q * span + k] / data.whole });
    return part("Around its strongest pair", null, place);
  }

  function writes(row) {
    const ids = kept("writes", row);
    if (!ids) return null;
    const shown = [...ids].filter((id) => id >= 0);
    const why = (data.closeups || {}).writes;
    if (!shown.length) return part("What it writes", why ? "What this head promotes was " + why + "." :
      "Not defined for this head.");
    return part("What it writes", "Copying the value at its strongest pair’s key, this head raises these tokens most, on " +
      "the direct path to the logits:", make("p", { class: "hx-written" },
      shown.map((id) => id in data.strings ? token(data.strings[id], { class: "hx-chip hx-loud" }) :
        make("span", { class: "hx-chip hx-loud" }, "#" + id))));
  }

  // A line of numbers: what it is, the value, where this head stands among all.
  function strip(values, value, low, high) {
    const defined = values.filter((one) => one !== null);
    const least = Math.min(0, ...defined), most = Math.max(0, ...defined, high ?? 0), width = most - least || 1;
    const x = (one) => (200 * (one - least)) / width;
    let ticks = "";
    for (const one of new Set(defined.map((one) => x(one).toFixed(0)))) ticks += "M" + one + " 5V15";
    return make("svg", { class: "hx-strip", viewBox: "-4 0 208 20", preserveAspectRatio: "none", "aria-hidden": "true" },
      make("path", { d: ticks, stroke: "#c3ccd5", "stroke-width": 1 }),
      least < 0 ? make("line", { x1: x(0), x2: x(0), y1: 0, y2: 20, stroke: "#56636f" }) : null,
      low === null || low === undefined ? null : make("line", { x1: x(low), x2: x(high), y1: 10, y2: 10, stroke: "#d55e00", "stroke-width": 3 }),
      make("rect", { x: x(value) - 2, y: 2, width: 4, height: 16, fill: "#d55e00" }));
  }

  function line(metric, row) {
    const value = columns[metric][row];
    const end = (name) => (columns[metric + name] || [])[row];
    const mine = state.group.rows.map((one) => columns[metric][one]);
    return make("tr", {}, make("th", { scope: "row" }, make("button", { type: "button", class: "hx-link",
      "data-metric": metric, title: "Colour the map by " + metric }, metrics[metric].title)),
      make("td", { class: "hx-n" }, show(value)), make("td", { class: "hx-n hx-quiet" }, [interval(metric, row), corrected(metric, row)].filter(Boolean).join(" · ")),
      make("td", { class: "hx-where" }, value === null ? null : strip(mine, value, end("_low"), end("_high"))));
  }

  const lines = (found, row) => make("table", { class: "hx-table" }, make("tbody", {}, found.map((metric) => line(metric, row))));

  function effects(row) {
    const found = measured.filter(isEffect);
    if (!found.length) return null;
    return part("What breaks without it", "Mean loss of the task’s metric with this head replaced; positive: the head " +
      "helps. Orange: this head and its 95 % interval; grey: all heads.", lines(found, row));
  }

  function circuits(row) {
    const found = data.circuits.filter((circuit) => circuit.nodes[row]);
    if (!found.length) return null;
    return part("In circuits", null, found.map((circuit) => {
      const [score, low, high, member, role] = circuit.nodes[row];
      const edges = circuit.edges[row] || {};
      const ends = (listed, verb) => listed && listed.length ? make("p", {}, verb + " ", listed.flatMap(
        ([label, other, port, value], index) => [index ? ", " : "", other < 0 ? label : head(other),
          port && verb === "Reads" ? " (" + { q: "query", k: "key", v: "value" }[port] + ")" : "", " " + show(value)])) : null;
      return make("div", { class: "hx-circuit" + (member ? "" : " hx-out") },
        make("p", {}, make("b", {}, words(circuit.task)), member ? ": one of " + count(circuit.size) + " heads" +
          (role ? ", " + words(role) : "") : ": not in the circuit", ". Score " + show(score) + " [" + show(low) + ", " +
          show(high) + "] " + circuit.unit + "."),
        ends(edges.into, "Reads"), ends(edges.out, "Feeds"));
    }));
  }

  function numbers(row) {
    const rest = measured.filter((metric) => !isEffect(metric));
    const first = table.key.filter((metric) => rest.includes(metric));
    const others = rest.filter((metric) => !first.includes(metric));
    return part("Its numbers", "Press a name to colour the map by it. Orange: this head and its 95 % interval; grey: all heads.",
      lines(first, row), others.length ? make("details", {}, make("summary", {}, "All " + rest.length + " numbers"),
        lines(others, row)) : null);
  }

  panel.addEventListener("click", (event) => {
    const button = event.target.closest("[data-head], [data-metric]");
    if (!button) return;
    if (button.dataset.head) return choose(Number(button.dataset.head), true);
    colourBy.value = state.metric = button.dataset.metric;
    paint();
    panel.replaceChild(title(state.row)[1], panel.querySelector(".hx-rank"));
  });

  // controls
  const option = (value, text) => make("option", { value }, text);
  const colourBy = make("select", { onchange: () => { state.metric = colourBy.value; paint(); drawPanel(); } },
    measured.map((metric) => option(metric, metrics[metric].title)));
  const present = [...new Set(roles.flat())].sort();
  const only = make("select", { onchange: () => { state.only = only.value; paint(); drawPanel(); } }, option("", "all heads"),
    present.map((role) => option("role:" + role, words(role) + " (" + roles.filter((one) => one.includes(role)).length + ")")),
    data.circuits.map((circuit, index) => option("task:" + index, "circuit of " + words(circuit.task) + " (" + circuit.size + ")")));
  const stack = make("select", { onchange: () => choose(data.groups[Number(stack.value)].rows[0], false) },
    data.groups.map((group, index) => option(String(index), group.label)));
  const control = (text, input) => make("label", {}, text + " ", input);

  root.classList.add("hx");
  root.replaceChildren(
    make("div", { class: "hx-controls" }, state.metric === null ? null : control("Colour by", colourBy),
      present.length || data.circuits.length ? control("Show", only) : null,
      data.groups.length > 1 ? control("Stack", stack) : null),
    trouble ? make("p", { class: "hx-trouble" }, trouble) : "",
    make("div", { class: "hx-body" },
      make("div", { class: "hx-side" }, grid, legend, read, definition,
        make("p", { class: "hx-quiet hx-hint" }, "Press a head, or move with the arrow keys.")), panel),
    live);
  if (state.metric !== null) colourBy.value = state.metric;
  state.group = data.groups.find((group) => group.rows.includes(state.row));
  drawGrid();
  choose(state.row, false);
  root.choose = (name) => choose(names.indexOf(name), true);
  root.dataset.ready = "true";
};
