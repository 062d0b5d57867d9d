// The coin of a pair: XXH64 of the key, then splitmix64 over text_idx, seed, epoch and stream (docs/design.md, 4.1).
"use strict";

const U64 = (1n << 64n) - 1n;
const PRIMES = [
  11400714785074694791n,
  14029467366897019727n,
  1609587929392839161n,
  9650029242287828579n,
  2870177450012600261n,
];
const KEEP = 0;
const TEXT_DRAW = 1;

function rotate(x, bits) {
  return ((x << bits) | (x >> (64n - bits))) & U64;
}

function mixLane(sum, lane) {
  return (rotate((sum + lane * PRIMES[1]) & U64, 31n) * PRIMES[0]) & U64;
}

// Return XXH64 with seed 0 of bytes.
function xxh64(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 0;
  let hash = PRIMES[4];
  if (bytes.length >= 32) {
    const lanes = [(PRIMES[0] + PRIMES[1]) & U64, PRIMES[1], 0n, (U64 + 1n - PRIMES[0]) & U64];
    for (; at + 32 <= bytes.length; at += 32) {
      for (let i = 0; i < 4; i++) lanes[i] = mixLane(lanes[i], view.getBigUint64(at + 8 * i, true));
    }
    hash = (rotate(lanes[0], 1n) + rotate(lanes[1], 7n) + rotate(lanes[2], 12n) + rotate(lanes[3], 18n)) & U64;
    for (const lane of lanes) hash = ((hash ^ mixLane(0n, lane)) * PRIMES[0] + PRIMES[3]) & U64;
  }
  hash = (hash + BigInt(bytes.length)) & U64;
  for (; at + 8 <= bytes.length; at += 8) {
    hash = (rotate(hash ^ mixLane(0n, view.getBigUint64(at, true)), 27n) * PRIMES[0] + PRIMES[3]) & U64;
  }
  if (at + 4 <= bytes.length) {
    hash = (rotate(hash ^ ((BigInt(view.getUint32(at, true)) * PRIMES[0]) & U64), 23n) * PRIMES[1] + PRIMES[2]) & U64;
    at += 4;
  }
  for (; at < bytes.length; at++)
    hash = (rotate(hash ^ ((BigInt(bytes[at]) * PRIMES[4]) & U64), 11n) * PRIMES[0]) & U64;
  hash = ((hash ^ (hash >> 33n)) * PRIMES[1]) & U64;
  hash = ((hash ^ (hash >> 29n)) * PRIMES[2]) & U64;
  return hash ^ (hash >> 32n);
}

function splitmix64(x) {
  let z = (x + 0x9e3779b97f4a7c15n) & U64;
  z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & U64;
  z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & U64;
  return z ^ (z >> 31n);
}

// Return a number in [0, 1) that depends only on the arguments.  seed: a number, or its digits as a string.
function uniform(key, textIdx, seed, epoch = 0, stream = KEEP) {
  let hash = xxh64(new TextEncoder().encode(key));
  for (const value of [textIdx, seed, epoch, stream]) hash = splitmix64((hash + BigInt(value)) & U64);
  return Number(hash >> 11n) * 2 ** -53;
}
