/* Time of a replay: where it is, how fast it goes, and which part of the run is looked at. */
"use strict";

(function (Replay) {
  const SPEEDS = [];
  for (let power = -4; power <= 4; power += 1) {
    for (const digit of [1, 2, 5]) SPEEDS.push(Number(`${digit}e${power}`));
  }
  const WHOLE_RUN_S = 60; // Seconds of the viewer's that a whole run takes, unless told otherwise.
  const ZOOM_MOST = 1e7; // How many times smaller than the run the part looked at may be.

  class Player {
    constructor(from, to) {
      this.from = from;
      this.to = to;
      this.now = from;
      this.isPlaying = false;
      const wanted = (to - from) / WHOLE_RUN_S;
      this._speed = Math.max(0, SPEEDS.findIndex((speed) => speed >= wanted));
      if (SPEEDS.at(-1) < wanted) this._speed = SPEEDS.length - 1;
    }

    /** Virtual seconds in one second of the viewer's. */
    get speed() {
      return SPEEDS[this._speed];
    }

    faster(steps) {
      this._speed = Math.min(SPEEDS.length - 1, Math.max(0, this._speed + steps));
    }

    seek(at) {
      this.now = Math.min(this.to, Math.max(this.from, at));
    }

    toggle() {
      if (!this.isPlaying && this.now >= this.to) this.now = this.from;
      this.isPlaying = !this.isPlaying;
    }

    /** Go on by `elapsedS` of the viewer's seconds; return whether anything moved. */
    tick(elapsedS) {
      if (!this.isPlaying) return false;
      this.seek(this.now + elapsedS * this.speed);
      if (this.now >= this.to) this.isPlaying = false;
      return true;
    }
  }

  /** The part of the run that time diagrams show. */
  class Span {
    constructor(from, to) {
      this.least = from;
      this.most = to;
      this.reset();
    }

    reset() {
      this.from = this.least;
      this.to = this.most;
    }

    get width() {
      return this.to - this.from;
    }

    get isWhole() {
      return this.from <= this.least && this.to >= this.most;
    }

    /** Make the part `factor` times as wide, with `at` staying where it is. */
    zoom(at, factor) {
      const whole = this.most - this.least;
      const width = Math.min(whole, Math.max(whole / ZOOM_MOST, this.width * factor));
      const share = (at - this.from) / this.width;
      this._set(at - share * width, width);
    }

    pan(by) {
      this._set(this.from + by, this.width);
    }

    show(from, to) {
      const whole = this.most - this.least;
      this._set(from, Math.min(whole, Math.max(whole / ZOOM_MOST, to - from)));
    }

    /** Turn the page if `at` is not on it. */
    follow(at) {
      if (at < this.from || at > this.to) this._set(at - this.width * 0.1, this.width);
    }

    _set(from, width) {
      this.from = Math.min(this.most - width, Math.max(this.least, from));
      this.to = this.from + width;
    }
  }

  Object.assign(Replay, { SPEEDS, Player, Span });
})((globalThis.Replay ??= {}));
