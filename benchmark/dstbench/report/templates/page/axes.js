// What plots share: SVG nodes, round numbers, and places for labels.
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
const niceLog = (low, high, most) => { // 1, 1.5, 2, 3, 5, 7 times powers of ten, as many as there is room for
  for (const steps of [[1, 1.5, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]]) {
    const ticks = [];
    for (let e = Math.floor(Math.log10(low)) - 1; e <= Math.log10(high) + 1; e++) ticks.push(...steps.map((k) => +(k * 10 ** e).toPrecision(3)));
    const inside = ticks.filter((t) => t >= low * (1 - 1e-9) && t <= high * (1 + 1e-9));
    if (inside.length <= most || steps.length === 1) return inside;
  }
  return [];
};
const spread = (values, part) => {
  let low = Infinity, high = -Infinity;
  for (const value of values) { low = Math.min(low, value); high = Math.max(high, value); }
  const pad = (high - low || 1) * part;
  return [low - pad, high + pad];
};
const fence = (values) => { // Tukey's lower fence
  const sorted = [...values].sort((a, b) => a - b), at = (q) => sorted[Math.floor(q * (sorted.length - 1))];
  return Math.max(sorted[0], at(0.25) - 1.5 * (at(0.75) - at(0.25)));
};
const overlaps = (a, b) => a.l < b.r && a.r > b.l && a.t < b.b && a.b > b.t;
const wrapped = (text, most) => { // lines of about so many characters, broken where a method's name has a joint
  const lines = [""];
  for (const part of text.split(/(?<=[ ·,(])/)) {
    if (lines.at(-1) && (lines.at(-1) + part).trimEnd().length > most) lines.push("");
    lines[lines.length - 1] += part;
  }
  return lines.map((line) => line.trim());
};
// Puts texts where they cover no point, no other text and not the frame's edge; one that has no place is left out.
const labeller = (root, frame, taken) => (lines, x, y, { style = { class: "tag" }, always = false, before = null } = {}) => {
  const node = svg("text", style);
  node.append(...lines.map((line) => svg("tspan", {}, line)));
  root.append(node);
  const LINE = 14, w = Math.max(...[...node.children].map((line) => line.getComputedTextLength())), hang = LINE * (lines.length - 1), h = 13 + hang;
  const near = [[11, 4], [-11 - w, 4], [-w / 2, -11], [-w / 2, 20 + hang], [11, -9], [-11 - w, -9], [11, 18 + hang], [-11 - w, 18 + hang]];
  if (hang) near.unshift([11, 4 + hang / 2], [-11 - w, 4 + hang / 2], [11, 4 + hang], [-11 - w, 4 + hang]);
  const far = always ? [30, 55, 80, 110, 140].flatMap((d) => [0, 24, -24, 48, -48, 72, 96, 130, 165, 200].flatMap((dy) => [[d, dy + 4], [-d - w, dy + 4]])) : [];
  for (const [i, [dx, dy]] of [...near, ...far].entries()) {
    const box = { l: x + dx - 2, r: x + dx + w + 2, t: y + dy - h + 2, b: y + dy + 3 }; // dy is the last line's
    if (box.l < frame.l || box.r > frame.r || box.t < frame.t || box.b > frame.b || taken.some((other) => overlaps(box, other))) continue;
    node.setAttribute("x", x + dx);
    [...node.children].forEach((line, i) => {
      line.setAttribute("x", x + dx);
      line.setAttribute("y", y + dy - LINE * (lines.length - 1 - i));
    });
    taken.push(box);
    root.insertBefore(svg("rect", { class: "back", x: box.l, y: box.t, width: box.r - box.l, height: box.b - box.t }), node); // lines end at a text
    if (i >= near.length) root.insertBefore(svg("line", { class: "leader", x1: x, y1: y, x2: dx > 0 ? box.l : box.r, y2: y + dy - 4 }), before);
    return true;
  }
  node.remove();
  return false;
};
