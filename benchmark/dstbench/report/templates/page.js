"use strict";
// Rows are rendered by the generator; this sorts, filters and hides them, and draws the scatter.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const $ = (id) => document.getElementById(id);
  const boards = all(".board").map((section) => {
    const name = section.dataset.board;
    const { keys, rows } = data.boards[name];
    const body = section.querySelector("tbody");
    const trs = [...body.rows];
    return {
      name, section, body, heads: all("th", section),
      rows: rows.map((values, i) => ({
        ...Object.fromEntries(keys.map((key, k) => [key, values[k]])),
        tr: trs[i], text: trs[i].textContent.toLowerCase(),
      })),
    };
  });
  const accuracy = boards.find((board) => board.name === "accuracy"); // what the cards and the scatter go by
  const selects = all("[data-filter]");
  const state = { board: boards[0].name, q: "", x: "training_flops_ratio", block: "0", sort: "", show: "" };
  const start = { ...state };

  // --- address: every choice is in the hash, so a link shows what its sender saw
  const fromHash = () => {
    const given = new URLSearchParams(location.hash.slice(1));
    Object.assign(state, start);
    for (const key of Object.keys(start)) if (given.has(key)) state[key] = given.get(key);
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
  const toHash = () => {
    const out = new URLSearchParams();
    for (const key of Object.keys(start)) if (state[key] !== start[key]) out.set(key, state[key]);
    for (const select of selects) if (select.value) out.set(select.dataset.filter, select.value);
    history.replaceState(null, "", `#${out}`);
  };

  // --- tables
  const matches = (row) =>
    selects.every((s) => !s.value || String(row[s.dataset.filter]) === s.value) &&
    state.q.toLowerCase().split(/\s+/).every((word) => row.text.includes(word));
  const compare = (key, sign) => (a, b) => {
    const [x, y] = [a[key], b[key]];
    if (x === null || y === null) return (x === null) - (y === null); // missing is last, whatever the direction
    return sign * (typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y);
  };
  const drawTable = (board) => {
    const [key, direction] = state.sort.split(":");
    const known = board.heads.some((th) => th.dataset.key === key);
    const rows = known ? [...board.rows].sort(compare(key, direction === "down" ? -1 : 1)) : board.rows;
    for (const row of board.rows) row.tr.hidden = !matches(row);
    board.body.append(...rows.map((row) => row.tr));
    for (const th of board.heads) {
      if (th.dataset.key === key) th.setAttribute("aria-sort", direction === "down" ? "descending" : "ascending");
      else th.removeAttribute("aria-sort");
    }
    board.section.hidden = board.name !== state.board;
    if (!board.section.hidden) {
      const shown = board.rows.filter((row) => !row.tr.hidden).length;
      $("count").textContent = `${shown} of ${board.rows.length} rows`;
    }
  };
  const sortBy = (key, numeric) => {
    const [old, direction] = state.sort.split(":");
    const first = numeric ? "down" : "up";
    const next = old !== key ? first : direction === first ? (first === "up" ? "down" : "up") : "";
    state.sort = next && `${key}:${next}`;
    draw();
  };
  const drawColumns = () => {
    const flipped = new Set(state.show.split(",").filter(Boolean)); // columns that differ from how they start
    const board = boards.find((b) => b.name === state.board);
    const picker = $("columns").querySelector("div");
    picker.replaceChildren(...board.heads.slice(2).map((th) => {
      const label = document.createElement("label");
      const box = Object.assign(document.createElement("input"), { type: "checkbox" });
      box.checked = flipped.has(th.dataset.key) !== th.starts;
      box.addEventListener("change", () => {
        flipped.has(th.dataset.key) ? flipped.delete(th.dataset.key) : flipped.add(th.dataset.key);
        state.show = [...flipped].join(",");
        draw();
      });
      label.append(box, th.textContent);
      return label;
    }));
    for (const { name, heads } of boards) {
      const hidden = heads.flatMap((th, i) => (flipped.has(th.dataset.key) === th.starts ? [`#${name} :is(th, td):nth-child(${i + 1})`] : []));
      $(`hidden-${name}`).textContent = hidden.length ? `${hidden.join(", ")} { display: none; }` : "";
    }
  };

  // --- cards: of each, the first candidate that the filters leave
  const winners = () => (data.cards[+state.block] ?? []).map((list) => list.find(([row]) => matches(accuracy.rows[row])));
  const drawCards = () => {
    for (const tiles of all(".tiles")) {
      tiles.hidden = tiles.dataset.block !== state.block;
      if (tiles.hidden) continue;
      const firsts = winners();
      all(".tile", tiles).forEach((tile, i) => {
        const some = (data.cards[+state.block] ?? [])[i].length;
        const [, value, who, beside] = firsts[i] ?? [-1, ...(some ? ["none", "among what the filters leave", ""] : JSON.parse(tile.dataset.nothing))];
        [value, who, beside].forEach((text, k) => { tile.children[k + 1].textContent = text; });
      });
    }
  };

  // --- scatter
  const NS = "http://www.w3.org/2000/svg";
  const svg = (name, attributes, text) => {
    const node = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const nice = (low, high, count) => {
    const raw = (high - low || 1) / count, size = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((k) => k * size).find((s) => s >= raw);
    const ticks = [];
    for (let t = Math.ceil(low / step - 1e-9) * step; t <= high + step * 1e-6; t += step) ticks.push(+t.toPrecision(12));
    return ticks;
  };
  const frontOf = (points, cheap) => { // best accuracy at each price, among what the filters leave
    const sorted = [...points].sort((a, b) => (cheap ? a.x - b.x : b.x - a.x) || b.y - a.y);
    let best = -Infinity;
    return sorted.filter((p) => p.y > best && ((best = p.y), true));
  };
  const fence = (values) => { // Tukey's lower fence
    const sorted = [...values].sort((a, b) => a - b), at = (q) => sorted[Math.floor(q * (sorted.length - 1))];
    return Math.max(sorted[0], at(0.25) - 1.5 * (at(0.75) - at(0.25)));
  };
  const drawPlot = () => {
    const block = data.blocks[+state.block] ?? data.blocks[0];
    const plot = $("plot");
    plot.replaceChildren();
    if (!block) return;
    const here = accuracy.rows.filter((r) => r.model === block.model && r.dataset === block.dataset && r.top1 !== null && !r.published && matches(r));
    const dense = here.find((r) => r.control === "dense");
    const points = here.filter((r) => r[state.x] > 0).map((r) => ({ r, x: r[state.x], y: r.top1 }));
    const W = Math.max(320, plot.clientWidth), H = W < 700 ? 320 : 390, L = 46, R = 16, T = 14, B = 44;
    const root = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "group", "aria-label": "Top-1 accuracy against cost" });
    plot.append(root);
    if (!points.length) return root.append(svg("text", { x: W / 2, y: H / 2, "text-anchor": "middle" }, "Nothing measured here."));
    const floor = fence(points.map((p) => p.y)); // far outliers are drawn on the axis, with their value
    const ys = points.flatMap((p) => [p.y, p.r.top1_low ?? p.y, p.r.top1_high ?? p.y]).map((y) => Math.max(y, floor));
    const spread = (values, part) => {
      const low = Math.min(...values), high = Math.max(...values), pad = (high - low || 1) * part;
      return [low - pad, high + pad];
    };
    const [x0, x1] = spread([...points.map((p) => Math.log(p.x)), 0], 0.04), [y0, y1] = spread(ys, 0.06);
    const X = (v) => L + ((Math.log(v) - x0) / (x1 - x0)) * (W - L - R), Y = (v) => H - B - ((Math.max(v, y0) - y0) / (y1 - y0)) * (H - T - B);
    const ratios = [-3, -2, -1, 0, 1, 2].flatMap((e) => [1, 1.5, 2, 3, 5, 7].map((k) => +(k * 10 ** e).toPrecision(3)));
    const ticks = ratios.filter((t) => Math.log(t) >= x0 && Math.log(t) <= x1 && (W >= 700 || !/[357]/.test(t)));
    for (const t of nice(y0, y1, 6)) root.append(svg("line", { class: "grid", x1: L, x2: W - R, y1: Y(t), y2: Y(t) }), svg("text", { x: L - 8, y: Y(t) + 4, "text-anchor": "end" }, t));
    for (const t of ticks) root.append(svg("line", { class: "grid", x1: X(t), x2: X(t), y1: T, y2: H - B }), svg("text", { x: X(t), y: H - B + 17, "text-anchor": "middle" }, `${t}×`));
    const cheap = state.x.includes("flops");
    const label = $("x").selectedOptions[0].textContent;
    root.append(svg("text", { x: W - R, y: H - 6, "text-anchor": "end" }, `${label}, dense = 1×  ${cheap ? "← cheaper" : "faster →"}`));
    root.append(svg("text", { x: L + 6, y: T + 8 }, "↑ top-1 %"));
    if (dense) root.append(svg("line", { class: "ref", x1: L, x2: W - R, y1: Y(dense.top1), y2: Y(dense.top1) }));
    const disturbed = (p) => !cheap && p.r.contended === true; // timed beside other work: drawn pale, never on the front
    const front = frontOf(points.filter((p) => !disturbed(p)), cheap);
    root.append(svg("path", { class: "front", d: front.map((p, i) => (i ? `H${X(p.x)}V${Y(p.y)}` : `M${X(p.x)} ${Y(p.y)}`)).join("") }));
    const groups = [...new Set(accuracy.rows.map((r) => r.structure).filter(Boolean))].sort(); // same colours under every filter
    const color = (r) => (r.control ? "var(--control)" : `var(--s${Math.min(groups.indexOf(r.structure), 5)})`);
    for (const p of points) if (p.r.top1_low !== null) root.append(svg("line", { class: "whisker", stroke: color(p.r), x1: X(p.x), x2: X(p.x), y1: Y(p.r.top1_low), y2: Y(p.r.top1_high) }));
    const best = new Set(winners().filter(Boolean).map(([row]) => accuracy.rows[row]));
    const order = (p) => (p.r.control ? 2 : best.has(p.r) ? 1 : 0); // controls and winners on top
    const spots = points.map((p) => ({ l: X(p.x) - 7, r: X(p.x) + 7, t: Y(p.y) - 7, b: Y(p.y) + 7 }));
    for (const p of points.sort((a, b) => order(a) - order(b))) {
      const style = p.r.control ? { class: "dot control" } : { class: "dot", fill: color(p.r) };
      const dot = svg("circle", {
        cx: X(p.x), cy: Y(p.y), r: front.includes(p) || best.has(p.r) ? 6.5 : 5, ...style,
        tabindex: 0, role: "img", "aria-label": describe(p.r),
      });
      if (disturbed(p)) dot.setAttribute("opacity", ".35");
      dot.dataset.tip = describe(p.r);
      root.append(dot);
    }
    // a text that would cover a point, another text or the frame's edge is left out: its tooltip says it
    const near = (w) => [[11, 4], [-11 - w, 4], [-w / 2, -11], [-w / 2, 20], [11, -9], [-11 - w, -9], [11, 18], [-11 - w, 18]];
    const far = (w) => [30, 55, 80, 110, 140].flatMap((d) => [0, 24, -24, 48, -48, 72, 96].flatMap((dy) => [[d, dy + 4], [-d - w, dy + 4]]));
    const tag = (text, x, y, style = { class: "tag" }, always = false) => {
      const node = svg("text", style, text);
      root.append(node);
      const w = node.getComputedTextLength(), h = 13;
      for (const [i, [dx, dy]] of [...near(w), ...(always ? far(w) : [])].entries()) {
        const box = { l: x + dx - 2, r: x + dx + w + 2, t: y + dy - h + 2, b: y + dy + 3 };
        if (box.l < L || box.r > W - R || box.t < T || box.b > H - B) continue;
        if (spots.some((s) => box.l < s.r && box.r > s.l && box.t < s.b && box.b > s.t)) continue;
        node.setAttribute("x", x + dx);
        node.setAttribute("y", y + dy);
        spots.push(box);
        if (i >= 8) root.insertBefore(svg("line", { class: "leader", x1: x, y1: y, x2: dx > 0 ? box.l : box.r, y2: y + dy - 4 }), root.querySelector("circle"));
        return true;
      }
      node.remove();
      return false;
    };
    const short = (text) => (text.length > (W < 700 ? 24 : 48) ? `${text.slice(0, W < 700 ? 23 : 47)}…` : text);
    spots.push({ l: L, r: L + 70, t: T, b: T + 14 }); // the axis's own title
    const name = (r) => short(best.has(r) ? `★ ${r.method}` : r.method);
    const named = points.filter((p) => p.r.control || best.has(p.r));
    const first = (p) => [best.has(p.r) ? 0 : 1, p.r.method.length];
    named.sort((a, b) => first(a)[0] - first(b)[0] || first(a)[1] - first(b)[1]); // winners, then the plain controls
    for (const p of named) { // a winner is always named, shorter where there is no room
      const texts = best.has(p.r) ? [name(p.r), `${name(p.r).slice(0, 13)}…`] : [name(p.r)];
      texts.some((text) => tag(text, X(p.x), Y(p.y), { class: "tag" }, best.has(p.r)));
    }
    for (const p of points) if (p.y < y0) tag(`↓ ${number(p.y, 1)}`, X(p.x), Y(p.y), {});
    drawLegend(groups, points, Boolean(dense), best);
  };
  const drawLegend = (groups, points, dense, best) => {
    const entry = (style, text, kind = "") => {
      const span = document.createElement("span"), mark = document.createElement("i");
      mark.style.cssText = style;
      mark.className = kind;
      span.append(mark, text);
      return span;
    };
    const used = (g) => points.some((p) => p.r.structure === g && !p.r.control);
    const marks = groups.flatMap((g, i) => (used(g) ? [entry(`background:var(--s${Math.min(i, 5)})`, g)] : []));
    if (points.some((p) => p.r.control)) marks.push(entry("border:2px solid var(--control)", "control"));
    if (best.size) marks.push("★ on a card above");
    marks.push(entry("", "Pareto front", "line"));
    if (dense) marks.push(entry("border-top:2px dashed var(--control);opacity:.8", "dense accuracy", "line"));
    $("legend").replaceChildren(...marks);
  };
  const number = (value, digits) => (value === null ? "–" : value.toFixed(digits));
  const parts = (r) => [r.init, r.structure, r.prune, r.grow].filter(Boolean).join(" · ");
  const describe = (r) => [
    r.method + (r.control ? " (control)" : ""),
    parts(r) === r.method ? "" : parts(r),
    `top-1 ${number(r.top1, 2)} %` + (r.top1_low === null ? ` (n = ${r.seeds})` : ` [${number(r.top1_low, 2)}, ${number(r.top1_high, 2)}], n = ${r.seeds}`),
    `density ${number(r.density, 3)} · R_s ${number(r.r_s, 3)}`,
    `FLOPs: training ${number(r.training_flops_ratio, 3)}× · inference ${number(r.inference_flops_ratio, 3)}×`,
    `measured speed: training ${number(r.train_throughput_ratio, 2)}× · inference ${number(r.inference_throughput_ratio, 2)}×`,
    r.inference_path ? `execution path: training ${r.train_path ?? "–"} · inference ${r.inference_path}` : "",
  ].filter(Boolean).join("\n");

  // --- tooltips: the title attribute serves pages without scripts
  const tip = $("tip");
  for (const node of all("[title]")) { node.dataset.tip = node.title; node.removeAttribute("title"); }
  const point = (event) => {
    const text = event.target.closest?.("[data-tip]")?.dataset.tip;
    tip.hidden = !text;
    if (!text) return;
    tip.textContent = text;
    const box = event.target.getBoundingClientRect();
    const x = event.clientX ?? box.right, y = event.clientY ?? box.bottom;
    tip.style.left = `${Math.max(8, Math.min(x + 14, innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${y + 18 + tip.offsetHeight > innerHeight ? y - tip.offsetHeight - 12 : y + 18}px`;
  };
  document.addEventListener("mousemove", point);
  document.addEventListener("focusin", point);

  const follow = () => { // the scatter shows a block that the filters leave
    const wanted = (block) => selects.every(({ dataset, value }) => !value || !(dataset.filter in block) || block[dataset.filter] === value);
    if (!data.blocks.length || wanted(data.blocks[+state.block] ?? {})) return;
    state.block = String(Math.max(0, data.blocks.findIndex(wanted)));
    $("block").value = state.block;
  };
  const draw = () => {
    follow();
    drawColumns();
    boards.forEach(drawTable);
    drawCards();
    drawPlot();
    for (const tab of all(".tabs button")) tab.setAttribute("aria-selected", tab.dataset.board === state.board);
    for (const select of selects) select.classList.toggle("set", Boolean(select.value));
    toHash();
  };
  for (const { heads } of boards) for (const th of heads) {
    th.starts = getComputedStyle(th).display !== "none";
    th.numeric = getComputedStyle(th).textAlign === "right";
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: th.textContent });
    button.addEventListener("click", () => sortBy(th.dataset.key, th.numeric));
    th.replaceChildren(button);
  }
  for (const tab of all(".tabs button")) tab.addEventListener("click", () => { state.board = tab.dataset.board; draw(); });
  for (const id of ["x", "block"]) $(id).addEventListener("change", () => { state[id] = $(id).value; draw(); });
  $("q").addEventListener("input", () => { state.q = $("q").value; draw(); });
  $("filters").addEventListener("change", (event) => { if (event.target.dataset.filter) draw(); });
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("filters").addEventListener("reset", (event) => {
    event.preventDefault();
    Object.assign(state, { q: "", sort: "", show: "" });
    $("q").value = "";
    for (const select of selects) select.value = "";
    draw();
  });
  document.addEventListener("click", (event) => { if (!$("columns").contains(event.target)) $("columns").open = false; });
  document.addEventListener("keydown", (event) => { // closes what is open, and gives the focus back
    if (event.key !== "Escape") return;
    tip.hidden = true;
    if (!$("columns").open) return;
    $("columns").open = false;
    $("columns").querySelector("summary").focus();
  });
  $("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  addEventListener("resize", drawPlot);
  addEventListener("hashchange", () => { fromHash(); draw(); });
  document.documentElement.classList.add("scripted");
  fromHash();
  draw();
})();
