// Who hears what in a listening test: the trials of a listener, drawn anew for each.
//
//   sotto.trials(plan, seed, number)  ->  [{clip, places}, ...], places: versions in the order shown
//   sotto.random(seed)  ->  random numbers from 0 up to 1, of a seed of 32 hexadecimal digits
//   sotto.shuffled(items, random)
"use strict";

window.sotto = window.sotto || {};

(() => {
  const range = (count) => [...Array(count).keys()];

  // Marsaglia's xorshift128.
  function random(seed) {
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

  // plan: {kind, count: of versions, clips, pairs: trials of a preference test at most}; number: of
  // the listener, 0 if there is none.
  function trials(plan, seed, number) {
    const drawn = random(seed);
    const clips = range(plan.clips.length);
    const versions = range(plan.count);
    if (plan.kind === "mushra") {
      return shuffled(clips, drawn).map((clip) => ({ clip, places: shuffled(versions, drawn) }));
    }
    if (plan.kind === "words") {
      // Every sentence once, the versions in turn: so many listeners as there are versions hear
      // all of them.
      const turn = number > 0 ? number - 1 : Math.floor(drawn() * plan.count);
      const found = clips.map((clip) => ({ clip, places: [(clip + turn) % plan.count] }));
      return shuffled(found, drawn);
    }
    // Every pair equally often, with as many clips as there is time for, and each system as often
    // on one side as on the other.
    const pairs = shuffled(versions.flatMap((b) => range(b).map((a) => [a, b])), drawn);
    const order = shuffled(clips, drawn);
    const flip = pairs.map(() => drawn() < 0.5);
    const found = [];
    for (const round of range(order.length)) {
      pairs.forEach(([a, b], at) => {
        const clip = order[(at + round) % order.length];
        found.push({ clip, places: (round % 2 === 1) === flip[at] ? [a, b] : [b, a] });
      });
    }
    const most = plan.pairs < pairs.length ? plan.pairs : plan.pairs - (plan.pairs % pairs.length);
    return shuffled(found.slice(0, most), drawn);
  }

  Object.assign(sotto, { random, shuffled, trials });
})();
