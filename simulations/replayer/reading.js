/* Where a run comes from: out of this page, if it was written for one run, or out of files.

   No server and no network: files are chosen or dropped, also a whole run directory. */
"use strict";

(function (Replay) {
  const SMALL_FILE_MAX = 64 * 1024 * 1024; // Topology and manifest; read at once.
  const NAMES = /^(events\.jsonl(\.gz)?|topology\.json|manifest\.json)$/;

  function parsed(text) {
    try {
      return JSON.parse(text);
    } catch {
      return null;
    }
  }

  /** Read a stream of bytes of JSON lines into a log. Throws where the browser cannot unpack. */
  async function readEvents(stream, isPacked, eventsMax) {
    const log = new Replay.Log(eventsMax);
    const bytes = isPacked ? stream.pipeThrough(new DecompressionStream("gzip")) : stream;
    const reader = bytes.pipeThrough(new TextDecoderStream()).getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      log.add(part.value);
    }
    return log.end();
  }

  /** Return the run that is written in this page, or `null`. */
  async function embedded() {
    const events = document.getElementById("run-events");
    if (events === null) return null;
    const text = atob(events.textContent.trim());
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i += 1) bytes[i] = text.charCodeAt(i);
    events.remove();
    const json = (id) => parsed(document.getElementById(id)?.textContent ?? "null");
    const log = await readEvents(new Blob([bytes]).stream(), true);
    return new Replay.Run(log, json("run-topology"), json("run-about"));
  }

  /** Return the run of some files; of those with the same name the first. */
  async function fromFiles(files) {
    const named = (pattern) => files.find((file) => pattern.test(file.name));
    const events = named(/^events\.jsonl(\.gz)?$/) ?? named(/\.jsonl(\.gz)?$/);
    if (events === undefined) throw new Error("There is no events.jsonl among these files.");
    const small = async (pattern) => {
      const file = named(pattern);
      if (file === undefined || file.size > SMALL_FILE_MAX) return null;
      return parsed(await file.text());
    };
    const log = await readEvents(events.stream(), events.name.endsWith(".gz"));
    return new Replay.Run(log, await small(/^topology\.json$/), await small(/^manifest\.json$/));
  }

  /** Return the files that were dropped, those of dropped directories too (one level). */
  async function dropped(transfer) {
    const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    if (entries.length === 0) return [...transfer.files];
    const files = [];
    for (const entry of entries) {
      const inside = entry.isDirectory ? await children(entry) : [entry];
      for (const each of inside) {
        const isWanted = !entry.isDirectory || NAMES.test(each.name);
        if (each.isFile && isWanted) {
          files.push(await new Promise((resolve, reject) => { each.file(resolve, reject); }));
        }
      }
    }
    return files;
  }

  async function children(directory) {
    const reader = directory.createReader();
    const found = [];
    for (;;) {
      const some = await new Promise((resolve, reject) => { reader.readEntries(resolve, reject); });
      if (some.length === 0) return found;
      found.push(...some);
    }
  }

  Object.assign(Replay, { dropped, embedded, fromFiles, readEvents });
})((globalThis.Replay ??= {}));
