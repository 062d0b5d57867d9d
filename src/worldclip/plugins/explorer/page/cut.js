// Cut texts as the profiles of matching do (language/profiles.py): the form that is searched, and where entries may be.
"use strict";

const SPACED = 1;
const MARK = 2;
const SPACE = 4;
const SIMILAR_TO_CJK = 8;
const classCache = new Map(); // character -> class

// Return the class bits of a character, from the runs that the run's Unicode version has.
function classOf(character, profile) {
  let bits = classCache.get(character);
  if (bits === undefined) {
    const code = character.codePointAt(0);
    let low = 0;
    let high = profile.starts.length;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (profile.starts[middle] <= code) low = middle;
      else high = middle;
    }
    bits = profile.classes[low];
    classCache.set(character, bits);
  }
  return bits;
}

function has(character, bit, profile) {
  return character !== undefined && (classOf(character, profile) & bit) !== 0;
}

// Return {characters, from, to}: the text in the form that is searched; each character stands for text[from, to).
function cutText(text, profile) {
  return profile.profile === "reference" ? cutReference(text, profile) : cutUnicode(text, profile);
}

// Return an entry, or a text, in the form that is searched.
function normalise(text, profile, isEntry = false) {
  return profile.profile === "reference" && isEntry ? text : cutText(text, profile).characters.join("");
}

function cutReference(text, profile) {
  const all = [...text];
  const isStripped = (x) => has(x, SPACE, profile) || (x >= "\x1c" && x <= "\x1f");
  let first = 0;
  let end = all.length;
  while (first < end && isStripped(all[first])) first++;
  while (end > first && isStripped(all[end - 1])) end--;
  let at = all.slice(0, first).join("").length;
  const cut = { characters: [], from: [], to: [] };
  const put = (x, from, to) => (cut.characters.push(x), cut.from.push(from), cut.to.push(to));
  put(" ", at, at);
  for (const x of all.slice(first, end)) {
    const after = at + x.length;
    if (",.;:?!`".includes(x)) (put(" ", at, at), put(x, at, after), put(" ", after, after));
    else put("\t\n\r".includes(x) ? " " : x, at, after);
    at = after;
  }
  put(" ", at, at);
  return cut;
}

function cutUnicode(text, profile) {
  const cut = { characters: [], from: [], to: [] };
  let at = 0;
  for (const segment of segments(text, profile)) {
    for (const x of composed(segment, profile)) {
      const isBlank = has(x, SPACE, profile);
      if (isBlank && cut.characters.at(-1) === " ") continue;
      cut.characters.push(isBlank ? " " : x);
      cut.from.push(at);
      cut.to.push(at + segment.length);
    }
    at += segment.length;
  }
  return trimmed(cut);
}

// Yield parts that normalise on their own: a character with the marks, or Hangul vowels and tails, after it.
function segments(text, profile) {
  const parts = [];
  for (const x of text) {
    const joins = has(x, MARK, profile) || (x >= "\u1160" && x <= "\u11ff");
    if (joins && parts.length) parts[parts.length - 1] += x;
    else parts.push(x);
  }
  return parts;
}

function composed(segment, profile) {
  const text = segment.normalize("NFC");
  return profile.profile === "unicode_fold" ? folded(text, profile).normalize("NFC") : text;
}

// Return the full case folding, by the table of the run's Unicode version; JavaScript has none of its own.
function folded(text, profile) {
  profile.foldings ??= new Map(profile.fold_from.map((code, i) => [String.fromCodePoint(code), profile.folded[i]]));
  return Array.from(text, (x) => profile.foldings.get(x) ?? x).join("");
}

function trimmed(cut) {
  const first = cut.characters[0] === " " ? 1 : 0;
  const end = cut.characters.length - (cut.characters.length > first && cut.characters.at(-1) === " " ? 1 : 0);
  return {
    characters: cut.characters.slice(first, end),
    from: cut.from.slice(first, end),
    to: cut.to.slice(first, end),
  };
}

// Return whether an entry may begin before character i of a cut text.
function mayBegin(characters, i, profile) {
  const before = characters[i - 1];
  if (profile.profile === "reference") return before === " " || has(characters[i], SIMILAR_TO_CJK, profile);
  return !(has(before, SPACED, profile) && has(characters[i], SPACED, profile));
}

// Return whether an entry may end before character i of a cut text.
function mayEnd(characters, i, profile) {
  const last = characters[i - 1];
  if (profile.profile === "reference") return characters[i] === " " || has(last, SIMILAR_TO_CJK, profile);
  return !has(characters[i], MARK, profile) && !(has(last, SPACED, profile) && has(characters[i], SPACED, profile));
}

// Return the spans [from, to) of a text where entries occur.
function placesOf(text, entries, profile) {
  const { characters, from, to } = cutText(text, profile);
  const spans = [];
  for (const entry of entries) {
    const wanted = [...normalise(entry, profile, true)];
    for (let i = 0; i + wanted.length <= characters.length; i++) {
      const end = i + wanted.length;
      if (!wanted.every((x, k) => x === characters[i + k])) continue;
      if (mayBegin(characters, i, profile) && mayEnd(characters, end, profile)) spans.push([from[i], to[end - 1]]);
    }
  }
  return spans;
}
