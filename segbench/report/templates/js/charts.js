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

function frame(target, { x, y, label, show = amount }) {
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
        show(tick),
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
  return { node, atX, atY, width, height, box };
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

function frequency() {
  const { models, classes, share, share_of: shareOf } = board(),
    chosen = [...new Set([state.a, state.b])];
  const points = classes
    .map((name, index) => ({ name, share: 100 * share[index], index }))
    .filter((point) => point.share > 0);
  const target = byId("frequency-chart");
  if (points.length < 2) {
    target.replaceChildren(el("p", {}, "Fewer than two classes have labelled pixels."));
    return;
  }
  const chart = frame(target, {
    x: {
      ...logRange(points.map((point) => point.share)),
      title: "share of labelled pixels, per cent (log)",
    },
    y: { low: 0, high: 100, title: "IoU, per cent" },
    label: `Class IoU against the share of pixels for ${chosen.map((index) => models[index].name).join(" and ")}; ${board().title}`,
  });
  const notes = chosen
    .map((index, place) => [index, place])
    .reverse()
    .map(([index, place]) => {
      const known = points.filter((point) => models[index].iou[point.index] !== null);
      known.forEach((point) =>
        chart.node.append(
          mark(
            place,
            colour(place),
            chart.atX(point.share),
            chart.atY(100 * models[index].iou[point.index]),
            `${point.name}: IoU ${percent(models[index].iou[point.index], 1)} %, ${point.share.toPrecision(3)} % of the pixels; ${models[index].name}`,
          ),
        ),
      );
      return `${models[index].name}: rank correlation ${correlation(
        known.map((p) => p.share),
        known.map((p) => models[index].iou[p.index]),
      ).toFixed(2)} over ${known.length} classes`;
    })
    .reverse();
  if (points.length <= 25 && chart.width > 500)
    spaced(
      points.map((point) => ({
        text: point.name,
        x: chart.atX(point.share) + 8,
        y: chart.atY(100 * (models[state.a].iou[point.index] ?? 0)),
      })),
      chart,
    );
  target.append(
    legend(
      chosen.map((index, place) => [
        mark(place, colour(place), 13, 7, ""),
        models[index].name,
        index,
      ]),
    ),
  );
  byId("frequency-note").textContent =
    `${notes.join("; ")} (Spearman; a description, not a test). Shares are of the ${shareOf}.`;
}

function correlation(x, y) {
  const ranks = (values) =>
    values.map((value) => {
      const below = values.filter((other) => other < value).length,
        same = values.filter((other) => other === value).length;
      return below + (same + 1) / 2;
    });
  const rx = ranks(x),
    ry = ranks(y),
    middle = (x.length + 1) / 2;
  let top = 0,
    left = 0,
    right = 0;
  rx.forEach((value, i) => {
    top += (value - middle) * (ry[i] - middle);
    left += (value - middle) ** 2;
    right += (ry[i] - middle) ** 2;
  });
  return left && right ? top / Math.sqrt(left * right) : NaN;
}

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

function cost() {
  const target = byId("cost-chart"),
    note = byId("cost-note"),
    key = state.cost;
  const points = shown()
    .filter(({ model }) => model.costs[key] > 0)
    .map(({ model, index }) => ({
      model,
      index,
      x: model.costs[key],
      y: 100 * model.figures.mean_iou[0],
    }));
  if (!points.length) {
    target.replaceChildren(el("p", {}, "No cost was measured for these models."));
    note.textContent = "";
    return;
  }
  const title = data.costs.find(([each]) => each === key)[1];
  const axes = board().axes.filter(
    (axis) => new Set(board().models.map((model) => model.axes[axis])).size > 1,
  );
  const values = (axis) => [...new Set(board().models.map((model) => model.axes[axis]))];
  const [hue, shape] = [axes[0], axes[1]];
  const front = [...points]
    .sort((one, two) => one.x - two.x || two.y - one.y)
    .filter((point, i, sorted) => sorted.slice(0, i).every((other) => other.y < point.y));
  const chart = frame(target, {
    x: { ...logRange(points.map((point) => point.x)), title: `${title} (log)` },
    y: {
      ...range(points.flatMap(({ model }) => [model.low, model.high])),
      title: "mean IoU, per cent",
    },
    label: `Mean IoU against ${title} of ${points.length} models; ${board().title}. Not beaten at their cost: ${front.map((point) => point.model.name).join(", ")}`,
  });
  const steps = front
    .map(
      (point, i) =>
        `${i ? `H${chart.atX(point.x)}V${chart.atY(point.y)}` : `M${chart.atX(point.x)} ${chart.atY(point.y)}`}`,
    )
    .join("");
  chart.node.append(
    svg("path", { class: "front", d: steps + `H${chart.width - chart.box.right}` }),
  );
  const look = (model) => [
    shape ? values(shape).indexOf(model.axes[shape]) : 0,
    hue ? colour(values(hue).indexOf(model.axes[hue])) : colour(0),
  ];
  for (const { model, x, y, index } of points) {
    chart.node.append(
      svg("line", {
        x1: chart.atX(x),
        x2: chart.atX(x),
        y1: chart.atY(model.low),
        y2: chart.atY(model.high),
        stroke: look(model)[1],
        "stroke-width": 1.5,
      }),
    );
    const point = mark(
      ...look(model),
      chart.atX(x),
      chart.atY(y),
      `${model.name}: ${y.toFixed(2)} % [${model.low.toFixed(1)}, ${model.high.toFixed(1)}], ${title} ${amount(x)}`,
    );
    point.addEventListener("click", () => openModel(index));
    chart.node.append(point);
  }
  if (points.length <= MOST_LABELS && chart.width > 500)
    spaced(
      points.map(({ model, x, y }) => ({
        text: short(model),
        x: chart.atX(x) + 8,
        y: chart.atY(y) - 9,
      })),
      chart,
    );
  const keys = [];
  if (hue)
    values(hue).forEach((value, place) =>
      keys.push([mark(0, colour(place), 13, 7, ""), value || "–"]),
    );
  if (shape)
    values(shape).forEach((value, place) =>
      keys.push([mark(place, "var(--faint)", 13, 7, ""), value || "–"]),
    );
  target.append(legend(keys));
  const measured =
    key !== "peak_memory_mib"
      ? ""
      : ` Measured on ${[...new Set(points.flatMap(({ model }) => model.devices))].join(", ") || "an unnamed device"}.`;
  note.textContent = `Bars are 95 % intervals. The dashed line joins the models that none surpasses at their cost or below: ${front.map((point) => point.model.name).join(", ")}.${measured}`;
}

function curves() {
  const drawn = shown()
    .slice(0, MOST_CURVES)
    .map(({ model, index }, place) => ({
      model,
      index,
      place,
      lines: model.trials.map((trial) => trials[trial]).filter((trial) => trial.loss[0].length),
    }))
    .filter(({ lines }) => lines.length);
  const target = byId("curves-chart"),
    note = byId("curves-note");
  if (!drawn.length) {
    target.replaceChildren(el("p", {}, "No log of a training is on file."));
    note.textContent = "";
    return;
  }
  const every = drawn.flatMap(({ lines }) => lines);
  const losses = every
    .flatMap((trial) => [...trial.loss[1], ...trial.validation[1]])
    .sort((x, y) => x - y);
  const high = losses[Math.floor(0.995 * (losses.length - 1))];
  const chart = frame(target, {
    x: {
      low: 0,
      high: 1.02 * Math.max(...every.map((trial) => trial.loss[0].at(-1))),
      title: "optimizer step",
    },
    y: { low: Math.min(0, losses[0]), high: high * 1.05 || 1, title: "loss" },
    label: `Training and validation loss of ${drawn.map(({ model }) => model.name).join(", ")}`,
  });
  const line = ([steps, values]) =>
    steps
      .map(
        (step, i) =>
          `${i ? "L" : "M"}${chart.atX(step).toFixed(1)} ${chart.atY(Math.min(values[i], high * 1.05)).toFixed(1)}`,
      )
      .join("");
  for (const { model, place, lines } of drawn)
    for (const trial of lines) {
      const look = {
        fill: "none",
        stroke: colour(place),
        "stroke-width": 1.4,
        "stroke-dasharray": DASHES[place],
      };
      chart.node.append(
        svg(
          "path",
          { d: line(trial.loss), ...look, opacity: 0.85 },
          svg("title", {}, `${model.name} seed ${trial.seed}: training`),
        ),
      );
      trial.validation[0].forEach((step, i) =>
        chart.node.append(
          mark(
            place,
            colour(place),
            chart.atX(step),
            chart.atY(Math.min(trial.validation[1][i], high * 1.05)),
            `${model.name} seed ${trial.seed}: validation loss ${trial.validation[1][i]} at step ${step}`,
          ),
        ),
      );
    }
  target.append(
    legend(
      drawn.map(({ model, index, place }) => [
        svg(
          "g",
          {},
          svg("line", {
            x1: 0,
            x2: 26,
            y1: 7,
            y2: 7,
            stroke: colour(place),
            "stroke-width": 2,
            "stroke-dasharray": DASHES[place],
          }),
          mark(place, colour(place), 13, 7, ""),
        ),
        model.name,
        index,
      ]),
    ),
  );
  const left = shown().length - MOST_CURVES;
  note.textContent = `Lines are the training loss, symbols the validation loss, one line for each seed; losses above the 99.5th percentile are drawn at the upper edge.${left > 0 ? ` The ${MOST_CURVES} best of ${shown().length} models are drawn; the filters above bring out the others.` : ""}`;
}
