/* The whole run in one strip: how much happened when, faults, broken invariants, and where time is.

   A click or a drag sets the time; the frame is the part that the diagrams show. */
"use strict";

(function (Replay) {
  const EDGE = 14;
  const BAR = 3; // Pixels of a column.
  const FAULTS_HEIGHT = 7;
  const AXIS_HEIGHT = 18;

  class Timeline {
    constructor(canvas, app) {
      this.app = app;
      this.surface = new Replay.Surface(canvas, () => app.dirty());
      let held = false;
      const seek = (event) => {
        const { x } = this.surface.at(event);
        app.seek(this.time(x));
      };
      canvas.addEventListener("pointerdown", (event) => {
        if (event.button !== 0) return;
        held = true;
        canvas.setPointerCapture(event.pointerId);
        seek(event);
      });
      canvas.addEventListener("pointermove", (event) => held && seek(event));
      canvas.addEventListener("pointerup", () => { held = false; });
      canvas.addEventListener("pointercancel", () => { held = false; });
      canvas.addEventListener("wheel", (event) => {
        event.preventDefault();
        app.span.zoom(this.time(this.surface.at(event).x), Math.exp(event.deltaY * 0.0018));
        app.dirty();
      }, { passive: false });
    }

    get _wide() {
      return Math.max(1, this.surface.width - 2 * EDGE);
    }

    x(at) {
      const { from, to } = this.app.run;
      return EDGE + ((at - from) / (to - from)) * this._wide;
    }

    time(x) {
      const { from, to } = this.app.run;
      return from + ((x - EDGE) / this._wide) * (to - from);
    }

    /** Count the events of each column, again only if the filter or the width changed. */
    _columns() {
      const { run, filter } = this.app;
      const count = Math.max(1, Math.floor(this._wide / BAR));
      const key = `${count} ${filter.version}`;
      if (this._key === key) return this._counts;
      this._key = key;
      this._counts = Replay.histogram(run, filter, count);
      return this._counts;
    }

    draw() {
      const context = this.surface.begin();
      if (this.surface.width === 0) return;
      const { run, palette, span, player } = this.app;
      const bottom = this.surface.height - AXIS_HEIGHT;
      const top = FAULTS_HEIGHT + 4;
      const counts = this._columns();
      const most = counts.reduce((one, other) => Math.max(one, other), 1);
      context.fillStyle = palette.soft;
      counts.forEach((count, i) => {
        if (count === 0) return;
        const high = Math.max(1, (Math.sqrt(count) / Math.sqrt(most)) * (bottom - top));
        context.fillRect(EDGE + (i * this._wide) / counts.length, bottom - high, BAR - 1, high);
      });
      this._drawFaults(context, bottom);
      context.textAlign = "center";
      for (const tick of Replay.ticks(run.from, run.to, this._wide, 110)) {
        context.fillStyle = palette.line;
        context.fillRect(Math.round(this.x(tick.at)), bottom, 1, 4);
        context.fillStyle = palette.soft;
        context.fillText(tick.text, this.x(tick.at), bottom + 11);
      }
      if (!span.isWhole) this._drawFrame(context, bottom);
      const x = this.x(player.now);
      context.fillStyle = palette.accent;
      context.fillRect(x - 0.75, 0, 1.5, bottom + 2);
      context.beginPath();
      context.arc(x, 5, 4.5, 0, 2 * Math.PI);
      context.fill();
    }

    _drawFaults(context, bottom) {
      const { run, palette } = this.app;
      context.fillStyle = palette.warn;
      for (const fault of run.faults) {
        const [from, to] = [this.x(fault.from), this.x(fault.to)];
        context.globalAlpha = 0.75;
        context.fillRect(from, 2, Math.max(2, to - from), FAULTS_HEIGHT - 2);
        context.globalAlpha = 0.06;
        context.fillRect(from, FAULTS_HEIGHT, Math.max(2, to - from), bottom - FAULTS_HEIGHT);
      }
      context.globalAlpha = 1;
      context.fillStyle = palette.bad;
      for (const number of run.checks) {
        context.fillRect(this.x(run.log.events[number].at_s) - 1, 0, 2, bottom);
      }
    }

    _drawFrame(context, bottom) {
      const { palette, span } = this.app;
      const [from, to] = [this.x(span.from), this.x(span.to)];
      context.fillStyle = palette.ink;
      context.globalAlpha = 0.08;
      context.fillRect(EDGE, 0, Math.max(0, from - EDGE), bottom);
      context.fillRect(to, 0, Math.max(0, this.surface.width - EDGE - to), bottom);
      context.globalAlpha = 1;
      context.strokeStyle = palette.ink;
      context.lineWidth = 1;
      context.strokeRect(from, 0.5, Math.max(2, to - from), bottom - 1);
    }
  }

  /** Return how many events that pass the filter each of `count` columns has. */
  function histogram(run, filter, count) {
    const counts = new Uint32Array(count);
    const scale = count / (run.to - run.from);
    for (const event of run.log.events) {
      if (!filter.has(event)) continue;
      counts[Math.min(count - 1, Math.max(0, Math.floor((event.at_s - run.from) * scale)))] += 1;
    }
    return counts;
  }

  Object.assign(Replay, { Timeline, histogram });
})((globalThis.Replay ??= {}));
