"use strict";
(function () {
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const byId = (id) => document.getElementById(id);
  const { show } = headprobe;
  const config = {
    responsive: true, displaylogo: false, displayModeBar: false,
  };
  // A finger that scrolls the page must not zoom a figure; a mouse may (double click undoes it).
  const dragmode = matchMedia("(pointer: fine)").matches ? "zoom" : false;

  // What it unpacks is unpacked beside the drawing of figures.
  const explorer = byId("explorer");
  const explored = headprobe.explorer(explorer, JSON.parse(byId("explorer-data").textContent), data);

  const drawn = [...document.querySelectorAll("[data-figure]")].filter((place) => data.figures[place.dataset.figure]);
  for (const place of drawn) {
    const figure = data.figures[place.dataset.figure];
    // On a phone the legend stacks up above the plot: give it room of its own.
    const entries = figure.data.filter((trace) => trace.type === "scatter" && trace.showlegend !== false).length;
    const height = figure.layout.height + (place.clientWidth < 520 ? 19 * entries : 0);
    place.style.height = height + "px";  // what the window's size changes is the width alone
    Plotly.newPlot(place, figure.data, { ...figure.layout, height, dragmode }, config);
    if (figure.layout.meta && figure.layout.meta.edges) followOne(place, figure);
  }

  // A circuit: pressing a part leaves its own edges in sight, pressing it again brings all back.
  function followOne(place, figure) {
    const edges = figure.layout.meta.edges, traces = edges.map((edge) => edge[0]);
    const usual = traces.map((trace) => figure.data[trace].opacity);
    let followed = null;
    place.on("plotly_click", (event) => {
      const part = event.points[0].customdata;
      if (part === undefined) return;
      followed = followed === part ? null : part;
      const seen = edges.map(([, from, to], index) => followed === null || from === followed || to === followed ?
        usual[index] : 0.04);
      Plotly.restyle(place, { opacity: seen }, traces);
    });
  }

  function interval(metric, row) {
    const low = data.columns[metric + "_low"], high = data.columns[metric + "_high"];
    if (!low || !high || low[row] === null || high[row] === null) return "";
    return "[" + show(low[row]) + ", " + show(high[row]) + "]";
  }

  function corrected(metric, row) {
    const q = data.columns[metric + "_q"];
    return !q || q[row] === null ? "" : "q = " + show(q[row]);
  }

  // The map: one heatmap, refilled from the table for the metric that was chosen.
  const rows = data.names.map((_, row) => row).filter((row) => data.group[row] === data.group[0]);
  const layers = [...new Set(rows.map((row) => data.columns.layer[row]))];
  const heads = [...new Set(rows.map((row) => data.columns.head[row]))].sort((a, b) => a - b);
  const at = new Map(rows.map((row) => [data.columns.layer[row] + "/" + data.columns.head[row], row]));

  function drawMap(metric) {
    const values = data.columns[metric];
    const cell = (layer, head, make) => {
      const row = at.get(layer + "/" + head);
      return row === undefined ? null : make(row);
    };
    const grid = (make) => layers.map((layer) => heads.map((head) => cell(layer, head, make)));
    const defined = values.filter((value) => value !== null);
    const largest = Math.max(...defined.map(Math.abs)) || 1;
    const signed = defined.some((value) => value < 0);
    Plotly.restyle(document.querySelector("[data-figure=map]"), {
      z: [grid((row) => values[row])],
      text: [grid((row) => "<b>" + data.names[row] + "</b><br>" + metric + " " + show(values[row]) + " " +
        [interval(metric, row), corrected(metric, row), data.roles[row].join(", ")].filter(Boolean).join("<br>"))],
      zmin: [signed ? -largest : 0], zmax: [largest],
      colorscale: [signed ? data.colours.diverging : data.colours.sequential],
      "colorbar.title.text": [data.metrics[metric].unit],
    }, [0]);
    drawMarks(metric);
    define(metric);
  }

  function define(metric) {
    const about = data.metrics[metric], defined = data.columns[metric].filter((value) => value !== null);
    byId("map-definition").textContent = metric + " = " + about.formula + ". Unit: " + about.unit +
      ". The colour scale ends at the largest value, " + show(Math.max(...defined.map(Math.abs)) || 1) +
      "; sand-coloured cells: not defined.";
  }

  // Trace 1 of the map: triangles on heads told from 0, by q or, without one, by the interval (plots/cells.py).
  function drawMarks(metric) {
    const { corrected, sign } = headprobe.toldFromZero(data.columns, metric, data.marks.level);
    const marked = rows.filter((row) => sign(row) !== 0);
    Plotly.restyle(document.querySelector("[data-figure=map]"), {
      x: [marked.map((row) => data.columns.head[row])], y: [marked.map((row) => data.columns.layer[row])],
      "marker.symbol": [marked.map((row) => sign(row) > 0 ? "triangle-up" : "triangle-down")],
      "marker.color": [corrected ? data.marks.ink : "white"],
      "marker.line.color": [corrected ? "white" : data.marks.ink],
      name: [data.marks.names[corrected ? 0 : 1]], showlegend: [marked.length > 0],
    }, [1]);
  }

  const choice = byId("map-metric");
  // A study of groups or layers has no number a head, and so no map.
  if (choice) {
    choice.addEventListener("change", () => drawMap(choice.value));
    define(choice.value);
  }

  // The table of all heads.
  const table = byId("heads");
  const filters = { text: byId("filter-text"), role: byId("filter-role"), columns: byId("filter-columns") };
  const sorting = { column: null, down: false };
  for (const role of [...new Set(data.roles.flat())].sort()) {
    filters.role.append(new Option(role.replaceAll("_", " "), role));
  }
  const anyRole = data.roles.some((roles) => roles.length > 0);
  filters.role.closest("label").hidden = !anyRole;
  const metricsShown = () => filters.columns.value === "all" ? Object.keys(data.metrics) : data.key;

  function compare(a, b) {
    if (sorting.column === null) return a - b;
    const values = data.columns[sorting.column];
    const first = values[a], second = values[b];
    if (first === second) return a - b;
    if (first === null) return 1;
    if (second === null) return -1;
    return sorting.down ? second - first : first - second;
  }

  function kept(row) {
    const words = filters.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const hay = (data.names[row] + " " + data.roles[row].join(" ")).toLowerCase();
    const name = data.names[row].toLowerCase();
    const matches = (word) => /^[ev]?l\d+$/.test(word) ? name.startsWith(word + "h") :
      /^[ev]?l\d+h\d+$/.test(word) ? name === word : hay.includes(word);
    return words.every(matches) && (!filters.role.value || data.roles[row].includes(filters.role.value));
  }

  function headerCell(label, column, text) {
    const cell = document.createElement("th");
    cell.scope = "col";
    if (text) cell.className = "text";
    if (column !== undefined) {
      const button = document.createElement("button");
      button.type = "button";
      const here = sorting.column === column;
      for (const part of label.split(/(?<=[_@.])/)) button.append(part, document.createElement("wbr"));
      if (here && column !== null) button.append(sorting.down ? " ▼" : " ▲");
      cell.setAttribute("aria-sort", here ? (sorting.down ? "descending" : "ascending") : "none");
      if (data.metrics[column]) button.title = data.metrics[column].title;
      button.dataset.column = column === null ? "" : column;
      cell.append(button);
    } else {
      cell.textContent = label;
    }
    return cell;
  }

  function drawTable() {
    const metrics = metricsShown();
    const head = document.createElement("thead");
    const line = head.insertRow();
    line.append(headerCell("head", null, true));
    if (anyRole) line.append(headerCell("roles", undefined, true));
    for (const metric of metrics) line.append(headerCell(metric, metric, false));
    const body = document.createElement("tbody");
    const chosen = data.names.map((_, row) => row).filter(kept).sort(compare);
    for (const row of chosen) {
      const record = body.insertRow();
      const name = document.createElement("th");
      name.scope = "row";
      name.textContent = data.names[row];
      record.append(name);
      if (anyRole) {
        const roles = record.insertCell();
        roles.className = "text";
        roles.textContent = data.roles[row].join(", ").replaceAll("_", " ");
      }
      for (const metric of metrics) {
        const cell = record.insertCell();
        cell.textContent = show(data.columns[metric][row]);
        const small = document.createElement("small");
        small.textContent = [interval(metric, row), corrected(metric, row)].filter(Boolean).join(" ");
        cell.append(small);
      }
    }
    table.replaceChildren(head, body);
    byId("filter-count").textContent = chosen.length + " of " + data.names.length + " heads";
  }

  table.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-column]");
    if (!button) return;
    const column = button.dataset.column || null;
    sorting.down = sorting.column === column ? !sorting.down : column !== null;
    sorting.column = column;
    drawTable();
    table.querySelector('button[data-column="' + CSS.escape(column || "") + '"]').focus();
  });
  for (const filter of Object.values(filters)) filter.addEventListener("input", drawTable);
  drawTable();

  // Paper is narrower than a screen.
  window.addEventListener("beforeprint", () => {
    for (const place of drawn) Plotly.relayout(place, { width: Math.min(place.clientWidth, 680) });
  });
  window.addEventListener("afterprint", () => {
    for (const place of drawn) Plotly.relayout(place, { width: null, autosize: true });
  });

  explored.then(() => { document.documentElement.dataset.ready = "true"; });
  // Anything that names a head may open it there.
  document.addEventListener("click", (event) => {
    const link = event.target.closest("[data-explore]");
    if (!link) return;
    event.preventDefault();
    explorer.closest("section").scrollIntoView();
    explorer.choose(link.dataset.explore);
  });
})();
