/* The map: nodes coloured by state, links, messages on their way, faults.

   A message is a dot that moves along its link.  Where time runs so fast that a flight is shorter
   than a picture, links that carried something just now are lit; where more are under way than eyes
   can tell apart, links are drawn as thick as what is on them. */
"use strict";

(function (Replay) {
  const DOTS_MAX = 2500;
  const LOOKED_AT_MAX = 50000; // Messages counted for what is lit, per picture.
  const GLOW_S = 0.25; // Of the viewer's seconds.
  const NAMES_ROOM = 46; // Pixels between nodes from which on names fit.
  const MANY_LINKS = 1500; // From so many on each is drawn fainter.
  const MARGIN = 34;
  const ZOOM_MAX = 60;

  class Topology {
    constructor(canvas, app) {
      this.app = app;
      this.surface = new Replay.Surface(canvas, () => app.dirty());
      this.place = Replay.layout(app.run.nodes, app.run.links);
      this.hovered = null;
      this.reset();
      Replay.draggable(
        this.surface,
        (dx, dy) => {
          this.offset.x += dx;
          this.offset.y += dy;
          app.dirty();
        },
        (point) => app.select(this._find(point)),
      );
      canvas.addEventListener("wheel", (event) => this._wheel(event), { passive: false });
      canvas.addEventListener("pointermove", (event) => this._hover(event));
      canvas.addEventListener("pointerleave", () => this._hover(null));
      canvas.addEventListener("dblclick", () => this.reset());
    }

    reset() {
      this.zoom = 1;
      this.offset = { x: 0, y: 0 };
      this.app.dirty();
    }

    _wheel(event) {
      event.preventDefault();
      const { x, y } = this.surface.at(event);
      const before = this.zoom;
      const factor = Math.exp(-event.deltaY * 0.0015);
      this.zoom = Math.min(ZOOM_MAX, Math.max(0.5, before * factor));
      const turn = this.zoom / before;
      const middle = { x: this.surface.width / 2, y: this.surface.height / 2 };
      this.offset.x = (this.offset.x + middle.x - x) * turn + x - middle.x;
      this.offset.y = (this.offset.y + middle.y - y) * turn + y - middle.y;
      this.app.dirty();
    }

    _hover(event) {
      const found = event === null ? null : this._find(this.surface.at(event));
      const key = JSON.stringify(found);
      if (key === JSON.stringify(this.hovered)) return;
      this.hovered = found;
      this.surface.canvas.style.cursor = found === null ? "grab" : "pointer";
      this.app.dirty();
    }

    /** Return what is at a point: a message on its way, a node, or nothing. */
    _find(point) {
      let best = null;
      let least = 9 ** 2;
      for (const dot of this.dots ?? []) {
        const far = (dot.x - point.x) ** 2 + (dot.y - point.y) ** 2;
        if (far < least) {
          least = far;
          best = { type: "message", index: dot.message };
        }
      }
      least = Math.min(least, (this.radius + 6) ** 2);
      for (let i = 0; i < this.x.length; i += 1) {
        const far = (this.x[i] - point.x) ** 2 + (this.y[i] - point.y) ** 2;
        if (far < least) {
          least = far;
          best = { type: "node", index: i };
        }
      }
      return best;
    }

    /** Turn places into pixels. */
    _project() {
      const { x, y } = this.place;
      const { width, height } = this.surface;
      const box = { left: Infinity, right: -Infinity, top: Infinity, bottom: -Infinity };
      for (let i = 0; i < x.length; i += 1) {
        box.left = Math.min(box.left, x[i]);
        box.right = Math.max(box.right, x[i]);
        box.top = Math.min(box.top, y[i]);
        box.bottom = Math.max(box.bottom, y[i]);
      }
      const wide = Math.max(1e-9, box.right - box.left);
      const high = Math.max(1e-9, box.bottom - box.top);
      const scale = this.zoom *
        Math.max(0, Math.min((width - 2 * MARGIN) / wide, (height - 2 * MARGIN) / high));
      const middle = { x: (box.left + box.right) / 2, y: (box.top + box.bottom) / 2 };
      this.x = x.map((each) => width / 2 + this.offset.x + (each - middle.x) * scale);
      this.y = y.map((each) => height / 2 + this.offset.y + (each - middle.y) * scale);
      const area = Math.min(wide * high, 1.6 * Math.max(wide, high) ** 2) || 1;
      this.spacing = Math.sqrt((area * scale * scale) / Math.max(1, x.length)) || width / 4;
      this.radius = Math.min(9, Math.max(2, this.spacing * 0.14));
      this.gap = Math.min(3, this.radius * 0.4); // Between a node and the rings around it.
    }

    draw() {
      const context = this.surface.begin();
      if (this.surface.width === 0) return;
      this._project();
      this._gather();
      this._drawLinks(context);
      this._drawDots(context);
      this._drawNodes(context);
      this._drawFaults(context);
    }

    /** Find the messages under way now, and the links that carried something just now. */
    _gather() {
      const { run, player, filter, palette } = this.app;
      const { messages } = run;
      const now = player.now;
      const since = player.isPlaying ? now - player.speed * GLOW_S : now;
      this.dots = [];
      this.lit = new Map();
      let underWay = 0;
      let looked = 0;
      messages.between(since, now, (i) => {
        if (!filter.hasMessage(i)) return;
        const flying = messages.until[i] > now;
        if (flying) underWay += 1;
        looked += 1;
        if (looked > LOOKED_AT_MAX) return;
        const link = run.linkOf(messages.source[i], messages.target[i]);
        if (link >= 0) this.lit.set(link, (this.lit.get(link) ?? 0) + 1);
        if (flying && this.dots.length <= DOTS_MAX) this.dots.push(this._dot(i, now, palette));
      });
      this.underWay = underWay;
      if (underWay > DOTS_MAX) this.dots = [];
    }

    _dot(i, now, palette) {
      const { messages } = this.app.run;
      const { sent, until, source, target, what, lost } = messages;
      const whole = until[i] - sent[i];
      const share = Math.min(1, whole > 0 ? (now - sent[i]) / whole : 1) * (lost[i] ? 0.5 : 1);
      const [a, b] = [source[i], target[i]];
      return {
        message: i,
        x: this.x[a] + (this.x[b] - this.x[a]) * share,
        y: this.y[a] + (this.y[b] - this.y[a]) * share,
        lost: lost[i],
        colour: lost[i]
          ? palette.bad
          : Replay.whatColour(palette, this.app.filter.placeOf(what[i])),
      };
    }

    _drawLinks(context) {
      const { run, palette, player, chosenNode } = this.app;
      const down = new Path2D();
      const calm = new Path2D();
      const chosen = new Path2D();
      run.links.forEach((link, number) => {
        const path = link.history.when(player.now) === "down"
          ? down
          : chosenNode >= 0 && (link.one === chosenNode || link.other === chosenNode)
            ? chosen : calm;
        if (this.lit.has(number) && path === calm) return;
        path.moveTo(this.x[link.one], this.y[link.one]);
        path.lineTo(this.x[link.other], this.y[link.other]);
      });
      const many = run.links.length > MANY_LINKS;
      context.lineWidth = many ? 0.5 : 1;
      context.globalAlpha = many ? 0.6 : 1;
      context.strokeStyle = palette.link;
      context.stroke(calm);
      context.globalAlpha = 1;
      this._drawLit(context);
      context.strokeStyle = palette.accent;
      context.lineWidth = 1.5;
      context.stroke(chosen);
      context.strokeStyle = palette.bad;
      context.lineWidth = 1;
      context.setLineDash([3, 4]);
      context.stroke(down);
      context.setLineDash([]);
    }

    _drawLit(context) {
      const { run, palette } = this.app;
      const crowded = this.underWay > DOTS_MAX;
      const least = run.links.length > MANY_LINKS && !crowded ? 0.12 : 0.35;
      context.strokeStyle = palette.accent;
      for (const [number, count] of this.lit) {
        const { one, other } = run.links[number];
        context.globalAlpha = Math.min(0.9, least + 0.1 * count);
        context.lineWidth = crowded ? Math.min(5, 0.5 + Math.log2(1 + count)) : 1;
        context.beginPath();
        context.moveTo(this.x[one], this.y[one]);
        context.lineTo(this.x[other], this.y[other]);
        context.stroke();
      }
      context.globalAlpha = 1;
    }

    _drawDots(context) {
      const { palette, selection } = this.app;
      const size = this.dots.length > 400 ? 1.8 : 2.8;
      for (const dot of this.dots) {
        context.fillStyle = dot.colour;
        context.strokeStyle = dot.colour;
        if (dot.lost) {
          cross(context, dot.x, dot.y, size + 1);
        } else {
          context.beginPath();
          context.arc(dot.x, dot.y, size, 0, 2 * Math.PI);
          context.fill();
        }
        if (selection?.type === "message" && selection.index === dot.message) {
          ring(context, dot.x, dot.y, size + 4, palette.ink);
        }
      }
    }

    _drawNodes(context) {
      const { run, palette, player } = this.app;
      const many = run.nodes.length > 250;
      run.nodes.forEach((_, i) => {
        if (outside(this.surface, this.x[i], this.y[i])) return;
        const state = run.stateOf(i, player.now);
        const colour = Replay.stateColour(palette, state);
        context.beginPath();
        context.arc(this.x[i], this.y[i], this.radius, 0, 2 * Math.PI);
        context.fillStyle = state === "down" ? palette.panel : colour;
        context.fill();
        if (!many || state === "down") {
          context.strokeStyle = state === "down" ? colour : palette.panel;
          context.lineWidth = state === "down" ? 1.5 : 1;
          context.stroke();
        }
        if (state === "isolated" && !many) {
          context.setLineDash([2, 2]);
          ring(context, this.x[i], this.y[i], this.radius + this.gap, colour);
          context.setLineDash([]);
        }
      });
      this._drawNames(context);
    }

    _drawNames(context) {
      const { palette, chosenNode, run } = this.app;
      const special = new Set([chosenNode]);
      if (this.hovered?.type === "node") special.add(this.hovered.index);
      if (chosenNode >= 0) {
        const [x, y] = [this.x[chosenNode], this.y[chosenNode]];
        ring(context, x, y, this.radius + this.gap, palette.accent);
      }
      context.textAlign = "center";
      run.nodes.forEach((node, i) => {
        const isSpecial = special.has(i);
        if (!isSpecial && this.spacing < NAMES_ROOM) return;
        if (outside(this.surface, this.x[i], this.y[i])) return;
        context.lineWidth = 3;
        context.strokeStyle = palette.panel;
        context.fillStyle = isSpecial ? palette.ink : palette.soft;
        const text = Replay.short(node.name, 24);
        const y = this.y[i] + this.radius + 2 * this.gap + 9;
        context.strokeText(text, this.x[i], y);
        context.fillText(text, this.x[i], y);
      });
    }

    /** Mark the nodes of each fault, and say what it is. */
    _drawFaults(context) {
      const { run, palette, player } = this.app;
      const lines = run.faultsAt(player.now).map((fault) => {
        for (const node of fault.nodes ?? []) {
          ring(context, this.x[node], this.y[node], this.radius + 2 * this.gap, palette.warn);
        }
        const names = fault.nodes === null
          ? "all nodes"
          : fault.nodes.length > 4
            ? `${fault.nodes.length} nodes`
            : fault.nodes.map((node) => Replay.short(run.nodes[node].name, 20)).join(", ");
        const ends = Replay.seconds(fault.to, run.to - run.from);
        return `${Replay.short(fault.what, 30)}: ${names}, until ${ends}`;
      });
      if (this.underWay > DOTS_MAX) {
        lines.push(`${Replay.count(this.underWay)} messages under way: thicker links carry more`);
      }
      context.textAlign = "left";
      if (lines.length > 6) lines.splice(5, Infinity, `and ${lines.length - 5} more`);
      lines.forEach((line, i) => {
        context.lineWidth = 3;
        context.strokeStyle = palette.panel;
        context.fillStyle = palette.ink;
        context.strokeText(line, 12, 16 + i * 16);
        context.fillText(line, 12, 16 + i * 16);
      });
    }
  }

  function outside(surface, x, y) {
    return x < -20 || y < -20 || x > surface.width + 20 || y > surface.height + 20;
  }

  function ring(context, x, y, radius, colour) {
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.strokeStyle = colour;
    context.lineWidth = Math.min(1.5, radius / 3);
    context.stroke();
  }

  function cross(context, x, y, size) {
    context.lineWidth = 1.5;
    context.beginPath();
    context.moveTo(x - size, y - size);
    context.lineTo(x + size, y + size);
    context.moveTo(x + size, y - size);
    context.lineTo(x - size, y + size);
    context.stroke();
  }

  Object.assign(Replay, { Topology, cross });
})((globalThis.Replay ??= {}));
