/* What all drawings share: canvases as sharp as the screen, colours, numbers, axes of time. */
"use strict";

(function (Replay) {
  const TEXT_MAX = 60;
  const WHAT_COLOURS = 7; // After that sorts of messages share the last, grey.
  const KNOWN_STATES = ["up", "down", "isolated", "syncing"];
  const JOB_STATES = [
    "queued", "leased", "running", "succeeded", "failed", "cancelled", "expired", "poisoned",
  ];

  /** Return the colours of the page as it is now. */
  function colours() {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(`--${name}`).trim();
    const found = {};
    for (const name of [
      "ground", "panel", "ink", "soft", "faint", "line", "link", "accent", "bad", "warn", "unknown",
    ]) found[name] = of(name);
    found.states = Object.fromEntries(KNOWN_STATES.map((state) => [state, of(`state-${state}`)]));
    found.jobs = Object.fromEntries(JOB_STATES.map((state) => [state, of(`job-${state}`)]));
    found.whats = Array.from({ length: WHAT_COLOURS }, (_, i) => of(`what-${i}`));
    return found;
  }

  /** Return the colour of a sort of messages, by its place among the most frequent. */
  function whatColour(palette, place) {
    return palette.whats[Math.min(place, WHAT_COLOURS - 1)];
  }

  function stateColour(palette, state) {
    return Object.hasOwn(palette.states, state) ? palette.states[state] : palette.unknown;
  }

  function jobColour(palette, span) {
    const name = span.state === "running" && span.outcome !== "" ? span.outcome : span.state;
    return Object.hasOwn(palette.jobs, name) ? palette.jobs[name] : palette.unknown;
  }

  /** A canvas whose drawing is in CSS pixels. `begin` returns its context, empty. */
  class Surface {
    constructor(canvas, onResize) {
      this.canvas = canvas;
      this.context = canvas.getContext("2d");
      new ResizeObserver(onResize).observe(canvas);
    }

    begin() {
      const { clientWidth: width, clientHeight: height } = this.canvas;
      const ratio = globalThis.devicePixelRatio || 1;
      if (this.canvas.width !== Math.round(width * ratio) ||
          this.canvas.height !== Math.round(height * ratio)) {
        this.canvas.width = Math.round(width * ratio);
        this.canvas.height = Math.round(height * ratio);
      }
      this.width = width;
      this.height = height;
      this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
      this.context.clearRect(0, 0, width, height);
      this.context.font = "11px system-ui, sans-serif";
      this.context.textBaseline = "middle";
      return this.context;
    }

    /** Return where an event of the mouse is. */
    at(event) {
      const box = this.canvas.getBoundingClientRect();
      return { x: event.clientX - box.left, y: event.clientY - box.top };
    }
  }

  /** Have a canvas dragged: `moved(dx, dy, event)`; `clicked(point)` if it was not. */
  function draggable(surface, moved, clicked) {
    let last = null;
    let far = 0;
    surface.canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      surface.canvas.setPointerCapture(event.pointerId);
      last = surface.at(event);
      far = 0;
    });
    surface.canvas.addEventListener("pointermove", (event) => {
      if (last === null) return;
      const point = surface.at(event);
      far += Math.abs(point.x - last.x) + Math.abs(point.y - last.y);
      if (far > 3) moved(point.x - last.x, point.y - last.y, point);
      last = point;
    });
    const end = (event) => {
      if (last !== null && far <= 3 && event.type === "pointerup") clicked(surface.at(event));
      last = null;
    };
    surface.canvas.addEventListener("pointerup", end);
    surface.canvas.addEventListener("pointercancel", end);
  }

  /** Return round times between two, at least `room` pixels apart of `width`. */
  function ticks(from, to, width, room = 90) {
    const least = ((to - from) * room) / Math.max(1, width);
    const power = 10 ** Math.floor(Math.log10(least));
    const step = [1, 2, 5, 10].map((digit) => digit * power).find((each) => each >= least * 0.999);
    const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    const found = [];
    for (let i = Math.ceil(from / step - 1e-9); i * step <= to + step * 1e-9; i += 1) {
      found.push({ at: i * step, text: grouped((i * step).toFixed(digits)) });
    }
    return found;
  }

  function grouped(digits) {
    const [whole, rest] = digits.split(".");
    const parts = whole.replace(/\B(?=(\d{3})+(?!\d))/g, "\u202f");
    return rest === undefined ? parts : `${parts}.${rest}`;
  }

  function count(number) {
    return grouped(String(Math.round(number)));
  }

  /** Return a time as text, as exact as a part of the run `width` seconds wide asks for. */
  function seconds(at, width) {
    const digits = Math.min(9, Math.max(1, Math.ceil(3 - Math.log10(Math.max(width, 1e-9)))));
    return `${grouped(at.toFixed(digits))}\u202fs`;
  }

  /** Return a duration with three digits and the unit that fits. */
  function duration(value) {
    for (const [unit, size] of [["s", 1], ["ms", 1e-3], ["µs", 1e-6]]) {
      if (value >= size) {
        const shown = value / size;
        return `${shown >= 1000 ? grouped(shown.toFixed(0)) : shown.toPrecision(3)}\u202f${unit}`;
      }
    }
    return value === 0 ? "0\u202fs" : `${value.toExponential(2)}\u202fs`;
  }

  /** Return foreign text in one short line, with nothing in it that could turn it around. */
  function short(text, most = TEXT_MAX) {
    const plain = String(text).replace(/[\p{C}\u2028\u2029]/gu, "\u00b7");
    return plain.length > most ? `${plain.slice(0, most - 1)}\u2026` : plain;
  }

  Object.assign(Replay, {
    JOB_STATES, KNOWN_STATES, WHAT_COLOURS, Surface, colours, count, draggable, duration,
    jobColour, seconds, short, stateColour, ticks, whatColour,
  });
})((globalThis.Replay ??= {}));
