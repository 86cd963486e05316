/* What both diagrams over time share: rows down, time across, one part of the run for both.

   The wheel zooms in time at the pointer, with Shift it scrolls the rows; dragging moves both; a
   double click shows everything again. */
"use strict";

(function (Replay) {
  const NAMES_WIDTH = 116;
  const AXIS_HEIGHT = 22;

  class Diagram {
    constructor(canvas, app) {
      this.app = app;
      this.surface = new Replay.Surface(canvas, () => app.dirty());
      this.scroll = 0;
      this.hovered = null;
      Replay.draggable(
        this.surface,
        (dx, dy) => {
          app.span.pan((-dx / this.plotWidth) * app.span.width);
          this.scrollBy(-dy);
          app.dirty();
        },
        (point) => app.select(this.find(point)),
      );
      canvas.addEventListener("wheel", (event) => this._wheel(event), { passive: false });
      canvas.addEventListener("pointermove", (event) => this._hover(event));
      canvas.addEventListener("pointerleave", () => this._hover(null));
      canvas.addEventListener("dblclick", () => {
        app.span.reset();
        this.reset();
        app.dirty();
      });
    }

    reset() {
      this.scroll = 0;
    }

    get plotWidth() {
      return Math.max(1, this.surface.width - NAMES_WIDTH - 8);
    }

    x(at) {
      return NAMES_WIDTH + ((at - this.app.span.from) / this.app.span.width) * this.plotWidth;
    }

    time(x) {
      return this.app.span.from + ((x - NAMES_WIDTH) / this.plotWidth) * this.app.span.width;
    }

    scrollBy(pixels) {
      const most = Math.max(0, this.contentHeight() - (this.surface.height - AXIS_HEIGHT));
      this.scroll = Math.min(most, Math.max(0, this.scroll + pixels));
    }

    _wheel(event) {
      event.preventDefault();
      const { x, y } = this.surface.at(event);
      const by = event.deltaY || event.deltaX;
      if (event.ctrlKey || event.altKey) this.zoomRows(Math.exp(-by * 0.002), y);
      else if (event.shiftKey) this.scrollBy(by);
      else if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
        this.app.span.pan((event.deltaX / this.plotWidth) * this.app.span.width);
      } else this.app.span.zoom(this.time(x), Math.exp(by * 0.0018));
      this.app.dirty();
    }

    zoomRows() {}

    _hover(event) {
      const found = event === null ? null : this.find(this.surface.at(event));
      if (JSON.stringify(this.hoveredKey?.(found) ?? found) === this._hoveredText) return;
      this._hoveredText = JSON.stringify(this.hoveredKey?.(found) ?? found);
      this.hovered = found;
      this.surface.canvas.style.cursor = found === null ? "grab" : "pointer";
      this.app.dirty();
    }

    begin() {
      const context = this.surface.begin();
      this.scrollBy(0);
      return context;
    }

    /** Draw the axis, the faults behind everything, and where time is. */
    drawTime(context) {
      const { palette, span, run } = this.app;
      const bottom = this.surface.height - AXIS_HEIGHT;
      for (const fault of run.faults) {
        if (fault.nodes !== null || fault.to < span.from || fault.from > span.to) continue;
        const [from, to] = [Math.max(NAMES_WIDTH, this.x(fault.from)), this.x(fault.to)];
        context.fillStyle = palette.warn;
        context.globalAlpha = 0.1;
        context.fillRect(from, 0, Math.max(1, to - from), bottom);
        context.globalAlpha = 1;
      }
      context.textAlign = "center";
      context.lineWidth = 1;
      for (const tick of Replay.ticks(span.from, span.to, this.plotWidth)) {
        const x = Math.round(this.x(tick.at)) + 0.5;
        context.strokeStyle = palette.faint;
        context.beginPath();
        context.moveTo(x, 0);
        context.lineTo(x, bottom);
        context.stroke();
        context.fillStyle = palette.soft;
        if (x < this.surface.width - 16) context.fillText(tick.text, x, bottom + 12);
      }
      context.textAlign = "left";
      context.fillText("virtual time, s", 8, bottom + 12);
    }

    drawNow(context) {
      const { palette, player, run } = this.app;
      const bottom = this.surface.height - AXIS_HEIGHT;
      for (const number of run.checks) {
        this._line(context, run.log.events[number].at_s, palette.bad, bottom);
      }
      this._line(context, player.now, palette.accent, bottom);
    }

    _line(context, at, colour, bottom) {
      const x = this.x(at);
      if (x < NAMES_WIDTH || x > this.surface.width) return;
      context.strokeStyle = colour;
      context.lineWidth = 1.5;
      context.beginPath();
      context.moveTo(x, 0);
      context.lineTo(x, bottom);
      context.stroke();
    }

    /** Do something within the plot alone. */
    clipped(context, draw) {
      context.save();
      context.beginPath();
      context.rect(NAMES_WIDTH, 0, this.plotWidth + 8, this.surface.height - AXIS_HEIGHT);
      context.clip();
      draw();
      context.restore();
    }

    drawNote(context, text) {
      const { palette } = this.app;
      context.textAlign = "right";
      context.lineWidth = 4;
      context.strokeStyle = palette.panel;
      context.fillStyle = palette.soft;
      context.strokeText(text, this.surface.width - 12, 14);
      context.fillText(text, this.surface.width - 12, 14);
    }
  }

  Object.assign(Replay, { AXIS_HEIGHT, Diagram, NAMES_WIDTH });
})((globalThis.Replay ??= {}));
