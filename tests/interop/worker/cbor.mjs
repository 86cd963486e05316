// CBOR as docs/worker-protocol.md has it. Integers are Number where they are safe, else BigInt;
// floats are Float, so that what was read is written again as it was; bytes are Buffer.

export class Float {
  constructor(value) {
    this.value = value;
  }
}

const DEPTH_MAX = 32;

export function encode(value) {
  const parts = [];
  write(value, parts);
  return Buffer.concat(parts);
}

function head(major, number, parts) {
  const count = BigInt(number);
  if (count < 24n) parts.push(Buffer.of((major << 5) | Number(count)));
  else if (count < 1n << 8n) parts.push(Buffer.of((major << 5) | 24, Number(count)));
  else if (count < 1n << 16n) parts.push(sized(major, 25, 2, (b) => b.writeUInt16BE(Number(count), 1)));
  else if (count < 1n << 32n) parts.push(sized(major, 26, 4, (b) => b.writeUInt32BE(Number(count), 1)));
  else parts.push(sized(major, 27, 8, (b) => b.writeBigUInt64BE(count, 1)));
}

function sized(major, info, size, fill) {
  const buffer = Buffer.alloc(1 + size);
  buffer[0] = (major << 5) | info;
  fill(buffer);
  return buffer;
}

function write(value, parts) {
  if (value === null) parts.push(Buffer.of(0xf6));
  else if (typeof value === "boolean") parts.push(Buffer.of(value ? 0xf5 : 0xf4));
  else if (typeof value === "bigint" || Number.isSafeInteger(value)) {
    if (value < 0) head(1, -1n - BigInt(value), parts);
    else head(0, value, parts);
  } else if (typeof value === "number" || value instanceof Float) {
    const number = typeof value === "number" ? value : value.value;
    parts.push(sized(7, 27, 8, (b) => b.writeDoubleBE(number, 1)));
  } else if (typeof value === "string") {
    const bytes = Buffer.from(value, "utf8");
    head(3, bytes.length, parts);
    parts.push(bytes);
  } else if (Buffer.isBuffer(value)) {
    head(2, value.length, parts);
    parts.push(value);
  } else if (Array.isArray(value)) {
    head(4, value.length, parts);
    for (const item of value) write(item, parts);
  } else {
    const entries = Object.entries(value);
    head(5, entries.length, parts);
    for (const [name, item] of entries) {
      write(name, parts);
      write(item, parts);
    }
  }
}

export function decode(bytes) {
  const reader = { bytes, at: 0 };
  const value = read(reader, 0);
  if (reader.at !== bytes.length) throw new Error("bytes after the value");
  return value;
}

function take(reader, size) {
  const start = reader.at;
  if (size > reader.bytes.length - start) throw new Error("CBOR ends early");
  reader.at += size;
  return reader.bytes.subarray(start, reader.at);
}

function count(reader, info) {
  if (info < 24) return info;
  if (info === 24) return take(reader, 1)[0];
  if (info === 25) return take(reader, 2).readUInt16BE();
  if (info === 26) return take(reader, 4).readUInt32BE();
  if (info !== 27) throw new Error("of no definite length");
  const large = take(reader, 8).readBigUInt64BE();
  return large <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(large) : large;
}

function read(reader, depth) {
  if (depth > DEPTH_MAX) throw new Error("too deep");
  const first = take(reader, 1)[0];
  const major = first >> 5;
  const info = first & 31;
  if (major === 7) {
    if (info === 20 || info === 21) return info === 21;
    if (info === 22) return null;
    if (info === 27) return new Float(take(reader, 8).readDoubleBE());
    if (info === 26) return new Float(take(reader, 4).readFloatBE());
    throw new Error(`simple value ${info}`);
  }
  const number = count(reader, info);
  if (major === 0) return number;
  if (major === 1) return typeof number === "bigint" ? -1n - number : -1 - number;
  if (major === 2) return Buffer.from(take(reader, Number(number)));
  if (major === 3) return take(reader, Number(number)).toString("utf8");
  if (major === 4) {
    const items = [];
    for (let i = 0; i < number; i++) items.push(read(reader, depth + 1));
    return items;
  }
  if (major === 5) {
    const map = {};
    for (let i = 0; i < number; i++) {
      const name = read(reader, depth + 1);
      if (typeof name !== "string") throw new Error("a key that is no text");
      Object.defineProperty(map, name, {
        value: read(reader, depth + 1),
        enumerable: true,
        configurable: true,
        writable: true,
      });
    }
    return map;
  }
  throw new Error("a tag");
}
