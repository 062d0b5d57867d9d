// Find entries in the sorted chunks of a list: one entry, those that begin with a text, all that occur in a text.
"use strict";

const MAX_FOUND = 200;

// Return {chunk, position, isFound, after}: where `wanted` is or would be, and the entry after it.
async function lookUp(list, wanted) {
  const { firsts } = await loadChunk(`lists/${list}`);
  if (!firsts.length) return { isFound: false };
  const number = Math.max(0, lastNotAfter(firsts, wanted));
  const chunk = await loadChunk(`entries/${list}/${number}`);
  const position = lastNotAfter(chunk.entries, wanted);
  const after = position + 1 < chunk.entries.length ? chunk.entries[position + 1] : firsts[number + 1];
  return { number, chunk, position, isFound: chunk.entries[position] === wanted, after };
}

function rowAt(chunk, position) {
  chunk.countOf ??= new Map(chunk.counted.map((at, i) => [at, chunk.counts[i]]));
  chunk.spelling ??= new Map(chunk.respelt);
  return {
    entry: chunk.spelling.get(position) ?? chunk.entries[position],
    source: parseInt(chunk.sources[position], 36),
    matches: chunk.countOf.get(position) ?? 0,
  };
}

// Return the row of an entry in the form that is searched, null if the list has none.
async function findEntry(list, wanted) {
  const place = await lookUp(list, wanted);
  return place.isFound ? rowAt(place.chunk, place.position) : null;
}

// Return up to MAX_FOUND rows of the entries that begin with a text.
async function entriesFrom(list, beginning) {
  const wanted = normalise(beginning, await loadChunk("profile"), true);
  const place = await lookUp(list, wanted);
  const rows = [];
  if (place.number === undefined || !wanted) return rows;
  let { number, chunk } = place;
  let position = place.isFound ? place.position : place.position + 1;
  const { firsts } = await loadChunk(`lists/${list}`);
  while (rows.length < MAX_FOUND) {
    if (position === chunk.entries.length) {
      number += 1;
      if (number === firsts.length) break;
      chunk = await loadChunk(`entries/${list}/${number}`);
      position = 0;
    }
    if (!chunk.entries[position].startsWith(wanted)) break;
    rows.push(rowAt(chunk, position));
    position += 1;
  }
  return rows;
}

// Return a row for each entry of a list that occurs in a text; loads only the chunks that its words lead to.
async function matchText(list, text) {
  const profile = await loadChunk("profile");
  const { longest } = await loadChunk(`lists/${list}`);
  const { characters } = cutText(text, profile);
  const found = new Map();
  for (let i = 0; i < characters.length; i++) {
    if (!mayBegin(characters, i, profile)) continue;
    const last = Math.min(characters.length, i + longest);
    for (let end = i + 1; end <= last; end++) {
      if (!mayEnd(characters, end, profile)) continue;
      const candidate = characters.slice(i, end).join("");
      const place = await lookUp(list, candidate);
      if (place.isFound) found.set(candidate, rowAt(place.chunk, place.position));
      if (place.after === undefined || !place.after.startsWith(candidate)) break; // no longer entry begins like this
    }
  }
  return [...found.values()];
}
