/* What was when: nodes, links, messages, jobs and faults of a run, asked for by virtual time.

   Built once from the topology and the events; every question after that is a binary search, so
   that a picture costs what is on the screen and not what is in the run. */
"use strict";

(function (Replay) {
  const NODES_MAX = 20000;
  const LINKS_MAX = 100000;
  const WHATS_MAX = 40; // Sorts of messages told apart; what is more is "other".
  const BLOCK = 256; // Messages looked over at once.

  /** Return how many of the ascending `times` are at most `at`. */
  function countUntil(times, at) {
    let low = 0;
    let high = times.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (times[middle] <= at) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  const finite = (value) => typeof value === "number" && Number.isFinite(value);

  /** A state that changes at times. */
  class History {
    constructor() {
      this.at = [];
      this.states = [];
    }

    add(at, state) {
      this.at.push(at);
      this.states.push(state);
    }

    when(at) {
      const count = countUntil(this.at, at);
      return count === 0 ? "" : this.states[count - 1];
    }
  }

  /** Messages in order of sending, as columns. */
  class Messages {
    constructor() {
      this.sent = [];
      this.until = []; // Arrival; of a lost one, how far it is drawn.
      this.source = [];
      this.target = [];
      this.what = [];
      this.lost = [];
      this.event = [];
      this._blockUntil = [];
    }

    get length() {
      return this.sent.length;
    }

    index() {
      for (let i = 0; i < this.length; i += 1) {
        const block = Math.floor(i / BLOCK);
        this._blockUntil[block] = Math.max(this._blockUntil[block] ?? -Infinity, this.until[i]);
      }
    }

    /** Call `each` with every message that is under way at some time between two. */
    between(from, to, each) {
      const last = countUntil(this.sent, to);
      for (let block = 0; block * BLOCK < last; block += 1) {
        if (this._blockUntil[block] < from) continue;
        const end = Math.min(last, (block + 1) * BLOCK);
        for (let i = block * BLOCK; i < end; i += 1) if (this.until[i] >= from) each(i);
      }
    }
  }

  class Run {
    /** `topology` and `about` are what JSON gave; either may be missing or anything at all. */
    constructor(log, topology = null, about = null) {
      this.log = log;
      this.about = about !== null && typeof about === "object" ? about : {};
      this.nodes = []; // {name, x, y}
      this.links = []; // {one, other, latencyS, backS, history}
      this.messages = new Messages();
      this.whats = []; // Sorts of messages, the most frequent first.
      this.jobs = new Map(); // Name -> {name, steps}
      this.faults = []; // {what, nodes, from, to, event}; nodes `null`: all.
      this.checks = []; // Numbers of events.
      this.marks = { at: [], node: [], event: [] }; // What is of one node and no message.
      this.byNode = []; // Node -> numbers of its events.
      this._number = new Map();
      this._pairs = new Map();
      this._whatNumber = new Map();
      this._open = new Map();
      this._takeTopology(topology);
      this.hasTopology = this.nodes.length > 0;
      log.events.forEach((event, number) => this._take(event, number));
      this._finish();
    }

    // --- questions ----------------------------------------------------------------------

    /** Return a node's state; one of which nothing was said yet is up. */
    stateOf(node, at) {
      return this.nodes[node].history.when(at) || "up";
    }

    faultsAt(at) {
      return this.faults.filter((fault) => fault.from <= at && at < fault.to);
    }

    /** Return the number of the link of two nodes, or -1. */
    linkOf(one, other) {
      return this._pairs.get(pair(one, other)) ?? -1;
    }

    neighbours(node) {
      const found = [];
      for (const link of this.links) {
        if (link.one === node) found.push(link.other);
        else if (link.other === node) found.push(link.one);
      }
      return found.sort((one, other) => one - other);
    }

    /** Return a node's number by how an event names it, its name or its number; -1 if none. */
    numberOf(name) {
      const key = String(name);
      const known = this._number.get(key);
      if (known !== undefined) return known;
      const isNumber = this.hasTopology && /^\d{1,9}$/.test(key);
      return isNumber && Number(key) < this.nodes.length ? Number(key) : -1;
    }

    // --- building -----------------------------------------------------------------------

    /** Return a node's number, a new one's if need be; -1 if there are too many. */
    node(name) {
      if (typeof name !== "string" && !finite(name)) return -1;
      const known = this.numberOf(name);
      return known >= 0 ? known : this._addNode(String(name), undefined, undefined);
    }

    _addNode(name, x, y) {
      if (this.nodes.length >= NODES_MAX) return -1;
      const placed = finite(x) && finite(y);
      this.nodes.push({
        name, x: placed ? x : NaN, y: placed ? y : NaN, history: new History(),
      });
      this.byNode.push([]);
      this._number.set(name, this.nodes.length - 1);
      return this.nodes.length - 1;
    }

    _addLink(one, other, latencyS, backS) {
      if (one < 0 || other < 0 || one === other) return -1;
      const key = pair(one, other);
      const known = this._pairs.get(key);
      if (known !== undefined) return known;
      if (this.links.length >= LINKS_MAX) return -1;
      this.links.push({ one, other, latencyS, backS, history: new History() });
      this._pairs.set(key, this.links.length - 1);
      return this.links.length - 1;
    }

    _takeTopology(topology) {
      const nodes = Array.isArray(topology?.nodes) ? topology.nodes : [];
      nodes.forEach((node, number) => {
        const name = typeof node === "object" && node !== null ? node.name : node;
        this._addNode(String(name ?? number), node?.x, node?.y);
      });
      this.hasTopology = this.nodes.length > 0;
      for (const link of Array.isArray(topology?.links) ? topology.links : []) {
        this._addLink(
          this.node(link?.one), this.node(link?.other), link?.latency_s, link?.back_s,
        );
      }
      this.hasLinks = this.links.length > 0;
    }

    _take(event, number) {
      switch (event.kind) {
        case "message":
          return this._takeMessage(event, number);
        case "link":
          return this._takeLink(event);
        case "fault":
          return this._takeFault(event, number);
        case "job":
          this._takeJob(event, number);
          break;
        case "check":
          this.checks.push(number);
          break;
        default:
      }
      return this._takeMark(event, number);
    }

    _takeMark(event, number) {
      const node = event.node === undefined || event.node === "" ? -1 : this.node(event.node);
      if (node < 0) return;
      if (event.kind === "node") {
        const known = this.nodes[node];
        if (finite(event.x) && finite(event.y) && Number.isNaN(known.x)) {
          known.x = event.x;
          known.y = event.y;
        }
        if (typeof event.state === "string") known.history.add(event.at_s, event.state);
      }
      this.marks.at.push(event.at_s);
      this.marks.node.push(node);
      this.marks.event.push(number);
      this.byNode[node].push(number);
    }

    _takeMessage(event, number) {
      const source = this.node(event.source);
      const target = this.node(event.target);
      if (source < 0 || target < 0) return;
      const arrives = finite(event.arrives_at_s) ? Math.max(event.arrives_at_s, event.at_s) : NaN;
      const lost = event.lost === true || Number.isNaN(arrives);
      const messages = this.messages;
      messages.sent.push(event.at_s);
      messages.until.push(arrives);
      messages.source.push(source);
      messages.target.push(target);
      messages.what.push(this._what(event.what));
      messages.lost.push(lost);
      messages.event.push(number);
      this.byNode[source].push(number);
      if (target !== source) this.byNode[target].push(number);
      if (!this.hasLinks) this._addLink(source, target);
    }

    _what(what) {
      const name = typeof what === "string" && what !== "" ? what : "message";
      let known = this._whatNumber.get(name);
      if (known === undefined) {
        if (this.whats.length >= WHATS_MAX) return this._what("other");
        known = this.whats.length;
        this.whats.push({ name, count: 0 });
        this._whatNumber.set(name, known);
        if (this.whats.length === WHATS_MAX - 1) this._what("other");
      }
      this.whats[known].count += 1;
      return known;
    }

    _takeLink(event) {
      const link = this._addLink(this.node(event.one), this.node(event.other));
      if (link >= 0 && typeof event.state === "string") {
        this.links[link].history.add(event.at_s, event.state);
      }
    }

    _takeFault(event, number) {
      const what = typeof event.what === "string" ? event.what : "fault";
      const key = JSON.stringify([what, event.nodes ?? null]);
      if (event.state === "ends") {
        const began = this._open.get(key);
        if (began !== undefined) began.to = event.at_s;
        this._open.delete(key);
        return;
      }
      const fault = {
        what, nodes: this._named(event.nodes), from: event.at_s, to: Infinity, event: number,
      };
      this.faults.push(fault);
      this._open.set(key, fault);
    }

    _named(nodes) {
      if (nodes === undefined || nodes === null || nodes === "all" || nodes === "") return null;
      const known = typeof nodes === "string" ? this._number.get(nodes) : undefined;
      if (known !== undefined) return [known];
      const parts = Array.isArray(nodes) ? nodes : String(nodes).split(/[\s,;]+/);
      return parts.filter((part) => part !== "").map((part) => this.node(part))
        .filter((node) => node >= 0);
    }

    _takeJob(event, number) {
      if (typeof event.job !== "string" && !finite(event.job)) return;
      const name = String(event.job);
      let job = this.jobs.get(name);
      if (job === undefined) {
        job = { name, steps: [] };
        this.jobs.set(name, job);
      }
      const worker = event.worker ?? null;
      job.steps.push({
        at: event.at_s,
        state: String(event.state ?? ""),
        node: event.node === undefined ? -1 : this.node(event.node),
        worker: worker === null || worker === "" ? null : String(worker),
        event: number,
      });
    }

    _finish() {
      const events = this.log.events;
      this.from = Math.min(0, events[0]?.at_s ?? 0);
      this.to = events.at(-1)?.at_s ?? 0;
      this._endMessages();
      for (const until of this.messages.until) if (until > this.to) this.to = until;
      // What is said after the end of a run is of its being closed.
      const lasts = this.about.virtual_s;
      if (finite(lasts) && lasts > this.from) this.to = lasts;
      if (!(this.to > this.from)) this.to = this.from + 1;
      for (const fault of this.faults) if (fault.to === Infinity) fault.to = this.to;
      this.rows = Replay.jobRows(this.jobs.values(), this.to);
    }

    /** Give lost messages a length to be drawn: what their link takes, or most messages. */
    _endMessages() {
      const { sent, until, lost, source, target } = this.messages;
      const taken = [];
      const each = Math.max(1, Math.floor(sent.length / 5000));
      for (let i = 0; i < sent.length; i += each) if (!lost[i]) taken.push(until[i] - sent[i]);
      taken.sort((one, other) => one - other);
      const usual = taken[taken.length >> 1] || (this.to - this.from) / 200 || 0.02;
      for (let i = 0; i < sent.length; i += 1) {
        if (!Number.isNaN(until[i])) continue;
        const link = this.links[this.linkOf(source[i], target[i])];
        const latency = link?.one === source[i] ? link?.latencyS : link?.backS;
        until[i] = sent[i] + (finite(latency) && latency > 0 ? latency : usual);
      }
      this.messages.index();
      this.whatOrder = this.whats.map((_, number) => number)
        .sort((one, other) => this.whats[other].count - this.whats[one].count || one - other);
    }
  }

  function pair(one, other) {
    return Math.min(one, other) * NODES_MAX + Math.max(one, other);
  }

  Object.assign(Replay, { NODES_MAX, Run, countUntil });
})((globalThis.Replay ??= {}));
