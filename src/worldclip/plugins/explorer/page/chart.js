// Line charts on logarithmic axes; a redraw changes attributes of elements that are there.
"use strict";

const CHART = { width: 400, height: 220, left: 56, right: 12, top: 10, bottom: 36 };

// Return an axis from low to high as {place(value), ticks}; place is 0 to 1.
function logAxis(low, high) {
  const first = Math.log10(low);
  const last = Math.log10(high > low ? high : 10 * low);
  const ticks = [];
  const step = Math.max(1, Math.ceil((last - first) / 5));
  for (let power = Math.ceil(first - 1e-9); power <= last + 1e-9; power += step) ticks.push(10 ** power);
  return { place: (value) => (Math.log10(value) - first) / (last - first), ticks };
}

function linearAxis(high) {
  const rough = (high || 1) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].find((nice) => nice * power >= rough) * power;
  const ticks = [];
  for (let i = 0; i * step <= (high || 1) * 1.000001; i++) ticks.push(i * step);
  return { place: (value) => value / (high || 1), ticks };
}

function tickLabel(value) {
  for (const [limit, unit] of [
    [1e9, "B"],
    [1e6, "M"],
    [1e3, "k"],
  ]) {
    if (Math.abs(value) >= limit) return `${+(value / limit).toPrecision(4)}${unit}`;
  }
  return String(+value.toPrecision(4));
}

// Return {node, x, y, line(colour)} of an empty chart.  line returns a function that draws points [x, y].
function chart(description, xName, yName, xAxis, yAxis) {
  const right = CHART.width - CHART.right;
  const bottom = CHART.height - CHART.bottom;
  const x = (value) => CHART.left + xAxis.place(value) * (right - CHART.left);
  const y = (value) => bottom - yAxis.place(value) * (bottom - CHART.top);
  const node = svgElement("svg", {
    viewBox: `0 0 ${CHART.width} ${CHART.height}`,
    role: "img",
    "aria-label": description,
  });
  for (const tick of yAxis.ticks) {
    node.append(
      svgElement("line", { class: "grid-line", x1: CHART.left, x2: right, y1: y(tick), y2: y(tick) }),
      svgElement("text", { x: CHART.left - 6, y: y(tick) + 4, "text-anchor": "end" }, tickLabel(tick)),
    );
  }
  for (const tick of xAxis.ticks) {
    node.append(svgElement("text", { x: x(tick), y: bottom + 15, "text-anchor": "middle" }, tickLabel(tick)));
  }
  node.append(
    svgElement("text", { x: (CHART.left + right) / 2, y: CHART.height - 4, "text-anchor": "middle" }, xName),
    svgElement(
      "text",
      {
        x: 12,
        y: CHART.top + (bottom - CHART.top) / 2,
        "text-anchor": "middle",
        transform: `rotate(-90 12 ${CHART.top + (bottom - CHART.top) / 2})`,
      },
      yName,
    ),
  );
  function line(colour, isBelow = false) {
    const name = isBelow ? "curve below" : "curve";
    const curve = svgElement("polyline", { class: name, stroke: `var(--${colour})` });
    node.append(curve);
    return (points) =>
      curve.setAttribute("points", points.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join(" "));
  }
  return { node, x, y, line };
}

// Return {node, draw(threshold)}: matches of a list's entries by rank, and what a threshold leaves of them.
function headTailChart(name, list) {
  const highest = Math.max(list.matches[0] || 1, 1);
  const plot = chart(
    `Matches of the entries of ${name} by rank, in the pool and as sampling target`,
    "rank of the entry",
    "matches",
    logAxis(1, list.rank.at(-1) || 1),
    logAxis(1, highest),
  );
  plot.line("s7", true)(list.rank.map((rank, i) => [rank, list.matches[i]]));
  const balanced = plot.line("s1");
  return {
    node: plot.node,
    draw: (threshold) => balanced(list.rank.map((rank, i) => [rank, Math.min(list.matches[i], threshold || 1)])),
  };
}

// Return a bar of parts.  parts: [share of the width, colour, hover text].
function bar(parts) {
  const pieces = parts
    .filter(([share]) => share > 0)
    .map(([share, colour, hover]) => {
      const piece = element("i", { title: hover });
      piece.style.width = `${100 * share}%`;
      piece.style.background = `var(--${colour})`;
      return piece;
    });
  return element("span", { class: "bars cell" }, element("span", { class: "b" }, pieces));
}

function legend(items) {
  return element(
    "p",
    { class: "legend" },
    items.map(([colour, name]) => {
      const mark = element("i");
      mark.style.background = `var(--${colour})`;
      return element("span", {}, mark, name);
    }),
  );
}

function card(value, name, remark = "") {
  const figure = element("b", {}, value);
  return {
    node: element("div", { class: "card" }, figure, element("span", {}, name), element("small", {}, remark)),
    figure,
  };
}
