// Values for people, as values.py writes them.
const MISSING = "–";
const signed = (value) => {
  const text = value.toFixed(2);
  return +text === 0 ? "0.00" : (value > 0 ? `+${text}` : text.replace("-", "−"));
};
const si = (value) => {
  for (const [limit, unit] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (Math.abs(value) >= limit) return `${+(value / limit).toPrecision(3)} ${unit}`;
  }
  return value % 1 ? `${+value.toPrecision(3)}` : value.toFixed(0);
};
const seconds = (value) => {
  if (value < 0.1) return `${+(1000 * value).toPrecision(3)} ms`;
  if (value < 120) return `${value.toFixed(1)} s`;
  return value < 7200 ? `${(value / 60).toFixed(1)} min` : `${(value / 3600).toFixed(1)} h`;
};
const ratio = (value) => `${value.toFixed(value < 1 ? 3 : 2)}×`;
const FORMATS = {
  integer: (value) => Math.round(value).toLocaleString("en"),
  rank: (value) => value.toFixed(value === Math.round(value) ? 0 : 1),
  percent: (value) => value.toFixed(2),
  accuracy: (value) => value.toFixed(2),
  score: (value) => value.toPrecision(4).replace("-", "−"),
  points: signed,
  change: (value) => (+value.toFixed(4) ? `${value > 0 ? "+" : ""}${value.toFixed(4)}`.replace("-", "−") : "0"),
  fraction: (value) => (+value.toFixed(3) || 0).toFixed(3).replace("-", "−"),
  ratio, cost: ratio, speed: ratio, si, seconds,
  bytes: (value) => (value >= 1000 ? `${si(value)}B` : `${value.toFixed(0)} B`),
  p: (value) => (value < 0.001 ? "<0.001" : value.toFixed(3)),
  flag: (value) => (value ? "yes" : ""),
};
const isMissing = (value) => value === null || value === undefined || value === "";
const show = (kind, value) => (isMissing(value) ? MISSING : (FORMATS[kind] ?? String)(value));
const shown = (column, row) => // differences are in the row's metric; published ratios have the two digits of print
  column.kind === "points" && !isTop1(row) ? show("change", row[column.key]) : row.published && column.kind === "cost" && !isMissing(row[column.key]) ? `${row[column.key].toFixed(2)}×` : show(column.kind, row[column.key]);
const escaped = (text) => String(text).replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);
