// Labels of language identification that have no list.
"use strict";

async function showLabels(place) {
  const labels = await loadChunk("labels");
  place.append(element("section", {}, element("h2", {}, "Labels without a list"), ...withoutList(labels.without)));
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
