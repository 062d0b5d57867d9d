// Why was this pair dropped: a key of the pool, or a text that is matched here, in the browser.
"use strict";

async function showWhy(place, key = "") {
  const run = chunks.get("run");
  await loadChunk("profile");
  const pairs = await loadChunk("pairs").catch(() => null);
  const dropped = await loadChunk("dropped").catch(() => []);
  const sections = [droppedSection(run, dropped), keySection(run, pairs, key)];
  place.append(...(key ? sections.reverse() : sections), textSection(run));
}

// Return each reason with its number of pairs, and keys to click.  dropped: [key, detail] by the code of the reason.
function droppedSection(run, dropped) {
  const lead = dropped.some((keys) => keys.length)
    ? "Choose a key to see its texts and the decision on each."
    : "Keys are listed here if curate.write_dropped is true and the pool can be read.";
  const kept = run.reasons.length - 1;
  const numbers = run.reasons.map((_, code) => run.languages.reduce((sum, row) => sum + row.counts[code], 0));
  const item = ([key, detail]) =>
    element("li", {}, link(["why", key], words(key)), " ", element("small", {}, detailText(detail)));
  const parts = run.reasons.map(([, , meaning], code) =>
    code === kept || !numbers[code]
      ? []
      : [
          element("h3", {}, reasonTag(run, code), ` ${count(numbers[code])}`, ...meaning.split(":").slice(1).map((why) => `:${why}`)),
          element("ul", {}, (dropped[code] || []).map(item)),
        ],
  );
  const title = [element("h2", {}, "What was dropped"), element("p", { class: "lead" }, lead)];
  return element("section", { class: "dropped" }, title, parts);
}

// Return a detail with the name of its language: match writes a label and a probability, and no other detail is so short.
function detailText(detail) {
  const [, label, value] = (detail || "").match(/^(\S+) ([\d.]+)$/) || [];
  return label ? `${labelText(label)}, probability ${value}` : detail || "";
}

function keySection(run, pairs, key) {
  const result = element("div", { "aria-live": "polite" });
  const field = element("input", { type: "text", id: "key", autocomplete: "off", spellcheck: "false", value: key });
  const form = element(
    "form",
    { class: "ask", submit: ask },
    element("label", { for: "key" }, "Key of a pair"),
    field,
    element("button", {}, "Explain"),
  );
  async function ask(event) {
    if (event) event.preventDefault();
    result.replaceChildren(...(await explainKey(run, pairs, field.value.trim())));
  }
  if (key) ask();
  const held = pairs ? heldText(pairs) : "This folder holds no keys: the pool could not be read when it was written.";
  return element(
    "section",
    {},
    element("h2", {}, "A key of the pool"),
    element("p", { class: "lead" }, held),
    form,
    result,
  );
}

function heldText(pairs) {
  const part = ` They are those of ${count(pairs.shards)} of ${count(pairs.of_shards)} shards.`;
  return `This folder holds ${count(pairs.keys)} keys.${pairs.shards < pairs.of_shards ? part : ""}`;
}

// Return cards of the texts of a key, or the command that finds it.
async function explainKey(run, pairs, key) {
  if (!key) return [];
  const number = pairs ? lastNotAfter(pairs.firsts, key) : -1;
  const rows = number < 0 ? [] : await loadChunk(`pairs/${number}`);
  const row = rows.find(([other]) => other === key);
  if (!row) {
    return [
      element(
        "p",
        { class: "note" },
        "Not in this folder: the pool lacks the key, another shard holds it, or it is denied or not in the valid list. The run itself knows: ",
        element("code", {}, `worldclip inspect ${run.run} --key KEY`),
      ),
    ];
  }
  const examples = row[2].map((text) => pairExample(run, key, row[1], text));
  const matched = examples.map(async (example) => {
    const language = example.lang ? findLanguage(example.lang) : null;
    if (example.keepProb === null || !language || !language.listRow) return example;
    const entries = await matchText(language.list, example.text);
    return { ...example, entries, numEntries: entries.length, threshold: language.listRow.threshold };
  });
  const isKept = examples.some((example) => example.reason === run.reasons.length - 1);
  return [
    element(
      "p",
      { class: "verdict" },
      reasonTag(run, isKept ? run.reasons.length - 1 : Math.max(...examples.map((example) => example.reason))),
      ` ${count(examples.length)} texts`,
      run.text_policy === "one" ? ", one of which is drawn" : "",
    ),
    element("div", { class: "shots" }, (await Promise.all(matched)).map(exampleCard)),
  ];
}

function pairExample(run, key, picture, [textIdx, text, label, langProb, lang, reason, keepProb]) {
  return {
    key,
    picture,
    textIdx,
    text,
    label,
    langProb,
    reason,
    keepProb,
    entries: null,
    numEntries: 0,
    lang: lang < 0 ? "" : run.languages[lang].code,
    coin: uniform(key, textIdx, run.seed),
  };
}

function textSection(run) {
  const languages = run.languages
    .map((language, number) => ({ ...language, number }))
    .filter((language) => language.list >= 0 && run.lists[language.list].num_entries);
  const result = element("div", { "aria-live": "polite" });
  const text = element("textarea", { id: "text", rows: 2, dir: "auto" });
  const choice = element(
    "select",
    { id: "lang" },
    languages.map((language) =>
      element(
        "option",
        { value: language.code, selected: language.code === "en" },
        `${language.name || language.code} (${language.code})`,
      ),
    ),
  );
  const key = element("input", { type: "text", id: "text-key", autocomplete: "off", spellcheck: "false" });
  const form = element(
    "form",
    { class: "ask", submit: ask },
    element("label", { for: "text" }, "Text"),
    text,
    element("label", { for: "lang" }, "Its language"),
    choice,
    element("label", { for: "text-key" }, "Key, for the coin (may stay empty)"),
    key,
    element("button", {}, "Match"),
  );
  async function ask(event) {
    event.preventDefault();
    if (!text.value.trim()) return;
    result.replaceChildren(
      element(
        "div",
        { class: "shots" },
        exampleCard(await decideText(run, text.value, choice.value, key.value.trim())),
      ),
    );
  }
  return element(
    "section",
    {},
    element("h2", {}, "Any text"),
    element(
      "p",
      { class: "lead" },
      "The text is matched in this browser against the list of its language. The page does not identify languages: choose it.",
    ),
    form,
    result,
  );
}

// Return a text as the recipe would decide on it, as the only one of its key; without a key there is no coin.
async function decideText(run, text, code, key) {
  const language = findLanguage(code);
  const threshold = language.listRow.threshold;
  const entries = await matchText(language.list, text);
  const keepProb = entries.length
    ? keepProbability(entries.map((row) => entryProbability(threshold, row.matches))) * language.factor
    : null;
  const coin = key ? uniform(key, 0, run.seed) : undefined;
  const codeOf = (wanted) => run.reasons.findIndex(([name]) => name === wanted);
  // The decision of curate/candidates.py again.  null: not decided, without a coin.
  let reason = null;
  if (keepProb === null) reason = codeOf("no_match");
  else if (language.is_excluded) reason = codeOf("excluded");
  else if (coin !== undefined) reason = codeOf(coin < keepProb ? "kept" : "sampled_out");
  return {
    key: key || "a text",
    textIdx: key ? 0 : "",
    text,
    lang: code,
    reason,
    keepProb,
    coin,
    entries,
    numEntries: entries.length,
    threshold,
  };
}
