// A worker in JavaScript, written from docs/worker-protocol.md: `node worker.mjs URL DIRECTORY
// [TOKEN]`. It runs Python functions by a Python of its own (`runner.py`), one process a job, and
// offers the label `language: javascript`. `node worker.mjs --golden FILE` reads messages instead
// and says what it makes of them.

import { spawn } from "node:child_process";
import { createPrivateKey, createPublicKey, randomBytes, sign } from "node:crypto";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { createInterface } from "node:readline";
import { Float, decode, encode } from "./cbor.mjs";
import { Refused, open } from "./websocket.mjs";

const VERSION = 1;
const [HELLO, BEAT, STARTED, PROGRESS, LOG, FINISHED, RETURNED, CALL] = [10, 11, 12, 13, 14, 15, 16, 17];
const [WELCOME, PROGRAM, LEASE, KILL, RECALL, ACKED, REFUSED, REPLY, DRAIN] = [30, 31, 32, 33, 34, 35, 36, 37, 38];
const KV_PUT = 1;
const SLOTS = 2;
const BATCH_LENGTH_MAX = 1024;
const STARTED_DELAY_MS = 20;
const FINAL = new Set([401, 403, 404, 410, 421, 426]);
const PKCS8 = Buffer.from("302e020100300506032b657004220420", "hex");
const RUNNER = path.join(path.dirname(fileURLToPath(import.meta.url)), "runner.py");

// --- who it is ------------------------------------------------------------------------------

export function keyOf(seed) {
  return createPrivateKey({ key: Buffer.concat([PKCS8, seed]), format: "der", type: "pkcs8" });
}

export function prove(worker, key, ms) {
  const body = Buffer.alloc(16);
  body.writeBigUInt64BE(BigInt(worker), 0);
  body.writeBigUInt64BE(BigInt(ms), 8);
  const message = Buffer.concat([Buffer.from("peernode/1/worker-attach\0"), Buffer.alloc(32), body]);
  return `pnk1.${worker}.${ms}.${sign(null, message, key).toString("base64url")}`;
}

class Identity {
  constructor(directory, token) {
    const file = path.join(directory, "identity.json");
    const [, worker, , pin] = (token ?? "").split(".");
    if (!existsSync(file)) {
      const kept = { worker, pin: pin ?? "", seed: randomBytes(32).toString("hex") };
      writeFileSync(file, JSON.stringify(kept), { mode: 0o600 });
    }
    Object.assign(this, JSON.parse(readFileSync(file)));
    this.token = token;
    this.key = keyOf(Buffer.from(this.seed, "hex"));
    this.last = 0;
  }

  async attach(url) {
    const address = `${url}/worker/${this.worker}/attach`;
    this.last = Math.max(Date.now(), this.last + 1);
    const proof = prove(this.worker, this.key, this.last);
    try {
      return await open(address, { Authorization: `Bearer ${proof}` }, this.pin);
    } catch (error) {
      if (!(error instanceof Refused) || !this.token) throw error;
      const jwk = createPublicKey(this.key).export({ format: "jwk" });
      const headers = { Authorization: `Bearer ${this.token}`, "Peernode-Worker-Key": jwk.x };
      return await open(address, headers, this.pin);
    }
  }
}

// --- what it does -----------------------------------------------------------------------------

function offer() {
  const arch = { x64: "x86_64", arm64: "aarch64" }[os.arch()] ?? os.arch();
  return {
    slots: SLOTS,
    cores: os.cpus().length,
    memory_bytes: os.totalmem(),
    arch,
    runtimes: ["python"],
    isolation: ["process"],
    labels: { language: "javascript" },
    system: os.type(),
    software: `interop-worker/1 node/${process.versions.node}`,
  };
}

class Worker {
  constructor() {
    this.link = null;
    this.programs = new Map();
    this.waiting = []; // attempts without a slot
    this.running = new Map(); // job -> attempt
    this.finished = new Map(); // "job.fence" -> Finished
    this.calls = new Map(); // number -> {message, resolve}
    this.number = 0;
    this.outbox = [];
  }

  async serve(url, identity) {
    this.link = await identity.attach(url);
    const over = new Promise((_, reject) => (this.link.onclose = reject));
    this.programs.clear();
    this.outbox = [];
    const held = [...this.waiting, ...this.running.values(), ...this.finished.values()];
    const names = held.map((one) => (Array.isArray(one) ? [one[1], one[2]] : [one.job, one.fence]));
    this.say([HELLO, VERSION, offer(), names]);
    let beat;
    this.link.onmessage = (data) => {
      try {
        for (const message of decode(data)) {
          if (message[0] !== WELCOME) this.take(message);
          else {
            this.welcomed = true;
            const every = message[3] instanceof Float ? message[3].value : message[3];
            beat = setInterval(() => this.say([BEAT]), every * 1000);
            for (const one of this.finished.values()) this.say(one);
            for (const call of this.calls.values()) this.say(call.message);
          }
        }
      } catch (error) {
        this.link.over(error);
      }
    };
    try {
      await over;
    } finally {
      clearInterval(beat);
      this.link = null;
    }
  }

  say(message) {
    if (!this.link) return;
    this.outbox.push(message);
    if (this.outbox.length > 1) return;
    setImmediate(() => {
      while (this.link && this.outbox.length) {
        this.link.send(encode(this.outbox.splice(0, BATCH_LENGTH_MAX)));
      }
    });
  }

  take([kind, ...fields]) {
    const [first, fence] = fields;
    if (kind === PROGRAM) {
      const [, runtime, entry, source] = fields;
      this.programs.set(first, { runtime, entry, source });
    } else if (kind === LEASE) this.lease(fields);
    else if (kind === KILL || kind === REFUSED) this.stop(first, fence);
    else if (kind === RECALL) this.giveBack((one) => one.job === first && one.fence === fence);
    else if (kind === DRAIN) this.giveBack(() => true);
    else if (kind === ACKED) for (const one of first) this.finished.delete(one.join("."));
    else if (kind === REPLY) {
      const [number, error, answer] = fields;
      this.calls.get(number)?.resolve({ error, answer });
      this.calls.delete(number);
    } else throw new Error(`a message of kind ${kind}`);
  }

  lease([job, fence, attempt, program, input, , limits]) {
    this.stop(job, this.running.get(job)?.fence);
    const known = this.programs.get(program);
    if (!known) throw new Error(`a lease before its program ${program}`);
    this.waiting.push({ job, fence, attempt, input, limits, ...known });
    this.fill();
  }

  giveBack(wanted) {
    const given = this.waiting.filter(wanted);
    this.waiting = this.waiting.filter((one) => !wanted(one));
    for (const one of given) this.say([RETURNED, one.job, one.fence]);
  }

  stop(job, fence) {
    this.finished.delete(`${job}.${fence}`);
    this.waiting = this.waiting.filter((one) => one.job !== job || one.fence !== fence);
    const attempt = this.running.get(job);
    if (attempt && attempt.fence === fence) {
      this.running.delete(job);
      attempt.end();
      this.fill();
    }
  }

  fill() {
    while (this.waiting.length && this.running.size < SLOTS) {
      const attempt = this.waiting.shift();
      this.running.set(attempt.job, attempt);
      this.run(attempt);
    }
  }

  run(attempt) {
    const { job, fence } = attempt;
    const started = Date.now();
    const child = spawn("python3", ["-I", RUNNER], { detached: true });
    attempt.writes = [];
    attempt.end = () => {
      clearTimeout(attempt.late);
      clearTimeout(attempt.started);
      try {
        process.kill(-child.pid, "SIGKILL");
      } catch {} // it has ended
    };
    const finish = (code, payload, traceback = "") => {
      if (this.running.get(job) !== attempt) return;
      attempt.end();
      this.running.delete(job);
      const usage = [started, (Date.now() - started) / 1000, 0, 0];
      const writes = code === null ? attempt.writes : [];
      const message = [FINISHED, job, fence, code, Buffer.from(payload), traceback, usage, "", writes];
      this.finished.set(`${job}.${fence}`, message);
      this.say(message);
      this.fill();
    };
    attempt.started = setTimeout(() => {
      this.say([STARTED, job, fence, new Float((Date.now() - started) / 1000)]);
    }, STARTED_DELAY_MS);
    const run_s = attempt.limits.run_s?.value ?? attempt.limits.run_s;
    if (run_s !== null) {
      attempt.late = setTimeout(() => finish("run_timeout", "it took too long"), run_s * 1000);
    }
    child.on("error", (error) => finish("setup_failed", String(error)));
    child.stdin.on("error", () => {});
    child.stdin.write(
      JSON.stringify({
        source: attempt.source.toString("utf8"),
        entry: attempt.entry,
        input: attempt.input.toString("utf8"),
      }) + "\n",
    );
    child.stderr.on("data", (text) => {
      this.say([LOG, job, fence, [[Date.now(), "stderr", text.toString("utf8")]]]);
    });
    createInterface({ input: child.stdout }).on("line", async (line) => {
      const said = JSON.parse(line);
      if ("result" in said) finish(null, said.result);
      else if ("error" in said) finish("function_error", said.error, said.traceback);
      else if ("progress" in said) {
        this.say([PROGRESS, job, fence, said.progress, said.message]);
      } else if ("log" in said) this.say([LOG, job, fence, [[Date.now(), "log", said.log]]]);
      else if ("put" in said) {
        attempt.writes.push([KV_PUT, BigInt(said.put), said.key, Buffer.from(said.value), null]);
        child.stdin.write("{}\n");
      } else child.stdin.write(JSON.stringify(await this.call(attempt, said)) + "\n");
    });
    child.on("close", (status) => finish("exited", `its process ended with ${status}`));
  }

  call(attempt, { operation, ...given }) {
    const number = ++this.number;
    const names = { ...given };
    if ("space" in names) names.space = BigInt(names.space);
    const message = [CALL, number, attempt.job, attempt.fence, operation, names];
    return new Promise((resolve) => {
      this.calls.set(number, { message, resolve });
      this.say(message);
    }).then(({ error, answer }) => {
      const shown = {};
      for (const [name, value] of Object.entries(answer ?? {})) {
        shown[name] = typeof value === "string" ? value : String(value);
      }
      return { error, answer: answer === null ? null : shown };
    });
  }

  leave() {
    this.giveBack(() => true);
    for (const attempt of this.running.values()) attempt.end();
    setImmediate(() => {
      this.link?.close();
      process.exit(0);
    });
  }
}

// --- as a program -------------------------------------------------------------------------------

function golden(file) {
  for (const line of readFileSync(file, "utf8").trim().split("\n")) {
    const [name, ...rest] = line.split(" ");
    if (name === "proof") {
      const [seed, worker, ms] = rest.map((field) => field.split("=")[1]);
      console.log("proof", prove(worker, keyOf(Buffer.from(seed, "hex")), ms));
    } else {
      const batch = decode(Buffer.from(rest[0], "hex"));
      console.log(name, batch[0][0], batch[0].length - 1, encode(batch).toString("hex"));
    }
  }
}

async function main([url, directory, token]) {
  if (url === "--golden") return golden(directory);
  const identity = new Identity(directory, token);
  const worker = new Worker();
  process.on("SIGTERM", () => worker.leave());
  let wait = 100;
  for (;;) {
    try {
      await worker.serve(url, identity);
    } catch (error) {
      console.error(String(error.message ?? error));
      if (worker.welcomed) wait = 100;
      worker.welcomed = false;
      if (error instanceof Refused && FINAL.has(error.status)) process.exit(1);
      if (/key that the token names/.test(error.message)) process.exit(1);
    }
    await new Promise((resolve) => setTimeout(resolve, wait * (0.5 + Math.random())));
    wait = Math.min(wait * 2, 10000);
  }
}

await main(process.argv.slice(2));
