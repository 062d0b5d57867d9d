// Pairs as cards: picture, text with its matched entries marked, what was decided and why.
"use strict";

const SHOWN_OF_EXAMPLE = 6; // entries of a card in sight

// Return a float32 probability as the run has it: min(1, threshold / matches).
function entryProbability(threshold, matches) {
  return threshold === null ? 1 : Math.fround(threshold / Math.max(threshold, matches));
}

// Return 1 - product(1 - probability), as the keep decision takes it.
function keepProbability(probabilities) {
  return 1 - probabilities.reduce((product, value) => product * (1 - value), 1);
}

// example: {key, textIdx, text, lang, label, langProb, reason, keepProb, coin, entries, numEntries, picture, threshold}.
// entries: [{entry, source, matches}]; null where they are not known yet.
function exampleCard(example) {
  const run = chunks.get("run");
  const head = example.picture
    ? element("img", { src: example.picture, alt: "", loading: "lazy" })
    : element("span", { class: "no-picture" }, "no picture");
  const title = element(
    "div",
    { class: "t" },
    element("p", { dir: "auto", class: "text", lang: isTag(example.lang) ? example.lang : null }, markedText(example)),
    element(
      "small",
      {},
      reasonTag(run, example.reason),
      " ",
      element("code", {}, element("bdi", {}, `${example.key} ${example.textIdx}`)),
    ),
  );
  return element("article", { class: "shot" }, head, title, facts(example));
}

function reasonTag(run, reason) {
  const isKept = reason === run.reasons.length - 1;
  if (reason === null) return element("span", { class: "tag" }, "no key, no coin");
  const name = reason < 0 ? "another text was drawn" : run.reasons[reason][0].replaceAll("_", " ");
  return element("span", { class: isKept ? "tag ok" : "tag no" }, name);
}

function facts(example) {
  const list = element("dl");
  const add = (name, ...value) => list.append(element("dt", {}, name), element("dd", {}, value));
  if (example.label !== undefined)
    add("label", labelText(example.label), example.langProb === null ? "" : `, probability ${example.langProb.toFixed(2)}`);
  if (example.keepProb !== null && example.keepProb !== undefined) {
    add("probability", probability(example.keepProb));
    const sign = example.coin < example.keepProb ? "below the probability" : "not below the probability";
    const language = isTag(example.lang) ? findLanguage(example.lang) : null;
    if (language && language.factor < 1) add("cap", `curate.max_pairs: ${probability(language.factor)} times that of the entries`);
    if (example.coin !== undefined && example.reason >= 0) add("coin", `${probability(example.coin)} (${sign})`);
  }
  if (example.entries && example.entries.length) {
    add("threshold", example.threshold === null ? "none" : count(example.threshold));
    add("entries", entryList(example));
  }
  return list;
}

// Return a label with the name of its language, where the run has it.
function labelText(label) {
  if (!isTag(label)) return "none";
  const language = findLanguage(label);
  return language ? `${language.name} (${label})` : label;
}

function entryList(example) {
  const run = chunks.get("run");
  const shown = example.entries
    .map((row) => ({ ...row, prob: entryProbability(example.threshold, row.matches) }))
    .sort((a, b) => b.prob - a.prob);
  const items = shown.map((row) =>
    element(
      "li",
      {},
      link(["entry", example.lang, row.entry], words(row.entry, example.lang)),
      ` ${count(row.matches)} matches: ${probability(row.prob)} `,
      element("small", {}, run.sources[row.source]),
    ),
  );
  const list = (part) => element("ul", { class: "entries" }, part);
  const rest = example.numEntries - SHOWN_OF_EXAMPLE;
  if (rest <= 0) return list(items);
  const more = element("summary", {}, `${count(rest)} more`);
  return [list(items.slice(0, SHOWN_OF_EXAMPLE)), element("details", {}, more, list(items.slice(SHOWN_OF_EXAMPLE)))];
}

// Return the text with each place of a matched entry marked.
function markedText(example) {
  if (example.text === null) return ["(no text)"];
  const profile = chunks.get("profile");
  const spans =
    example.entries && profile
      ? placesOf(
          example.text,
          example.entries.map((row) => row.entry),
          profile,
        )
      : [];
  const nodes = [];
  let end = 0;
  for (const [from, to] of merged(spans)) {
    nodes.push(example.text.slice(end, from), element("mark", {}, example.text.slice(from, to)));
    end = to;
  }
  nodes.push(example.text.slice(end));
  return nodes;
}

// Return sorted spans [from, to) that do not overlap.
function merged(spans) {
  const result = [];
  for (const [from, to] of [...spans].sort((a, b) => a[0] - b[0])) {
    if (result.length && from < result.at(-1)[1]) result.at(-1)[1] = Math.max(result.at(-1)[1], to);
    else result.push([from, to]);
  }
  return result;
}
