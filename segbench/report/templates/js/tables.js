// Tables: sorting, the heat map of classes, the differences of two models, the confusion matrix.

// The leaderboard's rows come from the file; here they are sorted and open their trials.
function sortable(table) {
  all("thead th button", table).forEach((button) =>
    button.addEventListener("click", () => {
      const head = button.parentElement,
        column = head.cellIndex;
      const falls =
        head.getAttribute("aria-sort") === "ascending" ||
        (head.classList.contains("number") && !head.hasAttribute("aria-sort") && column > 0);
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
    }),
  );
}

// Colours of values. Cividis for shares, blue to orange for differences: both safe for the colour-blind.
const CIVIDIS = [
  [0, 34, 78],
  [53, 69, 108],
  [102, 105, 112],
  [148, 142, 119],
  [200, 184, 102],
  [254, 232, 56],
];
const DIVERGING = [
  [179, 88, 6],
  [241, 163, 64],
  [247, 247, 247],
  [146, 181, 222],
  [33, 102, 172],
];
function shade(stops, share) {
  const place = Math.max(0, Math.min(1, share)) * (stops.length - 1);
  const low = Math.min(Math.floor(place), stops.length - 2);
  const rgb = stops[low].map((from, i) =>
    Math.round(from + (place - low) * (stops[low + 1][i] - from)),
  );
  const light = rgb.map((v) =>
    v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4,
  );
  const luminance = 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2];
  return { back: `rgb(${rgb})`, ink: luminance > 0.18 ? "#000" : "#fff" };
}
function shaded(cell, stops, share) {
  const { back, ink } = shade(stops, share);
  cell.style.background = back;
  cell.style.color = ink;
  return cell;
}

// A model's name with a line for each axis.
const lines = (model) =>
  board()
    .axes.map((axis) => model.axes[axis])
    .filter(Boolean)
    .flatMap((value) => [el("span", {}, value), " "]);

// A model's IoU in per cent: that of each class, and their mean.
const iouOf = (index) => board().charts.classes.columns[index].slice(1);
const meanOf = (index) => board().charts.classes.columns[index][0];

function classOrder() {
  const { classes } = board(),
    share = board().charts.frequency.xs,
    first = shown()[0];
  const order = classes.map((_, index) => index);
  if (state.order === "share") order.sort((x, y) => share[y] - share[x]);
  if (state.order === "iou" && first)
    order.sort((x, y) => (iouOf(first.index)[y] ?? -1) - (iouOf(first.index)[x] ?? -1));
  return order;
}

// A column of the heat map is made once for each model of the board: filters only choose.
let columnsOf = -1,
  columns = new Map();
function column(model, index) {
  if (columnsOf !== state.board) {
    columnsOf = state.board;
    columns = new Map();
  }
  if (!columns.has(index)) {
    const cell = (value) => {
      const node = el("td", { "data-model": index }, value === null ? "–" : value.toFixed(1));
      return value === null ? node : shaded(node, CIVIDIS, value / 100);
    };
    const head = el(
      "th",
      { scope: "col" },
      el(
        "button",
        { type: "button", class: "link lines", onclick: () => openModel(index) },
        ...lines(model),
      ),
    );
    columns.set(index, { head, mean: cell(meanOf(index)), cells: iouOf(index).map(cell) });
  }
  return columns.get(index);
}

function heat() {
  const drawn = shown()
    .slice(0, MOST_COLUMNS)
    .map(({ model, index }) => column(model, index));
  const head = el("tr", {}, el("th", { scope: "col" }, "class"), ...drawn.map((each) => each.head));
  const row = (name, cells) =>
    el("tr", {}, el("th", { scope: "row", title: name }, name), ...cells);
  const body = el(
    "tbody",
    {},
    row(
      "mean",
      drawn.map((each) => each.mean),
    ),
    ...classOrder().map((index) =>
      row(
        board().classes[index],
        drawn.map((each) => each.cells[index]),
      ),
    ),
  );
  body.addEventListener("click", (event) => {
    const cell = event.target.closest("td[data-model]");
    if (cell) openModel(Number(cell.dataset.model));
  });
  byId("heat-caption").textContent =
    `${board().charts.classes.label}. Dark is low, bright is high. A click shows the model's trials.`;
  byId("heat").replaceChildren(
    el("table", { class: "heat", "aria-describedby": "heat-caption" }, el("thead", {}, head), body),
  );
  const left = shown().length - drawn.length;
  byId("heat-note").textContent =
    left > 0
      ? `The ${MOST_COLUMNS} best of ${shown().length} models are drawn; the filters above bring out the others.`
      : "";
}

function compare() {
  difference();
  frequency();
}

function difference() {
  const { models, classes } = board(),
    a = iouOf(state.a),
    b = iouOf(state.b);
  const rows = classes
    .map((name, index) => ({
      name,
      gap: a[index] === null || b[index] === null ? null : a[index] - b[index],
    }))
    .filter(({ gap }) => gap !== null)
    .sort((x, y) => y.gap - x.gap);
  const most = Math.max(1e-9, ...rows.map(({ gap }) => Math.abs(gap)));
  const body = el(
    "tbody",
    {},
    ...rows.map(({ name, gap }) => {
      const { back } = shade(DIVERGING, 0.5 + gap / most / 2);
      const width = (95 * Math.abs(gap)) / most;
      const bar = svg(
        "svg",
        { viewBox: "0 0 200 14", width: 200, height: 14, "aria-hidden": "true" },
        svg("rect", {
          x: gap < 0 ? 100 - width : 100,
          y: 1,
          width,
          height: 12,
          fill: back,
          stroke: "currentColor",
          "stroke-width": 0.5,
        }),
        svg("line", { x1: 100, x2: 100, y1: 0, y2: 14, class: "axis" }),
      );
      return el(
        "tr",
        {},
        el("th", { scope: "row" }, name),
        el("td", {}, bar),
        el("td", { class: "number" }, signed(gap)),
      );
    }),
  );
  byId("difference").replaceChildren(
    el(
      "table",
      {},
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          el("th", { scope: "col" }, "class"),
          el("th", { scope: "col" }, "B better | A better"),
          el("th", { scope: "col", class: "number" }, "points"),
        ),
      ),
      body,
    ),
  );
  const wins = rows.filter(({ gap }) => gap > 0).length;
  byId("difference-note").textContent =
    `A is ${models[state.a].name}, B is ${models[state.b].name}. A is higher on ${wins} of ${rows.length} classes. In ${board().charts.difference.title}, without intervals.`;
}

function confusion() {
  const model = board().models[Number(byId("confusion-model").value)];
  const place = Number(byId("confusion-seed").value),
    { rows } = model.confusions[place];
  const names = model.confusions[place].names || board().classes;
  const { label, least } = board().charts.confusion;
  const columns = rows[0].length > names.length ? [...names, "no class"] : names;
  const turned = columns.length > 7;
  const head = el(
    "tr",
    {},
    el("th", { scope: "col" }, "label \\ prediction"),
    ...columns.map((name) =>
      el("th", { scope: "col", class: turned ? "turned" : null, title: name }, name),
    ),
  );
  const body = rows.map((row, index) => {
    return el(
      "tr",
      {},
      el("th", { scope: "row", title: names[index] }, names[index]),
      ...columns.map((name, column) => {
        const share = row[column] / 1000;
        const cell = el(
          "td",
          { title: `${names[index]} taken for ${name}: ${percent(share, 1)} %` },
          100 * share >= least ? percent(share, 0) : "",
        );
        return shaded(cell, CIVIDIS, share);
      }),
    );
  });
  byId("confusion-caption").textContent =
    `${label}; ${model.name}, seed ${seedOf(model, place)}, ${board().title}.`;
  byId("confusion-table").replaceChildren(
    el(
      "table",
      { class: "heat confusion", "aria-describedby": "confusion-caption" },
      el("thead", {}, head),
      el("tbody", {}, ...body),
    ),
  );
}
