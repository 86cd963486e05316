// The replayer's reasoning, without a page: what events say, what was when, time, the filter.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import vm from "node:vm";

const here = new URL("../../../simulations/replayer/", import.meta.url);
const context = vm.createContext({ Intl });
for (const name of ["events", "rows", "run", "player", "layout", "filter", "timeline"]) {
  vm.runInContext(readFileSync(new URL(`${name}.js`, here), "utf8"), context, { filename: name });
}
const { Replay } = context;

/** Return as plain values what came from the other context. */
const plain = (value) => JSON.parse(JSON.stringify(value));
const lines = (...events) => events.map((event) =>
  typeof event === "string" ? event : JSON.stringify(event)).join("\n");

function logOf(...events) {
  const log = new Replay.Log();
  log.add(lines(...events));
  return log.end();
}

const runOf = (events, topology = null) => new Replay.Run(logOf(...events), topology);
const TWO = { nodes: [{ name: "a" }, { name: "b" }], links: [{ one: 0, other: 1, latency_s: 0.5 }] };
const sent = (at_s, more = {}) => ({
  at_s, kind: "message", source: 0, target: 1, what: "x", arrives_at_s: at_s + 1, lost: false, ...more,
});

test("a line that is no event is counted and kept to be shown", () => {
  const log = logOf(
    { at_s: 0, kind: "node", node: 0, state: "up" }, "{", "[1]", "null", '{"kind":"node"}',
    '{"at_s":"1","kind":"node"}', '{"at_s":1,"kind":7}', '{"at_s":1e999,"kind":"node"}', "", "  ",
    { at_s: 1, kind: "node", node: 0, state: "down" },
  );
  assert.equal(log.events.length, 2);
  assert.equal(log.broken, 7);
  assert.deepEqual(plain(log.firstBroken[0]), { line: 2, why: "not JSON", text: "{" });
});

test("events may be cut anywhere by the pieces they come in", () => {
  const text = lines(sent(1), { at_s: 2, kind: "check", what: "é" }, sent(3));
  for (let size = 1; size < 20; size += 1) {
    const log = new Replay.Log();
    for (let i = 0; i < text.length; i += size) log.add(text.slice(i, i + size));
    assert.deepEqual(plain(log.end().events.map((event) => event.at_s)), [1, 2, 3]);
    assert.equal(log.broken, 0);
  }
});

test("a line without an end does not fill the memory, and is one broken line", () => {
  const log = new Replay.Log();
  for (let i = 0; i < 50; i += 1) log.add("x".repeat(10000));
  assert.ok(log._rest.length <= Replay.LINE_LENGTH_MAX + 1);
  log.add("\n" + lines(sent(1)));
  assert.equal(log.end().broken, 1);
  assert.equal(log.events.length, 1);
});

test("what is over the limit is counted", () => {
  const log = new Replay.Log(2);
  log.add(lines(sent(1), sent(2), sent(3), sent(4)));
  assert.equal(log.end().left, 2);
});

test("unknown kinds are listed under their own names, up to a number", () => {
  const many = Array.from({ length: 100 }, (_, i) => ({ at_s: i, kind: `kind-${i}` }));
  const log = logOf({ at_s: 0, kind: "__proto__" }, ...many);
  assert.equal(log.counts.get("__proto__"), 1);
  assert.ok(log.counts.size < 40);
  assert.ok(log.counts.get("other") > 50);
  const filter = new Replay.Filter(new Replay.Run(log));
  filter.toggle("other");
  assert.equal(filter.has(log.events.at(-1)), false);
  assert.equal(filter.has(log.events[0]), true);
});

test("events out of order are put in order", () => {
  const log = logOf(sent(3), sent(1), sent(2));
  assert.deepEqual(plain(log.events.map((event) => event.at_s)), [1, 2, 3]);
});

test("a node has a number and a name, and either names it", () => {
  const run = runOf([
    { at_s: 1, kind: "node", node: "b", state: "down" }, { at_s: 2, kind: "node", node: 1, state: "up" },
  ], TWO);
  assert.equal(run.nodes.length, 2);
  assert.deepEqual([0, 1, 1.5, 2].map((at) => run.stateOf(1, at)), ["up", "down", "down", "up"]);
  assert.equal(run.stateOf(0, 9), "up");
});

test("without a topology nodes and links are those of the messages", () => {
  const run = runOf([sent(0), sent(1, { source: "x", target: "y" })]);
  assert.deepEqual(plain(run.nodes.map((node) => node.name)), ["0", "1", "x", "y"]);
  assert.equal(run.links.length, 2);
  assert.equal(run.linkOf(3, 2), run.linkOf(2, 3));
  assert.equal(run.linkOf(0, 3), -1);
});

test("a topology may be anything at all", () => {
  for (const topology of [
    7, "x", [], {}, { nodes: 3 }, { nodes: [null, 1, { name: { a: 1 } }], links: [null, 4, { one: 99 }] },
    { nodes: [{ name: "__proto__", x: "1", y: NaN }], links: [{ one: 0, other: 0 }] },
  ]) {
    const run = runOf([sent(0), { at_s: 1, kind: "node", node: "__proto__", state: "up" }], topology);
    assert.equal(run.messages.length, 1);
    assert.equal(run.stateOf(run.node("__proto__"), 2), "up");
    Replay.layout(run.nodes, run.links);
  }
});

test("messages under way are found, whatever their length", () => {
  let state = 7;
  const random = () => {
    state = (state * 48271) % 2147483647;
    return state / 2147483647;
  };
  const events = Array.from({ length: 3000 }, () => {
    const at_s = random() * 100;
    return sent(at_s, { arrives_at_s: at_s + (random() < 0.01 ? 50 : 0.1) * random() });
  });
  const run = runOf(events, TWO);
  const { sent: from, until } = run.messages;
  for (const [low, high] of [[0, 0], [10, 10], [10, 11], [99, 200], [-5, -1], [0, 100]]) {
    const found = [];
    run.messages.between(low, high, (i) => found.push(i));
    const wanted = [...from.keys()].filter((i) => from[i] <= high && until[i] >= low);
    assert.deepEqual(found, wanted);
  }
});

test("a lost message is drawn as long as its link takes, and never arrives before it is sent", () => {
  const run = runOf([
    sent(1, { arrives_at_s: null, lost: true }), sent(2), sent(3, { arrives_at_s: 0 }),
  ], TWO);
  assert.deepEqual(plain(run.messages.until), [1.5, 3, 3]);
  assert.deepEqual(plain(run.messages.lost), [true, false, false]);
});

test("sorts of messages are in order of frequency, and too many are one", () => {
  const events = Array.from({ length: 300 }, (_, i) => sent(i, { what: `w${i % 100}` }));
  const run = runOf([...events, sent(400, { what: "w5" }), sent(401, { what: null })], TWO);
  assert.equal(run.whats[run.whatOrder[1]].name, "w5");
  assert.equal(run.whats[run.whatOrder[0]].name, "other");
  assert.ok(run.whats.length <= 40);
});

test("choosing one sort of messages shows these alone", () => {
  const run = runOf([sent(0), sent(1, { what: "y" }), sent(2, { what: "y" })], TWO);
  const filter = new Replay.Filter(run);
  filter.choose(run.whats.findIndex((what) => what.name === "x"));
  assert.deepEqual([0, 1, 2].map((i) => filter.hasMessage(i)), [true, false, false]);
  assert.equal(Replay.nextEvent(run, filter, 2, -1), 0);
  assert.equal(Replay.nextEvent(run, filter, 0, 1), -1);
  assert.deepEqual(Array.from(Replay.histogram(run, filter, 2)), [1, 0]);
  filter.choose(null);
  filter.toggle("message");
  assert.equal(filter.hasMessage(0), false);
});

test("a fault lasts from its beginning to its end, or to the end of the run", () => {
  const fault = (at_s, state, nodes, what = "partition") => ({ at_s, kind: "fault", what, nodes, state });
  const run = runOf([
    fault(1, "begins", "0,b"), fault(2, "begins", "all", "slow"), fault(4, "ends", "0,b"), sent(9),
  ], TWO);
  assert.deepEqual(plain(run.faultsAt(3).map((each) => each.nodes)), [[0, 1], null]);
  assert.deepEqual(plain(run.faultsAt(5).map((each) => each.what)), ["slow"]);
  assert.deepEqual(plain(Replay.troubles(run)), [1, 2]);
});

test("a run lasts as long as it says, and else until the last thing it tells of", () => {
  const log = logOf(sent(1), { at_s: 9, kind: "link", one: 0, other: 1, state: "down" });
  assert.equal(new Replay.Run(log, TWO).to, 9);
  assert.equal(new Replay.Run(log, TWO, { virtual_s: 5 }).to, 5);
  assert.equal(new Replay.Run(log, TWO, { virtual_s: 20 }).to, 20);
  for (const virtual_s of ["5", null, -1, NaN, {}]) {
    assert.equal(new Replay.Run(log, TWO, { virtual_s }).to, 9);
  }
});

test("a job is in the queue until it is leased, then on a worker until it ends", () => {
  const job = (at_s, state, worker = null, name = "j") =>
    ({ at_s, kind: "job", node: 0, job: name, state, worker, attempt: 1 });
  const run = runOf([
    job(0, "queued"), job(1, "leased", "w"), job(2, "running", "w"), job(3, "queued"),
    job(4, "running", "w2"), job(6, "succeeded", "w2"), job(6, "queued", null, "k"), sent(9),
  ], TWO);
  const [queue, first, second] = run.rows;
  assert.deepEqual(plain([queue.at, queue.count, queue.most]), [[0, 1, 3, 4, 6, 10], [1, 0, 1, 0, 1, 0], 1]);
  assert.deepEqual(plain(first.spans.map((s) => [s.from, s.to, s.state, s.outcome])),
    [[1, 2, "leased", "running"], [2, 3, "running", "queued"]]);
  assert.equal(second.spans[0].outcome, "succeeded");
  assert.equal(second.longest, 2);
});

test("jobs that overlap on a worker stand beside each other", () => {
  const job = (at_s, state, name) => ({ at_s, kind: "job", node: 0, job: name, state, worker: "w" });
  const run = runOf([
    job(0, "running", "a"), job(1, "running", "b"), job(2, "succeeded", "a"), job(3, "running", "c"),
    job(5, "failed", "b"), job(6, "succeeded", "c"),
  ], TWO);
  const [lane] = run.rows;
  assert.equal(lane.places, 2);
  assert.deepEqual(plain(lane.spans.map((span) => span.place)), [0, 1, 0]);
});

test("time runs at the chosen speed, and stops at the end", () => {
  const player = new Replay.Player(0, 600);
  assert.equal(player.speed, 10);
  player.toggle();
  player.tick(1);
  assert.equal(player.now, 10);
  player.faster(-1);
  player.tick(1);
  assert.equal(player.now, 15);
  player.tick(1e9);
  assert.deepEqual([player.now, player.isPlaying], [600, false]);
  player.toggle();
  assert.deepEqual([player.now, player.isPlaying], [0, true]);
  player.faster(-1000);
  assert.equal(player.speed, Replay.SPEEDS[0]);
});

test("the part looked at stays within the run, and what is under the pointer stays there", () => {
  const span = new Replay.Span(0, 100);
  span.zoom(25, 0.1);
  assert.deepEqual([span.from, span.to], [22.5, 32.5]);
  span.pan(1000);
  assert.deepEqual([span.from, span.to], [90, 100]);
  span.zoom(95, 1e9);
  assert.ok(span.isWhole);
  span.zoom(50, 1e-12);
  assert.ok(span.width > 0 && span.from < 50.1 && span.to > 49.9);
  span.follow(80);
  assert.ok(span.from <= 80 && 80 <= span.to);
});

test("nodes without places are given some, each another and always the same", () => {
  const nodes = Array.from({ length: 50 }, () => ({ x: NaN, y: NaN }));
  const links = nodes.map((_, one) => ({ one, other: (one + 1) % 50 }));
  const first = Replay.layout(nodes, links);
  assert.deepEqual(plain(Replay.layout(nodes, links)), plain(first));
  assert.equal(new Set(first.x.map((x, i) => `${x.toFixed(3)} ${first.y[i].toFixed(3)}`)).size, 50);
  assert.ok(first.x.every(Number.isFinite) && first.y.every(Number.isFinite));
});

test("places that a run says are kept, north upward", () => {
  const nodes = [{ x: 1, y: 5 }, { x: 2, y: 7 }];
  assert.deepEqual(plain(Replay.layout(nodes, [])), { x: [1, 2], y: [-5, -7] });
});
