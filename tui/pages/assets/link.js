// The page of calls: delays over time with what befell them, and players.
"use strict";

(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const ENDS = ["a", "b"];
  const X = "seconds since both began to talk";
  const LANE = 18; // pixels of each row of marks
  const LEFT = 84;
  const RIGHT = 12;

  data.by_delay.forEach((chart, k) => {
    const delays = [...new Set(chart.lines.flatMap(({ points }) => points.map(([x]) => x)))];
    sotto.charts.draw(document.querySelector(`[data-chart="${k}"]`), chart, () => ({
      x: { type: "log", ticks: delays, tickFormat: (value) => `${value}` },
      y: { zero: true, label: null, ticks: 5 },
      height: 220,
      marginLeft: 52,
    }));
  });

  for (const element of document.querySelectorAll(".course")) {
    const course = data.courses[element.dataset.run];
    const lines = ENDS.flatMap((end) => voice(course, end));
    const x = { domain: span(course), label: null };
    sotto.charts.draw(element, { lines, x: X, y: "delay / s" }, (width) => ({
      x: { ...x, ticks: width < 500 ? 5 : 10 },
      y: { domain: [0, 1.05 * Math.max(0.1, ...lines.flatMap(({ points }) => points.map(([, y]) => y)))] },
      height: 300,
      marginLeft: LEFT,
      marginRight: RIGHT,
      marginBottom: 24,
      under: bands(course),
      below: strip(course, width, x),
    }));
    sotto.charts.legend(document.querySelector(`.legend-of[data-run="${element.dataset.run}"]`), lines);
  }

  // The delay that was measured, with gaps where nothing was heard, and the one the call stated.
  function voice(course, end) {
    const own = end === "a";
    const [from, to] = span(course);
    const measured = [...course.delays[end], ...course.unheard[end].map((at) => [at, null])];
    measured.sort(([one], [other]) => one - other);
    const shown = course.shown[end].filter(([at]) => at >= from && at <= to);
    return [
      { name: `voice ${end}, measured`, own, line: true, points: measured },
      ...(shown.length
        ? [{ name: `voice ${end}, by the call itself`, own, line: true, dots: false, points: shown }]
        : []),
    ];
  }

  function span(course) {
    // A window may begin before its voice does.
    const moments = ENDS.flatMap((end) => (course.delays[end] || []).map(([at]) => at));
    return [Math.min(-0.5, ...moments), Math.max(course.seconds, 1, ...moments)];
  }

  function bands(course) {
    const found = [
      [course.outage, "link down"],
      [course.flood, "garbage"],
    ].filter(([band]) => band);
    return [
      Plot.rectX(found, {
        x1: ([band]) => band[0],
        x2: ([band]) => Math.min(band[1], course.seconds),
        fill: "var(--warn)",
        fillOpacity: 0.14,
      }),
      Plot.text(found, {
        x: ([band]) => band[0],
        frameAnchor: "bottom",
        textAnchor: "start",
        dx: 4,
        dy: -6,
        text: ([, name]) => name,
        fill: "var(--warn)",
      }),
    ];
  }

  // Rows of marks under the curve, on the same axis: what was lost, not heard, or ran dry.
  function strip(course, width, x) {
    const marks = [];
    const note = (row, at, count) => marks.push({ row, at, count });
    for (const end of ENDS) {
      for (const [at, count] of course.lost[end]) note(`${end} lost`, at, count);
    }
    for (const end of ENDS) {
      for (const at of course.unheard[end] || []) note(`${end} unheard`, at, 1);
    }
    for (const end of ENDS) {
      for (const gap of course.gaps) if (gap.end === end) note(`${end} ${gap.kind}`, gap.seconds, gap.count);
    }
    const inside = marks.filter(({ at }) => at >= x.domain[0] && at <= x.domain[1]);
    const rows = [...new Set(inside.map(({ row }) => row))];
    const svg = Plot.plot({
      width,
      height: rows.length * LANE + 40,
      marginLeft: LEFT,
      marginRight: RIGHT,
      marginTop: 2,
      marginBottom: 36,
      style: { background: "none", color: "inherit", fontFamily: "inherit", fontSize: "12px" },
      x: { ...x, label: X, labelAnchor: "center", labelArrow: "none", ticks: width < 500 ? 5 : 10 },
      y: { type: "band", domain: rows, label: null, tickSize: 0 },
      marks: [
        Plot.gridY({ strokeOpacity: 0.15 }),
        Plot.tickX(inside, {
          x: "at",
          y: "row",
          stroke: "var(--warn)",
          strokeWidth: ({ count }) => Math.min(1.5 + 0.5 * count, 4),
          insetTop: 3,
          insetBottom: 3,
        }),
      ],
    });
    sotto.charts.picture(svg);
    svg.setAttribute("aria-label", rows.length ? `When: ${rows.join(", ")}` : "Time axis");
    return svg;
  }

  // --- players ---------------------------------------------------------------------------------

  const clock = (seconds) =>
    `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;

  for (const element of document.querySelectorAll(".player")) {
    const play = element.querySelector(".play");
    const label = play.getAttribute("aria-label");
    const versions = [...element.querySelectorAll("[data-key]")];
    const range = element.querySelector("input");
    const time = element.querySelector(".time");
    const error = element.querySelector(".error");
    let player = null;
    let loading = null;

    const chosen = () => versions.find((each) => each.getAttribute("aria-pressed") === "true");
    const showTime = () => {
      range.value = String(player.position);
      range.setAttribute("aria-valuetext", `${player.position.toFixed(1)} seconds`);
      time.textContent = `${clock(player.position)} / ${clock(player.duration)}`;
    };
    const ready = () => {
      loading ||= (async () => {
        const made = new sotto.Player(sotto.audio());
        await made.load(await sotto.sounds.load(element.dataset.clip));
        made.select(chosen().dataset.key);
        player = made;
        range.max = String(player.duration);
        range.disabled = false;
        player.addEventListener("time", showTime);
        player.addEventListener("state", () => {
          play.classList.toggle("on", player.playing);
          play.setAttribute("aria-label", player.playing ? label.replace("Play", "Pause") : label);
        });
        showTime();
      })().catch((problem) => {
        loading = null;
        error.textContent = problem.message;
        throw problem;
      });
      return loading;
    };

    play.addEventListener("click", async () => {
      await ready();
      if (player.playing) player.pause();
      else await player.play();
    });
    for (const version of versions) {
      version.addEventListener("click", async () => {
        for (const each of versions) each.setAttribute("aria-pressed", String(each === version));
        if (player) player.select(version.dataset.key);
      });
    }
    range.addEventListener("input", () => player.seek(Number(range.value)));
    element.hidden = false;
  }
})();
