// The page's figures: columns as page_data.py writes them, rows as objects.
const data = JSON.parse(document.getElementById("data").textContent);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const $ = (id) => document.getElementById(id);
const decoded = (column, count) => {
  if ("all" in column) return Array(count).fill(column.all);
  if ("words" in column) return column.at.map((place) => column.words[place]);
  if (!("rows" in column)) return column.values;
  const values = Array(count).fill(null);
  column.rows.forEach((row, i) => { values[row] = column.values[i]; });
  return values;
};
const rows = Array.from({ length: data.rows }, (_, id) => ({ id }));
const figures = Object.entries(data.values);
for (const [key, column] of figures.filter(([, column]) => !column.inverse)) {
  const values = decoded(column, data.rows);
  for (const row of rows) row[key] = values[row.id];
}
for (const [key, { inverse }] of figures.filter(([, column]) => column.inverse)) {
  for (const row of rows) row[key] = row[inverse] ? 1 / row[inverse] : null;
}
const columns = Object.fromEntries(data.columns.map((column) => [column.key, column]));
const boards = data.boards.map((board) => ({
  ...board,
  order: board.order ?? rows.map((row) => row.id),
  ranks: decoded(board.ranks, (board.order ?? rows).length),
}));
for (const board of boards) { // a row's rank is its board's
  board.rank = Array(data.rows).fill(null);
  board.order.forEach((id, i) => { board.rank[id] = board.ranks[i]; });
}
const PARTS = ["init", "structure", "prune", "grow"];
const partsOf = (row) => PARTS.map((part) => row[part]).filter(Boolean).join(" · ");
const structures = [...new Set(rows.map((row) => row.structure).filter(Boolean))].sort(); // colours, under every filter
const gains = (row, timed) => Boolean(row.gains & (1 << ["train", "inference", "single"].indexOf(timed)));

// --- what a block is ranked by: top-1, unless it says another metric
const scoreOf = (row, end = "") => row[`score${end}`] ?? row[`top1${end}`] ?? null;
const isTop1 = (row) => !row.metric || row.metric === "top-1 %";
const metricOf = (title) => { // its name and unit, as ranking.py reads them
  const [, name, unit] = /^(.+?)\s*(?:\(([^()]+)\)|%)$/.exec(title) ?? [null, title, ""];
  return { name, unit: unit ?? "%" };
};
const isPercent = (row) => isTop1(row) || metricOf(row.metric).unit === "%";
const scoreText = (row, value = scoreOf(row)) => (isPercent(row) ? `${show("percent", value)} %` : show("score", value));
const scoreName = (row) => (isTop1(row) ? "top-1" : isPercent(row) ? metricOf(row.metric).name : row.metric);

// --- trials, each with its row
const K = 12; // letters of a key
const { trials, names } = (() => {
  const { count, key, first: origin, ...rest } = data.details.trials;
  const counts = decoded(count, data.rows);
  const columns = Object.fromEntries(Object.entries(rest).map(([name, column]) => [name, decoded(column, key.length / K)]));
  const time = (seconds) => (seconds === null ? null : `${new Date(1000 * seconds).toISOString().slice(0, 19)}Z`);
  let next = 0;
  const first = counts.map((number) => (next += number) - number);
  const of = (row) => Array.from({ length: counts[row.id] }, (_, i) => {
    const at = first[row.id] + i;
    const { began, took, ...trial } = Object.fromEntries(Object.entries(columns).map(([name, values]) => [name, values[at]]));
    const start = began === null ? null : origin + began;
    return {
      ...trial, key: key.slice(K * at, K * at + K).trim(), score: counts[row.id] === 1 ? scoreOf(row) : trial.score,
      started: time(start), finished: time(took === null ? null : start + took),
    };
  });
  const name = (row) => (counts[row.id] ? key.slice(K * first[row.id], K * (first[row.id] + 1)).trim() : `published-${row.id}`);
  return { trials: of, names: rows.map(name) }; // the first trial's key is what links call a row
})();
