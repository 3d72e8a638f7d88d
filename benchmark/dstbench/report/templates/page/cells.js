// The cells of a table: text, and where it helps a badge, a tooltip or a little graphic.
const place = (value) => 100 * Math.min(1, Math.max(0, (value - data.axis[0]) / (data.axis[1] - data.axis[0] || 1)));
const small = (text) => (text ? ` <small>${escaped(text)}</small>` : "");
const badge = (text, kind) => `<span class="badge ${kind}">${escaped(text)}</span>`;
const interval = (what, column, row) => {
  const [low, high] = column.keys.slice(1).map((key) => row[key]);
  return isMissing(low) ? "" : `${what}: ${show(kindIn(column, row), low)} to ${show(kindIn(column, row), high)}`;
};
const verdict = (row, low, high) => ( // of a difference to dense: in words, whatever its sign means
  isMissing(low) || (low <= 0 && high >= 0) ? "" : low > 0 === (row.better !== "lower") ? "better" : "worse"
);
const around = (column, row) => { // of an interval, below the figure: a finger has no tooltip
  const [mean, low, high] = column.keys.map((key) => row[key]);
  return isMissing(low) ? "" : ` <small class="around">${column.kind === "speed" ? `${low.toFixed(2)}–${high.toFixed(2)}` : plusMinus(high - mean, row)}</small>`;
};
const CELLS = {
  method(text, column, row) { // its parts, or why it has no result; a published one with where it was printed
    const open = `<button type="button" class="open" data-row="${row.id}">${escaped(text)}</button>`;
    if (row.published) {
      const cite = escaped(row.source.split(",")[0]);
      const link = row.address ? `<a href="${escaped(row.address)}">${cite}</a>` : cite;
      return { html: `${open}${badge("published", "published")} ${escaped(row.published)}<small>${link}</small>`, tip: row.source };
    }
    const parts = partsOf(row), sub = row.seeds ? (parts === text ? "" : parts) : row.reason;
    return { html: `${open}${row.control ? badge("control", "control") : ""}${small(sub)}`, tip: [text, sub].filter(Boolean).join("\n") };
  },
  trials(text, column, row) { // how trials ended and why; where nothing finished, the reason is beside the method
    const tone = row.reason ? (row.seeds ? "warn" : "bad") : "";
    const note = row.published ? null : row.note; // a published row's is below the table, as footnotes
    const sub = [row.seeds ? row.reason : null, note].filter(Boolean).join("; ");
    return { html: `${badge(text, tone)}${small(sub)}`, tip: sub };
  },
  accuracy(text, column, row) { // the mean, and where it and its interval lie on the board's axis
    if (row.published) return { html: escaped(text) + small(row.spread) };
    const [mean, low, high] = column.keys.map((key) => row[key]);
    const at = place(mean).toFixed(1);
    if (isMissing(low)) return { html: `${text}<i class="ci" style="--m:${at}%"><u></u></i>` };
    const left = place(low), right = place(high);
    const bar = `<i class="ci" style="--m:${at}%;--l:${left.toFixed(1)}%;--w:${(right - left).toFixed(1)}%"><b></b><u></u></i>`;
    return { html: `${text}${around(column, row)}${bar}`, tip: `95 % interval: ${low.toFixed(2)} to ${high.toFixed(2)}, ${counted(row.seeds, "seed")}` };
  },
  score(text, column, row) { // of whichever metric: its interval in words
    const [mean, low, high] = column.keys.map((key) => row[key]);
    if (isMissing(low)) return { html: text };
    return { html: `${text} <small class="around">${plusMinus(high - mean, row)}</small>`, tip: `${interval("95 % interval", column, row)}, ${counted(row.seeds, "seed")}` };
  },
  cost: (text, column, row) => ({ html: `${text}<i class="bar" style="--v:${(100 * Math.min(1, row[column.key])).toFixed(1)}%"></i>` }),
  points(text, column, row) { // coloured only where the whole interval lies on one side
    const [low, high] = column.keys.slice(1).map((key) => row[key]);
    const said = verdict(row, low, high), tip = interval("95 % interval", column, row);
    return { html: text + around(column, row), tip: said ? `${tip}: ${said} than dense` : tip, tone: { better: "good", worse: "poor" }[said] ?? "" };
  },
  speed(text, column, row) { // coloured where it is a gain, and marked where something else ran beside it
    const timed = column.key.split("_")[0], contended = row.contended === true;
    const tip = interval("quartiles over timing rounds", column, row);
    const html = `${text}${row.control === "dense" ? small("timing noise") : around(column, row)}${contended ? badge("contended", "warn mark") : ""}`;
    return { html, tip: row.control === "dense" ? `its speed is dense against dense: the distance from 1× is timing noise\n${tip}` : tip, tone: gains(row, timed) && !contended ? "good" : "" };
  },
};
const cell = (column, row) => {
  const text = shown(column, row);
  if (text === MISSING && !["method", "trials"].includes(column.kind)) return { html: MISSING, tone: "dim" };
  return CELLS[column.kind]?.(text, column, row) ?? { html: escaped(text), tip: text.length > 24 ? text : "" };
};
const kindOf = (row) => (row.published ? "published" : row.control ? "control" : row.seeds ? "" : "absent");
