/* Events of a run: lines of JSON out of `events.jsonl`, none of them trusted.

   A line that is no event is counted, and the first few are kept to be shown.  A kind that nobody
   knows is no fault: it is listed under its own name.  What an event says is only ever text. */
"use strict";

(function (Replay) {
  const KINDS = [
    "node", "link", "message", "record", "job", "request", "client", "fault", "check",
  ];
  const EVENTS_MAX = 500000; // Some 200 bytes each in memory: guess of what a page may take.
  const LINE_LENGTH_MAX = 65536;
  const BROKEN_KEPT_MAX = 20;
  const OTHER_KINDS_MAX = 24;

  /** Say why a value is no event, or return "". */
  function fault(value) {
    if (value === null || typeof value !== "object" || Array.isArray(value)) {
      return "not an object";
    }
    if (typeof value.at_s !== "number" || !Number.isFinite(value.at_s)) return "no time `at_s`";
    if (typeof value.kind !== "string" || value.kind === "") return "no `kind`";
    return "";
  }

  /** The events of a file that comes in pieces, in order of time once `end` was called. */
  class Log {
    constructor(eventsMax = EVENTS_MAX) {
      this.events = [];
      this.counts = new Map(KINDS.map((kind) => [kind, 0]));
      this.broken = 0;
      this.firstBroken = []; // {line, why, text}
      this.left = 0; // Events over the limit.
      this._eventsMax = eventsMax;
      this._line = 0;
      this._rest = "";
      this._inOrder = true;
    }

    add(piece) {
      let begin = 0;
      for (let end = piece.indexOf("\n"); end >= 0; end = piece.indexOf("\n", begin)) {
        this._take(this._rest + piece.slice(begin, end));
        this._rest = "";
        begin = end + 1;
      }
      // A line that never ends must not fill the memory; it is too long already.
      this._rest = (this._rest + piece.slice(begin)).slice(0, LINE_LENGTH_MAX + 1);
    }

    end() {
      if (this._rest !== "") this._take(this._rest);
      this._rest = "";
      if (!this._inOrder) this.events.sort((one, other) => one.at_s - other.at_s);
      return this;
    }

    _take(line) {
      this._line += 1;
      if (line.length > LINE_LENGTH_MAX) return this._breaks(line, "too long");
      if (line.trim() === "") return undefined;
      let event;
      try {
        event = JSON.parse(line);
      } catch {
        return this._breaks(line, "not JSON");
      }
      const why = fault(event);
      if (why) return this._breaks(line, why);
      if (this.events.length >= this._eventsMax) {
        this.left += 1;
        return undefined;
      }
      const last = this.events.at(-1);
      if (last !== undefined && last.at_s > event.at_s) this._inOrder = false;
      this.events.push(event);
      const kind = this._known(event.kind);
      this.counts.set(kind, (this.counts.get(kind) ?? 0) + 1);
      return undefined;
    }

    _known(kind) {
      const room = this.counts.size < KINDS.length + OTHER_KINDS_MAX;
      return this.counts.has(kind) || room ? kind : "other";
    }

    _breaks(line, why) {
      this.broken += 1;
      if (this.firstBroken.length < BROKEN_KEPT_MAX) {
        this.firstBroken.push({ line: this._line, why, text: line.slice(0, 200) });
      }
    }
  }

  Object.assign(Replay, { KINDS, EVENTS_MAX, LINE_LENGTH_MAX, Log });
})((globalThis.Replay ??= {}));
