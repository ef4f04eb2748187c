// Two WebRTC peers of a real browser, by relay only, through a TURN server that tickets pay for: real chain, pool, proofs, provider, wallet.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";

import puppeteer from "puppeteer-core";

import { until, within } from "../node.mjs";

/** Making a market takes proofs and transactions. */
const SETUP_LIMIT = 300_000;
const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
/** What goes through the data channel, bytes. */
const LOAD = 10_000_000;
/** Between two beats of the call, ms. */
const BEAT = 20;
/** A call without a gap: no two beats are further apart, ms. A lost beat takes a retransmission, and the machine may be busy. */
const NO_GAP = 500;
/** From the relay's end, grace included, to the last beat at most, ms. */
const CUT = 2_000;

let child, ended, market, browser;

before(async () => {
  child = spawn("bash", [fileURLToPath(new URL("market.sh", import.meta.url))], { stdio: ["pipe", "pipe", "pipe"] });
  const said = [];
  child.stderr.on("data", (data) => said.push(data));
  ended = new Promise((resolve) => { child.once("exit", resolve); });
  const line = new Promise((resolve, reject) => {
    createInterface({ input: child.stdout }).once("line", resolve);
    ended.then(() => reject(new Error(`no market: ${Buffer.concat(said)}`)));
  });
  market = JSON.parse(await within("the market", line, SETUP_LIMIT));
  browser = await puppeteer.launch({ executablePath: CHROMIUM, headless: true, args: ["--no-sandbox"] });
}, { timeout: SETUP_LIMIT });

after(async () => {
  await browser?.close();
  child?.stdin.end();
  await within("the market's end", ended);
});

/** Until when the relay is paid, as the buyer said each time, Unix seconds. */
async function paid() {
  const lines = (await readFile(market.turn_log, "utf8")).split("\n").filter((line) => line.includes("leased_until"));
  return lines.map((line) => JSON.parse(line).leased_until);
}

/** In the page: two peers with an open data channel. */
async function call(iceServer) {
  const begun = performance.now();
  const [a, b] = [0, 1].map(() => new RTCPeerConnection({ iceServers: [iceServer], iceTransportPolicy: "relay" }));
  const kinds = new Set();
  for (const [from, to] of [[a, b], [b, a]]) {
    from.onicecandidate = ({ candidate }) => {
      if (!candidate) return;
      kinds.add(candidate.type);
      to.addIceCandidate(candidate);
    };
  }
  const channel = a.createDataChannel("call");
  const incoming = new Promise((resolve) => { b.ondatachannel = ({ channel: got }) => resolve(got); });
  const open = new Promise((resolve) => { channel.onopen = resolve; });
  await a.setLocalDescription();
  await b.setRemoteDescription(a.localDescription);
  await b.setLocalDescription();
  await a.setRemoteDescription(b.localDescription);
  const other = await incoming;
  await open;
  const setup = performance.now() - begun;
  other.binaryType = "arraybuffer";
  globalThis.call = { a, b, channel, other };
  return { setup, kinds: [...kinds] };
}

/** In the page: so many bytes from one peer to the other. */
async function carry(bytes) {
  const { channel, other } = globalThis.call;
  const begun = performance.now();
  let [sum, got] = [0, 0];
  const arrived = new Promise((resolve) => {
    other.onmessage = ({ data }) => {
      got += data.byteLength;
      sum = (sum + new Uint8Array(data)[0]) % 65_536;
      if (got >= bytes) resolve();
    };
  });
  let wanted = 0;
  channel.bufferedAmountLowThreshold = 256 * 1024;
  for (let at = 0; at < bytes; at += 10_000) {
    const piece = new Uint8Array(Math.min(10_000, bytes - at)).fill((at / 10_000) % 251);
    wanted = (wanted + piece[0]) % 65_536;
    if (channel.bufferedAmount > 1024 * 1024) await new Promise((resolve) => { channel.onbufferedamountlow = resolve; });
    channel.send(piece);
  }
  await arrived;
  return { got, whole: sum === wanted, ms: performance.now() - begun };
}

/** In the page: small messages at a steady pace from now on. */
function beat(pace) {
  const { channel, other } = globalThis.call;
  globalThis.beats = { count: 0, last: Date.now(), gap: 0 };
  other.onmessage = () => {
    const now = Date.now();
    const { beats } = globalThis;
    beats.gap = Math.max(beats.gap, now - beats.last);
    beats.last = now;
    beats.count += 1;
  };
  setInterval(() => { if (channel.readyState === "open") channel.send("beat"); }, pace);
}

test("a browser's call goes through the paid relay, survives renewals, and ends with the payments", async (t) => {
  const page = await browser.newPage();
  const { setup, kinds } = await page.evaluate(call, market.turn.ice_server);
  assert.deepEqual(kinds, ["relay"]);
  t.diagnostic(`set up in ${Math.round(setup)} ms`);
  assert.ok(setup <= 1_000, `set up in ${setup} ms`);

  const carried = await page.evaluate(carry, LOAD);
  assert.deepEqual([carried.got, carried.whole], [LOAD, true]);
  t.diagnostic(`${LOAD} bytes in ${Math.round(carried.ms)} ms`);

  await page.evaluate(beat, BEAT);
  const before = (await paid()).length;
  await until("two renewals", async () => (await paid()).length >= before + 2, 60_000);
  // The second renewal is bought before its slot begins: beat on until it runs.
  const begun = await page.evaluate(() => globalThis.beats.count);
  await until("beats after it", async () => (await page.evaluate(() => globalThis.beats.count)) > begun + 100);
  const { count, gap } = await page.evaluate(() => globalThis.beats);
  t.diagnostic(`longest gap over two renewals: ${gap} ms of ${count} beats every ${BEAT} ms`);
  assert.ok(gap <= NO_GAP, `a gap of ${gap} ms`);

  process.kill(market.turn_pid, "SIGTERM");
  const end = 1000 * (await until("the last payment", async () => {
    try {
      process.kill(market.turn_pid, 0);
      return false;
    } catch {
      return (await paid()).at(-1);
    }
  }));
  await until("the relay's end", async () => Date.now() > end + CUT + 1_000, 60_000);
  const { last } = await page.evaluate(() => globalThis.beats);
  t.diagnostic(`cut ${last - end} ms after the grace`);
  assert.ok(last <= end + CUT, `the last beat came ${last - end} ms after the end`);
  assert.ok(last >= end - 1_500, `the last beat came ${end - last} ms before the end of what was paid`);
});
