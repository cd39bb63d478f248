// Curves of a page, drawn by Observable Plot in the colours of base.css.
//
//   sotto.charts.draw(element, chart, more)   draws, and again when the width changes
//   sotto.charts.legend(element, lines)       which sign is whose
//   sotto.charts.picture(svg)                 makes one picture of a plot's parts
//
// chart: {lines: [{name, own, line, dots, points: [[x, y], ...], intervals, names}], x: label, y:
// label}; own: in the accent colour; line: false for single points; dots: false for a thin line
// without any; intervals: [[low, high], ...] of the points, names: theirs, if they are not the
// line's. Where a y is null the line is broken.
// more(width) -> options of Plot that are added; marks `under` and `over` the curves; `below`, an
// element under the plot.
"use strict";

window.sotto = window.sotto || {};

(() => {
  const SYMBOLS = ["circle", "square", "triangle", "diamond", "star", "cross", "wye", "plus"];
  const DASHES = ["none", "6 3", "2 3", "8 3 2 3", "12 3"];
  const COLORS = 7; // in charts.css
  const HEIGHT = 340;

  // Own lines in the accent colour; all are told apart by sign and dashes, too.
  function styles(lines) {
    let own = 0;
    let others = 0;
    return lines.map((line, k) => ({
      symbol: SYMBOLS[k % SYMBOLS.length],
      color: line.own ? "var(--accent)" : `var(--line-${others % COLORS})`,
      dash: DASHES[(line.own ? own++ : others++) % DASHES.length],
      width: line.dots === false ? 1 : line.own ? 2 : 1.5,
    }));
  }

  function marks(lines) {
    const found = [];
    styles(lines).forEach((style, k) => {
      const { name, line, points, intervals } = lines[k];
      const rows = points.map(([x, y]) => ({ x, y, name }));
      if (intervals) {
        const bars = points.map(([x], at) => ({ x, low: intervals[at][0], high: intervals[at][1] }));
        found.push(
          Plot.ruleX(
            bars.filter(({ low, high }) => low !== null && high !== null),
            { x: "x", y1: "low", y2: "high", stroke: style.color, strokeOpacity: 0.55 },
          ),
        );
      }
      if (line) {
        found.push(
          Plot.line(rows, {
            x: "x",
            y: "y",
            stroke: style.color,
            strokeWidth: style.width,
            strokeDasharray: style.dash,
          }),
        );
      }
      if (lines[k].dots === false) return;
      found.push(
        Plot.dot(rows, {
          x: "x",
          y: "y",
          symbol: style.symbol,
          r: line ? 3 : 4.5,
          fill: line ? "var(--paper)" : style.color,
          stroke: style.color,
          strokeWidth: 1.5,
        }),
      );
    });
    return found;
  }

  function draw(element, chart, more = () => ({})) {
    let drawn = 0;
    const all = chart.lines.flatMap(({ name, names, points }) =>
      points.map(([x, y], at) => ({ x, y, name: names ? names[at] : name })),
    ).filter(({ y }) => y !== null);
    const again = () => {
      const width = Math.floor(element.clientWidth);
      if (!width || width === drawn) return;
      drawn = width;
      const extra = more(width);
      const plot = Plot.plot({
        width,
        height: HEIGHT,
        marginLeft: 44,
        marginRight: 12,
        marginBottom: 40,
        style: { background: "none", color: "inherit", fontFamily: "inherit", fontSize: "12px" },
        ariaLabel: `${chart.y} against ${chart.x}`,
        grid: true,
        ...extra,
        x: { label: chart.x, labelAnchor: "center", labelArrow: "none", ...extra.x },
        y: { label: chart.y, labelArrow: "none", ...extra.y },
        marks: [
          ...(extra.under || []),
          ...marks(chart.lines),
          ...(extra.over || []),
          Plot.tip(
            all,
            Plot.pointer({
              x: "x",
              y: "y",
              title: (row) => `${row.name}\n${chart.x} ${row.x}\n${chart.y} ${row.y}`,
              fill: "var(--raised)",
              stroke: "var(--strong-rule)",
            }),
          ),
        ],
      });
      picture(plot);
      for (const old of element.querySelectorAll(":scope > svg")) old.remove();
      element.append(plot);
      if (extra.below) element.append(extra.below);
    };
    again();
    new ResizeObserver(again).observe(element);
  }

  // A plot is one picture to a screen reader: its parts may have no names of their own.
  function picture(svg) {
    svg.setAttribute("role", "img");
    for (const part of svg.querySelectorAll("[aria-label]")) {
      part.dataset.mark = part.getAttribute("aria-label");
      part.removeAttribute("aria-label");
    }
    return svg;
  }

  // The sign of a line, as drawn, before its name.
  function legend(element, lines) {
    const list = document.createElement("ul");
    list.className = "legend";
    styles(lines).forEach((style, k) => {
      const item = document.createElement("li");
      const line = lines[k];
      const sample = Plot.plot({
        width: 36,
        height: 14,
        margin: 0,
        axis: null,
        x: { domain: [0, 1] },
        y: { domain: [0, 1] },
        style: { background: "none" },
        marks: sampled(style, line),
      });
      picture(sample).setAttribute("aria-hidden", "true");
      item.append(sample, line.name);
      list.append(item);
    });
    element.append(list);
  }

  function sampled(style, line) {
    const rule = Plot.ruleY([0.5], {
      stroke: style.color,
      strokeWidth: style.width,
      strokeDasharray: style.dash,
    });
    const dot = Plot.dot([[0.5, 0.5]], {
      symbol: style.symbol,
      r: line.line ? 3 : 4.5,
      fill: line.line ? "var(--paper)" : style.color,
      stroke: style.color,
      strokeWidth: 1.5,
    });
    return [...(line.line ? [rule] : []), ...(line.dots === false ? [] : [dot])];
  }

  sotto.charts = { draw, legend, picture };
})();
