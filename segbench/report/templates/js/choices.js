// Which board, models and seed are shown, and what follows when a choice changes.

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
    const same = boards
      .map((each, i) => i)
      .filter(
        (i) =>
          boards[i].protocol === boards[index].protocol &&
          boards[i].dataset === boards[index].dataset,
      );
    choose(same[0]);
  };
  const twice = boards.some((each, i) =>
    boards.some(
      (other, j) => i !== j && each.protocol === other.protocol && each.dataset === other.dataset,
    ),
  );
  select(
    byId("protocol"),
    distinct("protocol").map((name) => [name, name]),
    board().protocol,
    go,
  );
  if (twice)
    select(
      byId("dataset"),
      boards.map((each, i) => [i, each.title]),
      state.board,
      (i) => choose(Number(i)),
    );
  else
    select(
      byId("dataset"),
      distinct("dataset").map((name) => [name, name]),
      board().dataset,
      go,
    );
}

function choose(index) {
  state.board = index;
  state.a = 0;
  state.b = Math.min(1, board().models.length - 1);
  all("[data-board]").forEach((node) => {
    node.hidden = Number(node.dataset.board) !== index;
  });
  byId("protocol").value = board().protocol;
  if (byId("dataset").value !== String(index)) byId("dataset").value = board().dataset;
  filterChoice();
  modelChoice();
  filter();
}

function filterChoice() {
  Object.keys(state.filters)
    .filter((axis) => !board().axes.includes(axis))
    .forEach((axis) => delete state.filters[axis]);
  const fields = board().axes.map((axis) => {
    const values = [...new Set(board().models.map((model) => model.axes[axis]))];
    if (values.length < 2) {
      delete state.filters[axis];
      return null;
    }
    if (!values.includes(state.filters[axis])) state.filters[axis] = "";
    const choice = el("select", { "data-axis": axis });
    select(
      choice,
      [["", "all"], ...values.filter(Boolean).map((value) => [value, value])],
      state.filters[axis],
      (value) => {
        state.filters[axis] = value;
        filter();
      },
    );
    return el("label", { class: "field" }, axis + " ", choice);
  });
  byId("filters").replaceChildren(...fields.filter(Boolean));
}

function modelChoice() {
  const options = board().models.map((model, index) => [index, model.name]);
  select(byId("model-a"), options, state.a, (value) => {
    state.a = Number(value);
    compare();
  });
  select(byId("model-b"), options, state.b, (value) => {
    state.b = Number(value);
    compare();
  });
  select(byId("confusion-model"), options, 0, () => {
    seedChoice();
    confusion();
  });
  const costs = data.costs.filter(([key]) =>
    board().models.some((model) => model.costs[key] !== undefined),
  );
  if (!costs.some(([key]) => key === state.cost)) state.cost = costs.length ? costs[0][0] : "";
  select(byId("cost-kind"), costs, state.cost, (value) => {
    state.cost = value;
    cost();
  });
  seedChoice();
  confusion();
  compare();
}

const seedOf = (model, place) =>
  model.trials.length ? String(trials[model.trials[place]].seed) : "–";

function seedChoice() {
  const model = board().models[Number(byId("confusion-model").value)];
  select(
    byId("confusion-seed"),
    model.confusions.map((_, place) => [place, seedOf(model, place)]),
    0,
    confusion,
  );
}

function filter() {
  const visible = new Set(shown().map(({ index }) => index));
  const rows = all(`#leaderboard [data-board="${state.board}"] tr[data-model]`);
  rows.forEach((row) => {
    row.hidden = !visible.has(Number(row.dataset.model));
  });
  byId("count").textContent = `${visible.size} of ${board().models.length} models shown.`;
  heat();
  cost();
  curves();
}
