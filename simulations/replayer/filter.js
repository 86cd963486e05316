/* Which events are looked at: by kind, and of messages by what they are. */
"use strict";

(function (Replay) {
  class Filter {
    constructor(run) {
      this.run = run;
      this.off = new Set();
      this.what = null; // A number of `run.whats`; `null`: all.
      this.version = 0;
      this._places = [];
      run.whatOrder.forEach((number, place) => { this._places[number] = place; });
    }

    toggle(kind) {
      if (!this.off.delete(kind)) this.off.add(kind);
      this.version += 1;
    }

    choose(what) {
      this.what = what;
      this.version += 1;
    }

    hasKind(kind) {
      return !this.off.has(this.run.log.counts.has(kind) ? kind : "other");
    }

    hasMessage(i) {
      if (this.off.has("message")) return false;
      return this.what === null || this.run.messages.what[i] === this.what;
    }

    has(event) {
      if (!this.hasKind(event.kind)) return false;
      if (event.kind !== "message" || this.what === null) return true;
      return event.what === this.run.whats[this.what].name;
    }

    /** Return the place of a sort of messages among the most frequent, which is its colour. */
    placeOf(what) {
      return this._places[what];
    }
  }

  /** Return the number of the next event after (or before) one that passes, or -1. */
  function nextEvent(run, filter, from, by) {
    for (let i = from + by; i >= 0 && i < run.log.events.length; i += by) {
      if (filter.has(run.log.events[i])) return i;
    }
    return -1;
  }

  /** Return the times at which something went wrong: faults begin, invariants break. */
  function troubles(run) {
    const times = [
      ...run.faults.map((fault) => fault.from),
      ...run.checks.map((number) => run.log.events[number].at_s),
    ];
    return [...new Set(times)].sort((one, other) => one - other);
  }

  Object.assign(Replay, { Filter, nextEvent, troubles });
})((globalThis.Replay ??= {}));
