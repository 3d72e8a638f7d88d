// What the reader chose, and everything that follows from it.
const selects = all("[data-filter]");
const start = { board: "", q: "", x: "training_flops_ratio", block: "0", sort: "", show: "", row: "" };
const state = { ...start };
for (const board of boards) {
  board.section = $(board.name);
  board.slot = board.section.querySelector(".slot");
}
start.board = all(".board")[0].dataset.board; // a page about speed shows that first
Object.assign(state, start);

// --- address: every choice is in the fragment, so a link shows what its sender saw
const fromHash = () => {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const key of Object.keys(start)) state[key] = given.get(key) ?? start[key];
  if (!boards.some((board) => board.name === state.board)) state.board = start.board;
  for (const select of selects) {
    select.value = given.get(select.dataset.filter) ?? "";
    if (select.selectedIndex < 0) select.value = "";
  }
  $("q").value = state.q;
  for (const id of ["x", "block"]) {
    $(id).value = state[id];
    if ($(id).selectedIndex < 0) $(id).value = state[id] = start[id];
  }
};
const toHash = (how = "pushState") => {
  const out = new URLSearchParams();
  for (const key of Object.keys(start)) if (state[key] !== start[key]) out.set(key, state[key]);
  for (const select of selects) if (select.value) out.set(select.dataset.filter, select.value);
  if (`#${out}` !== location.hash && (location.hash || `${out}`)) history[how](null, "", `#${out}`);
};

// --- what the filters leave
const texts = []; // of each row, what the search looks in
const textOf = (row) => (texts[row.id] ??= [row.method, partsOf(row), row.control, row.schedule, row.model, row.dataset, row.setting, row.statuses, row.reason, row.note, row.source, row.train_path, row.inference_path, names[row.id]].filter(Boolean).join("\n").toLowerCase());
const filtered = () => {
  const chosen = selects.filter((select) => select.value).map((select) => [select.dataset.filter, select.value]);
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  return rows.map((row) => chosen.every(([key, value]) => String(row[key]) === value) && words.every((word) => textOf(row).includes(word)));
};
let left = [];
const candidate = ({ key, first, then }) => { // the first that the filters leave: its row, figure, whose it is, and what stands beside
  const said = first.find(([row]) => left[row]);
  if (said) return said;
  const row = rows[then.find((id) => left[id])];
  return row && [row.id, shown(columns[key], row), `${row.method} at density ${row.density_requested}, ${scoreText(row)}`, ""];
};
const winners = () => (data.cards[+state.block] ?? []).map(candidate).filter(Boolean);
const drawCards = () => { // of each, the first candidate that the filters leave
  for (const tiles of all(".tiles")) {
    tiles.hidden = tiles.dataset.block !== state.block;
    if (tiles.hidden) continue;
    all(".tile", tiles).forEach((tile, i) => {
      const card = data.cards[+state.block][i];
      const none = card.first.length ? ["none", "among what the filters leave", ""] : JSON.parse(tile.dataset.nothing);
      const [, ...said] = candidate(card) ?? [-1, ...none];
      said.forEach((text, k) => { tile.children[k + 1].textContent = text; });
    });
  }
};
const follow = () => { // the scatter shows a block that the filters leave
  const wanted = (block) => selects.every(({ dataset, value }) => !value || !(dataset.filter in block) || block[dataset.filter] === value);
  if (!data.blocks.length || wanted(data.blocks[+state.block] ?? {})) return;
  state.block = String(Math.max(0, data.blocks.findIndex(wanted)));
  $("block").value = state.block;
};

// --- the table and its columns
const shownKeys = (board) => {
  const flipped = new Set(state.show.split(",")); // columns that differ from how they start
  return board.columns.filter((key, i) => i < 2 || board.extra.includes(key) === flipped.has(key));
};
const drawColumns = (board) => {
  const keys = shownKeys(board);
  $("columns").querySelector("div").replaceChildren(...board.columns.slice(2).map((key) => {
    const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: keys.includes(key) });
    box.addEventListener("change", () => {
      const flipped = new Set(state.show.split(",").filter(Boolean));
      flipped.has(key) ? flipped.delete(key) : flipped.add(key);
      state.show = [...flipped].join(",");
      change();
    });
    return element("label", {}, box, columns[key].title);
  }));
};
let built = "";
const drawTable = () => {
  const board = boards.find((one) => one.name === state.board), keys = shownKeys(board);
  const wanted = JSON.stringify([board.name, keys, state.sort, isNarrow()]);
  for (const one of boards) one.section.hidden = one !== board;
  if (wanted !== built) buildTable(board, keys, state.sort.split(":"));
  if (wanted !== built) drawColumns(board);
  built = wanted;
  filterTable(left);
  const count = board.order.filter((id) => left[id]).length;
  $("count").textContent = `${count.toLocaleString("en")} of ${counted(board.order.length, "row")}`;
};
const onSort = (sort) => { // the table has done it already
  state.sort = sort;
  const board = boards.find((one) => one.name === state.board);
  built = JSON.stringify([board.name, shownKeys(board), state.sort, isNarrow()]);
  toHash();
};

// --- one row
const panel = $("panel");
const openRow = () => {
  const id = names.indexOf(state.row);
  if (id < 0) return void (panel.open && panel.close());
  fillPanel(rows[id]);
  if (!panel.open) panel.showModal();
  panel.scrollTop = 0;
};
const choose = (id) => {
  state.row = names[id];
  toHash();
  openRow();
};
panel.addEventListener("close", () => {
  if (!state.row) return;
  state.row = "";
  toHash();
});
panel.addEventListener("click", (event) => { if (event.target === panel) panel.close(); });
$("panel-close").addEventListener("click", () => panel.close());
$("panel-link").addEventListener("click", async () => {
  await navigator.clipboard?.writeText(location.href);
  $("panel-link").textContent = "copied";
  setTimeout(() => { $("panel-link").textContent = "copy link"; }, 1500);
});

// --- tooltips: the title attribute serves pages without scripts
const tip = $("tip");
for (const node of all("[title]")) { node.dataset.tip = node.title; node.removeAttribute("title"); }
const point = (event) => {
  const text = event.target.closest?.("[data-tip]")?.dataset.tip;
  tip.hidden = !text;
  if (!text) return;
  (panel.open ? panel : document.body).append(tip); // a dialog lies above all else
  tip.textContent = text;
  const box = event.target.getBoundingClientRect();
  const x = event.clientX ?? box.right, y = event.clientY ?? box.bottom;
  tip.style.left = `${Math.max(8, Math.min(x + 14, innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${y + 18 + tip.offsetHeight > innerHeight ? y - tip.offsetHeight - 12 : y + 18}px`;
};

const draw = () => {
  follow();
  left = filtered();
  drawTable();
  drawCards();
  drawPlot(state, left, winners());
  for (const tab of all(".tabs [role=tab]")) {
    tab.setAttribute("aria-selected", tab.dataset.board === state.board);
    tab.tabIndex = tab.dataset.board === state.board ? 0 : -1;
  }
  for (const select of selects) select.classList.toggle("set", Boolean(select.value));
};
const change = (how) => { draw(); toHash(how); };

document.addEventListener("mousemove", point);
document.addEventListener("focusin", point);
document.addEventListener("click", (event) => {
  if (!$("columns").contains(event.target)) $("columns").open = false;
  const at = event.target.closest?.(".open, .dot, .grid tbody tr");
  if (!at || event.target.closest("a") || getSelection().toString()) return;
  const id = at.dataset.row ?? at.querySelector(".open")?.dataset.row;
  if (id !== undefined) choose(+id);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.target.matches?.(".dot")) choose(+event.target.dataset.row);
  if (event.key !== "Escape") return; // closes what is open, and gives the focus back
  tip.hidden = true;
  if (!$("columns").open) return;
  $("columns").open = false;
  $("columns").querySelector("summary").focus();
});
for (const tab of all(".tabs [role=tab]")) {
  tab.addEventListener("click", () => { state.board = tab.dataset.board; change(); });
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key], tabs = all(".tabs [role=tab]");
    if (!step) return;
    const next = tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length];
    next.click();
    next.focus();
  });
}
for (const id of ["x", "block"]) $(id).addEventListener("change", () => { state[id] = $(id).value; change(); });
$("q").addEventListener("input", () => { state.q = $("q").value; change("replaceState"); });
$("filters").addEventListener("change", (event) => { if (event.target.dataset.filter) change(); });
$("filters").addEventListener("submit", (event) => event.preventDefault());
$("filters").addEventListener("reset", (event) => {
  event.preventDefault();
  Object.assign(state, { q: "", sort: "", show: "" });
  $("q").value = "";
  for (const select of selects) select.value = "";
  change();
});
$("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});
let width = innerWidth, printing = false;
addEventListener("resize", () => { // the keyboard of a phone changes the height alone
  if (printing || width === innerWidth) return;
  width = innerWidth;
  built = "";
  draw();
});
addEventListener("popstate", () => { fromHash(); draw(); openRow(); });
addEventListener("beforeprint", () => { printing = true; if (data.rows <= 2000) buildTable(grid.board, grid.keys, state.sort.split(":"), true); filterTable(left); });
addEventListener("afterprint", () => { printing = false; built = ""; draw(); });
document.documentElement.classList.add("scripted");
fromHash();
draw();
openRow();
