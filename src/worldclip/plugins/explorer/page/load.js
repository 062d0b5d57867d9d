// Load data: each chunk is a script that calls receiveChunk, which also works where the page is opened from disk.
"use strict";

const chunks = new Map(); // name -> value
const requests = new Map(); // name -> promise

function receiveChunk(name, value) {
  chunks.set(name, value);
}

// Return a promise of the value of data/NAME.js; each chunk is loaded once.
function loadChunk(name) {
  if (chunks.has(name)) return Promise.resolve(chunks.get(name));
  if (!requests.has(name)) requests.set(name, requestScript(name));
  return requests.get(name);
}

function requestScript(name) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = `data/${name}.js`;
    script.onload = () => resolve(chunks.get(name));
    script.onerror = () => {
      requests.delete(name);
      reject(new Error(`data/${name}.js is missing; write the explorer again`));
    };
    document.head.append(script);
  });
}

// Compare strings by code points, the order of the sorted chunks; `<` compares UTF-16 units, which differ above U+FFFF.
function compareStrings(a, b) {
  const end = Math.min(a.length, b.length);
  for (let i = 0; i < end; i++) {
    const x = a.charCodeAt(i);
    const y = b.charCodeAt(i);
    if (x !== y) return aboveSurrogates(x) - aboveSurrogates(y);
  }
  return a.length - b.length;
}

function aboveSurrogates(unit) {
  return unit >= 0xd800 && unit <= 0xdfff ? unit + 0x10000 : unit;
}

// Return the position of the last item that is not after `wanted`, -1 if all are.  keyOf: item -> string.
function lastNotAfter(items, wanted, keyOf = (item) => item) {
  let low = 0;
  let high = items.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (compareStrings(keyOf(items[middle]), wanted) <= 0) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}
