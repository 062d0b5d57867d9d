// What `worldclip pool check` removed, by rule.
"use strict";

async function showChecked(place) {
  const run = chunks.get("run");
  const checked = await loadChunk("checked");
  const notValid = run.reasons.findIndex(([name]) => name === "not_valid");
  const rows = run.languages
    .filter((language) => language.counts[notValid] > 0)
    .sort((a, b) => b.counts[notValid] - a.counts[notValid])
    .map((language) => [
      link(["language", language.code], language.name || language.code),
      count(language.counts[notValid]),
    ]);
  place.append(
    element("section", {}, element("h2", {}, "Removed by the check"), ...rules(checked)),
    element(
      "section",
      {},
      element("h2", {}, "Matched, and not valid"),
      rows.length
        ? table("Matched, and not valid", [["language"], ["number", true]], rows)
        : element("p", { class: "lead" }, "No matched pair is denied or missing from the valid list."),
    ),
  );
}

function rules(checked) {
  if (!checked.rules.length)
    return [element("p", { class: "lead" }, "The recipe names no list of valid keys that worldclip pool check wrote.")];
  const most = Math.max(...checked.rules.map(([, number]) => number));
  return [
    element("p", { class: "lead" }, `Read from ${checked.path}. The check's own report.html shows the pairs.`),
    table(
      "Removed by rule",
      [["rule"], ["pairs", true], ["share"]],
      checked.rules.map(([rule, number]) => [rule, count(number), bar([[number / most, "s3", rule]])]),
    ),
  ];
}
