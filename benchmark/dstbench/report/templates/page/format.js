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
const significant = (value, digits) => {
  const size = value ? Math.floor(Math.log10(Math.abs(value))) : 0;
  const text = size < -5 || size >= 15 ? value.toExponential(digits - 1) : value.toFixed(Math.max(0, digits - 1 - size));
  return value < 0 ? text.replace("-", "−") : text;
};
const plusMinus = (half, row) => `±${isPercent(row) ? half.toFixed(2) : significant(half, 2)}`;
const FORMATS = {
  integer: (value) => Math.round(value).toLocaleString("en"),
  rank: (value) => value.toFixed(value === Math.round(value) ? 0 : 1),
  percent: (value) => value.toFixed(2),
  accuracy: (value) => value.toFixed(2),
  score: (value) => significant(value, 4),
  points: signed,
  change: (value) => (Math.abs(value) < 1e-12 ? "0" : `${value > 0 ? "+" : ""}${significant(value, 3)}`),
  fraction: (value) => (+value.toFixed(3) || 0).toFixed(3).replace("-", "−"),
  ratio, cost: ratio, speed: ratio, si, seconds,
  bytes: (value) => (value >= 1000 ? `${si(value)}B` : `${value.toFixed(0)} B`),
  p: (value) => (value < 0.001 ? "<0.001" : value.toFixed(3)),
  flag: (value) => (value ? "yes" : ""),
};
const counted = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
const isMissing = (value) => value === null || value === undefined || value === "";
const show = (kind, value) => (isMissing(value) ? MISSING : (FORMATS[kind] ?? String)(value));
const kindIn = (column, row) => ( // figures and differences are in per cent and points, or in the unit of the row's metric
  column.kind === "points" && !isPercent(row) ? "change" : column.kind === "score" && isPercent(row) ? "percent" : column.kind
);
const shown = (column, row) => ( // published ratios have the two digits of print
  row.published && column.kind === "cost" && !isMissing(row[column.key]) ? `${row[column.key].toFixed(2)}×` : show(kindIn(column, row), row[column.key])
);
const escaped = (text) => String(text).replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);
