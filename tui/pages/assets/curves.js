// Draws the curves of a page by Observable Plot, anew when their width changes.
"use strict";

(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const COLOURS = 8;
  const SYMBOLS = ["circle", "square", "diamond", "triangle", "star", "wye", "times", "plus"];
  const AXES = {
    rate: { label: "kbit/s", scale: 1000, ticks: [0.6, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64] },
    delay: { label: "ms in a packet", scale: 1, ticks: [64, 128, 256, 512, 1024] },
  };

  function legend(lines) {
    const list = document.createElement("ul");
    list.className = "legend";
    lines.forEach((line, k) => {
      const item = document.createElement("li");
      const mark = Plot.plot({
        width: 28, height: 12, margin: 0, axis: null,
        x: { domain: [0, 28] }, y: { domain: [0, 12] },
        marks: [
          Plot.line([[1, 6], [27, 6]], { stroke: colour(k), strokeWidth: k ? 1.5 : 2.5, strokeDasharray: k ? "4 2" : null }),
          Plot.dot([[14, 6]], { fill: colour(k), r: 4, symbol: SYMBOLS[k % SYMBOLS.length] }),
        ],
      });
      mark.setAttribute("aria-hidden", "true");
      item.append(mark, line);
      list.append(item);
    });
    return list;
  }

  function colour(k) {
    return `var(--c${k % COLOURS})`;
  }

  function draw(panel, lines, axis, width) {
    const points = panel.points.map((point) => ({ ...point, x: point.x / axis.scale }));
    const [low, high] = d3.extent(points, (point) => point.x);
    const ticks = axis.ticks.filter((tick) => tick >= low / 1.2 && tick <= high * 1.2);
    const index = (point) => lines.indexOf(point.line);
    const svg = Plot.plot({
      width, height: Math.max(200, Math.min(280, width * 0.62)),
      marginLeft: 42, marginRight: 14, marginBottom: 36, marginTop: 8,
      style: { background: "none", color: "inherit", fontFamily: "inherit", fontSize: "12px", overflow: "visible" },
      x: { type: "log", domain: [low / 1.15, high * 1.15], ticks, tickFormat: (tick) => String(tick), label: axis.label, labelArrow: "none", labelAnchor: "right" },
      y: { nice: true, zero: panel.better < 0, grid: true, label: null, ticks: 5 },
      symbol: { domain: lines, range: lines.map((_, k) => SYMBOLS[k % SYMBOLS.length]) },
      marks: [
        Plot.ruleX(points, { x: "x", y1: "low", y2: "high", stroke: (point) => colour(index(point)), strokeOpacity: 0.55 }),
        ...lines.map((line, k) => Plot.line(points.filter((point) => point.line === line), {
          x: "x", y: "y", sort: "x", stroke: colour(k), strokeWidth: k ? 1.5 : 2.5, strokeDasharray: k ? "4 2" : null,
        })),
        Plot.dot(points, {
          x: "x", y: "y", symbol: "line", r: 4, fill: (point) => colour(index(point)), stroke: "var(--paper)", strokeWidth: 1,
          title: (point) => `${point.name}: ${point.y.toFixed(panel.digits)}`,
        }),
      ],
    });
    // To a screen reader it is one picture.
    for (const each of svg.querySelectorAll("[aria-label], [aria-description]")) {
      each.removeAttribute("aria-label");
      each.removeAttribute("aria-description");
    }
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", `${panel.head} against ${axis.label}; a table has the figures`);
    return svg;
  }

  for (const place of document.querySelectorAll("[data-curves]")) {
    const panels = data.curves[place.dataset.curves];
    const axis = AXES[place.dataset.curves];
    const lines = [...new Set(panels.flatMap((panel) => panel.points.map((point) => point.line)))];
    place.append(legend(lines));
    for (const panel of panels) {
      const figure = document.createElement("figure");
      const title = document.createElement("h3");
      const hint = document.createElement("small");
      hint.textContent = panel.better > 0 ? " more is better" : " less is better";
      title.append(panel.head, hint);
      const drawn = document.createElement("div");
      figure.append(title, drawn);
      place.append(figure);
      let width = 0;
      new ResizeObserver(([entry]) => {
        const now = Math.round(entry.contentRect.width);
        if (now === width || now < 80) return;
        width = now;
        drawn.replaceChildren(draw(panel, lines, axis, width));
      }).observe(figure);
    }
  }
})();
