// What is shown of a run that goes on, and what is remembered when the page loads again.

// The live view asks the server that serves the page; a page opened from disk has none.
function live() {
  const section = byId("live");
  if (!section) return;
  const ask = async () => {
    try {
      const now = await (await fetch("status.json", { cache: "no-store" })).json();
      byId("live-line").textContent = now.line;
      byId("live-bar").value = now.share;
      const rows = now.trials.map((trial) =>
        el(
          "tr",
          {},
          el("th", { scope: "row" }, trial.label),
          el("td", {}, trial.state),
          el("td", {}, trial.progress),
          el("td", {}, trial.eta),
          el("td", {}, trial.message, trial.tail ? el("pre", { tabindex: 0 }, trial.tail) : null),
        ),
      );
      byId("live-trials").replaceChildren(
        rows.length
          ? el(
              "table",
              {},
              el(
                "thead",
                {},
                el(
                  "tr",
                  {},
                  ...["trial", "state", "progress", "left", ""].map((title) =>
                    el("th", { scope: "col" }, title),
                  ),
                ),
              ),
              el("tbody", {}, ...rows),
            )
          : "",
      );
      if (now.version !== section.dataset.version && !byId("details").open) {
        remember();
        location.reload();
        return;
      }
    } catch (error) {
      byId("live-line").textContent =
        "The server does not answer; what is below is as of the last look.";
    }
    setTimeout(ask, 3000);
  };
  ask();
}
const remember = () =>
  sessionStorage.setItem("segbench", JSON.stringify({ ...state, theme: byId("theme")?.value }));
function recalled() {
  if (!byId("live")) return;
  const kept = JSON.parse(sessionStorage.getItem("segbench") || "null");
  if (!kept || !boards[kept.board]) return;
  Object.assign(state, kept);
  if (byId("theme") && kept.theme) {
    byId("theme").value = kept.theme;
    byId("theme").dispatchEvent(new Event("change"));
  }
}
