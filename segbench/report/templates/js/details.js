// The dialogue with one model's trials, and the list of all trials.

// The details of a model: its trials, each with configuration, log and command.
const files = (trial) =>
  el(
    "td",
    {},
    ...trial.files.flatMap((name) => [el("a", { href: `trials/${trial.id}/${name}` }, name), " "]),
  );
function openModel(index) {
  const model = board().models[index];
  byId("details-title").textContent = model.name;
  const figures = data.figures
    .filter(([key]) => model.figures[key])
    .map(([key, title]) =>
      el(
        "li",
        {},
        `${title}: ${percent(model.figures[key][0])} %${model.figures[key][1] === null ? "" : ` ± ${percent(model.figures[key][1])}`}`,
      ),
    );
  const costs = data.costs
    .filter(([key]) => model.costs[key] !== undefined)
    .map(([key, title]) => el("li", {}, `${title}: ${amount(model.costs[key])}`));
  const shared = data.costs
    .filter(([key]) => model.shared_times[key])
    .map(([key, title]) =>
      el(
        "li",
        { class: "faint" },
        `${title}: ${model.shared_times[key].map(amount).join(" to ")} over seeds, measured beside other trials`,
      ),
    );
  const rows = model.trials.map((number, place) => {
    const trial = trials[number];
    return el(
      "tr",
      {},
      el("th", { scope: "row" }, String(trial.seed)),
      el("td", { class: "number" }, percent(model.seeds[place])),
      el("td", {}, el("code", {}, trial.id)),
      el("td", {}, trial.code || "–"),
      el("td", {}, trial.device || "–"),
      files(trial),
    );
  });
  byId("details-body").replaceChildren(
    el("p", {}, `${board().title}; ${board().protocol_words}`),
    ...(model.starts.length ? [el("p", {}, `Started from: ${model.starts.join("; ")}.`)] : []),
    el("ul", {}, ...figures, ...costs, ...shared),
    rows.length
      ? el(
          "div",
          { class: "scroll", tabindex: 0, role: "region", "aria-label": "Trials of this model" },
          el(
            "table",
            {},
            el(
              "thead",
              {},
              el(
                "tr",
                {},
                ...["seed", "mean IoU, %", "trial", "segbench", "device", "files"].map((title) =>
                  el("th", { scope: "col" }, title),
                ),
              ),
            ),
            el("tbody", {}, ...rows),
          ),
        )
      : el("p", {}, "External: scored here, made elsewhere."),
    el("p", {}, "The command:"),
    el("pre", { tabindex: 0 }, model.command),
    ...(rows.length
      ? [
          el("p", {}, "What its worker printed:"),
          el(
            "pre",
            { tabindex: 0 },
            `segbench logs results/${data.name} ${trials[model.trials[0]].id}`,
          ),
        ]
      : []),
  );
  byId("details").showModal();
}

function allTrials() {
  const target = byId("trials").querySelector("div");
  if (target.firstChild) return;
  target.replaceChildren(
    el(
      "table",
      {},
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          ...["trial", ...data.axes, "seed", "status", "files"].map((title) =>
            el("th", { scope: "col" }, title),
          ),
        ),
      ),
      el(
        "tbody",
        {},
        ...trials.map((trial) =>
          el(
            "tr",
            {},
            el("td", {}, el("code", {}, trial.id || "–")),
            ...data.axes.map((axis) => el("td", {}, trial.axes[axis])),
            el("td", { class: "number" }, String(trial.seed)),
            el("td", {}, trial.status),
            files(trial),
          ),
        ),
      ),
    ),
  );
}
