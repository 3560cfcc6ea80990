// The page's data, its state, and how elements and numbers are made. Text enters as text nodes only.

const data = JSON.parse(document.getElementById("data").textContent);
const boards = data.boards,
  trials = data.trials;
const state = { board: 0, filters: {}, a: 0, b: 1, cost: "", order: "card" };
const MOST_COLUMNS = 40;
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
const percent = (value, digits = 2) =>
  value === null || value === undefined ? "–" : (100 * value).toFixed(digits);
const signed = (value) => (value <= -0.005 ? "−" : "+") + Math.abs(value).toFixed(2);
function amount(value) {
  if (value === null || value === undefined) return "–";
  for (const [size, unit] of [
    [1e12, " T"],
    [1e9, " G"],
    [1e6, " M"],
    [1e4, " k"],
  ])
    if (Math.abs(value) >= size) return trimmed(value / (unit === " k" ? 1e3 : size)) + unit;
  return trimmed(value);
}
const trimmed = (value) => String(Number(value.toPrecision(3)));

// What is shown: a board, and its models that pass the filters.
const board = () => boards[state.board];
const shown = () =>
  board()
    .models.map((model, index) => ({ model, index }))
    .filter(({ model }) =>
      Object.entries(state.filters).every(([axis, value]) => !value || model.axes[axis] === value),
    );
const colour = (place) => `var(--s${place % 6})`;
