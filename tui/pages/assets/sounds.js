// The sounds of a page, each clip in a script of its own that is loaded when it is wanted.
//
//   await sotto.sounds.load("003")  ->  {key: ArrayBuffer of FLAC, ...}
"use strict";

window.sotto = window.sotto || {};

(() => {
  const UNIT_BITS = 15;
  const FIRST_UNIT = 0x3400;
  const waiting = new Map(); // name -> {promise, resolve}

  function bytes([length, text]) {
    const found = new Uint8Array(length);
    let held = 0;
    let bits = 0;
    let at = 0;
    for (let i = 0; i < text.length; i += 1) {
      held = ((held << UNIT_BITS) | (text.charCodeAt(i) - FIRST_UNIT)) & 0x3fffff;
      bits += UNIT_BITS;
      while (bits >= 8 && at < length) {
        bits -= 8;
        found[at] = (held >> bits) & 0xff;
        at += 1;
      }
    }
    return found.buffer;
  }

  sotto.sounds = {
    load(name) {
      const known = waiting.get(name);
      if (known) return known.promise;
      const entry = {};
      entry.promise = new Promise((resolve, reject) => {
        const script = document.createElement("script");
        entry.resolve = resolve;
        script.src = `sound/${encodeURIComponent(name)}.js`;
        script.onload = () => script.remove();
        script.onerror = () => {
          script.remove();
          reject(new Error(`the sounds of clip ${name} are missing`));
        };
        document.head.append(script);
      });
      waiting.set(name, entry);
      const forget = () => waiting.delete(name);
      entry.promise.then(forget, forget);
      return entry.promise;
    },

    arrived(name, sounds) {
      const entry = waiting.get(name);
      if (!entry) return;
      const found = {};
      for (const [key, packed] of Object.entries(sounds)) found[key] = bytes(packed);
      entry.resolve(found);
    },
  };
})();
