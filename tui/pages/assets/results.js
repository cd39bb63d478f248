// The results of a listening test, as models/evaluation/sessions.py reads them, and as a table.
//
//   sotto.results(plan, state, trials)   plain values; what each version is, is opened only for them
//   sotto.table(results)                 CSV, a row for each answer
"use strict";

window.sotto = window.sotto || {};

(() => {
  function opened(plan) {
    const key = plan.id.match(/../g).map((pair) => parseInt(pair, 16));
    const bytes = Uint8Array.from(atob(plan.sealed), (sign, at) =>
      sign.charCodeAt(0) ^ key[at % key.length]);
    return JSON.parse(new TextDecoder().decode(bytes));
  }

  sotto.results = (plan, state, trials) => {
    const { conditions, clips, texts } = opened(plan);
    const given = trials.map(({ clip, places }, at) => {
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
      planned: trials.length, conditions, trials: given,
    };
  };

  const HEADS = {
    mushra: ["shown", "role", "system", "score"],
    ab: ["a", "b", "preferred"],
    words: ["role", "system", "text", "typed", "plays"],
  };

  sotto.table = ({ test, session, listener, conditions, trials }) => {
    const of = (place) => conditions[place].name;
    const rows = trials.flatMap((trial, at) => {
      const start = [test.id, session, listener, at + 1, trial.clip];
      if (test.kind === "mushra") {
        return trial.ratings.map(({ condition, score }, shown) =>
          [...start, shown + 1, conditions[condition].role, of(condition), score]);
      }
      if (test.kind === "ab") {
        const preferred = trial.answer === "none" ? "" : of(trial[trial.answer]);
        return [[...start, of(trial.a), of(trial.b), preferred]];
      }
      const { role, name } = conditions[trial.condition];
      return [[...start, role, name, trial.text, trial.typed, trial.plays]];
    });
    const all = [["test", "session", "listener", "trial", "clip", ...HEADS[test.kind]], ...rows];
    return all.map((row) => `${row.map(cell).join(",")}\r\n`).join("");
  };

  // A spreadsheet must take no text for a formula.
  function cell(value) {
    let text = String(value);
    if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  }
})();
