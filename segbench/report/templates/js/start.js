// Put everything together once.

byId("close").addEventListener("click", () => byId("details").close());
byId("trials").addEventListener("toggle", allTrials);
if (boards.length) {
  byId("theme").addEventListener("change", (event) => {
    document.documentElement.dataset.theme = event.target.value;
  });
  recalled();
  boardChoice();
  byId("class-order").onchange = (event) => {
    state.order = event.target.value;
    heat();
  };
  all("table.leaderboard").forEach(sortable);
  all("[data-opens]").forEach((button) =>
    button.addEventListener("click", () => openModel(Number(button.closest("tr").dataset.model))),
  );
  choose(state.board);
  let waiting = 0;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      frequency();
      cost();
      curves();
    }, 150);
  });
}
live();
document.documentElement.dataset.ready = "yes";
