/* Where nodes are drawn: where the run says, or where springs put them.

   Springs: Fruchterman and Reingold, "Graph Drawing by Force-directed Placement" (1991), from a
   spiral as a start, so that a graph looks the same each time.  Above `SPRINGS_MAX` nodes a circle:
   springs cost the square of the nodes. */
"use strict";

(function (Replay) {
  const SPRINGS_MAX = 1500;
  const PAIRS_MAX = 60e6; // Pairs looked at in all: about a second.
  const ROUNDS_MAX = 300;
  const TURN = Math.PI * (3 - Math.sqrt(5));

  /** Return `{x, y}`, arrays with a place for each node, y downward. */
  function layout(nodes, links) {
    if (nodes.length > 0 && nodes.every((node) => !Number.isNaN(node.x))) {
      return { x: nodes.map((node) => node.x), y: nodes.map((node) => -node.y) };
    }
    return nodes.length > SPRINGS_MAX || links.length === 0
      ? circle(nodes.length)
      : springs(nodes.length, links);
  }

  function circle(count) {
    const angle = (i) => (2 * Math.PI * i) / Math.max(1, count) - Math.PI / 2;
    const all = Array.from({ length: count }, (_, i) => i);
    return { x: all.map((i) => Math.cos(angle(i))), y: all.map((i) => Math.sin(angle(i))) };
  }

  function springs(count, links) {
    const x = new Float64Array(count);
    const y = new Float64Array(count);
    for (let i = 0; i < count; i += 1) {
      x[i] = Math.sqrt(i + 0.5) * Math.cos(i * TURN);
      y[i] = Math.sqrt(i + 0.5) * Math.sin(i * TURN);
    }
    const rounds = Math.min(ROUNDS_MAX, Math.max(20, Math.floor(PAIRS_MAX / (count * count))));
    const side = Math.sqrt(count);
    for (let round = 0; round < rounds; round += 1) {
      pull(x, y, links, side * 0.2 * (1 - round / rounds) + 0.01);
    }
    return { x: Array.from(x), y: Array.from(y) };
  }

  function pull(x, y, links, farthest) {
    const count = x.length;
    const dx = new Float64Array(count);
    const dy = new Float64Array(count);
    for (let i = 0; i < count; i += 1) {
      for (let j = i + 1; j < count; j += 1) {
        const ax = x[i] - x[j];
        const ay = y[i] - y[j];
        const force = 1 / (ax * ax + ay * ay + 1e-6);
        dx[i] += ax * force;
        dy[i] += ay * force;
        dx[j] -= ax * force;
        dy[j] -= ay * force;
      }
      dx[i] -= x[i] * 0.02; // Parts that hang together by nothing do not fly away.
      dy[i] -= y[i] * 0.02;
    }
    for (const { one, other } of links) {
      const ax = x[one] - x[other];
      const ay = y[one] - y[other];
      const force = Math.sqrt(ax * ax + ay * ay);
      dx[one] -= ax * force;
      dy[one] -= ay * force;
      dx[other] += ax * force;
      dy[other] += ay * force;
    }
    for (let i = 0; i < count; i += 1) {
      const length = Math.sqrt(dx[i] * dx[i] + dy[i] * dy[i]) || 1;
      x[i] += (dx[i] / length) * Math.min(length, farthest);
      y[i] += (dy[i] / length) * Math.min(length, farthest);
    }
  }

  Object.assign(Replay, { layout });
})((globalThis.Replay ??= {}));
