// All of a row: figures, curves, layers, trials, and where they come from.
const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const STEPS = LETTERS.length ** 2 - 1;
const pointsOf = (figure, epochs) => { // as details.py writes them
  if (!Array.isArray(figure)) return epochs.map((x) => [x, figure]);
  const [low, high, text] = figure;
  return epochs.flatMap((x, i) => {
    const step = LETTERS.indexOf(text[2 * i]) * LETTERS.length + LETTERS.indexOf(text[2 * i + 1]);
    return step === STEPS ? [] : [[x, low + (step / (STEPS - 1)) * (high - low)]];
  });
};
const element = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
};
const short = (value) => `${+value.toPrecision(4)}`;
const drawCurve = (title, points) => {
  const W = 300, H = 150, L = 46, R = 12, T = 10, B = 22;
  const [x0, x1] = spread(points.map(([x]) => x), 0), [y0, y1] = spread(points.map(([, y]) => y), 0.06);
  const X = (v) => L + ((v - x0) / (x1 - x0)) * (W - L - R), Y = (v) => H - B - ((v - y0) / (y1 - y0)) * (H - T - B);
  const last = points.at(-1);
  const root = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `${title}: ${short(points[0][1])} at epoch ${points[0][0]}, ${short(last[1])} at epoch ${last[0]}` });
  for (const t of nice(y0, y1, 4)) root.append(svg("line", { class: "grid", x1: L, x2: W - R, y1: Y(t), y2: Y(t) }), svg("text", { x: L - 6, y: Y(t) + 4, "text-anchor": "end" }, t));
  for (const t of nice(x0, x1, 5).filter((t) => t === Math.round(t))) root.append(svg("text", { x: X(t), y: H - 6, "text-anchor": "middle" }, t));
  root.append(svg("path", { d: points.map(([x, y], i) => `${i ? "L" : "M"}${X(x).toFixed(1)} ${Y(y).toFixed(1)}`).join("") }));
  for (const [x, y] of points) {
    const dot = svg("circle", { cx: X(x), cy: Y(y), r: 3.2 });
    dot.dataset.tip = `epoch ${x}: ${short(y)}`;
    root.append(dot);
  }
  const table = element("table", {}, element("tbody", {}, ...points.map(([x, y]) => element("tr", {}, element("th", { scope: "row" }, `epoch ${x}`), element("td", {}, short(y))))));
  return element("figure", {}, element("figcaption", {}, title), root, element("details", {}, element("summary", {}, "as numbers"), table));
};
const curvesOf = (row) => {
  const { epochs, rows: known } = data.details.curves;
  if (!known[row.id]) return [element("p", { class: "lead" }, data.details.points ? "None were recorded." : "Left out of a page of so many rows: the command below prints them.")];
  const [at, figures] = known[row.id];
  const drawn = Object.entries(figures).map(([name, figure]) => [name === "score_validation" ? `validation ${row.metric}` : data.details.figures[name], pointsOf(figure, epochs[at])]);
  return [element("div", { class: "curves" }, ...drawn.filter(([, points]) => points.length > 1).map(([title, points]) => drawCurve(title, points)))];
};
const layersOf = (row) => {
  const { networks, rows: known, left_out: leftOut } = data.details.layers;
  if (!known[row.id]) return [element("p", { class: "lead" }, leftOut ? "Left out of a page of so many rows: the command below prints them." : "None were recorded.")];
  const [at, densities] = known[row.id];
  const lines = networks[at].map(([name, shape], i) => element("tr", {},
    element("th", { scope: "row" }, name), element("td", {}, shape), element("td", { class: "number" }, densities[i].toFixed(4)),
    element("td", {}, element("i", { class: "bar", style: `--v:${(100 * densities[i]).toFixed(1)}%` }))));
  const head = element("tr", {}, ...["layer", "weight", "density", ""].map((text) => element(text ? "th" : "td", text ? { scope: "col" } : {}, text)));
  return [element("table", { class: "layers" }, element("thead", {}, head), element("tbody", {}, ...lines))];
};
const trialsOf = (row) => {
  const all = trials(row);
  if (!all.length) return [element("p", {}, row.source ?? "", " ", ...(row.address ? [element("a", { href: row.address }, row.address)] : []))];
  const head = element("tr", {}, ...["seed", isTop1(row) ? "top-1 %" : row.metric, "ended", "began", "finished", "key"].map((text) => element("th", { scope: "col" }, text)));
  const lines = all.map((trial) => element("tr", {}, ...[trial.seed, show(isPercent(row) ? "percent" : "score", trial.score), trial.status, trial.started ?? MISSING, trial.finished ?? MISSING, trial.key].map((text) => element("td", {}, `${text}`))));
  const made = [...Map.groupBy(all, (trial) => trial.made)];
  const lists = made.flatMap(([text, members]) => [
    ...(made.length > 1 ? [element("p", { class: "lead" }, `seeds ${members.map((trial) => trial.seed).join(", ")}`)] : []),
    list(JSON.parse(text)),
  ]);
  return [
    element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Trials" }, element("table", {}, element("thead", {}, head), element("tbody", {}, ...lines))),
    element("p", { class: "lead" }, "A whole record: ", element("code", {}, `dstbench results show RESULTS ${all[0].key}`)),
    ...lists,
  ];
};
const list = (entries) => element("dl", {}, ...entries.flatMap(([term, text, check]) => [element("dt", {}, term), element("dd", {}, text, ...checked(check))]));
// how a figure was made again by who verified it, where the page was made with verdicts
const checkOf = (row, measure) => data.details.checks?.said[data.details.checks.at[row.id]][measure];
const checked = (check) => check ? [" ", element("span", { class: check === "reported" ? "check told" : "check" }, check)] : [];
const figuresOf = (row) => list(data.columns
  .filter((column) => column.key !== "rank" && column.key !== "method" && !isMissing(row[column.key]))
  .map((column) => {
    const [low, high] = column.keys.slice(1).map((key) => row[key]);
    const range = isMissing(low) ? "" : ` [${[low, high].map((end) => show(kindIn(column, row), end).replace("×", "")).join(", ")}]`;
    return [column.title, `${shown(column, row)}${range}`, checkOf(row, column.key)];
  }));
const fillPanel = (row) => {
  const ranks = boards.filter((board) => board.rank[row.id] !== null).map((board) => `${board.title.toLowerCase()} #${show("rank", board.rank[row.id])}`);
  const what = [kindOf(row) === "absent" ? "no result" : kindOf(row), partsOf(row) === row.method ? "" : partsOf(row), `${row.model} on ${row.dataset}, density ${+row.density_requested}`, ...ranks];
  $("panel-title").textContent = row.method;
  const slug = row.method.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "");
  const about = $("index") && !row.published ? [element("p", { class: "lead" }, element("a", { href: `${$("index").getAttribute("href")}#method-${slug}` }, "its parts, formula and paper"))] : [];
  const notes = [row.reason, row.note].filter(Boolean).map((text) => element("p", { class: "note" }, text));
  const part = (title, nodes, check) => [element("h3", {}, title, ...checked(check)), ...nodes];
  $("panel-body").replaceChildren(
    element("p", { class: "lead" }, what.filter(Boolean).join(" · ")), ...about, ...notes,
    ...(row.published ? [] : [
      ...part("Over epochs, mean over seeds", curvesOf(row), checkOf(row, "exploration")),
      ...part("Density by layer", layersOf(row), checkOf(row, "layers")),
    ]),
    ...part("Figures", [figuresOf(row)]), ...part("Where it comes from", trialsOf(row)),
  );
};
