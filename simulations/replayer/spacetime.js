/* The space-time diagram: a row for each node, a slanted line for each message.

   More messages than can be told apart are drawn as a density, how many were sent or got at which
   row and time, and the diagram says so. */
"use strict";

(function (Replay) {
  const LINES_MAX = 6000;
  const MARKS_MAX = 1500; // More would only cover the lines.
  const ROW_MIN = 0.25;
  const ROW_MAX = 60;
  const ROW_USUAL_MAX = 56;
  const CELL = 2; // Pixels of a cell of the density.
  const NEAR = 6;

  class Spacetime extends Replay.Diagram {
    constructor(canvas, app) {
      super(canvas, app);
      this.rowZoom = 1;
      this.onlyNear = false;
    }

    reset() {
      this.scroll = 0;
      this.rowZoom = 1;
    }

    /** Choose the rows: all nodes, or the chosen one and its neighbours. */
    _choose() {
      const { run, chosenNode } = this.app;
      const key = this.onlyNear && chosenNode >= 0 ? chosenNode : -1;
      if (this._chosen === key) return;
      this._chosen = key;
      this.rows = key < 0
        ? run.nodes.map((_, i) => i)
        : [key, ...run.neighbours(key)];
      this.rowOf = new Map(this.rows.map((node, row) => [node, row]));
      this.scroll = 0;
    }

    get pitch() {
      const room = this.surface.height - Replay.AXIS_HEIGHT - 8;
      const fit = Math.min(ROW_USUAL_MAX, room / Math.max(1, this.rows.length));
      return Math.min(ROW_MAX, Math.max(ROW_MIN, fit * this.rowZoom));
    }

    contentHeight() {
      return this.pitch * this.rows.length + 8;
    }

    zoomRows(factor, y) {
      const row = (y + this.scroll) / this.pitch;
      this.rowZoom = Math.min(400, Math.max(1, this.rowZoom * factor));
      this.scroll = row * this.pitch - y;
      this.scrollBy(0);
    }

    y(row) {
      return 4 + (row + 0.5) * this.pitch - this.scroll;
    }

    draw() {
      this._choose();
      const context = this.begin();
      if (this.surface.width === 0) return;
      this.drawTime(context);
      const bottom = this.surface.height - Replay.AXIS_HEIGHT;
      this.first = Math.max(0, Math.floor((this.scroll - 4) / this.pitch) - 1);
      this.last = Math.min(this.rows.length - 1, Math.ceil((this.scroll + bottom) / this.pitch));
      this.clipped(context, () => {
        this._drawRows(context);
        this._drawMessages(context);
        this._drawMarks(context);
        this.drawNow(context);
      });
      this._drawNames(context);
      if (this.note) this.drawNote(context, this.note);
    }

    _drawRows(context) {
      const { run, palette, span } = this.app;
      const thick = Math.max(1, Math.min(this.pitch * 0.55, 9));
      if (this.pitch >= 6) {
        context.strokeStyle = palette.line;
        context.lineWidth = 1;
        context.beginPath();
        for (let row = this.first; row <= this.last; row += 1) {
          const y = Math.round(this.y(row)) + 0.5;
          context.moveTo(Replay.NAMES_WIDTH, y);
          context.lineTo(this.surface.width, y);
        }
        context.stroke();
      }
      for (let row = this.first; row <= this.last; row += 1) {
        const { at, states } = run.nodes[this.rows[row]].history;
        const begin = Math.max(0, Replay.countUntil(at, span.from) - 1);
        for (let i = begin; i < at.length && at[i] < span.to; i += 1) {
          if (states[i] === "up") continue;
          context.fillStyle = Replay.stateColour(palette, states[i]);
          context.globalAlpha = states[i] === "down" ? 0.45 : 0.3;
          const [from, to] = [this.x(at[i]), this.x(at[i + 1] ?? run.to)];
          context.fillRect(from, this.y(row) - thick / 2, Math.max(1, to - from), thick);
        }
      }
      context.globalAlpha = 1;
      this._drawFaultRows(context);
    }

    /** Underline the rows that a fault is about. */
    _drawFaultRows(context) {
      const { run, palette, span } = this.app;
      context.fillStyle = palette.warn;
      for (const fault of run.faults) {
        if (fault.nodes === null || fault.to < span.from || fault.from > span.to) continue;
        const [from, to] = [this.x(fault.from), this.x(fault.to)];
        for (const node of fault.nodes) {
          const row = this.rowOf.get(node);
          if (row === undefined || row < this.first || row > this.last) continue;
          const y = this.y(row) + Math.min(7, this.pitch * 0.4);
          context.globalAlpha = this.pitch < 3 ? 0.2 : 1;
          context.fillRect(from, y - 1, Math.max(2, to - from), this.pitch < 6 ? 1 : 2);
        }
      }
      context.globalAlpha = 1;
    }

    _drawMessages(context) {
      const { run, span, filter } = this.app;
      const { messages } = run;
      const inView = [];
      let count = 0;
      messages.between(span.from, span.to, (i) => {
        if (!filter.hasMessage(i)) return;
        const source = this.rowOf.get(messages.source[i]);
        const target = this.rowOf.get(messages.target[i]);
        if (source === undefined || target === undefined) return;
        if (Math.max(source, target) < this.first || Math.min(source, target) > this.last) return;
        count += 1;
        inView.push(i);
      });
      this.lines = inView;
      if (count > LINES_MAX) {
        this._drawDensity(context, inView);
        this.note = `${Replay.count(count)} messages: density; zoom in to see each`;
      } else {
        this._drawLines(context, inView);
        this.note = count === 1 ? "1 message" : `${Replay.count(count)} messages`;
      }
    }

    _drawLines(context, numbers) {
      const { run, palette, filter, selection } = this.app;
      const { messages } = run;
      const paths = new Map();
      const lost = new Path2D();
      for (const i of numbers) {
        const [x1, y1, x2, y2] = this._ends(i);
        const place = Math.min(filter.placeOf(messages.what[i]), Replay.WHAT_COLOURS - 1);
        if (!paths.has(place)) paths.set(place, new Path2D());
        const path = messages.lost[i] ? lost : paths.get(place);
        path.moveTo(x1, y1);
        path.lineTo(x2, y2);
        if (messages.lost[i]) {
          for (const side of [-1, 1]) {
            path.moveTo(x2 - 3, y2 - 3 * side);
            path.lineTo(x2 + 3, y2 + 3 * side);
          }
        }
      }
      context.globalAlpha = numbers.length > 1500 ? 0.45 : 0.85;
      context.lineWidth = numbers.length > 1500 ? 0.75 : 1.1;
      for (const [place, path] of paths) {
        context.strokeStyle = Replay.whatColour(palette, place);
        context.stroke(path);
      }
      context.globalAlpha = 1;
      context.strokeStyle = palette.bad;
      context.stroke(lost);
      for (const each of [selection, this.hovered]) {
        if (each?.type !== "message") continue;
        this._drawChosen(context, each.index);
      }
    }

    _drawChosen(context, i) {
      const { messages } = this.app.run;
      if (!this.rowOf.has(messages.source[i]) || !this.rowOf.has(messages.target[i])) return;
      const [x1, y1, x2, y2] = this._ends(i);
      context.strokeStyle = this.app.palette.ink;
      context.fillStyle = this.app.palette.ink;
      context.lineWidth = 2;
      context.beginPath();
      context.moveTo(x1, y1);
      context.lineTo(x2, y2);
      context.stroke();
      context.beginPath();
      context.arc(x1, y1, 2.5, 0, 2 * Math.PI);
      context.fill();
    }

    /** Return where a message's line begins and ends; a lost one ends half way. */
    _ends(i) {
      const { messages } = this.app.run;
      const from = this.y(this.rowOf.get(messages.source[i]));
      const to = this.y(this.rowOf.get(messages.target[i]));
      const share = messages.lost[i] ? 0.5 : 1;
      const [x1, x2] = [this.x(messages.sent[i]), this.x(messages.until[i])];
      return [x1, from, x1 + (x2 - x1) * share, from + (to - from) * share];
    }

    _drawDensity(context, numbers) {
      const { run, palette } = this.app;
      const { messages } = run;
      const across = Math.ceil(this.plotWidth / CELL);
      const down = Math.ceil(this.surface.height / CELL);
      const cells = new Uint32Array(across * down);
      const lost = new Uint32Array(across * down);
      let most = 1;
      const add = (node, at, isLost) => {
        const x = Math.floor((this.x(at) - Replay.NAMES_WIDTH) / CELL);
        const y = Math.floor(this.y(this.rowOf.get(node)) / CELL);
        if (x < 0 || y < 0 || x >= across || y >= down) return;
        const cell = y * across + x;
        cells[cell] += 1;
        if (isLost) lost[cell] += 1;
        most = Math.max(most, cells[cell]);
      };
      for (const i of numbers) {
        add(messages.source[i], messages.sent[i], messages.lost[i]);
        if (!messages.lost[i]) add(messages.target[i], messages.until[i], false);
      }
      const high = Math.max(CELL, Math.min(this.pitch * 0.7, 10));
      cells.forEach((count, cell) => {
        if (count === 0) return;
        context.globalAlpha = 0.15 + 0.85 * (Math.log(1 + count) / Math.log(1 + most));
        context.fillStyle = lost[cell] * 2 >= count ? palette.bad : palette.accent;
        const x = Replay.NAMES_WIDTH + (cell % across) * CELL;
        context.fillRect(x, Math.floor(cell / across) * CELL - high / 2, CELL, high);
      });
      context.globalAlpha = 1;
    }

    /** Draw what is of one node and no message: ticks on its row. */
    _drawMarks(context) {
      const { run, palette, span, filter } = this.app;
      const { at, node, event } = run.marks;
      const [begin, end] = [Replay.countUntil(at, span.from), Replay.countUntil(at, span.to)];
      this.marksShown = end - begin <= MARKS_MAX && this.pitch >= 4;
      if (!this.marksShown) return;
      const half = Math.min(5, this.pitch * 0.35);
      const plain = new Path2D();
      for (let i = begin; i < end; i += 1) {
        const row = this.rowOf.get(node[i]);
        if (row === undefined || row < this.first || row > this.last) continue;
        const { kind } = run.log.events[event[i]];
        if (!filter.hasKind(kind)) continue;
        const [x, y] = [this.x(at[i]), this.y(row)];
        if (kind === "check") {
          context.strokeStyle = palette.bad;
          Replay.cross(context, x, y, 5);
        } else if (kind === "record") {
          plain.moveTo(x + 2, y);
          plain.arc(x, y, 2, 0, 2 * Math.PI);
        } else {
          plain.moveTo(x, y - half);
          plain.lineTo(x, y + half);
        }
      }
      context.strokeStyle = palette.soft;
      context.lineWidth = 1;
      context.stroke(plain);
    }

    _drawNames(context) {
      const { run, palette, player, chosenNode } = this.app;
      const each = Math.max(1, Math.ceil(14 / this.pitch));
      context.textAlign = "right";
      for (let row = this.first; row <= this.last; row += 1) {
        const node = this.rows[row];
        const y = this.y(row);
        if (row % each !== 0 && node !== chosenNode) continue;
        if (y < 7 || y > this.surface.height - 28) continue;
        context.fillStyle = node === chosenNode ? palette.accent : palette.soft;
        context.fillText(Replay.short(run.nodes[node].name, 15), Replay.NAMES_WIDTH - 16, y);
        if (this.pitch < 5) continue;
        const state = run.stateOf(node, player.now);
        context.fillStyle = Replay.stateColour(palette, state);
        context.fillRect(Replay.NAMES_WIDTH - 11, y - 3, 6, 6);
      }
    }

    find(point) {
      const bottom = this.surface.height - Replay.AXIS_HEIGHT;
      if (this.rows === undefined || point.y > bottom) return null;
      const row = Math.round((point.y - 4 + this.scroll) / this.pitch - 0.5);
      const node = this.rows[Math.min(this.rows.length - 1, Math.max(0, row))];
      if (point.x < Replay.NAMES_WIDTH) {
        return node === undefined ? null : { type: "node", index: node };
      }
      return this._markAt(point) ?? this._messageAt(point);
    }

    _messageAt(point) {
      if (this.lines.length > LINES_MAX) return null;
      let best = null;
      let least = NEAR;
      for (const i of this.lines) {
        const far = distance(point, this._ends(i));
        if (far < least) {
          least = far;
          best = { type: "message", index: i };
        }
      }
      return best;
    }

    _markAt(point) {
      if (!this.marksShown) return null;
      const { run, filter } = this.app;
      const { at, node, event } = run.marks;
      const end = Replay.countUntil(at, this.time(point.x + 4));
      for (let i = Replay.countUntil(at, this.time(point.x - 4)); i < end; i += 1) {
        const row = this.rowOf.get(node[i]);
        if (row === undefined || Math.abs(this.y(row) - point.y) > 5) continue;
        const { kind } = run.log.events[event[i]];
        if (filter.hasKind(kind)) return { type: "event", index: event[i] };
      }
      return null;
    }
  }

  /** Return how far a point is from a line between two others. */
  function distance(point, [x1, y1, x2, y2]) {
    const [dx, dy] = [x2 - x1, y2 - y1];
    const length = dx * dx + dy * dy;
    const share = length === 0 ? 0 : ((point.x - x1) * dx + (point.y - y1) * dy) / length;
    const on = Math.min(1, Math.max(0, share));
    return Math.hypot(point.x - x1 - on * dx, point.y - y1 - on * dy);
  }

  Object.assign(Replay, { Spacetime });
})((globalThis.Replay ??= {}));
