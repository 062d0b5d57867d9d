// How language identification labels the texts: which languages it confuses, and labels that have no list.
"use strict";

async function showLabels(place) {
  const labels = await loadChunk("labels");
  place.append(
    element("section", {}, element("h2", {}, "Confused languages"), ...confusion(labels.truth)),
    element("section", {}, element("h2", {}, "Labels without a list"), ...withoutList(labels.without)),
  );
}

function confusion(truth) {
  if (!truth.length) {
    return [
      element(
        "p",
        { class: "lead" },
        "The pool does not state the true languages of its texts (a record's lang_truth), so nothing is known of this.",
      ),
    ];
  }
  const rows = truth.map(([lang, texts, right, others]) => [
    link(["language", lang], lang),
    count(texts),
    percent(right / texts),
    bar([
      [right / texts, "s1", "found"],
      [1 - right / texts, "s2", "taken for others"],
    ]),
    others.map(([other, number]) => `${other} ${count(number)}`).join(", "),
  ]);
  return [
    element("p", { class: "lead" }, "The pool states the true language of each text; this is what the model said."),
    table("Confused languages", [["true language"], ["texts", true], ["found", true], ["share"], ["taken for"]], rows),
  ];
}

function withoutList(rows) {
  if (!rows.length) return [element("p", { class: "lead" }, "Every label has a list in this run.")];
  return [
    element(
      "p",
      { class: "lead" },
      "Their texts are dropped as no language. match.merge_labels sends a label to a list.",
    ),
    table(
      "Labels without a list",
      [["label"], ["texts", true]],
      rows.map(([label, number]) => [label, count(number)]),
    ),
  ];
}
