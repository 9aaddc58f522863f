"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const [chart, xs, ys, log, arms] = ["chart", "x", "y", "log", "arms"].map((id) => document.getElementById(id));
const escaped = (text) => text.replace(/[&<>]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[c]);
// Nothing leaves the page: without the first two plotly.js offers to send the chart away, and has an address to send it to.
const config = {
  showSendToCloud: false, plotlyServerURL: "", modeBarButtonsToRemove: ["sendChartToCloud", "select2d", "lasso2d"], responsive: true, displaylogo: false,
};
const printing = () => document.documentElement.classList.contains("print");

// Where levels were repeated: the median, with bars from the least to the most.
function bars(arm, metric) {
  if (!arm.low) return {};
  const away = (ends) => ends[metric].map((end, i) => Math.abs(end - arm.middle[metric][i]));
  return { type: "data", symmetric: false, thickness: 1, width: 3, array: away(arm.high), arrayminus: away(arm.low) };
}

// Of each point of each arm shown: whether another is at least as good in both metrics and better in one. Controls take no part,
// nor saturated levels where a metric contains TTFT.
function dominated(shown) {
  const [better, also] = [data.better[xs.value], data.better[ys.value]];
  const queued = data.queued.includes(xs.value) || data.queued.includes(ys.value);
  const at = (arm, i) => [better * arm.middle[xs.value][i], also * arm.middle[ys.value][i]];
  const points = shown.flatMap((arm) => arm.late.flatMap((late, i) => (late && queued ? [] : [at(arm, i)])));
  const beaten = ([x, y]) => better && also && points.some(([a, b]) => a >= x && b >= y && (a > x || b > y));
  return (arm) => arm.late.map((late, i) => !arm.control && !(late && queued) && beaten(at(arm, i)));
}

function traces(isDark) {
  const on = new Set([...arms.querySelectorAll("input:checked")].map((box) => box.value));
  const isFaded = dominated(data.arms.filter((arm) => on.has(arm.name) && !arm.control));
  return data.arms.map((arm) => {
    const color = isDark ? arm.dark : arm.color;
    return {
      type: "scatter", mode: "lines+markers", name: escaped(arm.name), visible: on.has(arm.name),
      x: arm.middle[xs.value], y: arm.middle[ys.value], error_x: bars(arm, xs.value), error_y: bars(arm, ys.value),
      line: { color, dash: arm.dash || "solid", width: arm.width }, marker: { symbol: arm.symbol, size: 9, color, opacity: isFaded(arm).map((faded) => (faded ? 0.35 : 1)) },
      text: arm.hover, hovertemplate: "%{text}<extra></extra>",
    };
  });
}

// The target, where it bounds the metric of this axis: a line from end to end of the other.
function bound(metric, axis, other) {
  const at = data.bounds[metric];
  return at ? [{ type: "line", [`${axis}0`]: at, [`${axis}1`]: at, [`${other}ref`]: "paper", [`${other}0`]: 0, [`${other}1`]: 1 }] : [];
}

function layout() {
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const [ink, rule, page] = ["--ink", "--rule", "--page"].map(css);
  const axis = (select, more) => ({
    title: { text: escaped(data.labels[select.value]), standoff: 8 }, gridcolor: rule, linecolor: rule, zeroline: false, automargin: true, ...more,
  });
  const narrow = chart.clientWidth < 600;
  return {
    font: { color: ink, family: "system-ui, sans-serif", size: narrow ? 11 : 13 }, showlegend: false, hovermode: "closest",
    paper_bgcolor: page, plot_bgcolor: page, margin: { l: 10, r: 10, t: 10, b: 10 },
    hoverlabel: { bgcolor: page, bordercolor: ink, font: { color: ink }, align: "left" },
    // A finger on the chart scrolls the page.
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    xaxis: axis(xs, { type: log.checked ? "log" : "linear" }), yaxis: axis(ys, { rangemode: "tozero" }),
    shapes: [...bound(xs.value, "x", "y"), ...bound(ys.value, "y", "x")].map((line) => ({ ...line, line: { color: ink, width: 1.5, dash: "dot" } })),
    ...(printing() ? { width: 680, height: 440, autosize: false } : { autosize: true }),
  };
}

function draw() {
  return Plotly.react(chart, traces(dark.matches && !printing()), layout(), config);
}

function sort(button) {
  const header = button.closest("th"), body = header.closest("table").tBodies[0];
  const order = header.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  for (const other of header.parentNode.cells) other.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", order);
  const key = (row) => {
    const text = row.cells[header.cellIndex].textContent.trim();
    const number = text.match(/^[-+]?[\d,.]+(?=$|[\s%])/); // 1,234 or +5.2% or "5.2 to 6.1", and no 2xtp4
    return number ? Number(number[0].replaceAll(",", "")) : text;
  };
  const sign = order === "ascending" ? 1 : -1;
  const compare = (a, b) => {
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1; // what is not known comes last either way
    return sign * (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
  };
  body.append(...[...body.rows].sort((a, b) => compare(key(a), key(b))));
}

async function start() {
  const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), (c) => c.charCodeAt(0));
  const plain = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(plain).text();
  document.head.append(script);
  await draw();
}

for (const button of document.querySelectorAll("thead button")) button.addEventListener("click", () => sort(button));
for (const control of [xs, ys, log, arms]) control.addEventListener("change", draw);
for (const id of ["all", "none"]) {
  document.getElementById(id).addEventListener("click", () => {
    for (const box of arms.querySelectorAll("input")) box.checked = id === "all";
    draw();
  });
}
dark.addEventListener("change", draw);
addEventListener("beforeprint", () => {
  document.documentElement.classList.add("print");
  for (const commands of document.querySelectorAll("details")) commands.open = true;
  draw();
});
addEventListener("afterprint", () => {
  document.documentElement.classList.remove("print");
  draw();
});
start();
