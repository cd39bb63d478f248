// Players of a page of clips: <article class="clip" data-clip="003">, with a button and a picture
// for each system. Sounds are loaded when a clip comes near the window or under the pointer, and
// decoded at once, so that a click is heard soon.
"use strict";

(() => {
  const KEPT = 6; // clips whose decoded sounds are kept
  const clips = new Map(); // <article> -> Clip
  let used = []; // Clips with sounds, the latest last
  let current = null; // the Clip that was played last

  // Decodes without the AudioContext, which there may not be before somebody clicks.
  async function decode(bytes) {
    return new OfflineAudioContext(1, 1, 16000).decodeAudioData(bytes);
  }

  class Clip {
    constructor(article) {
      this.article = article;
      this.name = article.dataset.clip;
      this.seconds = Number(article.dataset.seconds);
      this.buttons = [...article.querySelectorAll(".systems button")];
      this.figures = [...article.querySelectorAll(".stack figure")];
      this.seek = article.querySelector(".seek");
      this.button = article.querySelector(".play");
      this.time = article.querySelector(".time");
      this.word = article.querySelector(".play .word");
      this.problem = article.querySelector(".problem");
      this.selected = this.buttons[0].dataset.key;
      this.at = 0;
      for (const hidden of article.querySelectorAll(".controls")) hidden.hidden = false;
      this.button.addEventListener("click", () => this.toggle());
      this.seek.addEventListener("input", () => this.go(Number(this.seek.value)));
      for (const each of this.buttons) each.addEventListener("click", () => this.select(each.dataset.key));
      for (const kind of ["pointerenter", "focusin"]) article.addEventListener(kind, () => this.fetch());
    }

    // Loads and decodes, once: {key: Promise of AudioBuffer}.
    fetch() {
      if (!this.sounds) {
        this.sounds = sotto.sounds.load(this.name).then((sounds) => {
          const found = {};
          for (const [key, bytes] of Object.entries(sounds)) found[key] = decode(bytes);
          return found;
        });
        this.sounds.catch(() => { this.sounds = null; });
      }
      used = [...used.filter((each) => each !== this), this];
      for (const each of used.slice(0, -KEPT)) if (!each.playing) each.forget();
      return this.sounds;
    }

    forget() {
      used = used.filter((each) => each !== this);
      this.sounds = null;
      if (this.player) this.player.unload();
    }

    get playing() {
      return Boolean(this.player && this.player.playing);
    }

    async play() {
      current = this;
      const asked = (this.asked = {});
      try {
        if (!this.player) {
          this.player = new sotto.Player(sotto.audio());
          this.player.addEventListener("time", () => this.moved());
          this.player.addEventListener("state", () => this.changed());
        }
        const sounds = await this.fetch();
        await this.player.load({ [this.selected]: await sounds[this.selected] });
        if (asked !== this.asked) return;
        this.player.select(this.selected);
        this.player.seek(this.at);
        await this.player.play();
        const rest = await Promise.all(Object.entries(sounds).map(async ([key, sound]) => [key, await sound]));
        await this.player.load(Object.fromEntries(rest));
        this.problem.hidden = true;
      } catch (error) {
        this.problem.textContent = `This clip cannot be played: ${error.message}`;
        this.problem.hidden = false;
      }
    }

    toggle() {
      if (this.playing) {
        this.asked = null;
        this.player.pause();
      } else this.play();
    }

    go(seconds) {
      current = this;
      this.at = Math.min(Math.max(seconds, 0), this.seconds);
      if (this.playing) this.player.seek(this.at);
      this.draw();
    }

    select(key) {
      current = this;
      if (key === this.selected) return;
      this.selected = key;
      if (this.player) this.player.select(key);
      for (const each of this.buttons) each.setAttribute("aria-pressed", String(each.dataset.key === key));
      for (const each of this.figures) each.classList.toggle("on", each.dataset.key === key);
      const button = this.buttons.find((each) => each.dataset.key === key);
      document.getElementById("heard").textContent = button.lastElementChild.textContent;
    }

    step(by) {
      const at = this.buttons.findIndex((each) => each.dataset.key === this.selected);
      const next = this.buttons[(at + by + this.buttons.length) % this.buttons.length];
      this.select(next.dataset.key);
      if (this.buttons.includes(document.activeElement)) next.focus();
    }

    moved() {
      this.at = this.player.position;
      this.draw();
    }

    changed() {
      this.article.classList.toggle("playing", this.playing);
      this.word.textContent = this.playing ? "Pause" : "Play";
    }

    draw() {
      this.seek.value = this.at;
      this.time.textContent = `${this.at.toFixed(1)} / ${this.seconds.toFixed(1)} s`;
    }
  }

  // The clip that keys are for: where the focus is, what plays, or what is in the middle.
  function chosen() {
    const focused = document.activeElement && document.activeElement.closest(".clip");
    if (focused) return clips.get(focused);
    if (current && current.playing) return current;
    const middle = innerHeight / 2;
    let best = null;
    let nearest = innerHeight / 2;
    for (const [article, clip] of clips) {
      const { top, bottom } = article.getBoundingClientRect();
      const away = Math.max(top - middle, middle - bottom, 0);
      if (away < nearest) [best, nearest] = [clip, away];
    }
    return best;
  }

  function pressed(event) {
    if (event.ctrlKey || event.altKey || event.metaKey || event.defaultPrevented) return;
    const on = event.target;
    const ranged = on.matches("input[type=range]");
    if (on.matches("textarea, select, [contenteditable]") || (on.matches("input") && !ranged)) return;
    const clip = chosen();
    if (!clip) return;
    if (/^[1-9]$/.test(event.key) && clip.buttons[event.key - 1]) {
      clip.select(clip.buttons[event.key - 1].dataset.key);
    } else if (event.key === "ArrowRight" || event.key === "ArrowLeft") {
      if (ranged || on.closest(".scroll")) return; // they have their own use of these
      clip.step(event.key === "ArrowRight" ? 1 : -1);
    } else if (event.key === " ") {
      // A button is pressed by this key, unless pressing it would change nothing.
      if (on.closest("a, summary") || (on.closest("button") && on.getAttribute("aria-pressed") !== "true")) return;
      clip.toggle();
    } else return;
    event.preventDefault();
  }

  document.documentElement.classList.add("js");
  for (const hidden of document.querySelectorAll(".controls")) hidden.hidden = false;
  for (const article of document.querySelectorAll(".clip")) clips.set(article, new Clip(article));
  document.addEventListener("keydown", pressed);

  const idle = window.requestIdleCallback || ((act) => setTimeout(act, 200));
  const near = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        // Where somebody only scrolls by, it has left again by then.
        const clip = clips.get(entry.target);
        clip.near = entry.isIntersecting;
        if (clip.near) idle(() => { if (clip.near) clip.fetch().catch(() => {}); });
      }
    },
    { rootMargin: "0px 0px 25% 0px" },
  );
  for (const article of clips.keys()) near.observe(article);

  // All that is folded is on paper, too.
  addEventListener("beforeprint", () => {
    for (const each of document.querySelectorAll("details")) each.open = true;
  });
})();
