/* Jobs over time: for each node a staircase of how many wait, below it a lane for each worker.

   A bar is one attempt on a worker, coloured by how it ended; a pale one was leased and had not
   begun. */
"use strict";

(function (Replay) {
  const ROW = 18;
  const ROW_MIN = 2;
  const BARS_MAX = 20000;

  class Jobs extends Replay.Diagram {
    constructor(canvas, app) {
      super(canvas, app);
      this.rowZoom = 1;
    }

    reset() {
      this.scroll = 0;
      this.rowZoom = 1;
    }

    get pitch() {
      return Math.min(60, Math.max(ROW_MIN, ROW * this.rowZoom));
    }

    zoomRows(factor, y) {
      const row = (y + this.scroll) / this.pitch;
      this.rowZoom *= factor;
      this.rowZoom = this.pitch / ROW;
      this.scroll = row * this.pitch - y;
    }

    contentHeight() {
      return this.app.run.rows.length * this.pitch + 8;
    }

    top(row) {
      return 4 + row * this.pitch - this.scroll;
    }

    draw() {
      const context = this.begin();
      const { rows } = this.app.run;
      if (this.surface.width === 0) return;
      if (rows.length === 0) {
        this.drawNote(context, "This run has no jobs.");
        return;
      }
      this.drawTime(context);
      const bottom = this.surface.height - Replay.AXIS_HEIGHT;
      this.first = Math.max(0, Math.floor((this.scroll - 4) / this.pitch));
      this.last = Math.min(rows.length - 1, Math.floor((this.scroll - 4 + bottom) / this.pitch));
      this.bars = 0;
      this.clipped(context, () => {
        for (let row = this.first; row <= this.last; row += 1) {
          if (rows[row].worker === null) this._drawWaiting(context, row);
          else this._drawLane(context, row);
        }
        this.drawNow(context);
      });
      this._drawNames(context);
      if (this.bars >= BARS_MAX) this.drawNote(context, "Not all bars are drawn: zoom in.");
    }

    _drawWaiting(context, row) {
      const { palette, span, run } = this.app;
      const { at, count, most } = run.rows[row];
      const base = this.top(row) + this.pitch - 1;
      const high = (waiting) => base - (waiting / Math.max(1, most)) * (this.pitch - 4);
      context.beginPath();
      context.moveTo(this.x(span.from), base);
      for (let i = Math.max(0, Replay.countUntil(at, span.from) - 1);
        i < at.length && at[i] <= span.to; i += 1) {
        const x = this.x(at[i]);
        context.lineTo(x, i === 0 ? base : high(count[i - 1]));
        context.lineTo(x, high(count[i]));
      }
      const until = Replay.countUntil(at, span.to);
      context.lineTo(this.x(span.to), high(until === 0 ? 0 : count[until - 1]));
      context.lineTo(this.x(span.to), base);
      context.closePath();
      context.fillStyle = palette.jobs.queued;
      context.globalAlpha = 0.55;
      context.fill();
      context.globalAlpha = 1;
    }

    _drawLane(context, row) {
      const { palette, span, run, selection } = this.app;
      const lane = run.rows[row];
      const top = this.top(row);
      const high = Math.max(1, (this.pitch - (this.pitch > 6 ? 4 : 1)) / lane.places);
      if (this.pitch > 8) {
        context.fillStyle = palette.faint;
        context.fillRect(Replay.NAMES_WIDTH, top + this.pitch - 1, this.plotWidth + 8, 1);
      }
      let lastX = -Infinity;
      for (let i = Replay.countUntil(lane.starts, span.from - lane.longest);
        i < lane.spans.length && lane.starts[i] <= span.to; i += 1) {
        const bar = lane.spans[i];
        const [from, to] = [this.x(bar.from), this.x(bar.to)];
        const isCovered = to < lastX && lane.places === 1;
        if (bar.to < span.from || isCovered || this.bars >= BARS_MAX) continue;
        this.bars += 1;
        const wide = Math.max(1, to - from - (to - from > 4 ? 1 : 0));
        context.fillStyle = Replay.jobColour(palette, bar);
        context.globalAlpha = bar.state === "leased" ? 0.4 : 0.9;
        context.fillRect(from, top + 2 + bar.place * high, wide, Math.max(1, high - 1));
        lastX = from + wide;
        if (selection?.type === "job" && selection.index === bar.job.name) {
          context.globalAlpha = 1;
          context.strokeStyle = palette.ink;
          context.lineWidth = 1.5;
          context.strokeRect(from, top + 2 + bar.place * high, wide, Math.max(1, high - 1));
        }
      }
      context.globalAlpha = 1;
    }

    _drawNames(context) {
      const { palette, run, chosenNode } = this.app;
      const each = Math.max(1, Math.ceil(13 / this.pitch));
      context.textAlign = "right";
      for (let row = this.first; row <= this.last; row += 1) {
        const { node, worker, most } = run.rows[row];
        const y = this.top(row) + this.pitch / 2;
        if (row % each !== 0 || y > this.surface.height - 26) continue;
        const name = node < 0 ? "?" : run.nodes[node].name;
        context.fillStyle = worker === null ? palette.ink : palette.soft;
        if (node === chosenNode) context.fillStyle = palette.accent;
        const text = worker === null ? `${Replay.short(name, 9)} queue, max ${most}` : worker;
        context.fillText(Replay.short(text, 22), Replay.NAMES_WIDTH - 8, y);
      }
    }

    hoveredKey(found) {
      return found;
    }

    find(point) {
      const { run } = this.app;
      const row = Math.floor((point.y - 4 + this.scroll) / this.pitch);
      const lane = run.rows[row];
      if (lane === undefined || point.y > this.surface.height - Replay.AXIS_HEIGHT) return null;
      if (point.x < Replay.NAMES_WIDTH || lane.worker === null) {
        return lane.node < 0 ? null : { type: "node", index: lane.node };
      }
      const at = this.time(point.x);
      const slack = this.time(point.x + 2) - at;
      const high = (this.pitch - 4) / lane.places;
      const place = Math.floor((point.y - this.top(row) - 2) / Math.max(1, high));
      let found = null;
      for (let i = Replay.countUntil(lane.starts, at - lane.longest - slack);
        i < lane.spans.length && lane.starts[i] <= at + slack; i += 1) {
        const bar = lane.spans[i];
        if (bar.to < at - slack) continue;
        if (found === null || bar.place === place) found = bar;
      }
      return found === null ? null : { type: "job", index: found.job.name };
    }
  }

  Object.assign(Replay, { Jobs });
})((globalThis.Replay ??= {}));
