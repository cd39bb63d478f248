// The page of pictures: curves, and a divider between original and decoded.
"use strict";

(() => {
  const data = JSON.parse(document.getElementById("data").textContent);

  const rates = data.charts[0].lines.flatMap(({ points }) => points.map(([x]) => x));
  const [lowest, highest] = d3.extent(rates);
  const ticks = [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 3, 5, 10, 24];

  for (const element of document.querySelectorAll("[data-chart]")) {
    sotto.charts.draw(element, data.charts[Number(element.dataset.chart)], (width) => ({
      x: {
        type: "log",
        ticks: ticks.filter((tick) => tick >= lowest && tick <= highest),
        tickFormat: (value) => `${value}`,
        label: "bits per pixel",
      },
      y: { ticks: width < 400 ? 5 : 8 },
    }));
  }
  sotto.charts.legend(document.getElementById("legend"), data.charts[0].lines);

  for (const article of document.querySelectorAll(".picture")) {
    const view = article.querySelector(".view");
    const plates = [...article.querySelectorAll(".plates figure")].map((figure) => ({
      source: figure.querySelector("img").getAttribute("src"),
      name: figure.querySelector("b").textContent,
    }));
    const stage = view.querySelector(".stage");
    const [before, after] = view.querySelectorAll("img");
    const range = view.querySelector("input");
    const [, right] = view.querySelectorAll(".tag");
    const choices = [...view.querySelectorAll(".choice")];
    const difference = view.querySelector(".difference");
    const status = view.querySelector("[role=status]");
    let shown = plates[1];

    const move = () => {
      const share = Number(range.value);
      stage.style.setProperty("--at", `${share}%`);
      const part = Math.round(share);
      range.setAttribute("aria-valuetext", `${part} % original, ${100 - part} % ${shown.name}`);
    };
    const choose = (number) => {
      shown = plates[number];
      after.src = shown.source;
      after.alt = `${article.querySelector("h3").textContent}, ${shown.name}`;
      right.textContent = shown.name;
      for (const choice of choices) {
        choice.setAttribute("aria-pressed", String(Number(choice.dataset.plate) === number));
      }
      move();
    };
    // What may be wanted next is loaded when somebody comes near.
    const prepare = () => {
      for (const plate of plates) new Image().src = plate.source;
    };

    if (plates.length < 2) continue;
    range.addEventListener("input", move);
    for (const choice of choices) {
      choice.addEventListener("click", () => {
        choose(Number(choice.dataset.plate));
        status.textContent = `${shown.name} is shown`;
      });
    }
    difference.addEventListener("click", () => {
      const on = difference.getAttribute("aria-pressed") !== "true";
      difference.setAttribute("aria-pressed", String(on));
      stage.classList.toggle("differs", on);
      range.disabled = on;
      status.textContent = on
        ? `The difference between original and ${shown.name} is shown`
        : `The original and ${shown.name} are shown`;
    });
    view.addEventListener("pointerenter", prepare, { once: true });
    view.addEventListener("focusin", prepare, { once: true });

    before.loading = "lazy";
    after.loading = "lazy";
    before.src = plates[0].source;
    before.alt = `${article.querySelector("h3").textContent}, original`;
    choose(1);
    view.hidden = false;
    article.classList.add("alive");
  }
})();
