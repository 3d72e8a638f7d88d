// The scatter: the metric against what it costs, or against density.
const VIEWS = { // of each: the figure, whether less is better, and how its axis is written
  training_flops_ratio: { value: (r) => r.training_flops_ratio, cheap: true, unit: "×", says: "dense = 1×  ← cheaper" },
  inference_flops_ratio: { value: (r) => r.inference_flops_ratio, cheap: true, unit: "×", says: "dense = 1×  ← cheaper" },
  train_throughput_ratio: { value: (r) => r.train_throughput_ratio, cheap: false, unit: "×", says: "dense = 1×  faster →", timed: true },
  inference_throughput_ratio: { value: (r) => r.inference_throughput_ratio, cheap: false, unit: "×", says: "dense = 1×  faster →", timed: true },
  size: { value: (r) => (r.bits === null ? null : r.bits / 8), cheap: true, says: "← smaller" },
  density: { value: (r) => r.density_requested, cheap: true, unit: "", says: "a line a method", lines: true },
};
const MOST = 1500; // points that are drawn; the tables hold the rest
const FEW = 16; // so many are all named, where there is room
const number = (value, digits) => (isMissing(value) ? MISSING : value.toFixed(digits));
const describe = (r) => [
  r.method + (r.control ? " (control)" : ""),
  partsOf(r) === r.method ? "" : partsOf(r),
  `${scoreName(r)} ${scoreText(r)}` + (isMissing(scoreOf(r, "_low")) ? ` (n = ${r.seeds})` : ` [${scoreText(r, scoreOf(r, "_low"))}, ${scoreText(r, scoreOf(r, "_high"))}], n = ${r.seeds}`),
  `density ${number(r.density, 3)} · R_s ${number(r.r_s, 3)}`,
  `FLOPs: training ${number(r.training_flops_ratio, 3)}× · inference ${number(r.inference_flops_ratio, 3)}×`,
  `measured speed: training ${number(r.train_throughput_ratio, 2)}× · inference ${number(r.inference_throughput_ratio, 2)}×`,
  r.inference_path ? `execution path: training ${r.train_path ?? MISSING} · inference ${r.inference_path}` : "",
].filter(Boolean).join("\n");
const frontOf = (points, cheap, sign) => { // the best at each price, among what the filters leave
  const sorted = [...points].sort((a, b) => (cheap ? a.x - b.x : b.x - a.x) || sign * (b.y - a.y));
  let best = -Infinity;
  return sorted.filter((p) => sign * p.y > best && ((best = sign * p.y), true));
};
const colour = (r) => (r.control ? "var(--control)" : `var(--s${Math.min(structures.indexOf(r.structure), 5)})`);
const lineName = (r) => [r.method, r.setting].filter(Boolean).join(", ");

const drawPlot = (state, left, winners) => {
  const block = data.blocks[+state.block] ?? data.blocks[0], plot = $("plot");
  plot.replaceChildren();
  $("legend").replaceChildren();
  if (!block) return;
  const view = VIEWS[state.x], label = $("x").selectedOptions[0].textContent;
  const here = rows.filter((r) => left[r.id] && r.model === block.model && r.dataset === block.dataset && scoreOf(r) !== null && !r.published);
  const name = block.metric ?? "top-1 %", sign = block.lower ? -1 : 1, percent = metricOf(name).unit === "%";
  const word = block.metric ? metricOf(name).name : "accuracy", direction = `${block.lower ? "lower" : "higher"} is better`;
  $("costs").textContent = block.metric ? `What a ${block.lower ? "low" : "high"} ${word} costs` : "What accuracy costs";
  const dense = here.find((r) => r.control === "dense");
  const best = new Set(winners.map(([row]) => rows[row]));
  const disturbed = (p) => Boolean(view.timed) && p.r.contended === true; // timed beside other work: drawn pale, never on the front
  const known = here.filter((r) => view.value(r) > 0).map((r) => ({ r, x: view.value(r), y: scoreOf(r) }));
  const front = view.lines ? [] : frontOf(known.filter((p) => !disturbed(p)), view.cheap, sign);
  const first = (p) => (front.includes(p) || p.r.control || best.has(p.r) ? 1 : 0);
  const points = known.length > MOST ? [...known].sort((a, b) => first(b) - first(a) || sign * (b.y - a.y)).slice(0, MOST) : known;
  $("drawn").textContent = points.length < known.length ? `${points.length.toLocaleString("en")} of ${known.length.toLocaleString("en")} points: the front, controls and the best` : "";
  const W = Math.max(320, plot.clientWidth), H = W < 700 ? 320 : 390, L = 52, R = 16, T = 26, B = 44;
  const root = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "group", "aria-label": `${block.metric ? `${name}, ${direction},` : "Top-1 accuracy"} against ${label}. Arrow keys go from point to point, Enter opens a row.` });
  plot.append(root);
  if (!points.length) return void root.append(svg("text", { x: W / 2, y: H / 2, "text-anchor": "middle" }, "Nothing measured here."));
  const floor = fence(points.map((p) => sign * p.y)); // far outliers are drawn on the axis, with their value
  const within = (y) => Math.min(percent ? 100 : Infinity, sign * Math.max(sign * y, floor));
  const ys = points.flatMap((p) => [p.y, scoreOf(p.r, "_low") ?? p.y, scoreOf(p.r, "_high") ?? p.y]).map(within);
  const [x0, x1] = spread([...points.map((p) => Math.log(p.x)), ...(view.unit === "×" ? [0] : [])], 0.04), [y0, y1] = spread(ys, 0.08);
  const X = (v) => L + ((Math.log(v) - x0) / (x1 - x0)) * (W - L - R), Y = (v) => H - B - ((Math.min(y1, Math.max(v, y0)) - y0) / (y1 - y0)) * (H - T - B);
  const written = (t) => (view.unit === undefined ? show("bytes", t) : `${t}${view.unit}`);
  for (const t of nice(y0, y1, 6)) if (!percent || t <= 100) root.append(svg("line", { class: "grid", x1: L, x2: W - R, y1: Y(t), y2: Y(t) }), svg("text", { x: L - 8, y: Y(t) + 4, "text-anchor": "end" }, t));
  for (const t of niceLog(Math.exp(x0), Math.exp(x1), W < 700 ? 5 : 11)) {
    root.append(svg("line", { class: "grid", x1: X(t), x2: X(t), y1: T, y2: H - B }), svg("text", { x: X(t), y: H - B + 17, "text-anchor": X(t) > W - R - 20 ? "end" : "middle" }, written(t)));
  }
  root.append(svg("text", { x: W - R, y: H - 6, "text-anchor": "end" }, `${label}, ${view.says}`));
  root.append(svg("text", { x: L - 8, y: 14 }, `${sign > 0 ? "↑" : "↓"} ${name}${block.lower ? `, ${direction}` : ""}`));
  if (dense) root.append(svg("line", { class: "ref", x1: L, x2: W - R, y1: Y(scoreOf(dense)), y2: Y(scoreOf(dense)) }));
  root.append(svg("path", { class: "front", d: front.map((p, i) => (i ? `H${X(p.x)}V${Y(p.y)}` : `M${X(p.x)} ${Y(p.y)}`)).join("") }));
  if (view.lines) for (const [, line] of Map.groupBy(points.filter((p) => p.r.control !== "dense"), (p) => lineName(p.r))) {
    const d = line.sort((a, b) => a.x - b.x).map((p, i) => `${i ? "L" : "M"}${X(p.x)} ${Y(p.y)}`).join("");
    root.append(svg("path", { class: "method", stroke: colour(line[0].r), d }));
  }
  for (const p of points) if (scoreOf(p.r, "_low") !== null) root.append(svg("line", { class: "whisker", stroke: colour(p.r), x1: X(p.x), x2: X(p.x), y1: Y(scoreOf(p.r, "_low")), y2: Y(scoreOf(p.r, "_high")) }));
  const order = (p) => (p.r.control ? 2 : best.has(p.r) ? 1 : 0); // controls and winners on top
  const dots = points.sort((a, b) => order(a) - order(b)).map((p) => {
    const style = p.r.control ? { class: "dot control" } : { class: "dot", fill: colour(p.r) };
    const dot = svg("circle", { cx: X(p.x), cy: Y(p.y), r: front.includes(p) || best.has(p.r) ? 6.5 : 5, ...style, tabindex: -1, role: "button", "aria-label": describe(p.r) });
    if (disturbed(p)) dot.setAttribute("opacity", ".35");
    dot.dataset.tip = describe(p.r);
    dot.dataset.row = p.r.id;
    root.append(dot);
    return dot;
  });
  byKeyboard(root, dots, points);
  const off = (p) => (sign > 0 ? p.y < y0 : p.y > y1); // far worse than the rest
  labelPoints(root, { points, best, X, Y, off, mark: sign > 0 ? "↓" : "↑", frame: { l: L, r: W - R, t: T, b: H - B }, narrow: W < 700 });
  drawLegend(points, Boolean(dense), best, view);
};
const byKeyboard = (root, dots, points) => { // one stop of the tab key; arrows go along the axis, Enter opens the row
  const sorted = dots.map((dot, i) => [dot, points[i]]).sort(([, a], [, b]) => a.x - b.x || a.y - b.y).map(([dot]) => dot);
  sorted[0]?.setAttribute("tabindex", 0);
  root.addEventListener("keydown", (event) => {
    const at = sorted.indexOf(event.target), last = sorted.length - 1;
    const to = { ArrowRight: at + 1, ArrowUp: at + 1, ArrowLeft: at - 1, ArrowDown: at - 1, Home: 0, End: last }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    const next = sorted[Math.min(last, Math.max(0, to))];
    event.target.setAttribute("tabindex", -1);
    next.setAttribute("tabindex", 0);
    next.focus();
  });
};
const labelPoints = (root, { points, best, X, Y, off, mark, frame, narrow }) => {
  const taken = points.map((p) => ({ l: X(p.x) - 7, r: X(p.x) + 7, t: Y(p.y) - 7, b: Y(p.y) + 7 }));
  const tag = labeller(root, frame, taken), before = root.querySelector("circle");
  const widths = narrow ? [24, 14] : [60, 30];
  const alone = (p) => points.every((other) => other === p || Math.hypot(X(p.x) - X(other.x), Y(p.y) - Y(other.y)) > 14);
  const named = points.filter((p) => p.r.control || best.has(p.r) || (points.length <= FEW && alone(p))); // whose name is plain
  const first = (p) => (best.has(p.r) ? 0 : p.r.control ? 1 : 2), said = new Set();
  named.sort((a, b) => first(a) - first(b) || a.r.method.length - b.r.method.length); // winners, then the plain controls
  const textsOf = (p) => { // what lies off the axis says where
    const name = `${best.has(p.r) ? "★ " : ""}${p.r.method}${off(p) ? ` ${mark} ${scoreText(p.r)}` : ""}`;
    return (best.has(p.r) ? widths : widths.slice(0, 1)).map((most) => wrapped(name, most));
  };
  const put = (p, texts, always = false) => texts.some((lines) => tag(lines, X(p.x), Y(p.y), { always, before })) && said.add(p);
  const wanted = named.slice(0, 40), winners = wanted.filter((p) => best.has(p.r));
  for (const p of winners) put(p, textsOf(p));
  for (const p of winners) if (!said.has(p)) put(p, [...textsOf(p), ["★"]], true); // even far from its point, and never cut
  for (const p of wanted) if (!said.has(p)) put(p, textsOf(p));
  for (const p of points.filter((p) => off(p) && !said.has(p)).slice(0, 20)) tag([`${mark} ${scoreText(p.r)}`], X(p.x), Y(p.y), { style: {} });
};
const drawLegend = (points, dense, best, view) => {
  const entry = (style, text, kind = "") => {
    const span = document.createElement("span"), mark = document.createElement("i");
    mark.style.cssText = style;
    mark.className = kind;
    span.append(mark, text);
    return span;
  };
  const used = (g) => points.some((p) => p.r.structure === g && !p.r.control);
  const marks = structures.flatMap((g, i) => (used(g) ? [entry(`background:var(--s${Math.min(i, 5)})`, g)] : []));
  if (points.some((p) => p.r.control)) marks.push(entry("border:2px solid var(--control)", "control"));
  if (best.size) marks.push("★ on a card above");
  if (!view.lines) marks.push(entry("", "Pareto front", "line"));
  if (dense) marks.push(entry("border-top:2px dashed var(--control);opacity:.8", "dense", "line"));
  $("legend").replaceChildren(...marks);
};
