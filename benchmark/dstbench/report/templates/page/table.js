// One table for all boards: DataTables shows the rows that are in sight, of the columns that are asked for.
DataTable.ext.errMode = "throw";
const byValue = (sign) => (x, y) => { // what is missing is last, whatever the direction
  if (x === null || y === null) return (x === null) - (y === null);
  return sign * (typeof x === "string" ? collator.compare(x, y) : x - y);
};
const collator = new Intl.Collator("en", { numeric: true });
DataTable.type("figure", { detect: () => false, order: { asc: byValue(1), desc: byValue(-1) } });

const WIDTHS = { rank: 58, accuracy: 128, points: 84, cost: 92, speed: 104, trials: 210 };
const NARROW = { rank: 40, accuracy: 88, score: 88, points: 84 }; // a phone shows rank, method, the metric and what dense has more, with intervals
const isNarrow = () => innerWidth < 700;
const widthOf = (column) => {
  if (column.kind === "method") return isNarrow() ? Math.round(innerWidth * 0.36) : 310;
  if (isNarrow() && NARROW[column.kind]) return NARROW[column.kind];
  const heading = 7 * Math.min(40, column.title.length) + (isNarrow() ? 32 : 46);
  const words = column.words ? data.values[column.key] : {};
  const longest = Math.max(0, ...(words.words ?? [words.all]).map((word) => (typeof word === "string" ? word.length : 0)));
  const noisy = column.kind === "speed" && rows.some((row) => row.control === "dense" && row[column.key] !== null);
  return Math.max(heading, noisy ? 172 : WIDTHS[column.kind] ?? Math.min(240, Math.max(72, 7.6 * longest + 22)));
};
const grid = { table: null, board: null, keys: [] };
const valueOf = (board, column) => (column.key === "rank" ? (row) => board.rank[row.id] : (row) => row[column.key]);

const buildTable = (board, keys, [sortKey, direction], whole = false) => {
  grid.table?.destroy(true);
  const shownColumns = keys.map((key) => columns[key]);
  const node = Object.assign(document.createElement("table"), { className: "grid" });
  board.slot.replaceChildren(node);
  const narrow = isNarrow();
  grid.table = new DataTable(node, {
    data: board.order.map((id) => rows[id]),
    columns: shownColumns.map((column, i) => {
      const value = valueOf(board, column);
      return {
        title: escaped(narrow && column.key === "score" ? metricOf(column.title).name : column.title), type: "figure", width: `${widthOf(column)}px`, className: `${column.words ? "" : "number"} ${i === 1 ? "named" : ""} k-${column.kind}`,
        orderSequence: column.words || column.key === "rank" ? ["asc", "desc", ""] : ["desc", "asc", ""],
        data: (row, type) => {
          if (type !== "display") return value(row);
          if (column.key === "rank") return show("rank", value(row));
          const { html } = cell(column, row);
          return ["method", "trials"].includes(column.kind) ? `<div class="fit">${html}</div>` : html; // rows are equally high
        },
        createdCell: (td, _, row) => {
          if (column.key === "rank") return;
          const { tone, tip } = cell(column, row);
          if (tone && column.kind !== "trials") td.classList.add(tone);
          if (tip) td.dataset.tip = tip;
        },
      };
    }),
    createdRow: (tr, row) => { if (kindOf(row)) tr.classList.add(`is-${kindOf(row)}`); },
    order: keys.includes(sortKey) ? [[keys.indexOf(sortKey), direction === "down" ? "desc" : "asc"]] : [],
    layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: null },
    autoWidth: false, orderMulti: false, deferRender: true,
    language: { emptyTable: "No results yet.", zeroRecords: "No row is left by the filters." },
    ...(whole ? { paging: false } : { scrollY: `${Math.round(innerHeight * 0.8)}px`, scrollX: true, scrollCollapse: true, scroller: { rowHeight: narrow ? 82 : 56, displayBuffer: 5 } }),
  });
  Object.assign(grid, { board, keys });
  all("thead th", grid.table.table().container()).forEach((th, i) => {
    th.dataset.tip = shownColumns[i % keys.length].help;
    th.removeAttribute("title");
  });
  grid.table.on("draw column-sizing", () => explain(board));
  explain(board);
  grid.table.on("order", () => {
    const [[at, way] = []] = grid.table.order();
    onSort(at === undefined || !way ? "" : `${keys[at]}:${way === "desc" ? "down" : "up"}`);
  });
};
// For screen readers: the scrolled table is a table, with the headings that its copy of the head brings; the visible
// head is another one, of buttons. DataTables says all of it to be one table of parts that may not be in one.
const explain = (board) => {
  for (const node of all("[role=table], [role=none]", board.slot)) node.removeAttribute("role");
  for (const order of all(".dt-scroll-body .dt-column-order", board.slot)) order.removeAttribute("aria-label");
  const body = board.slot.querySelector(".dt-scroll-body");
  if (!body) return;
  for (const [name, text] of [["tabindex", "0"], ["role", "region"], ["aria-label", `Table: ${board.title}`]]) body.setAttribute(name, text);
  const table = body.querySelector("table");
  table.setAttribute("aria-label", board.title);
  table.setAttribute("aria-rowcount", grid.table.page.info().recordsDisplay + 1);
};
const filterTable = (left) => {
  grid.table.search.fixed("page", (_, row) => left[row.id]).draw();
};
