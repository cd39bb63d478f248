// A listening test: from the introduction to the file with the results.
//
// Which version is which system is unknown here until everything is answered: versions are numbers
// that mean nothing, shown in an order that is drawn anew for every listener and trial. Answers are
// kept in the browser under the identity of this page.
"use strict";

(() => {
  const plan = JSON.parse(document.getElementById("data").textContent);
  const STORE = `sotto-listening-${plan.id}`;
  const STEPS = ["start", "check", "training", "trial", "end"];
  const SCALE = ["bad", "poor", "fair", "good", "excellent"];
  const HEARD = 1; // seconds after which a version counts as heard, or half of a short clip
  const LEAST = 0.3; // seconds of a region
  const byId = (id) => document.getElementById(id);

  // --- what is kept -------------------------------------------------------------------------

  let state;

  function fresh() {
    const random = crypto.getRandomValues(new Uint32Array(8));
    const hex = [...random].map((word) => word.toString(16).padStart(8, "0")).join("");
    return {
      form: plan.form, test: plan.id, session: hex.slice(0, 32), seed: hex.slice(32),
      listener: "", number: 0, ears: "", step: "start", trial: 0, answers: [], begun: "",
      ended: "", saved: false,
    };
  }

  function restore() {
    try {
      const kept = JSON.parse(localStorage.getItem(STORE));
      const whole = kept && kept.form === plan.form && kept.test === plan.id
        && /^[0-9a-f]{32}$/.test(kept.seed) && /^[0-9a-f]{32}$/.test(kept.session)
        && STEPS.includes(kept.step) && Array.isArray(kept.answers)
        && Number.isInteger(kept.trial) && kept.trial >= 0;
      if (!whole) return null;
      const count = trials(kept.seed, kept.number).length;
      const answered = range(count).every((at) => kept.answers[at]);
      return kept.trial < count && (kept.step !== "end" || answered) ? kept : null;
    } catch {
      return null; // nothing is kept, or nothing that can be read
    }
  }

  function keep() {
    try {
      localStorage.setItem(STORE, JSON.stringify(state));
    } catch {
      say("This browser keeps nothing: please do not close the page before you have saved.");
    }
  }

  // --- who hears what -----------------------------------------------------------------------

  // Random numbers from 0 up to 1 by a seed of 32 hexadecimal digits: Marsaglia's xorshift128.
  function numbers(seed) {
    const words = [0, 8, 16, 24].map((at) => parseInt(seed.slice(at, at + 8), 16) | 0);
    words[3] |= 1; // not all may be zero
    return () => {
      const old = words[0] ^ (words[0] << 11);
      const last = words[3];
      words.splice(0, 4, words[1], words[2], last, last ^ (last >>> 19) ^ old ^ (old >>> 8));
      return (words[3] >>> 0) / 2 ** 32;
    };
  }

  function shuffled(items, random) {
    const found = [...items];
    for (let last = found.length - 1; last > 0; last -= 1) {
      const other = Math.floor(random() * (last + 1));
      [found[last], found[other]] = [found[other], found[last]];
    }
    return found;
  }

  const range = (count) => [...Array(count).keys()];

  // All trials of a listener: {clip, places}, where places are versions in the order shown.
  function trials(seed, number) {
    const random = numbers(seed);
    const clips = range(plan.clips.length);
    const versions = range(plan.count);
    if (plan.kind === "mushra") {
      return shuffled(clips, random).map((clip) => ({ clip, places: shuffled(versions, random) }));
    }
    if (plan.kind === "words") {
      // Every sentence once, the versions in turn: so many listeners as there are versions hear
      // all of them.
      const turn = number > 0 ? number - 1 : Math.floor(random() * plan.count);
      const found = clips.map((clip) => ({ clip, places: [(clip + turn) % plan.count] }));
      return shuffled(found, random);
    }
    // Every pair equally often, with as many clips as there is time for, and each system as often
    // on one side as on the other.
    const pairs = shuffled(versions.flatMap((b) => range(b).map((a) => [a, b])), random);
    const order = shuffled(clips, random);
    const flip = pairs.map(() => random() < 0.5);
    const found = [];
    for (const round of range(order.length)) {
      pairs.forEach(([a, b], at) => {
        const clip = order[(at + round) % order.length];
        found.push({ clip, places: (round % 2 === 1) === flip[at] ? [a, b] : [b, a] });
      });
    }
    const most = plan.pairs < pairs.length ? plan.pairs : plan.pairs - (plan.pairs % pairs.length);
    return shuffled(found.slice(0, most), random);
  }

  state = restore() ?? fresh();
  let asked = trials(state.seed, state.number);
  sotto.listening = { trials };

  // --- small things -------------------------------------------------------------------------

  function make(tag, properties = {}, ...children) {
    const found = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name.startsWith("on")) found.addEventListener(name.slice(2), value);
      else if (name in found && !name.startsWith("aria")) found[name] = value;
      else found.setAttribute(name, value);
    }
    found.append(...children);
    return found;
  }

  function say(text) {
    byId("said").textContent = text;
  }

  function list(names) {
    return names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
  }

  function clock(seconds) {
    return `${seconds.toFixed(1)} s`;
  }

  // --- hearing ------------------------------------------------------------------------------

  let deck = null; // what is to be heard now

  // One clip in several versions. Sounds are fetched at once, and decoded with the first click:
  // before that a page may not sound.
  class Deck extends EventTarget {
    constructor(clip, { repeat = true } = {}) {
      super();
      this.seconds = clip.seconds;
      this.region = [0, clip.seconds];
      this.heard = new Map(); // version -> seconds
      this.player = null;
      this.selected = null;
      this.repeat = repeat;
      this.at = 0;
      this.fetched = sotto.sounds.load(clip.sound);
      this.fetched.catch((error) => say(String(error.message)));
    }

    get playing() {
      return this.player !== null && this.player.playing;
    }

    get position() {
      return this.player === null ? this.at : this.player.position;
    }

    async ready() {
      this.opening ??= this.open();
      await this.opening;
    }

    async open() {
      const context = sotto.audio();
      const player = new sotto.Player(context);
      await player.load(await this.fetched);
      this.fetched = null;
      this.seconds = player.duration;
      this.player = player;
      this.region[1] = Math.min(this.region[1], this.seconds);
      if (this.selected !== null) player.select(this.selected);
      if (this.at) player.seek(this.at);
      if (this.repeat) player.loop(...this.region);
      let last = performance.now();
      player.addEventListener("time", () => {
        const now = performance.now();
        if (player.playing) {
          const key = player.selected;
          this.heard.set(key, (this.heard.get(key) ?? 0) + Math.min(now - last, 250) / 1000);
        }
        last = now;
        this.dispatchEvent(new Event("time"));
      });
      player.addEventListener("state", () => {
        last = performance.now();
        this.dispatchEvent(new Event("state"));
      });
    }

    async play(key) {
      if (key !== undefined) {
        this.selected = key;
        this.player?.select(key);
        this.dispatchEvent(new Event("state"));
      }
      await this.ready();
      if (deck === this) await this.player.play();
    }

    toggle() {
      if (this.playing) this.player.pause();
      else this.play();
    }

    seek(seconds) {
      this.at = seconds;
      this.player?.seek(seconds);
    }

    between(from, to) {
      this.region = [from, to];
      this.player?.loop(from, to);
    }

    wasHeard(key) {
      return (this.heard.get(key) ?? 0) >= Math.min(HEARD, this.seconds / 2);
    }

    close() {
      if (this.player) this.player.unload();
    }
  }

  function hear(clip, options) {
    deck?.close();
    deck = new Deck(clip, options);
    return deck;
  }

  // Play and pause, where it is, and which part is repeated.
  function transport(own) {
    const toggle = make("button", { type: "button", className: "toggle", onclick: () => own.toggle() });
    const at = make("input", {
      type: "range", min: 0, max: own.seconds, step: 0.01, value: 0, "aria-label": "Position",
      oninput: () => own.seek(Number(at.value)),
    });
    const from = end("Start of the region that is repeated", 0);
    const to = end("End of the region that is repeated", own.seconds);
    const part = make("span", { className: "part" });
    const time = make("span", { className: "note time", "aria-hidden": "true" });

    function end(label, value) {
      return make("input", {
        type: "range", min: 0, max: own.seconds, step: 0.05, value, "aria-label": label, oninput: move,
      });
    }

    function move(event) {
      const least = Math.min(LEAST, own.seconds / 2);
      if (event.target === from) from.value = Math.min(Number(from.value), Number(to.value) - least);
      else to.value = Math.max(Number(to.value), Number(from.value) + least);
      const last = Number(to.value) >= Number(to.max) - 0.05 ? own.seconds : Number(to.value);
      own.between(Number(from.value), last);
      draw();
    }

    function draw() {
      const [start, stop] = own.region;
      toggle.textContent = own.playing ? "Pause" : "Play";
      at.max = own.seconds;
      at.value = own.position;
      at.setAttribute("aria-valuetext", clock(own.position));
      from.setAttribute("aria-valuetext", clock(start));
      to.setAttribute("aria-valuetext", clock(stop));
      part.style.left = `${(100 * start) / own.seconds}%`;
      part.style.right = `${100 - (100 * stop) / own.seconds}%`;
      time.textContent = `${own.position.toFixed(1)} of ${clock(own.seconds)}`;
    }

    own.addEventListener("time", draw);
    own.addEventListener("state", draw);
    draw();
    return make("div", { className: "transport", role: "group", "aria-label": "Playing" },
      toggle,
      make("div", { className: "line" }, make("span", { className: "name" }, "Position"), at, time),
      make("div", { className: "line" },
        make("span", { className: "name" }, "Repeat"),
        make("div", { className: "region" }, part, from, to)));
  }

  // A button that plays a version; it looks pressed while that one is chosen.
  function sounder(own, key, label, text) {
    const button = make("button", {
      type: "button", className: "sounder", "aria-pressed": "false", onclick: () => own.play(key),
    }, text);
    button.setAttribute("aria-label", label);
    own.addEventListener("state", () => {
      button.setAttribute("aria-pressed", String(own.selected === key));
    });
    const mark = () => {
      if (own.wasHeard(key)) button.dataset.heard = "yes";
    };
    own.addEventListener("time", mark);
    mark();
    return button;
  }

  // --- the kinds of trials ------------------------------------------------------------------
  //
  // Each makes what is on the stage, and gives {missing(): what is still to do, answer(): to be
  // kept, key(event): whether a key did something}.

  const SIGNS = [..."ABCDEFGHIJKL"];

  function rating(own, trial, answer, practice) {
    const scores = new Map(answer?.scores ?? []);
    for (const place of answer?.heard ?? []) own.heard.set(String(place), Infinity);
    const rows = trial.places.map((place, at) => {
      const key = String(place);
      const sign = SIGNS[at];
      const button = sounder(own, key, `Play sound ${sign}`, sign);
      const value = make("output", { className: "value" });
      const slider = make("input", {
        type: "range", min: 0, max: 100, step: 1, value: scores.get(place) ?? 0, className: "rate",
        "aria-label": `Rating of sound ${sign}`, oninput: moved, onpointerup: moved,
        onkeydown: (event) => {
          // At the end of the scale a key moves nothing, and means it nevertheless.
          if (/^(Arrow|Page|Home|End)/.test(event.key)) queueMicrotask(moved);
        },
      });
      const row = make("li", { className: "sound" }, button, slider, value);

      function moved() {
        scores.set(place, Number(slider.value));
        draw();
        store();
      }

      function draw() {
        const rated = scores.has(place);
        const score = Number(slider.value);
        const word = SCALE[Math.min(4, Math.floor(score / 20))];
        row.classList.toggle("rated", rated);
          value.textContent = rated ? score : "–";
        slider.setAttribute("aria-valuetext", rated ? `${score}, ${word}` : "not rated yet");
      }

      draw();
      return { key, place, sign, slider, row, draw };
    });
    let known = 0;
    own.addEventListener("time", () => {
      const count = rows.filter((row) => own.wasHeard(row.key)).length;
      if (count === known) return;
      known = count;
      rows.forEach((row) => row.draw());
      store();
    });

    function store() {
      if (!practice) remember(give());
    }

    function give() {
      return {
        scores: [...scores],
        heard: rows.filter((row) => own.wasHeard(row.key)).map((row) => row.place),
      };
    }

    const marks = make("ol", { className: "marks", "aria-hidden": "true" },
      ...[...SCALE].reverse().map((word) => make("li", {}, word)));
    byId("stage").replaceChildren(
      transport(own),
      make("div", { className: "panel", role: "group", "aria-label": "Versions, each with its rating" },
        sounder(own, "r", "Play the original", "Original"), marks, make("ol", { className: "sounds" }, ...rows.map((row) => row.row))));
    return {
      missing() {
        const unheard = rows.filter((row) => !own.wasHeard(row.key)).map((row) => row.sign);
        const unmoved = practice ? [] : rows.filter((row) => !scores.has(row.place));
        const found = [];
        if (unheard.length) found.push(`Still to be heard: ${list(unheard)}.`);
        if (unmoved.length) found.push(`Still to be rated: ${list(unmoved.map((row) => row.sign))}.`);
        return found.join(" ");
      },
      answer: give,
      key(name) {
        if (name === "0") own.play("r");
        const row = rows.find((each) => each.sign.toLowerCase() === name) ?? rows[Number(name) - 1];
        if (!row) return name === "0";
        own.play(row.key);
        row.slider.focus();
        return true;
      },
    };
  }

  function comparing(own, trial, answer, practice) {
    const [a, b] = trial.places.map(String);
    let chosen = answer?.answer ?? "";
    for (const place of answer?.heard ?? []) own.heard.set(String(place), Infinity);
    const choices = [["a", "I prefer A"], ["none", "No preference"], ["b", "I prefer B"]];
    const radios = choices.map(([value, text]) => make("label", {},
      make("input", {
        type: "radio", name: "preference", value, checked: chosen === value,
        onchange: () => {
          chosen = value;
          store();
        },
      }), ` ${text}`));
    const store = () => {
      if (!practice) remember(give());
    };
    const unheard = () => [["A", a], ["B", b]].filter(([, key]) => !own.wasHeard(key));
    const give = () => ({
      answer: chosen,
      heard: trial.places.filter((place) => own.wasHeard(String(place))),
    });
    let left = unheard().length;
    own.addEventListener("time", () => {
      if (unheard().length === left) return;
      left = unheard().length;
      store();
    });
    byId("stage").replaceChildren(
      transport(own),
      make("div", { className: "row pair" },
        sounder(own, a, "Play A", "A"), sounder(own, b, "Play B", "B"),
        sounder(own, "r", "Play the original", "Original")),
      make("fieldset", { className: "choice" },
        make("legend", {}, "Which would you rather listen to?"), ...radios));
    return {
      missing() {
        const found = [];
        if (unheard().length) found.push(`Still to be heard: ${list(unheard().map(([name]) => name))}.`);
        if (!chosen && !practice) found.push("Please choose one of the three answers.");
        return found.join(" ");
      },
      answer: give,
      key(name) {
        const key = { 0: "r", 1: a, 2: b, a, b }[name];
        if (key !== undefined) own.play(key);
        return key !== undefined;
      },
    };
  }

  function typing(own, trial, answer, practice) {
    const key = practice ? "r" : String(trial.places[0]);
    let plays = answer?.plays ?? 0;
    let starting = false;
    const button = make("button", { type: "button", className: "toggle", onclick: play });
    const field = make("input", {
      type: "text", id: "typed", maxLength: 2000, value: answer?.typed ?? "", spellcheck: false,
      autocomplete: "off", autocapitalize: "off", oninput: store,
      onkeydown: (event) => {
        if (event.key === "Enter") next();
      },
    });
    const nothing = make("input", { type: "checkbox", checked: answer?.nothing ?? false, onchange: store });

    async function play() {
      if (plays >= plan.plays || own.playing || starting) return;
      starting = true;
      plays += 1;
      store();
      draw();
      await own.play(key);
      starting = false;
      draw();
    }

    function draw() {
      const left = plan.plays - plays;
      button.disabled = own.playing || starting || left <= 0;
      button.textContent = own.playing || starting ? "Playing…"
        : left > 0 ? `Play (${left === 1 ? "once" : `${left} times`})` : "Played";
      if (!own.playing && plays > 0) field.focus();
    }

    const give = () => ({ typed: field.value, nothing: nothing.checked, plays });

    function store() {
      if (!practice) remember(give());
    }

    own.addEventListener("state", draw);
    byId("stage").replaceChildren(
      make("p", { className: "row" }, button),
      make("p", { className: "field" }, make("label", { htmlFor: "typed" }, "What was said?"), field),
      make("p", {}, make("label", {}, nothing, " I understood nothing")));
    draw();
    return {
      missing() {
        if (!plays) return "Please listen to the sentence first.";
        if (own.playing || starting) return "Please listen to the end.";
        if (!field.value.trim() && !nothing.checked && !practice) {
          return "Please type what you heard, or say that you understood nothing.";
        }
        return "";
      },
      answer: give,
      key: () => false,
    };
  }

  const KINDS = { mushra: rating, ab: comparing, words: typing };
  const ASKED = {
    mushra: "How good is each version beside the original?",
    ab: "Listen to both, as often as you like.",
    words: `Each sentence can be heard ${plan.plays === 1 ? "once" : `${plan.plays} times`} at most.`,
  };

  // --- steps --------------------------------------------------------------------------------

  let current = null; // the trial on the stage

  function remember(answer) {
    state.answers[state.trial] = answer;
    keep();
  }

  function show(step) {
    state.step = step;
    keep();
    deck?.close();
    deck = current = null;
    const shown = step === "training" ? "trial" : step;
    for (const section of document.querySelectorAll("main > section")) {
      section.hidden = section.id !== shown;
    }
    for (const problem of document.querySelectorAll(".problem")) problem.textContent = "";
    document.body.classList.toggle("running", shown === "trial");
    byId("other").open = false;
    byId("other").firstElementChild.textContent = `You are not ${state.listener}?`;
    if (step === "check") level();
    if (step === "training") train(0);
    if (step === "trial") begin();
    const title = byId(`${shown}-title`);
    document.title = `${title.textContent} – ${plan.title}`;
    scrollTo(0, 0);
    title.focus({ preventScroll: true });
  }

  function train(at) {
    byId("trial-title").textContent = "Practice";
    byId("progress").hidden = true;
    byId("next").textContent = "Begin the test";
    byId("back").hidden = false;
    if (plan.kind === "words") {
      byId("asked").textContent = `This sentence is for practice, and does not count. ${ASKED.words}`;
      if (plan.practice) current = typing(hear(plan.practice, { repeat: false }), null, null, true);
      return;
    }
    // Another order than in any trial.
    const random = numbers(state.session);
    const places = shuffled(range(plan.count), random);
    const trial = { clip: at, places: plan.kind === "ab" ? places.slice(0, 2) : places };
    current = KINDS[plan.kind](hear(plan.clips[at]), trial, null, true);
    byId("asked").textContent = plan.kind === "mushra"
      ? "Get to know how the versions sound, and try the sliders. Nothing counts yet. Listen to all of them at least in one clip."
      : "Try how it works. Nothing counts yet.";
    const others = plan.clips.map((clip, k) => make("button", {
      type: "button", "aria-pressed": String(k === at), "aria-label": `Clip ${k + 1}`,
      onclick: () => {
        train(k);
        byId("clips").children[k + 1].focus();
      },
    }, String(k + 1)));
    byId("stage").prepend(make("div", {
      className: "row clips", id: "clips", role: "group", "aria-label": "Clips",
    }, make("span", { className: "name" }, "Clip"), ...others));
  }

  function begin() {
    const trial = asked[state.trial];
    byId("trial-title").textContent =
      `${plan.kind === "words" ? "Sentence" : "Trial"} ${state.trial + 1} of ${asked.length}`;
    byId("progress").hidden = false;
    byId("progress").max = asked.length;
    byId("progress").value = state.trial;
    byId("asked").textContent = ASKED[plan.kind];
    byId("back").hidden = plan.kind === "words";
    byId("next").textContent = state.trial + 1 === asked.length ? "Finish" : "Next";
    const own = hear(plan.clips[trial.clip], { repeat: plan.kind !== "words" });
    current = KINDS[plan.kind](own, trial, state.answers[state.trial], false);
  }

  function next() {
    if (!current) return;
    const missing = current.missing();
    byId("trial-problem").textContent = missing;
    if (missing) return;
    if (state.step === "training") {
      state.begun ||= new Date().toISOString();
      show("trial");
      return;
    }
    remember(current.answer());
    if (state.trial + 1 < asked.length) {
      state.trial += 1;
      show("trial");
    } else {
      state.ended ||= new Date().toISOString();
      show("end");
    }
  }

  function back() {
    if (state.step === "training") show("check");
    else if (state.trial > 0) {
      state.trial -= 1;
      show("trial");
    } else show("training");
  }

  byId("next").addEventListener("click", next);
  byId("back").addEventListener("click", back);

  byId("who").addEventListener("submit", (event) => {
    event.preventDefault();
    const name = byId("name").value.trim();
    const number = byId("number")?.value.trim() ?? "";
    const problem = !name ? "Please give a name or a pseudonym."
      : /^[0-9]*$/.test(number) ? "" : "A number has digits only.";
    byId("who-problem").textContent = problem;
    if (problem) {
      byId(name ? "number" : "name").focus();
      return;
    }
    state.listener = name;
    state.number = Number(number);
    asked = trials(state.seed, state.number);
    show("check");
  });

  for (const button of document.querySelectorAll("[data-ear]")) {
    button.addEventListener("click", async () => {
      const context = sotto.audio();
      await context.resume();
      const now = context.currentTime + 0.02;
      const tone = new OscillatorNode(context, { frequency: 440 });
      const gain = new GainNode(context, { gain: 0 });
      gain.gain.setTargetAtTime(0.07, now, 0.02);
      gain.gain.setTargetAtTime(0, now + 0.7, 0.02);
      tone.connect(gain).connect(new StereoPannerNode(context, { pan: Number(button.dataset.ear) }))
        .connect(context.destination);
      tone.start(now);
      tone.stop(now + 1);
    });
  }

  function level() {
    const own = hear(plan.practice ?? plan.clips[0]);
    const button = byId("level");
    if (!button) return;
    button.textContent = "Play speech";
    button.onclick = () => (own.playing ? own.toggle() : own.play("r"));
    own.addEventListener("state", () => {
      button.textContent = own.playing ? "Pause" : "Play speech";
    });
  }

  for (const radio of document.getElementsByName("ears")) {
    radio.checked = radio.value === state.ears;
    radio.addEventListener("change", () => {
      state.ears = radio.value;
      keep();
    });
  }

  byId("checked").addEventListener("click", () => {
    if (!state.ears) {
      byId("check-problem").textContent = "Please say what you listen with.";
      document.querySelector("[name=ears]").focus();
    } else if (plan.kind === "words" && !plan.practice) {
      state.begun ||= new Date().toISOString();
      show("trial");
    } else show("training");
  });

  document.addEventListener("keydown", (event) => {
    if (!current || event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.target.matches("input[type=text], textarea")) return;
    const name = event.key.toLowerCase();
    if (name === " " && plan.kind !== "words") {
      if (event.target.matches("button, summary, input:not([type=range])")) return;
      event.preventDefault();
      deck.toggle();
    } else if (current.key(name)) event.preventDefault();
  });

  // --- results ------------------------------------------------------------------------------

  function opened() {
    const key = plan.id.match(/../g).map((pair) => parseInt(pair, 16));
    const bytes = Uint8Array.from(atob(plan.sealed), (sign, at) =>
      sign.charCodeAt(0) ^ key[at % key.length]);
    return JSON.parse(new TextDecoder().decode(bytes));
  }

  function results() {
    const { conditions, clips, texts } = opened();
    const given = asked.map(({ clip, places }, at) => {
      const answer = state.answers[at];
      const name = { clip: clips[clip] };
      if (plan.kind === "mushra") {
        const scores = new Map(answer.scores);
        const ratings = places.map((place) => ({ condition: place, score: scores.get(place) }));
        return { ...name, ratings };
      }
      if (plan.kind === "ab") return { ...name, a: places[0], b: places[1], answer: answer.answer };
      const typed = answer.nothing ? "" : answer.typed;
      return { ...name, condition: places[0], text: texts[clip], typed, plays: answer.plays };
    });
    return {
      sotto: "listening test", form: plan.form,
      test: { id: plan.id, kind: plan.kind, title: plan.title },
      session: state.session, seed: state.seed, listener: state.listener, number: state.number,
      ears: state.ears, begun: state.begun, ended: state.ended,
      planned: asked.length, conditions, trials: given,
    };
  }

  // Rows for a spreadsheet, which must take no text for a formula.
  function table(found) {
    const cell = (value) => {
      let text = String(value);
      if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
      return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    const of = (place) => found.conditions[place].name;
    const heads = {
      mushra: ["shown", "role", "system", "score"],
      ab: ["a", "b", "preferred"],
      words: ["role", "system", "text", "typed", "plays"],
    };
    const rows = found.trials.flatMap((trial, at) => {
      const start = [found.test.id, found.session, found.listener, at + 1, trial.clip];
      if (plan.kind === "mushra") {
        return trial.ratings.map(({ condition, score }, shown) =>
          [...start, shown + 1, found.conditions[condition].role, of(condition), score]);
      }
      if (plan.kind === "ab") {
        const preferred = trial.answer === "none" ? "" : of(trial[trial.answer]);
        return [[...start, of(trial.a), of(trial.b), preferred]];
      }
      const { role, name } = found.conditions[trial.condition];
      return [[...start, role, name, trial.text, trial.typed, trial.plays]];
    });
    const all = [["test", "session", "listener", "trial", "clip", ...heads[plan.kind]], ...rows];
    return all.map((row) => `${row.map(cell).join(",")}\r\n`).join("");
  }

  function save(text, kind, suffix) {
    const plain = state.listener.normalize("NFKD").replace(/[^A-Za-z0-9]+/g, "-");
    const who = plain.replace(/^-|-$/g, "").toLowerCase() || "listener";
    const name = `${plan.kind}-${who}-${state.session.slice(0, 8)}.${suffix}`;
    const link = make("a", { href: URL.createObjectURL(new Blob([text], { type: kind })), download: name });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    state.saved = true;
    keep();
    byId("saved").textContent = `Saved as ${name}.`;
  }

  byId("save-json").addEventListener("click", () => {
    save(`${JSON.stringify(results(), null, 1)}\n`, "application/json", "json");
  });
  byId("save-csv").addEventListener("click", () => {
    // The first sign says that it is UTF-8.
    save(`\ufeff${table(results())}`, "text/csv", "csv");
  });
  byId("again").addEventListener("click", () => {
    if (!state.saved) {
      byId("end-problem").textContent = "Please save the results first: the next listener begins with an empty page.";
      return;
    }
    anew();
  });
  byId("anew").addEventListener("click", anew);

  function anew() {
    state = fresh();
    asked = trials(state.seed, state.number);
    byId("who").reset();
    for (const radio of document.getElementsByName("ears")) radio.checked = false;
    byId("saved").textContent = "";
    show("start");
  }

  byId("name").value = state.listener;
  show(state.step);
})();
