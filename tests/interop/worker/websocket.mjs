// The client's side of RFC 6455, as far as a worker needs it: binary messages, pings, good-byes.
// Over TLS with a pin it trusts the key that the pin names, and looks at it before it says a word.

import { createHash, randomBytes } from "node:crypto";
import net from "node:net";
import tls from "node:tls";

const GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const MESSAGE_SIZE_MAX = 4194304;
const [CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG] = [0, 1, 2, 8, 9, 10];

export class Refused extends Error {
  constructor(status) {
    super(`the node answered ${status}`);
    this.status = status;
  }
}

export function pinOf(certificate) {
  const key = certificate.publicKey.export({ type: "spki", format: "der" });
  return createHash("sha256").update(key).digest("base64url");
}

async function connect(url, pin) {
  const port = Number(url.port || (url.protocol === "https:" ? 443 : 80));
  const host = url.hostname.replace(/^\[|\]$/g, "");
  if (url.protocol !== "https:") {
    if (pin) throw new Error("the token says that this node speaks TLS");
    if (!["127.0.0.1", "::1", "localhost"].includes(host)) throw new Error("TLS is needed");
    const socket = net.connect(port, host);
    await once(socket, "connect");
    return socket;
  }
  const socket = tls.connect({ port, host, rejectUnauthorized: !pin, minVersion: "TLSv1.2" });
  await once(socket, "secureConnect");
  if (pin && pinOf(socket.getPeerX509Certificate()) !== pin) {
    socket.destroy();
    throw new Error("the node does not have the key that the token names");
  }
  return socket;
}

function once(emitter, event) {
  return new Promise((resolve, reject) => {
    emitter.once(event, resolve);
    emitter.once("error", reject);
    emitter.once("close", () => reject(new Error("the connection was closed")));
  });
}

// Resolve with a link: `send(bytes)`, `close()`, `onmessage(bytes)`, `onclose(reason)`.
export async function open(address, headers, pin) {
  const url = new URL(address);
  const socket = await connect(url, pin);
  socket.setNoDelay(true);
  const key = randomBytes(16).toString("base64");
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.write(
    `GET ${url.pathname} HTTP/1.1\r\nHost: ${url.host}\r\nUpgrade: websocket\r\n` +
      `Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${key}\r\n` +
      `${lines.join("")}\r\n`,
  );
  const link = new Link(socket);
  await new Promise((resolve, reject) => {
    link.upgraded = (status, accept) => {
      if (status !== 101) reject(new Refused(status));
      else if (accept !== createHash("sha1").update(key + GUID).digest("base64")) {
        reject(new Error("not a WebSocket"));
      } else resolve();
    };
    link.onclose = reject;
  });
  return link;
}

class Link {
  constructor(socket) {
    this.socket = socket;
    this.read = Buffer.alloc(0);
    this.parts = [];
    this.onmessage = () => {};
    this.onclose = () => {};
    socket.on("data", (data) => this.take(data));
    socket.on("error", (error) => this.over(error));
    socket.on("close", () => this.over(new Error("the connection was closed")));
  }

  over(error) {
    const tell = this.onclose;
    this.onclose = () => {};
    this.socket.destroy();
    tell(error);
  }

  take(data) {
    this.read = Buffer.concat([this.read, data]);
    if (this.upgraded && !this.takeHead()) return;
    while (this.takeFrame());
  }

  takeHead() {
    const end = this.read.indexOf("\r\n\r\n");
    if (end < 0) return false;
    const [first, ...lines] = this.read.subarray(0, end).toString("latin1").split("\r\n");
    const accept = lines.find((line) => /^sec-websocket-accept:/i.test(line));
    this.read = this.read.subarray(end + 4);
    const upgraded = this.upgraded;
    this.upgraded = null;
    upgraded(Number(first.split(" ")[1]), accept?.split(":")[1].trim());
    return true;
  }

  takeFrame() {
    const bytes = this.read;
    if (bytes.length < 2) return false;
    let size = bytes[1] & 127;
    let start = 2;
    if (size === 126) {
      if (bytes.length < 4) return false;
      [size, start] = [bytes.readUInt16BE(2), 4];
    } else if (size === 127) {
      if (bytes.length < 10) return false;
      [size, start] = [Number(bytes.readBigUInt64BE(2)), 10];
    }
    if (size > MESSAGE_SIZE_MAX) return this.over(new Error("a message that is too large"));
    if (bytes.length < start + size) return false;
    const data = Buffer.from(bytes.subarray(start, start + size));
    this.read = bytes.subarray(start + size);
    this.takeData(bytes[0] & 15, (bytes[0] & 128) !== 0, data);
    return true;
  }

  takeData(kind, final, data) {
    if (kind === PING) this.frame(PONG, data);
    else if (kind === CLOSE) {
      this.frame(CLOSE, data.subarray(0, 2));
      const code = data.length > 1 ? data.readUInt16BE() : 1005;
      this.over(new Error(`the node closed the link: ${code} ${data.subarray(2)}`));
    } else if (kind === BINARY || kind === CONTINUATION) {
      this.parts.push(data);
      if (final) {
        const whole = Buffer.concat(this.parts);
        this.parts = [];
        this.onmessage(whole);
      }
    } else if (kind === TEXT) this.over(new Error("a text message"));
  }

  frame(kind, data) {
    const size = data.length;
    const head = Buffer.alloc(size < 126 ? 2 : size < 65536 ? 4 : 10);
    head[0] = 128 | kind;
    head[1] = 128 | (size < 126 ? size : size < 65536 ? 126 : 127);
    if (head.length === 4) head.writeUInt16BE(size, 2);
    if (head.length === 10) head.writeBigUInt64BE(BigInt(size), 2);
    const mask = randomBytes(4);
    const masked = Buffer.from(data);
    for (let i = 0; i < size; i++) masked[i] ^= mask[i & 3];
    this.socket.write(Buffer.concat([head, mask, masked]));
  }

  send(data) {
    this.frame(BINARY, data);
  }

  close() {
    this.frame(CLOSE, Buffer.from([3, 232]));
    this.socket.end();
  }
}
