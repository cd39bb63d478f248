// The page of speech: its curves. Players are in clips.js.
"use strict";

(() => {
  const { curves } = JSON.parse(document.getElementById("data").textContent);
  const TICKS = {
    rate: [0.6, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64],
    delay: [64, 128, 256, 512, 1024],
  };

  for (const element of document.querySelectorAll(".chart")) {
    const { along } = element.dataset;
    const chart = curves[along][Number(element.dataset.chart)];
    const [low, high] = d3.extent(chart.lines.flatMap(({ points }) => points.map(([x]) => x)));
    sotto.charts.draw(element, chart, (width) => ({
      x: {
        type: "log",
        domain: [low / 1.15, high * 1.15],
        ticks: TICKS[along].filter((tick) => tick >= low / 1.2 && tick <= high * 1.2),
        tickFormat: (tick) => String(tick),
      },
      y: { nice: true, zero: chart.better < 0, label: null, ticks: 5 },
      height: Math.max(200, Math.min(280, width * 0.62)),
    }));
  }
  for (const element of document.querySelectorAll(".legend-of")) {
    sotto.charts.legend(element, curves[element.dataset.along][0].lines);
  }
})();
