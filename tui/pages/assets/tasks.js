// What a listener does in a trial: rates versions, says which of two is preferred, or types words.
//
//   sotto.tasks.mushra(stage, deck, {places, answer, plan, changed, done})  ->  a task; likewise `ab`
//   and `words`
//
// It fills the element `stage`. places: versions in the order shown; answer: what was answered before,
// or null; changed(answer): called at every change; done(): whoever types is ready. A task has
// missing(practice): what is still to do, answer(): to be kept, key(name): whether a key did something.
"use strict";

window.sotto = window.sotto || {};

(() => {
  const SIGNS = [..."ABCDEFGHIJKL"];
  const SCALE = ["bad", "poor", "fair", "good", "excellent"];

  function rating(stage, deck, { places, answer, changed }) {
    const { make, sounder, transport } = sotto;
    const scores = new Map(answer?.scores ?? []);
    const tell = () => changed(given());
    takeHeard(deck, answer, tell);
    const rows = places.map((place, at) => {
      const key = String(place);
      const sign = SIGNS[at];
      const value = make("output", { className: "value" });
      const slider = make("input", {
        type: "range", min: 0, max: 100, step: 1, value: scores.get(place) ?? 0, className: "rate",
        "aria-label": `Rating of sound ${sign}`, oninput: moved, onpointerup: moved,
        onkeydown: (event) => {
          // At the end of the scale a key moves nothing, and means it nevertheless.
          if (/^(Arrow|Page|Home|End)/.test(event.key)) queueMicrotask(moved);
        },
      });
      const row = make("li", { className: "sound" },
        sounder(deck, key, `Play sound ${sign}`, sign), slider, value);

      function moved() {
        if (slider.disabled) return;
        scores.set(place, Number(slider.value));
        draw();
        tell();
      }

      // Only what is heard can be rated (ITU-R BS.1534-3, section 5.4): among so many sliders one is
      // easily mistaken for another.
      function draw() {
        const rated = scores.has(place);
        const score = Number(slider.value);
        const word = SCALE[Math.min(SCALE.length - 1, Math.floor(score / 20))];
        slider.disabled = deck.selected !== key;
        row.classList.toggle("rated", rated);
        value.textContent = rated ? score : "–";
        slider.setAttribute("aria-valuetext", rated ? `${score}, ${word}` : "not rated yet");
      }

      deck.addEventListener("state", draw);
      draw();
      return { key, place, sign, slider, row };
    });
    const original = sounder(deck, "r", "Play the original", "Original");
    const marks = make("ol", { className: "marks", "aria-hidden": "true" },
      ...[...SCALE].reverse().map((word) => make("li", {}, word)));
    stage.replaceChildren(
      transport(deck),
      make("div", { className: "panel", role: "group", "aria-label": "Versions, each with its rating" },
        original, marks, make("ol", { className: "sounds" }, ...rows.map(({ row }) => row))));

    function given() {
      return { scores: [...scores], heard: places.filter((place) => deck.wasHeard(String(place))) };
    }

    return {
      missing(practice) {
        const unheard = rows.filter(({ key }) => !deck.wasHeard(key)).map(({ sign }) => sign);
        const unrated = practice ? [] : rows.filter(({ place }) => !scores.has(place));
        const found = [];
        if (unheard.length) found.push(`Still to be heard: ${list(unheard)}.`);
        if (unrated.length) found.push(`Still to be rated: ${list(unrated.map(({ sign }) => sign))}.`);
        return found.join(" ");
      },
      answer: given,
      key(name) {
        const row = rows.find(({ sign }) => sign.toLowerCase() === name) ?? rows[Number(name) - 1];
        if (!row && name !== "0") return false;
        deck.play(row ? row.key : "r");
        (row ? row.slider : original).focus();
        return true;
      },
    };
  }

  function comparing(stage, deck, { places, answer, changed }) {
    const { make, sounder, transport } = sotto;
    const [a, b] = places.map(String);
    let chosen = answer?.answer ?? "";
    const tell = () => changed(given());
    takeHeard(deck, answer, tell);
    const choices = [["a", "I prefer A"], ["none", "No preference"], ["b", "I prefer B"]];
    const radios = choices.map(([value, text]) => make("label", {},
      make("input", {
        type: "radio", name: "preference", value, checked: chosen === value,
        onchange: () => {
          chosen = value;
          tell();
        },
      }), ` ${text}`));
    stage.replaceChildren(
      transport(deck),
      make("div", { className: "row pair" },
        sounder(deck, a, "Play A", "A"), sounder(deck, b, "Play B", "B"),
        sounder(deck, "r", "Play the original", "Original")),
      make("fieldset", { className: "choice" },
        make("legend", {}, "Which would you rather listen to?"), ...radios));

    function given() {
      return { answer: chosen, heard: places.filter((place) => deck.wasHeard(String(place))) };
    }

    return {
      missing(practice) {
        const unheard = [["A", a], ["B", b]].filter(([, key]) => !deck.wasHeard(key));
        const found = [];
        if (unheard.length) found.push(`Still to be heard: ${list(unheard.map(([name]) => name))}.`);
        if (!chosen && !practice) found.push("Please choose one of the three answers.");
        return found.join(" ");
      },
      answer: given,
      key(name) {
        const key = { 0: "r", 1: a, 2: b, a, b }[name];
        if (key !== undefined) deck.play(key);
        return key !== undefined;
      },
    };
  }

  function typing(stage, deck, { places, answer, plan, changed, done }) {
    const { make } = sotto;
    const key = String(places[0]);
    let plays = answer?.plays ?? 0;
    let starting = false;
    const tell = () => changed(given());
    const button = make("button", { type: "button", className: "toggle", onclick: play });
    const field = make("input", {
      type: "text", id: "typed", maxLength: 2000, value: answer?.typed ?? "", spellcheck: false,
      autocomplete: "off", autocapitalize: "off", oninput: tell,
      onkeydown: (event) => {
        if (event.key === "Enter") done();
      },
    });
    const nothing = make("input", { type: "checkbox", checked: answer?.nothing ?? false, onchange: tell });

    async function play() {
      if (plays >= plan.plays || deck.playing || starting) return;
      starting = true;
      plays += 1;
      tell();
      draw();
      await deck.play(key);
      starting = false;
      draw();
    }

    function draw() {
      const left = plan.plays - plays;
      button.disabled = deck.playing || starting || left <= 0;
      button.textContent = deck.playing || starting ? "Playing…"
        : left > 0 ? `Play (${left === 1 ? "once" : `${left} times`})` : "Played";
      if (!deck.playing && plays > 0) field.focus();
    }

    function given() {
      return { typed: field.value, nothing: nothing.checked, plays };
    }

    deck.addEventListener("state", draw);
    stage.replaceChildren(
      make("p", { className: "row" }, button),
      make("p", { className: "field" }, make("label", { htmlFor: "typed" }, "What was said?"), field),
      make("p", {}, make("label", {}, nothing, " I understood nothing")));
    draw();
    return {
      missing(practice) {
        if (!plays) return "Please listen to the sentence first.";
        if (deck.playing || starting) return "Please listen to the end.";
        if (!field.value.trim() && !nothing.checked && !practice) {
          return "Please type what you heard, or say that you understood nothing.";
        }
        return "";
      },
      answer: given,
      key: () => false,
    };
  }

  // What was heard before counts, and is kept as soon as it is more.
  function takeHeard(deck, answer, tell) {
    for (const place of answer?.heard ?? []) deck.heard.set(String(place), Infinity);
    const count = () => [...deck.heard.keys()].filter((key) => deck.wasHeard(key)).length;
    let known = count();
    deck.addEventListener("time", () => {
      if (count() === known) return;
      known = count();
      tell();
    });
  }

  function list(names) {
    return names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
  }

  sotto.tasks = { mushra: rating, ab: comparing, words: typing };
})();
