// Draws and filters the report page from its one block of JSON. Text only ever enters as text nodes.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const boards = data.boards, trials = data.trials;
  const state = { board: 0, filters: {}, a: 0, b: 1, cost: "", order: "card" };
  const MOST_COLUMNS = 40, MOST_CURVES = 6, MOST_LABELS = 16;
  const DASHES = ["", "7 4", "2 3", "9 3 2 3", "4 2", "12 4"];
  const byId = (id) => document.getElementById(id);
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];

  function put(node, attributes, children) {
    for (const [key, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else node.setAttribute(key, value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  }
  const el = (tag, attributes, ...children) => put(document.createElement(tag), attributes, children);
  const svg = (tag, attributes, ...children) =>
    put(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
  const percent = (value, digits = 2) => (value === null || value === undefined ? "–" : (100 * value).toFixed(digits));
  const signed = (value) => (value <= -0.005 ? "−" : "+") + Math.abs(value).toFixed(2);
  function amount(value) {
    if (value === null || value === undefined) return "–";
    for (const [size, unit] of [[1e12, " T"], [1e9, " G"], [1e6, " M"], [1e4, " k"]])
      if (Math.abs(value) >= size) return trimmed(value / (unit === " k" ? 1e3 : size)) + unit;
    return trimmed(value);
  }
  const trimmed = (value) => String(Number(value.toPrecision(3)));

  // What is shown: a board, and its models that pass the filters.
  const board = () => boards[state.board];
  const shown = () => board().models.map((model, index) => ({ model, index })).filter(({ model }) =>
    Object.entries(state.filters).every(([axis, value]) => !value || model.axes[axis] === value));
  const colour = (place) => `var(--s${place % 6})`;

  function select(node, options, value, change) {
    node.replaceChildren(...options.map(([key, title]) => el("option", { value: key }, title)));
    node.value = String(value);
    if (change) node.onchange = () => change(node.value);
  }

  function boardChoice() {
    const distinct = (key) => [...new Set(boards.map((each) => each[key]))];
    const go = () => {
      const fits = (each, key) => each[key] === byId(key).value;
      let index = boards.findIndex((each) => fits(each, "protocol") && fits(each, "dataset"));
      if (index < 0) index = boards.findIndex((each) => fits(each, "protocol"));
      const same = boards.map((each, i) => i).filter((i) => boards[i].protocol === boards[index].protocol && boards[i].dataset === boards[index].dataset);
      choose(same[0]);
    };
    const twice = boards.some((each, i) => boards.some((other, j) => i !== j && each.protocol === other.protocol && each.dataset === other.dataset));
    select(byId("protocol"), distinct("protocol").map((name) => [name, name]), board().protocol, go);
    if (twice) select(byId("dataset"), boards.map((each, i) => [i, each.title]), state.board, (i) => choose(Number(i)));
    else select(byId("dataset"), distinct("dataset").map((name) => [name, name]), board().dataset, go);
  }

  function choose(index) {
    state.board = index;
    state.a = 0;
    state.b = Math.min(1, board().models.length - 1);
    all("[data-board]").forEach((node) => { node.hidden = Number(node.dataset.board) !== index; });
    byId("protocol").value = board().protocol;
    if (byId("dataset").value !== String(index)) byId("dataset").value = board().dataset;
    filterChoice();
    modelChoice();
    filter();
  }

  function filterChoice() {
    Object.keys(state.filters).filter((axis) => !board().axes.includes(axis)).forEach((axis) => delete state.filters[axis]);
    const fields = board().axes.map((axis) => {
      const values = [...new Set(board().models.map((model) => model.axes[axis]))];
      if (values.length < 2) { delete state.filters[axis]; return null; }
      if (!values.includes(state.filters[axis])) state.filters[axis] = "";
      const choice = el("select", { "data-axis": axis });
      select(choice, [["", "all"], ...values.filter(Boolean).map((value) => [value, value])], state.filters[axis], (value) => { state.filters[axis] = value; filter(); });
      return el("label", { class: "field" }, axis + " ", choice);
    });
    byId("filters").replaceChildren(...fields.filter(Boolean));
  }

  function modelChoice() {
    const options = board().models.map((model, index) => [index, model.name]);
    select(byId("model-a"), options, state.a, (value) => { state.a = Number(value); compare(); });
    select(byId("model-b"), options, state.b, (value) => { state.b = Number(value); compare(); });
    select(byId("confusion-model"), options, 0, () => { seedChoice(); confusion(); });
    const costs = data.costs.filter(([key]) => board().models.some((model) => model.costs[key] !== undefined));
    if (!costs.some(([key]) => key === state.cost)) state.cost = costs.length ? costs[0][0] : "";
    select(byId("cost-kind"), costs, state.cost, (value) => { state.cost = value; cost(); });
    seedChoice();
    confusion();
    compare();
  }

  const seedOf = (model, place) => (model.trials.length ? String(trials[model.trials[place]].seed) : "–");

  function seedChoice() {
    const model = board().models[Number(byId("confusion-model").value)];
    select(byId("confusion-seed"), model.confusions.map((_, place) => [place, seedOf(model, place)]), 0, confusion);
  }

  function filter() {
    const visible = new Set(shown().map(({ index }) => index));
    const rows = all(`#leaderboard [data-board="${state.board}"] tr[data-model]`);
    rows.forEach((row) => { row.hidden = !visible.has(Number(row.dataset.model)); });
    byId("count").textContent = `${visible.size} of ${board().models.length} models shown.`;
    heat(); cost(); curves();
  }

  // The leaderboard's rows come from the file; here they are sorted and open their trials.
  function sortable(table) {
    all("thead th button", table).forEach((button) => button.addEventListener("click", () => {
      const head = button.parentElement, column = head.cellIndex;
      const falls = head.getAttribute("aria-sort") === "ascending" || (head.classList.contains("number") && !head.hasAttribute("aria-sort") && column > 0);
      all("thead th", table).forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", falls ? "descending" : "ascending");
      const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const body = table.tBodies[0];
      const rows = [...body.rows].map((row) => [value(row), row]);
      const numeric = head.classList.contains("number");
      rows.sort(([x, rowX], [y, rowY]) => {
        if ((x === "") !== (y === "")) return x === "" ? 1 : -1;
        const order = numeric ? Number(x) - Number(y) : x.localeCompare(y);
        return (falls ? -order : order) || Number(rowX.dataset.model) - Number(rowY.dataset.model);
      });
      body.append(...rows.map(([, row]) => row));
    }));
  }

  // Colours of values. Cividis for shares, blue to orange for differences: both safe for the colour-blind.
  const CIVIDIS = [[0, 34, 78], [53, 69, 108], [102, 105, 112], [148, 142, 119], [200, 184, 102], [254, 232, 56]];
  const DIVERGING = [[179, 88, 6], [241, 163, 64], [247, 247, 247], [146, 181, 222], [33, 102, 172]];
  function shade(stops, share) {
    const place = Math.max(0, Math.min(1, share)) * (stops.length - 1);
    const low = Math.min(Math.floor(place), stops.length - 2);
    const rgb = stops[low].map((from, i) => Math.round(from + (place - low) * (stops[low + 1][i] - from)));
    const light = rgb.map((v) => (v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    const luminance = 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2];
    return { back: `rgb(${rgb})`, ink: luminance > 0.18 ? "#000" : "#fff" };
  }
  function shaded(cell, stops, share) {
    const { back, ink } = shade(stops, share);
    cell.style.background = back;
    cell.style.color = ink;
    return cell;
  }

  // What tells a model from the others of its board, short enough for a chart.
  function short(model) {
    const varied = board().axes.filter((axis) => board().models.some((other) => other.axes[axis] !== model.axes[axis]));
    return varied.map((axis) => model.axes[axis]).filter(Boolean).join(" ") || model.name;
  }

  // A model's name with a line for each axis.
  const lines = (model) => board().axes.map((axis) => model.axes[axis]).filter(Boolean).flatMap((value) => [el("span", {}, value), " "]);

  function classOrder() {
    const { classes, share } = board(), first = shown()[0];
    const order = classes.map((_, index) => index);
    if (state.order === "share") order.sort((x, y) => share[y] - share[x]);
    if (state.order === "iou" && first) order.sort((x, y) => (first.model.iou[y] ?? -1) - (first.model.iou[x] ?? -1));
    return order;
  }

  // A column of the heat map is made once for each model of the board: filters only choose.
  let columnsOf = -1, columns = new Map();
  function column(model, index) {
    if (columnsOf !== state.board) { columnsOf = state.board; columns = new Map(); }
    if (!columns.has(index)) {
      const cell = (value) => {
        const node = el("td", { "data-model": index }, percent(value, 1));
        return value === null ? node : shaded(node, CIVIDIS, value);
      };
      const head = el("th", { scope: "col" }, el("button", { type: "button", class: "link lines", onclick: () => openModel(index) }, ...lines(model)));
      columns.set(index, { head, mean: cell(model.figures.mean_iou[0]), cells: model.iou.map(cell) });
    }
    return columns.get(index);
  }

  function heat() {
    const drawn = shown().slice(0, MOST_COLUMNS).map(({ model, index }) => column(model, index));
    const head = el("tr", {}, el("th", { scope: "col" }, "class"), ...drawn.map((each) => each.head));
    const row = (name, cells) => el("tr", {}, el("th", { scope: "row", title: name }, name), ...cells);
    const body = el("tbody", {}, row("mean", drawn.map((each) => each.mean)),
      ...classOrder().map((index) => row(board().classes[index], drawn.map((each) => each.cells[index]))));
    body.addEventListener("click", (event) => {
      const cell = event.target.closest("td[data-model]");
      if (cell) openModel(Number(cell.dataset.model));
    });
    byId("heat-caption").textContent = `IoU in per cent, mean over seeds; ${board().title}. Dark is low, bright is high. A click shows the model's trials.`;
    byId("heat").replaceChildren(el("table", { class: "heat", "aria-describedby": "heat-caption" }, el("thead", {}, head), body));
    const left = shown().length - drawn.length;
    byId("heat-note").textContent = left > 0 ? `The ${MOST_COLUMNS} best of ${shown().length} models are drawn; the filters above bring out the others.` : "";
  }

  function compare() { difference(); frequency(); }

  function difference() {
    const { models, classes } = board(), a = models[state.a], b = models[state.b];
    const rows = classes.map((name, index) => ({ name, gap: a.iou[index] === null || b.iou[index] === null ? null : 100 * (a.iou[index] - b.iou[index]) }))
      .filter(({ gap }) => gap !== null).sort((x, y) => y.gap - x.gap);
    const most = Math.max(1e-9, ...rows.map(({ gap }) => Math.abs(gap)));
    const body = el("tbody", {}, ...rows.map(({ name, gap }) => {
      const { back } = shade(DIVERGING, 0.5 + gap / most / 2);
      const width = 95 * Math.abs(gap) / most;
      const bar = svg("svg", { viewBox: "0 0 200 14", width: 200, height: 14, "aria-hidden": "true" },
        svg("rect", { x: gap < 0 ? 100 - width : 100, y: 1, width, height: 12, fill: back, stroke: "currentColor", "stroke-width": 0.5 }),
        svg("line", { x1: 100, x2: 100, y1: 0, y2: 14, class: "axis" }));
      return el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, bar), el("td", { class: "number" }, signed(gap)));
    }));
    byId("difference").replaceChildren(el("table", {}, el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "class"), el("th", { scope: "col" }, "B better | A better"), el("th", { scope: "col", class: "number" }, "points"))), body));
    const wins = rows.filter(({ gap }) => gap > 0).length;
    byId("difference-note").textContent = `A is ${a.name}, B is ${b.name}. A is higher on ${wins} of ${rows.length} classes. Means over seeds, without intervals.`;
  }

  // Charts: one frame with axes; points and lines are put into it.
  function ticks(low, high, isLog) {
    if (isLog) {
      for (const steps of [[1], [1, 3], [1, 2, 5]]) {
        const found = [];
        for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
          found.push(...steps.map((step) => step * 10 ** power).filter((tick) => tick >= low * 0.999 && tick <= high * 1.001));
        if (found.length > 2) return found;
      }
      return ticks(low, high, false).filter((tick) => tick > 0);
    }
    const raw = (high - low) / 5 || 1, size = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].find((factor) => factor * size >= raw) * size;
    const found = [];
    for (let tick = Math.ceil(low / step) * step; tick <= high + step / 1e6; tick += step) found.push(Number(tick.toPrecision(12)));
    return found;
  }

  function frame(target, { x, y, label, show = amount }) {
    const width = Math.max(280, Math.min(target.clientWidth || 700, 1000)), height = Math.min(440, Math.max(260, width * 0.55));
    const box = { left: 54, right: 14, top: 12, bottom: 44 };
    const map = ({ low, high, log }, from, to) => {
      const place = log ? Math.log : (value) => value;
      const span = place(high) - place(low) || 1;
      return (value) => from + (to - from) * (place(value) - place(low)) / span;
    };
    const atX = map(x, box.left, width - box.right), atY = map(y, height - box.bottom, box.top);
    const node = svg("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
    for (const tick of ticks(y.low, y.high, false))
      node.append(svg("line", { class: "grid", x1: box.left, x2: width - box.right, y1: atY(tick), y2: atY(tick) }),
        svg("text", { x: box.left - 6, y: atY(tick) + 4, "text-anchor": "end", class: "faint" }, trimmed(tick)));
    let end = -100;
    for (const tick of ticks(x.low, x.high, x.log)) {
      node.append(svg("line", { class: "grid", x1: atX(tick), x2: atX(tick), y1: box.top, y2: height - box.bottom }));
      if (atX(tick) - end < 42) continue;
      end = atX(tick);
      node.append(svg("text", { x: end, y: height - box.bottom + 16, "text-anchor": "middle", class: "faint" }, show(tick)));
    }
    node.append(svg("text", { x: (box.left + width - box.right) / 2, y: height - 8, "text-anchor": "middle" }, x.title),
      svg("text", { x: 14, y: (box.top + height - box.bottom) / 2, "text-anchor": "middle", transform: `rotate(-90 14 ${(box.top + height - box.bottom) / 2})` }, y.title));
    target.replaceChildren(node);
    return { node, atX, atY, width, height, box };
  }

  const SHAPES = [
    (r) => `M${-r} 0A${r} ${r} 0 1 0 ${r} 0A${r} ${r} 0 1 0 ${-r} 0`, (r) => `M${-r} ${-r}H${r}V${r}H${-r}Z`,
    (r) => `M0 ${-1.2 * r}L${1.1 * r} ${0.9 * r}H${-1.1 * r}Z`, (r) => `M0 ${-1.3 * r}L${1.3 * r} 0 0 ${1.3 * r} ${-1.3 * r} 0Z`,
    (r) => `M0 ${1.2 * r}L${1.1 * r} ${-0.9 * r}H${-1.1 * r}Z`, (r) => `M${-r} ${-0.4 * r}H${-0.4 * r}V${-r}H${0.4 * r}V${-0.4 * r}H${r}V${0.4 * r}H${0.4 * r}V${r}H${-0.4 * r}V${0.4 * r}H${-r}Z`,
  ];
  const mark = (place, fill, x, y, title) => svg("path", { d: SHAPES[place % 6](5), fill, stroke: "var(--back)", "stroke-width": 1, transform: `translate(${x} ${y})` }, svg("title", {}, title));
  const sample = (child) => svg("svg", { viewBox: "0 0 26 14", "aria-hidden": "true" }, child);
  const legend = (items) => el("ul", { class: "legend" }, ...items.map(([symbol, text, index]) => el("li", {}, sample(symbol),
    index === undefined ? text : el("button", { type: "button", class: "link", onclick: () => openModel(index) }, text))));
  const range = (values, margin = 0.06) => {
    const low = Math.min(...values), high = Math.max(...values), gap = (high - low || Math.abs(high) || 1) * margin;
    return { low: low - gap, high: high + gap };
  };
  const logRange = (values) => { const low = Math.min(...values), high = Math.max(...values); return { low: low / 1.15, high: high * 1.15, log: true }; };

  function frequency() {
    const { models, classes, share, share_of: shareOf } = board(), chosen = [...new Set([state.a, state.b])];
    const points = classes.map((name, index) => ({ name, share: 100 * share[index], index })).filter((point) => point.share > 0);
    const target = byId("frequency-chart");
    if (points.length < 2) { target.replaceChildren(el("p", {}, "Fewer than two classes have labelled pixels.")); return; }
    const chart = frame(target, {
      x: { ...logRange(points.map((point) => point.share)), title: "share of labelled pixels, per cent (log)" },
      y: { low: 0, high: 100, title: "IoU, per cent" },
      label: `Class IoU against the share of pixels for ${chosen.map((index) => models[index].name).join(" and ")}; ${board().title}`,
    });
    const notes = chosen.map((index, place) => [index, place]).reverse().map(([index, place]) => {
      const known = points.filter((point) => models[index].iou[point.index] !== null);
      known.forEach((point) => chart.node.append(mark(place, colour(place), chart.atX(point.share), chart.atY(100 * models[index].iou[point.index]), `${point.name}: IoU ${percent(models[index].iou[point.index], 1)} %, ${point.share.toPrecision(3)} % of the pixels; ${models[index].name}`)));
      return `${models[index].name}: rank correlation ${correlation(known.map((p) => p.share), known.map((p) => models[index].iou[p.index])).toFixed(2)} over ${known.length} classes`;
    }).reverse();
    if (points.length <= 25 && chart.width > 500)
      spaced(points.map((point) => ({ text: point.name, x: chart.atX(point.share) + 8, y: chart.atY(100 * (models[state.a].iou[point.index] ?? 0)) })), chart);
    target.append(legend(chosen.map((index, place) => [mark(place, colour(place), 13, 7, ""), models[index].name, index])));
    byId("frequency-note").textContent = `${notes.join("; ")} (Spearman; a description, not a test). Shares are of the ${shareOf}.`;
  }

  function correlation(x, y) {
    const ranks = (values) => values.map((value) => {
      const below = values.filter((other) => other < value).length, same = values.filter((other) => other === value).length;
      return below + (same + 1) / 2;
    });
    const rx = ranks(x), ry = ranks(y), middle = (x.length + 1) / 2;
    let top = 0, left = 0, right = 0;
    rx.forEach((value, i) => { top += (value - middle) * (ry[i] - middle); left += (value - middle) ** 2; right += (ry[i] - middle) ** 2; });
    return left && right ? top / Math.sqrt(left * right) : NaN;
  }

  // Labels beside points: pushed down where they would lie on each other, dropped where there is no room.
  function spaced(labels, chart) {
    const placed = [];
    for (const label of labels.sort((one, two) => one.y - two.y)) {
      const width = 7 * label.text.length;
      let x = label.x + width > chart.width - chart.box.right ? label.x - 16 - width : label.x, y = label.y + 4;
      const hits = () => placed.some((other) => Math.abs(other.y - y) < 12 && x < other.x + other.width && other.x < x + width);
      for (let tries = 0; hits() && tries < 4; tries++) y += 6;
      if (hits() || y > chart.height - chart.box.bottom || x < chart.box.left) continue;
      placed.push({ x, y, width });
      chart.node.append(svg("text", { x, y, class: "beside" }, label.text));
    }
  }

  function cost() {
    const target = byId("cost-chart"), note = byId("cost-note"), key = state.cost;
    const points = shown().filter(({ model }) => model.costs[key] > 0).map(({ model, index }) => ({ model, index, x: model.costs[key], y: 100 * model.figures.mean_iou[0] }));
    if (!points.length) { target.replaceChildren(el("p", {}, "No cost was measured for these models.")); note.textContent = ""; return; }
    const title = data.costs.find(([each]) => each === key)[1];
    const axes = board().axes.filter((axis) => new Set(board().models.map((model) => model.axes[axis])).size > 1);
    const values = (axis) => [...new Set(board().models.map((model) => model.axes[axis]))];
    const [hue, shape] = [axes[0], axes[1]];
    const front = [...points].sort((one, two) => one.x - two.x || two.y - one.y).filter((point, i, sorted) => sorted.slice(0, i).every((other) => other.y < point.y));
    const chart = frame(target, {
      x: { ...logRange(points.map((point) => point.x)), title: `${title} (log)` },
      y: { ...range(points.flatMap(({ model }) => [model.low, model.high])), title: "mean IoU, per cent" },
      label: `Mean IoU against ${title} of ${points.length} models; ${board().title}. Not beaten at their cost: ${front.map((point) => point.model.name).join(", ")}`,
    });
    const steps = front.map((point, i) => `${i ? `H${chart.atX(point.x)}V${chart.atY(point.y)}` : `M${chart.atX(point.x)} ${chart.atY(point.y)}`}`).join("");
    chart.node.append(svg("path", { class: "front", d: steps + `H${chart.width - chart.box.right}` }));
    const look = (model) => [shape ? values(shape).indexOf(model.axes[shape]) : 0, hue ? colour(values(hue).indexOf(model.axes[hue])) : colour(0)];
    for (const { model, x, y, index } of points) {
      chart.node.append(svg("line", { x1: chart.atX(x), x2: chart.atX(x), y1: chart.atY(model.low), y2: chart.atY(model.high), stroke: look(model)[1], "stroke-width": 1.5 }));
      const point = mark(...look(model), chart.atX(x), chart.atY(y), `${model.name}: ${y.toFixed(2)} % [${model.low.toFixed(1)}, ${model.high.toFixed(1)}], ${title} ${amount(x)}`);
      point.addEventListener("click", () => openModel(index));
      chart.node.append(point);
    }
    if (points.length <= MOST_LABELS && chart.width > 500) spaced(points.map(({ model, x, y }) => ({ text: short(model), x: chart.atX(x) + 8, y: chart.atY(y) - 9 })), chart);
    const keys = [];
    if (hue) values(hue).forEach((value, place) => keys.push([mark(0, colour(place), 13, 7, ""), value || "–"]));
    if (shape) values(shape).forEach((value, place) => keys.push([mark(place, "var(--faint)", 13, 7, ""), value || "–"]));
    target.append(legend(keys));
    const measured = key !== "peak_memory_mib" ? "" : ` Measured on ${[...new Set(points.flatMap(({ model }) => model.devices))].join(", ") || "an unnamed device"}.`;
    note.textContent = `Bars are 95 % intervals. The dashed line joins the models that none surpasses at their cost or below: ${front.map((point) => point.model.name).join(", ")}.${measured}`;
  }

  function curves() {
    const drawn = shown().slice(0, MOST_CURVES).map(({ model, index }, place) => ({ model, index, place, lines: model.trials.map((trial) => trials[trial]).filter((trial) => trial.loss[0].length) })).filter(({ lines }) => lines.length);
    const target = byId("curves-chart"), note = byId("curves-note");
    if (!drawn.length) { target.replaceChildren(el("p", {}, "No log of a training is on file.")); note.textContent = ""; return; }
    const every = drawn.flatMap(({ lines }) => lines);
    const losses = every.flatMap((trial) => [...trial.loss[1], ...trial.validation[1]]).sort((x, y) => x - y);
    const high = losses[Math.floor(0.995 * (losses.length - 1))];
    const chart = frame(target, {
      x: { low: 0, high: 1.02 * Math.max(...every.map((trial) => trial.loss[0].at(-1))), title: "optimizer step" },
      y: { low: Math.min(0, losses[0]), high: high * 1.05 || 1, title: "loss" },
      label: `Training and validation loss of ${drawn.map(({ model }) => model.name).join(", ")}`,
    });
    const line = ([steps, values]) => steps.map((step, i) => `${i ? "L" : "M"}${chart.atX(step).toFixed(1)} ${chart.atY(Math.min(values[i], high * 1.05)).toFixed(1)}`).join("");
    for (const { model, place, lines } of drawn)
      for (const trial of lines) {
        const look = { fill: "none", stroke: colour(place), "stroke-width": 1.4, "stroke-dasharray": DASHES[place] };
        chart.node.append(svg("path", { d: line(trial.loss), ...look, opacity: 0.85 }, svg("title", {}, `${model.name} seed ${trial.seed}: training`)));
        trial.validation[0].forEach((step, i) => chart.node.append(mark(place, colour(place), chart.atX(step), chart.atY(Math.min(trial.validation[1][i], high * 1.05)), `${model.name} seed ${trial.seed}: validation loss ${trial.validation[1][i]} at step ${step}`)));
      }
    target.append(legend(drawn.map(({ model, index, place }) => [svg("g", {}, svg("line", { x1: 0, x2: 26, y1: 7, y2: 7, stroke: colour(place), "stroke-width": 2, "stroke-dasharray": DASHES[place] }), mark(place, colour(place), 13, 7, "")), model.name, index])));
    const left = shown().length - MOST_CURVES;
    note.textContent = `Lines are the training loss, symbols the validation loss, one line for each seed; losses above the 99.5th percentile are drawn at the upper edge.${left > 0 ? ` The ${MOST_CURVES} best of ${shown().length} models are drawn; the filters above bring out the others.` : ""}`;
  }

  function confusion() {
    const model = board().models[Number(byId("confusion-model").value)];
    const place = Number(byId("confusion-seed").value), { rows } = model.confusions[place];
    const names = model.confusions[place].names || board().classes;
    const outside = rows.some((row) => row[names.length] > 0);
    const columns = outside ? [...names, "no class"] : names;
    const turned = columns.length > 7;
    const head = el("tr", {}, el("th", { scope: "col" }, "label \\ prediction"), ...columns.map((name) => el("th", { scope: "col", class: turned ? "turned" : null, title: name }, name)));
    const body = rows.map((row, index) => {
      return el("tr", {}, el("th", { scope: "row", title: names[index] }, names[index]), ...columns.map((name, column) => {
        const share = row[column] / 1000;
        const cell = el("td", { title: `${names[index]} taken for ${name}: ${percent(share, 1)} %` }, share >= 0.005 ? percent(share, 0) : "");
        return shaded(cell, CIVIDIS, share);
      }));
    });
    byId("confusion-caption").textContent = `Per cent of each class's labelled pixels, by what they were taken for; ${model.name}, seed ${seedOf(model, place)}, ${board().title}.`;
    byId("confusion-table").replaceChildren(el("table", { class: "heat confusion", "aria-describedby": "confusion-caption" }, el("thead", {}, head), el("tbody", {}, ...body)));
  }

  // The details of a model: its trials, each with configuration, log and command.
  const files = (trial) => el("td", {}, ...trial.files.flatMap((name) => [el("a", { href: `trials/${trial.id}/${name}` }, name), " "]));
  function openModel(index) {
    const model = board().models[index];
    byId("details-title").textContent = model.name;
    const figures = data.figures.filter(([key]) => model.figures[key]).map(([key, title]) => el("li", {}, `${title}: ${percent(model.figures[key][0])} %${model.figures[key][1] === null ? "" : ` ± ${percent(model.figures[key][1])}`}`));
    const costs = data.costs.filter(([key]) => model.costs[key] !== undefined).map(([key, title]) => el("li", {}, `${title}: ${amount(model.costs[key])}`));
    const shared = data.costs.filter(([key]) => model.shared_times[key]).map(([key, title]) => el("li", { class: "faint" }, `${title}: ${model.shared_times[key].map(amount).join(" to ")} over seeds, measured beside other trials`));
    const rows = model.trials.map((number, place) => {
      const trial = trials[number];
      return el("tr", {}, el("th", { scope: "row" }, String(trial.seed)), el("td", { class: "number" }, percent(model.seeds[place])), el("td", {}, el("code", {}, trial.id)), el("td", {}, trial.code || "–"), el("td", {}, trial.device || "–"), files(trial));
    });
    byId("details-body").replaceChildren(
      el("p", {}, `${board().title}; ${board().protocol_words}`),
      ...(model.starts.length ? [el("p", {}, `Started from: ${model.starts.join("; ")}.`)] : []),
      el("ul", {}, ...figures, ...costs, ...shared),
      rows.length ? el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Trials of this model" }, el("table", {}, el("thead", {}, el("tr", {}, ...["seed", "mean IoU, %", "trial", "segbench", "device", "files"].map((title) => el("th", { scope: "col" }, title)))), el("tbody", {}, ...rows))) : el("p", {}, "External: scored here, made elsewhere."),
      el("p", {}, "The command:"), el("pre", { tabindex: 0 }, model.command),
      ...(rows.length ? [el("p", {}, "What its worker printed:"), el("pre", { tabindex: 0 }, `segbench logs results/${data.name} ${trials[model.trials[0]].id}`)] : []));
    byId("details").showModal();
  }

  function allTrials() {
    const target = byId("trials").querySelector("div");
    if (target.firstChild) return;
    target.replaceChildren(el("table", {}, el("thead", {}, el("tr", {}, ...["trial", ...data.axes, "seed", "status", "files"].map((title) => el("th", { scope: "col" }, title)))),
      el("tbody", {}, ...trials.map((trial) => el("tr", {}, el("td", {}, el("code", {}, trial.id || "–")), ...data.axes.map((axis) => el("td", {}, trial.axes[axis])), el("td", { class: "number" }, String(trial.seed)), el("td", {}, trial.status), files(trial))))));
  }

  // The live view asks the server that serves the page; a page opened from disk has none.
  function live() {
    const section = byId("live");
    if (!section) return;
    const ask = async () => {
      try {
        const now = await (await fetch("status.json", { cache: "no-store" })).json();
        byId("live-line").textContent = now.line;
        byId("live-bar").value = now.share;
        const rows = now.trials.map((trial) => el("tr", {}, el("th", { scope: "row" }, trial.label), el("td", {}, trial.state), el("td", {}, trial.progress), el("td", {}, trial.eta), el("td", {}, trial.message, trial.tail ? el("pre", { tabindex: 0 }, trial.tail) : null)));
        byId("live-trials").replaceChildren(rows.length ? el("table", {}, el("thead", {}, el("tr", {}, ...["trial", "state", "progress", "left", ""].map((title) => el("th", { scope: "col" }, title)))), el("tbody", {}, ...rows)) : "");
        if (now.version !== section.dataset.version && !byId("details").open) { remember(); location.reload(); return; }
      } catch (error) {
        byId("live-line").textContent = "The server does not answer; what is below is as of the last look.";
      }
      setTimeout(ask, 3000);
    };
    ask();
  }
  const remember = () => sessionStorage.setItem("segbench", JSON.stringify({ ...state, theme: byId("theme")?.value }));
  function recalled() {
    if (!byId("live")) return;
    const kept = JSON.parse(sessionStorage.getItem("segbench") || "null");
    if (!kept || !boards[kept.board]) return;
    Object.assign(state, kept);
    if (byId("theme") && kept.theme) { byId("theme").value = kept.theme; byId("theme").dispatchEvent(new Event("change")); }
  }

  byId("close").addEventListener("click", () => byId("details").close());
  byId("trials").addEventListener("toggle", allTrials);
  if (boards.length) {
    byId("theme").addEventListener("change", (event) => { document.documentElement.dataset.theme = event.target.value; });
    recalled();
    boardChoice();
    byId("class-order").onchange = (event) => { state.order = event.target.value; heat(); };
    all("table.leaderboard").forEach(sortable);
    all("[data-opens]").forEach((button) => button.addEventListener("click", () => openModel(Number(button.closest("tr").dataset.model))));
    choose(state.board);
    let waiting = 0;
    addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(() => { frequency(); cost(); curves(); }, 150); });
  }
  live();
  document.documentElement.dataset.ready = "yes";
})();
