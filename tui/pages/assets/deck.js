// What is to be heard in a trial of a listening test, and what it is heard with.
//
//   const deck = new sotto.Deck(clip, {repeat})   one clip in several versions
//   sotto.transport(deck)                         play, pause, position, and the part that is repeated
//   sotto.sounder(deck, key, label, text)         a button that plays a version
//   sotto.make(tag, properties, ...children)      an element
//
// Events of a deck: "state" (it plays or not, another version is chosen), "time", and "problem", with
// what is wrong in its property `detail`.
"use strict";

window.sotto = window.sotto || {};

(() => {
  const HEARD = 1; // seconds after which a version counts as heard, or half of a short clip
  const LEAST = 0.5; // seconds of a part that is repeated (ITU-R BS.1534-3, section 5.3), likewise

  sotto.make = (tag, properties = {}, ...children) => {
    const found = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name.startsWith("on")) found.addEventListener(name.slice(2), value);
      else if (name in found && !name.startsWith("aria")) found[name] = value;
      else found.setAttribute(name, value);
    }
    found.append(...children);
    return found;
  };

  // Sounds are fetched at once, and decoded with the first click: before that a page may not sound.
  sotto.Deck = class Deck extends EventTarget {
    constructor(clip, { repeat = true } = {}) {
      super();
      this.seconds = clip.seconds;
      this.region = [0, clip.seconds];
      this.heard = new Map(); // version -> seconds
      this.player = null;
      this.selected = null;
      this.repeat = repeat;
      this.at = 0;
      this.closed = false;
      this.fetched = sotto.sounds.load(clip.sound);
      this.fetched.catch((error) => {
        const detail = `This clip cannot be played: ${error.message}`;
        this.dispatchEvent(new CustomEvent("problem", { detail }));
      });
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
      const player = new sotto.Player(sotto.audio());
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
      try {
        await this.ready();
      } catch {
        return; // it was said when it was fetched
      }
      if (!this.closed) await this.player.play();
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
      this.closed = true;
      this.player?.unload();
    }
  };

  sotto.transport = (deck) => {
    const { make } = sotto;
    const toggle = make("button", { type: "button", className: "toggle", onclick: () => deck.toggle() });
    const at = make("input", {
      type: "range", min: 0, max: deck.seconds, step: 0.01, value: 0, "aria-label": "Position",
      oninput: () => deck.seek(Number(at.value)),
    });
    const from = end("Start of the region that is repeated", 0);
    const to = end("End of the region that is repeated", deck.seconds);
    const part = make("span", { className: "part" });
    const time = make("span", { className: "note time", "aria-hidden": "true" });

    function end(label, value) {
      return make("input", {
        type: "range", min: 0, max: deck.seconds, step: 0.05, value, "aria-label": label, oninput: move,
      });
    }

    function move(event) {
      const least = Math.min(LEAST, deck.seconds / 2);
      if (event.target === from) from.value = Math.min(Number(from.value), Number(to.value) - least);
      else to.value = Math.max(Number(to.value), Number(from.value) + least);
      const last = Number(to.value) >= Number(to.max) - 0.05 ? deck.seconds : Number(to.value);
      deck.between(Number(from.value), last);
      draw();
    }

    function draw() {
      const [start, stop] = deck.region;
      toggle.textContent = deck.playing ? "Pause" : "Play";
      at.max = deck.seconds;
      at.value = deck.position;
      at.setAttribute("aria-valuetext", clock(deck.position));
      from.setAttribute("aria-valuetext", clock(start));
      to.setAttribute("aria-valuetext", clock(stop));
      part.style.left = `${(100 * start) / deck.seconds}%`;
      part.style.right = `${100 - (100 * stop) / deck.seconds}%`;
      time.textContent = `${deck.position.toFixed(1)} of ${clock(deck.seconds)}`;
    }

    deck.addEventListener("time", draw);
    deck.addEventListener("state", draw);
    draw();
    return make("div", { className: "transport", role: "group", "aria-label": "Playing" },
      toggle,
      make("div", { className: "line" }, make("span", { className: "name" }, "Position"), at, time),
      make("div", { className: "line" },
        make("span", { className: "name" }, "Repeat"),
        make("div", { className: "region" }, part, from, to)));
  };

  // It looks pressed while its version is chosen.
  sotto.sounder = (deck, key, label, text) => {
    const button = sotto.make("button", {
      type: "button", className: "sounder", "aria-pressed": "false", "aria-label": label,
      onclick: () => deck.play(key),
    }, text);
    deck.addEventListener("state", () => {
      button.setAttribute("aria-pressed", String(deck.selected === key));
    });
    const mark = () => {
      if (deck.wasHeard(key)) button.dataset.heard = "yes";
    };
    deck.addEventListener("time", mark);
    mark();
    return button;
  };

  function clock(seconds) {
    return `${seconds.toFixed(1)} s`;
  }
})();
