/* Jobs as rows of a diagram: of each node first how many wait, then what each worker did when. */
"use strict";

(function (Replay) {
  const ENDED = new Set(["succeeded", "failed", "cancelled", "expired", "poisoned"]);

  /** Return the rows of jobs `{name, steps}`; what has not ended lasts until `to`.

      A row is a staircase {node, worker: null, at, count, most}, or a lane {node, worker, spans,
      starts, longest, places}, its spans {job, from, to, state, outcome, place}. */
  function jobRows(jobs, to) {
    const lanes = new Map();
    const queues = new Map();
    for (const job of jobs) {
      job.steps.forEach((step, number) => {
        if (ENDED.has(step.state)) return;
        const next = job.steps[number + 1];
        const span = {
          job, from: step.at, to: next?.at ?? to, state: step.state, outcome: next?.state ?? "",
        };
        const worker = step.worker ?? (step.state === "running" ? "?" : null);
        if (worker === null) {
          if (!queues.has(step.node)) queues.set(step.node, []);
          queues.get(step.node).push([span.from, 1], [span.to, -1]);
        } else {
          laneOf(lanes, step.node, worker).spans.push(span);
        }
      });
    }
    return inOrder(lanes, queues);
  }

  function laneOf(lanes, node, worker) {
    const key = `${node} ${worker}`;
    if (!lanes.has(key)) lanes.set(key, { node, worker, spans: [] });
    return lanes.get(key);
  }

  function inOrder(lanes, queues) {
    const ofNode = new Map();
    for (const node of queues.keys()) ofNode.set(node, []);
    for (const lane of lanes.values()) {
      if (!ofNode.has(lane.node)) ofNode.set(lane.node, []);
      ofNode.get(lane.node).push(lane);
    }
    const collator = new Intl.Collator("en", { numeric: true });
    const nodes = [...ofNode.keys()].sort((one, other) => one - other);
    return nodes.flatMap((node) => {
      const own = ofNode.get(node);
      own.sort((one, other) => collator.compare(one.worker, other.worker));
      own.forEach(stack);
      const queue = queues.get(node);
      return queue === undefined ? own : [{ node, worker: null, ...staircase(queue) }, ...own];
    });
  }

  /** Sort a lane's spans; those that overlap (a worker with several slots) get a place each. */
  function stack(lane) {
    lane.spans.sort((one, other) => one.from - other.from);
    lane.starts = lane.spans.map((span) => span.from);
    lane.longest = 0;
    const ends = [];
    for (const span of lane.spans) {
      lane.longest = Math.max(lane.longest, span.to - span.from);
      let place = ends.findIndex((end) => end <= span.from);
      if (place < 0) place = ends.length;
      ends[place] = span.to;
      span.place = place;
    }
    lane.places = Math.max(1, ends.length);
  }

  /** Turn changes [at, by] into {at, count, most}. */
  function staircase(changes) {
    changes.sort((one, other) => one[0] - other[0]);
    const at = [];
    const count = [];
    let now = 0;
    for (const [when, by] of changes) {
      now += by;
      if (at.at(-1) === when) {
        count[count.length - 1] = now;
      } else {
        at.push(when);
        count.push(now);
      }
    }
    return { at, count, most: count.reduce((one, other) => Math.max(one, other), 0) };
  }

  Object.assign(Replay, { jobRows });
})((globalThis.Replay ??= {}));
