// One language: what became of its pairs, its entries, its examples; and one entry with its examples.
"use strict";

const SHOWN_ENTRIES = 20;
const SHOWN_EXAMPLES = 12;

function findLanguage(code) {
  const run = chunks.get("run");
  const number = run.languages.findIndex((language) => language.code === code);
  return number < 0 ? null : { ...run.languages[number], number, listRow: run.lists[run.languages[number].list] };
}

async function readExamples(language) {
  const chunk = await loadChunk(`examples/${language.number}`);
  const threshold = language.listRow ? language.listRow.threshold : null;
  return chunk.examples.map(([key, textIdx, text, langProb, reason, keepProb, coin, entries, numEntries, picture]) => ({
    key,
    textIdx,
    text,
    lang: language.code,
    langProb,
    reason,
    keepProb,
    coin,
    numEntries,
    picture,
    threshold,
    entries: entries.map((i) => ({
      entry: chunk.entries[i][0],
      source: chunk.entries[i][1],
      matches: chunk.entries[i][2],
    })),
  }));
}

async function showLanguage(place, code) {
  const run = chunks.get("run");
  const language = findLanguage(code);
  if (!language)
    return place.append(element("p", { class: "note" }, "This run has no language ", element("code", {}, code), "."));
  const row = language.listRow;
  place.append(
    element(
      "section",
      {},
      element("h2", {}, languageName(language)),
      element("p", { class: "lead" }, listText(row, language)),
      reasonLegend(run, language.counts),
      reasonBar(run, language.counts),
      reasonCounts(run, language),
    ),
  );
  await loadChunk("profile");
  if (row && row.num_matches > 0) place.append(await entriesSection(language));
  place.append(
    await examplesSection(await readExamples(language), "Examples", "Texts chosen by hash, kept and dropped."),
  );
}

function listText(row, language) {
  if (!row) return "Its texts are matched against no list.";
  const threshold = row.threshold === null ? "no threshold" : `threshold ${count(row.threshold)}`;
  return `${row.title}: ${count(row.num_matched_entries)} of ${count(row.num_entries)} entries have ${count(row.num_matches)} matches; ${threshold}, tail fraction ${percent(row.tail_fraction)}.`;
}

function reasonCounts(run, language) {
  const rows = run.reasons
    .map(([name, colour, meaning], i) => [words(meaning), count(language.counts[i]), i])
    .filter(([, , i]) => language.counts[i] > 0)
    .map((cells) => cells.slice(0, 2));
  return table("What became of its pairs", [["what became of them"], ["number", true]], rows);
}

async function entriesSection(language) {
  const list = await loadChunk(`lists/${language.list}`);
  const curve = headTailChart(language.listRow.title, list);
  curve.draw(language.listRow.threshold);
  const results = element("div", { "aria-live": "polite" });
  const field = element("input", { type: "search", id: "find", autocomplete: "off", dir: "auto", input: find });
  const top = entryTable(
    language,
    list.top.map(([entry, source, matches]) => ({ entry, source, matches })),
  );
  async function find() {
    const wanted = field.value;
    const found = wanted ? await entriesFrom(language.list, wanted) : null;
    if (field.value !== wanted) return; // the reader has typed on
    if (found)
      results.replaceChildren(
        found.length ? entryTable(language, found) : element("p", {}, "No entry begins like this."),
      );
    else results.replaceChildren(top);
  }
  results.append(top);
  const held =
    list.held < language.listRow.num_entries ? ` This folder holds the ${count(list.held)} with the most matches.` : "";
  return element(
    "section",
    {},
    element("h2", {}, "Entries"),
    element(
      "p",
      { class: "lead" },
      `An entry above the threshold is head: its probability is threshold / matches. The most frequent first; type to search all.${held}`,
    ),
    element(
      "div",
      { class: "grid wide" },
      element(
        "figure",
        {},
        element("figcaption", {}, "Matches by rank"),
        curve.node,
        legend([
          ["s7", "in the pool"],
          ["s1", "sampling target"],
        ]),
      ),
      element(
        "div",
        {},
        element("p", { class: "field" }, element("label", { for: "find" }, "Entries that begin with "), field),
        results,
      ),
    ),
  );
}

function entryTable(language, rows) {
  const threshold = language.listRow.threshold;
  const body = element("tbody");
  const head = ["entry", "matches", "probability", "", "source"].map((name, i) =>
    element("th", { scope: "col", class: i === 1 || i === 2 ? "n" : null }, name || "head or tail"),
  );
  const more = inParts(rows, SHOWN_ENTRIES, (part) => part.map((row) => entryRow(language, row, threshold)), body);
  return element(
    "div",
    {},
    scrolling("Entries", element("table", {}, element("thead", {}, element("tr", {}, head)), body)),
    more,
  );
}

function entryRow(language, { entry, source, matches }, threshold) {
  const isHead = threshold !== null && matches >= threshold;
  return element(
    "tr",
    {},
    element("td", {}, link(["entry", language.code, entry], words(entry, language.code))),
    element("td", { class: "n" }, count(matches)),
    element("td", { class: "n" }, probability(entryProbability(threshold, matches))),
    element("td", {}, isHead ? "head" : "tail"),
    element("td", {}, chunks.get("run").sources[source]),
  );
}

async function examplesSection(examples, title, lead) {
  if (!examples.length)
    return element("section", {}, element("h2", {}, title), element("p", { class: "lead" }, "This folder holds none."));
  const run = chunks.get("run");
  const place = element("div", { class: "shots" });
  const buttons = element("p", { class: "choices", role: "group", "aria-label": "Reason" });
  const more = element("div");
  const reasons = [...new Set(examples.map((example) => example.reason))].sort((a, b) => b - a);
  function show(reason) {
    const chosen = reason === null ? examples : examples.filter((example) => example.reason === reason);
    place.replaceChildren();
    more.replaceChildren(inParts(chosen, SHOWN_EXAMPLES, (part) => part.map(exampleCard), place));
    for (const button of buttons.children) button.setAttribute("aria-pressed", String(button.value === String(reason)));
  }
  for (const reason of [null, ...reasons]) {
    const name = reason === null ? "all" : run.reasons[reason][0].replaceAll("_", " ");
    const number = reason === null ? examples.length : examples.filter((example) => example.reason === reason).length;
    buttons.append(
      element(
        "button",
        { type: "button", value: String(reason), click: () => show(reason) },
        `${name} (${count(number)})`,
      ),
    );
  }
  show(null);
  return element("section", {}, element("h2", {}, title), element("p", { class: "lead" }, lead), buttons, place, more);
}

async function showEntry(place, code, entry) {
  const language = findLanguage(code);
  if (!language || !language.listRow)
    return place.append(element("p", { class: "note" }, "This run has no such list."));
  const profile = await loadChunk("profile");
  const row = await findEntry(language.list, normalise(entry, profile, true));
  const threshold = language.listRow.threshold;
  const heading = element(
    "h2",
    {},
    words(entry, code),
    " ",
    element("small", {}, link(["language", code], language.name || code)),
  );
  if (!row)
    return place.append(
      element("section", {}, heading, element("p", { class: "note" }, "Not an entry of this list in this folder.")),
    );
  const prob = entryProbability(threshold, row.matches);
  place.append(
    element(
      "section",
      {},
      heading,
      element(
        "div",
        { class: "cards" },
        card(count(row.matches), "matches").node,
        card(threshold === null ? "none" : count(threshold), "threshold of the list").node,
        card(
          probability(prob),
          "probability that a match keeps its text",
          threshold !== null && row.matches >= threshold ? "head" : "tail",
        ).node,
        card(chunks.get("run").sources[row.source], "source").node,
      ),
    ),
  );
  const examples = (await readExamples(language)).filter((example) =>
    example.entries.some((other) => other.entry === row.entry),
  );
  place.append(await examplesSection(examples, "Examples", "Texts with this entry, chosen by hash."));
}
