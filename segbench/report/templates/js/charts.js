// Charts: one frame with axes; points and lines are put into it.

function ticks(low, high, isLog) {
  if (isLog) {
    for (const steps of [[1], [1, 3], [1, 2, 5]]) {
      const found = [];
      for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
        found.push(
          ...steps
            .map((step) => step * 10 ** power)
            .filter((tick) => tick >= low * 0.999 && tick <= high * 1.001),
        );
      if (found.length > 2) return found;
    }
    return ticks(low, high, false).filter((tick) => tick > 0);
  }
  const raw = (high - low) / 5 || 1,
    size = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((factor) => factor * size >= raw) * size;
  const found = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step / 1e6; tick += step)
    found.push(Number(tick.toPrecision(12)));
  return found;
}

function frame(target, { x, y, label }) {
  const width = Math.max(280, Math.min(target.clientWidth || 700, 1000)),
    height = Math.min(440, Math.max(260, width * 0.55));
  const box = { left: 54, right: 14, top: 12, bottom: 44 };
  const map = ({ low, high, log }, from, to) => {
    const place = log ? Math.log : (value) => value;
    const span = place(high) - place(low) || 1;
    return (value) => from + ((to - from) * (place(value) - place(low))) / span;
  };
  const atX = map(x, box.left, width - box.right),
    atY = map(y, height - box.bottom, box.top);
  const node = svg("svg", {
    class: "chart",
    viewBox: `0 0 ${width} ${height}`,
    role: "img",
    "aria-label": label,
  });
  for (const tick of ticks(y.low, y.high, false))
    node.append(
      svg("line", {
        class: "grid",
        x1: box.left,
        x2: width - box.right,
        y1: atY(tick),
        y2: atY(tick),
      }),
      svg(
        "text",
        { x: box.left - 6, y: atY(tick) + 4, "text-anchor": "end", class: "faint" },
        trimmed(tick),
      ),
    );
  let end = -100;
  for (const tick of ticks(x.low, x.high, x.log)) {
    node.append(
      svg("line", {
        class: "grid",
        x1: atX(tick),
        x2: atX(tick),
        y1: box.top,
        y2: height - box.bottom,
      }),
    );
    if (atX(tick) - end < 42) continue;
    end = atX(tick);
    node.append(
      svg(
        "text",
        { x: end, y: height - box.bottom + 16, "text-anchor": "middle", class: "faint" },
        amount(tick),
      ),
    );
  }
  node.append(
    svg(
      "text",
      { x: (box.left + width - box.right) / 2, y: height - 8, "text-anchor": "middle" },
      x.title,
    ),
    svg(
      "text",
      {
        x: 14,
        y: (box.top + height - box.bottom) / 2,
        "text-anchor": "middle",
        transform: `rotate(-90 14 ${(box.top + height - box.bottom) / 2})`,
      },
      y.title,
    ),
  );
  target.replaceChildren(node);
  return { node, atX, atY, width, height, box, top: y.high };
}

const SHAPES = [
  (r) => `M${-r} 0A${r} ${r} 0 1 0 ${r} 0A${r} ${r} 0 1 0 ${-r} 0`,
  (r) => `M${-r} ${-r}H${r}V${r}H${-r}Z`,
  (r) => `M0 ${-1.2 * r}L${1.1 * r} ${0.9 * r}H${-1.1 * r}Z`,
  (r) => `M0 ${-1.3 * r}L${1.3 * r} 0 0 ${1.3 * r} ${-1.3 * r} 0Z`,
  (r) => `M0 ${1.2 * r}L${1.1 * r} ${-0.9 * r}H${-1.1 * r}Z`,
  (r) =>
    `M${-r} ${-0.4 * r}H${-0.4 * r}V${-r}H${0.4 * r}V${-0.4 * r}H${r}V${0.4 * r}H${0.4 * r}V${r}H${-0.4 * r}V${0.4 * r}H${-r}Z`,
];
const mark = (place, fill, x, y, title) =>
  svg(
    "path",
    {
      d: SHAPES[place % 6](5),
      fill,
      stroke: "var(--back)",
      "stroke-width": 1,
      transform: `translate(${x} ${y})`,
    },
    svg("title", {}, title),
  );
const sample = (child) => svg("svg", { viewBox: "0 0 26 14", "aria-hidden": "true" }, child);
const legend = (items) =>
  el(
    "ul",
    { class: "legend" },
    ...items.map(([symbol, text, index]) =>
      el(
        "li",
        {},
        sample(symbol),
        index === undefined
          ? text
          : el("button", { type: "button", class: "link", onclick: () => openModel(index) }, text),
      ),
    ),
  );
const range = (values, margin = 0.06) => {
  const low = Math.min(...values),
    high = Math.max(...values),
    gap = (high - low || Math.abs(high) || 1) * margin;
  return { low: low - gap, high: high + gap };
};
const logRange = (values) => {
  const low = Math.min(...values),
    high = Math.max(...values);
  return { low: low / 1.15, high: high * 1.15, log: true };
};

// Labels beside points: pushed down where they would lie on each other, dropped where there is no room.
function spaced(labels, chart) {
  const placed = [];
  for (const label of labels.sort((one, two) => one.y - two.y)) {
    const width = 7 * label.text.length;
    let x = label.x + width > chart.width - chart.box.right ? label.x - 16 - width : label.x,
      y = label.y + 4;
    const hits = () =>
      placed.some(
        (other) => Math.abs(other.y - y) < 12 && x < other.x + other.width && other.x < x + width,
      );
    for (let tries = 0; hits() && tries < 4; tries++) y += 6;
    if (hits() || y > chart.height - chart.box.bottom || x < chart.box.left) continue;
    placed.push({ x, y, width });
    chart.node.append(svg("text", { x, y, class: "beside" }, label.text));
  }
}

// Draw what is chosen of a chart: each has its series, a colour, a mark, and the index of its model.
// Return the names on the front; null where there is nothing to draw.
function draw(target, chart, chosen) {
  const drawn = chosen.map((each) => ({
    ...each,
    series: each.series.map((series) => ({ ...series, points: pointsOf(chart, series) })),
  }));
  const every = drawn.flatMap(({ name, series }) =>
    series.flatMap(({ points }) => points.map((point) => ({ ...point, name }))),
  );
  if (!every.length) return null;
  const low = every.map((point) => point.low),
    high = every.map((point) => point.high);
  const front = chart.front ? frontOf(every) : [];
  const beaten = chart.front ? `. Not beaten at their cost: ${namesOf(front)}` : "";
  const box = frame(target, {
    x: ends(
      chart.x,
      every.map((point) => point.x),
    ),
    y: ends(chart.y, [...low, ...high]),
    label: `${chart.label}: ${chosen.map(({ name }) => name).join(", ")}${beaten}`,
  });
  if (chart.front) drawFront(box, front);
  for (const each of [...drawn].reverse())
    for (const series of each.series) drawSeries(box, chart, each, series);
  label(box, chart, drawn);
  target.append(legend(keysOf(chart, drawn)));
  return namesOf(front);
}

// The points of a series that have a place on the axes. A logarithmic axis has none for 0.
const pointsOf = (chart, series) =>
  series.y
    .map((y, place) => ({
      x: (series.x || chart.xs)[place],
      y,
      low: series.low ? series.low[place] : y,
      high: series.high ? series.high[place] : y,
      text: chart.labels[place] || "",
    }))
    .filter(({ x, y }) => y !== null && (x > 0 || !chart.x.log));

// The ends of an axis: its own, else what is drawn with a margin, cut off at its quantile.
function ends(axis, values) {
  const found = axis.log ? logRange(values) : range(values, axis.low === undefined ? 0.06 : 0.02);
  if (axis.clip < 1) {
    const sorted = [...values].sort((one, two) => one - two);
    found.low = Math.min(0, sorted[0]);
    found.high = 1.05 * sorted[Math.floor(axis.clip * (sorted.length - 1))] || 1;
  }
  return {
    ...found,
    low: axis.low ?? found.low,
    high: axis.high ?? found.high,
    title: axis.title + (axis.log ? " (log)" : ""),
  };
}

// The points that none reaches at their x or below.
const frontOf = (points) =>
  [...points]
    .sort((one, two) => one.x - two.x || two.y - one.y)
    .filter((point, place, sorted) => sorted.slice(0, place).every((other) => other.y < point.y));
const namesOf = (points) => points.map(({ name }) => name).join(", ");

function drawFront(box, front) {
  const steps = front.map(({ x, y }, place) =>
    place ? `H${box.atX(x)}V${box.atY(y)}` : `M${box.atX(x)} ${box.atY(y)}`,
  );
  const d = steps.join("") + `H${box.width - box.box.right}`;
  box.node.append(svg("path", { class: "front", d }));
}

function drawSeries(box, chart, { colour: hue, mark: shape, name, index }, series) {
  const atY = (y) => box.atY(Math.min(y, box.top));
  const whose = [name, series.name === name ? "" : series.name].filter(Boolean).join(", ");
  if (series.line) {
    const d = series.points.map(
      ({ x, y }, place) => `${place ? "L" : "M"}${box.atX(x).toFixed(1)} ${atY(y).toFixed(1)}`,
    );
    const look = {
      d: d.join(""),
      fill: "none",
      stroke: colour(hue),
      "stroke-width": 1.4,
      "stroke-dasharray": DASHES[shape % 6],
      opacity: 0.85,
    };
    box.node.append(svg("path", look, svg("title", {}, whose)));
    return;
  }
  for (const { x, y, low, high, text } of series.points) {
    const at = box.atX(x);
    if (low < high)
      box.node.append(
        svg("line", {
          x1: at,
          x2: at,
          y1: atY(low),
          y2: atY(high),
          stroke: colour(hue),
          "stroke-width": 1.5,
        }),
      );
    const interval = low < high ? ` [${amount(low)}, ${amount(high)}]` : "";
    const says = `${chart.y.title} ${amount(y)}${interval}, ${chart.x.title} ${amount(x)}`;
    const point = mark(
      shape,
      colour(hue),
      at,
      atY(y),
      `${text ? `${text}: ` : ""}${says}; ${whose}`,
    );
    point.addEventListener("click", () => openModel(index));
    box.node.append(point);
  }
}

// Labels: of the first model's points, or of each model where it is one point.
function label(box, chart, drawn) {
  const first = chart.labels.length ? drawn.slice(0, 1) : drawn;
  const labels = first.flatMap(({ series }) =>
    series.flatMap(({ points, name }) =>
      points.map(({ x, y, low, text }) => ({
        text: text || name,
        x: box.atX(x) + 8,
        y: box.atY(y) - (low < y ? 9 : 0),
      })),
    ),
  );
  if (labels.length <= chart.most_labels && box.width > 500) spaced(labels, box);
}

const keysOf = (chart, drawn) =>
  chart.keys.length
    ? chart.keys.map(([hue, shape, text]) => [
        mark(shape ?? 0, hue === null ? "var(--faint)" : colour(hue), 13, 7, ""),
        text,
      ])
    : drawn.map(({ colour: hue, mark: shape, name, index, series }) => [
        svg(
          "g",
          {},
          series.some(({ line }) => line)
            ? svg("line", {
                x1: 0,
                x2: 26,
                y1: 7,
                y2: 7,
                stroke: colour(hue),
                "stroke-width": 2,
                "stroke-dasharray": DASHES[shape % 6],
              })
            : null,
          mark(shape, colour(hue), 13, 7, ""),
        ),
        name,
        index,
      ]);

function say(id, text, otherwise) {
  byId(`${id}-note`).textContent = text || "";
  if (!text) byId(`${id}-chart`).replaceChildren(el("p", {}, otherwise));
}

function frequency() {
  const chart = board().charts.frequency;
  const chosen = [...new Set([state.a, state.b])].map((index, place) => ({
    index,
    name: board().models[index].name,
    colour: place,
    mark: place,
    series: [chart.series[index]],
  }));
  const notes = chosen
    .map(({ name, series: [{ note }] }) => `${name}: ${note || "no rank correlation"}`)
    .join("; ");
  const found = draw(byId("frequency-chart"), chart, chosen);
  say("frequency", found !== null && `${notes}. ${chart.reading}`, "No class has labelled pixels.");
}

function cost() {
  const chart = board().charts.costs[state.cost];
  const chosen = shown().map(({ model, index }) => {
    const series = chart ? chart.series[index] : { y: [] };
    const { colour: hue = 0, mark: shape = 0 } = series;
    return { index, name: model.name, colour: hue, mark: shape, series: [series], model };
  });
  const front = chart ? draw(byId("cost-chart"), chart, chosen) : null;
  const devices = [...new Set(chosen.flatMap(({ model }) => model.devices))].join(", ");
  const where =
    state.cost === "peak_memory_mib" ? ` Measured on ${devices || "an unnamed device"}.` : "";
  say(
    "cost",
    front !== null && `${chart.reading}: ${front}.${where}`,
    "No cost was measured for these models.",
  );
}

function curves() {
  const chart = data.curves,
    most = data.most_curves;
  const chosen = shown()
    .slice(0, most)
    .map(({ model, index }, place) => ({
      index,
      name: model.name,
      colour: place,
      mark: place,
      series: model.trials.flatMap((trial) => chart.series.slice(2 * trial, 2 * trial + 2)),
    }))
    .filter(({ series }) => series.some(({ y }) => y.length));
  const found = draw(byId("curves-chart"), chart, chosen);
  const left = shown().length - most;
  const more = ` The ${most} best of ${shown().length} models are drawn; the filters above bring out the others.`;
  say(
    "curves",
    found !== null && chart.reading + (left > 0 ? more : ""),
    "No log of a training is on file.",
  );
}
