// A listening test: from the introduction to the file with the results. Who hears what is in
// trials.js, what a listener does in a trial in tasks.js, with the sounds of deck.js.
//
// Which version is which system is unknown here until everything is answered: versions are numbers
// that mean nothing, shown in an order that is drawn anew for every listener and trial. Answers are
// kept in the browser under the identity of this page.
"use strict";

(() => {
  const plan = JSON.parse(document.getElementById("data").textContent);
  const STORE = `sotto-listening-${plan.id}`;
  const STEPS = ["start", "check", "training", "trial", "end"];
  const byId = (id) => document.getElementById(id);

  // --- what is kept -------------------------------------------------------------------------

  let state;

  function fresh() {
    const words = crypto.getRandomValues(new Uint32Array(8));
    const hex = [...words].map((word) => word.toString(16).padStart(8, "0")).join("");
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
      const planned = sotto.trials(plan, kept.seed, kept.number);
      const answered = planned.every((_, at) => kept.answers[at]);
      return kept.trial < planned.length && (kept.step !== "end" || answered) ? kept : null;
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

  state = restore() ?? fresh();
  let asked = sotto.trials(plan, state.seed, state.number);

  function say(text) {
    byId("said").textContent = text;
  }

  // --- steps --------------------------------------------------------------------------------

  const ASKED = {
    mushra: "How good is each version beside the original? Its slider can be moved while you hear it.",
    ab: "Listen to both, as often as you like.",
    words: `Each sentence can be heard ${plan.plays === 1 ? "once" : `${plan.plays} times`} at most.`,
  };

  let deck = null; // what is to be heard now
  let current = null; // the task on the stage

  function hear(clip, options) {
    deck?.close();
    deck = new sotto.Deck(clip, options);
    deck.addEventListener("problem", ({ detail }) => {
      document.querySelector("main > section:not([hidden]) .problem").textContent = detail;
    });
    return deck;
  }

  // Puts a task on the stage; of practice nothing is kept.
  function set(clip, places, answer, practice) {
    const own = hear(clip, { repeat: plan.kind !== "words" });
    const changed = (given) => {
      if (!practice) remember(given);
    };
    return sotto.tasks[plan.kind](byId("stage"), own, { places, answer, plan, changed, done: next });
  }

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
      if (plan.practice) current = set(plan.practice, ["r"], null, true);
      return;
    }
    // Another order than in any trial.
    const places = sotto.shuffled([...Array(plan.count).keys()], sotto.random(state.session));
    current = set(plan.clips[at], plan.kind === "ab" ? places.slice(0, 2) : places, null, true);
    byId("asked").textContent = plan.kind === "mushra"
      ? "Get to know how the versions sound in every clip, and try the sliders: each can be moved while you hear its version. Nothing counts yet."
      : "Try how it works. Nothing counts yet.";
    const others = plan.clips.map((clip, k) => sotto.make("button", {
      type: "button", "aria-pressed": String(k === at), "aria-label": `Clip ${k + 1}`,
      onclick: () => {
        train(k);
        byId("clips").children[k + 1].focus();
      },
    }, String(k + 1)));
    byId("stage").prepend(sotto.make("div", {
      className: "row clips", id: "clips", role: "group", "aria-label": "Clips",
    }, sotto.make("span", { className: "name" }, "Clip"), ...others));
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
    current = set(plan.clips[trial.clip], trial.places, state.answers[state.trial], false);
  }

  function next() {
    if (!current) return;
    const missing = current.missing(state.step === "training");
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
    asked = sotto.trials(plan, state.seed, state.number);
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

  function save(text, kind, suffix) {
    const plain = state.listener.normalize("NFKD").replace(/[^A-Za-z0-9]+/g, "-");
    const who = plain.replace(/^-|-$/g, "").toLowerCase() || "listener";
    const name = `${plan.kind}-${who}-${state.session.slice(0, 8)}.${suffix}`;
    const link = sotto.make("a", { href: URL.createObjectURL(new Blob([text], { type: kind })), download: name });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    byId("saved").textContent = `Saved as ${name}.`;
  }

  byId("save-json").addEventListener("click", () => {
    const found = sotto.results(plan, state, asked);
    save(`${JSON.stringify(found, null, 1)}\n`, "application/json", "json");
    state.saved = true; // the table alone would not do
    keep();
  });
  byId("save-csv").addEventListener("click", () => {
    // The first sign says that it is UTF-8.
    save(`\ufeff${sotto.table(sotto.results(plan, state, asked))}`, "text/csv", "csv");
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
    asked = sotto.trials(plan, state.seed, state.number);
    byId("who").reset();
    for (const radio of document.getElementsByName("ears")) radio.checked = false;
    byId("saved").textContent = "";
    show("start");
  }

  byId("name").value = state.listener;
  show(state.step);
})();
