// Plays several versions of one clip on one clock, and switches between them without a gap.
//
//   const player = new sotto.Player(sotto.audio());
//   await player.load({original: arrayBuffer, "2k": audioBuffer});
//   await player.play();  player.select("2k");  player.seek(1.5);  player.loop(1, 2);
//
// Properties: position, duration (seconds), playing, selected, region ([from, to] or null), keys.
// Events: "time" (about once a picture while it plays), "state" (plays or not), "selected".
// All versions run at the same time, each through a gain of its own; only that of the selected one
// is open. At a switch the one is faded out before the other is faded in, never across, as ITU-R
// BS.1534-3, section 5.3, asks: both at once would be a sound that neither of them is. A player that
// begins to play pauses the one that plays.
"use strict";

window.sotto = window.sotto || {};

(() => {
  const RATE = 16000; // of all sounds, so that nothing is resampled before it is stored
  const TAU = 0.0025; // of what begins or ends: 98 % of it within 10 ms
  const FADE = 0.005; // of a version at a switch, and at both ends of a loop
  const LEAD = 0.01; // from a command to the first sample, so that all versions get ready
  const PIECES = 32; // straight lines that make up a raised cosine
  const NOTICE = 0.02; // from a command to a fade, all of which the audio thread must know before
  const GONE = 0.05; // after so long what was faded out is silent

  let shared = null;
  let sounding = null;

  // The one AudioContext of a page. It may only sound after a gesture of the user.
  sotto.audio = () => {
    if (!shared) {
      try {
        shared = new AudioContext({ sampleRate: RATE, latencyHint: "interactive" });
      } catch {
        shared = new AudioContext();
      }
    }
    return shared;
  };

  sotto.Player = class Player extends EventTarget {
    #context;
    #versions = new Map(); // key -> AudioBuffer
    #run = null; // what sounds now
    #at = 0; // where it stands while it does not play
    #selected = null;
    #region = null;
    #asked = 0; // counts plays and pauses, of which only the last one counts

    constructor(context) {
      super();
      this.#context = context;
    }

    // Adds versions of the clip; those that are there stay. While it plays they join in.
    async load(sounds) {
      const decoded = await Promise.all(
        Object.entries(sounds).map(async ([key, sound]) => [
          key,
          sound instanceof AudioBuffer ? sound : await this.#context.decodeAudioData(sound),
        ]),
      );
      for (const [key, buffer] of decoded) {
        this.#versions.set(key, buffer);
        if (this.#selected === null) this.#selected = key;
        if (this.#run) this.#join(this.#run, key);
      }
    }

    // Forgets all versions, to save memory.
    unload() {
      this.pause();
      this.#versions.clear();
    }

    get keys() {
      return [...this.#versions.keys()];
    }

    get duration() {
      let longest = 0;
      for (const buffer of this.#versions.values()) longest = Math.max(longest, buffer.duration);
      return longest;
    }

    get playing() {
      return this.#run !== null;
    }

    get selected() {
      return this.#selected;
    }

    get region() {
      return this.#region && [...this.#region];
    }

    get position() {
      return this.#run ? this.#positionAt(this.#run, this.#context.currentTime) : this.#at;
    }

    async play() {
      if (this.#run || !this.#versions.size) return;
      const asked = ++this.#asked;
      if (sounding && sounding !== this) sounding.pause();
      sounding = this;
      if (this.#context.state === "suspended" && this.#context instanceof AudioContext) {
        await this.#context.resume();
        if (asked !== this.#asked) return; // something else was asked for meanwhile
      }
      this.#start(this.#at);
      this.dispatchEvent(new Event("state"));
      this.#tick(asked);
    }

    pause() {
      this.#asked += 1;
      if (!this.#run) return;
      this.#at = this.position;
      this.#stop();
      this.dispatchEvent(new Event("state"));
      this.dispatchEvent(new Event("time"));
    }

    seek(seconds) {
      this.#move(Math.min(Math.max(seconds, 0), this.duration));
    }

    // Which version is heard; it may be one that is still to be loaded.
    select(key) {
      if (key === this.#selected) return;
      const last = this.#selected;
      this.#selected = key;
      if (this.#run) {
        this.#fade(this.#run, last, false);
        this.#fade(this.#run, key, true);
      }
      this.dispatchEvent(new Event("selected"));
    }

    // Repeats what is between two moments; loop(null) ends that.
    loop(from, to) {
      const at = this.position;
      if (from === null || from === undefined) this.#region = null;
      else {
        const start = this.#whole(Math.min(Math.max(from, 0), this.duration));
        const end = this.#whole(Math.min(Math.max(to, 0), this.duration));
        if (!(end - start >= 4 * FADE)) throw new RangeError("too short a loop");
        this.#region = [start, end];
      }
      this.#move(at);
    }

    #move(seconds) {
      if (this.#run) {
        this.#stop();
        this.#start(seconds);
      } else this.#at = seconds;
      this.dispatchEvent(new Event("time"));
    }

    // Moments are whole samples, lest the versions be interpolated differently.
    #whole(seconds) {
      return Math.round(seconds * this.#context.sampleRate) / this.#context.sampleRate;
    }

    #positionAt(run, time) {
      const at = run.from + Math.max(0, time - run.begun);
      if (!run.region) return Math.min(at, this.duration);
      const [start, end] = run.region;
      return start + ((at - start) % (end - start));
    }

    // Fades in or out. Fades begin one after the other, and none is broken off. Of curves that follow
    // at once upon another (setValueCurveAtTime) Chromium plays some samples twice.
    #fade(run, key, rise) {
      const voice = run.voices.get(key);
      if (!voice) return;
      const { gain } = voice.gain;
      const begin = Math.max(run.settled, this.#context.currentTime + NOTICE);
      gain.setValueAtTime(rise ? 0 : 1, begin);
      for (let piece = 1; piece <= PIECES; piece += 1) {
        const part = piece / PIECES;
        const level = 0.5 - 0.5 * Math.cos(Math.PI * (rise ? part : 1 - part));
        gain.linearRampToValueAtTime(level, begin + FADE * part);
      }
      run.settled = begin + FADE;
    }

    #start(seconds) {
      const context = this.#context;
      const region = this.#region;
      let from = this.#whole(seconds);
      if (region && !(from >= region[0] && from < region[1])) from = region[0];
      if (!region && from >= this.duration) from = 0;
      const begun = this.#whole(context.currentTime + LEAD);
      const out = context.createGain();
      out.gain.setValueAtTime(0, context.currentTime);
      out.gain.setTargetAtTime(1, begun, TAU);
      out.connect(context.destination);
      const run = { begun, settled: begun, from, region, out, voices: new Map() };
      this.#run = run;
      for (const key of this.#versions.keys()) this.#join(run, key);
    }

    // Starts one version where the others are.
    #join(run, key) {
      if (run.voices.has(key)) return;
      const context = this.#context;
      const when = Math.max(run.begun, this.#whole(context.currentTime + LEAD));
      const at = this.#whole(this.#positionAt(run, when));
      const buffer = this.#versions.get(key);
      const gain = context.createGain();
      const first = key === this.#selected && when === run.begun;
      gain.gain.setValueAtTime(first ? 1 : 0, context.currentTime);
      gain.connect(run.out);
      const source = context.createBufferSource();
      source.connect(gain);
      if (run.region) {
        source.buffer = this.#piece(buffer, run.region);
        source.loop = true;
        source.start(when, at - run.region[0]);
      } else {
        source.buffer = buffer;
        source.onended = () => this.#ended(run);
        source.start(when, Math.min(at, buffer.duration));
      }
      run.voices.set(key, { source, gain });
      if (key === this.#selected && !first) {
        run.settled = Math.max(run.settled, when);
        this.#fade(run, key, true);
      }
    }

    // The part of a version that is repeated, its ends faded.
    #piece(buffer, [start, end]) {
      const rate = buffer.sampleRate;
      const length = Math.round((end - start) * rate);
      const piece = this.#context.createBuffer(buffer.numberOfChannels, length, rate);
      const fade = Math.round(FADE * rate);
      for (let channel = 0; channel < buffer.numberOfChannels; channel += 1) {
        const first = Math.round(start * rate);
        const samples = buffer.getChannelData(channel).slice(first, first + length);
        for (let i = 0; i < Math.min(fade, samples.length); i += 1) {
          const level = 0.5 - 0.5 * Math.cos((Math.PI * (i + 0.5)) / fade);
          samples[i] *= level;
          if (length - 1 - i < samples.length) samples[length - 1 - i] *= level;
        }
        piece.copyToChannel(samples, channel);
      }
      return piece;
    }

    #stop() {
      const run = this.#run;
      this.#run = null;
      const now = this.#context.currentTime;
      run.out.gain.cancelScheduledValues(now);
      run.out.gain.setTargetAtTime(0, now, TAU);
      for (const voice of run.voices.values()) {
        voice.source.onended = null;
        voice.source.stop(now + GONE);
      }
      const [first] = run.voices.values();
      if (first) first.source.onended = () => run.out.disconnect();
    }

    #ended(run) {
      // Another version may be longer.
      const passed = run.from + this.#context.currentTime - run.begun;
      if (run !== this.#run || passed < this.duration - 0.002) return;
      this.#run = null;
      this.#at = 0;
      run.out.disconnect();
      this.dispatchEvent(new Event("state"));
      this.dispatchEvent(new Event("time"));
    }

    #tick(asked) {
      requestAnimationFrame(() => {
        if (!this.#run || asked !== this.#asked) return;
        this.dispatchEvent(new Event("time"));
        this.#tick(asked);
      });
    }
  };
})();
