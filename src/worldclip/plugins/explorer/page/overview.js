// The first view: the pool in a few figures, the slider, and every language.
"use strict";

const NUM_ROWS = 60; // languages in sight at first

async function showOverview(place) {
  const run = chunks.get("run");
  const unit = run.text_policy === "one" ? "images" : "pairs";
  const sums = run.reasons.map((_, i) => run.languages.reduce((sum, language) => sum + language.counts[i], 0));
  const numIn = sums.reduce((a, b) => a + b, 0);
  const cards = [
    card(count(numIn), `${unit} in the pool`),
    card(count(sums.at(-1)), `${unit} kept`, percent(sums.at(-1) / (numIn || 1))),
    card(count(run.languages.filter((language) => language.code !== "und").length), "languages"),
    card(
      count(run.lists.reduce((sum, list) => sum + list.num_matched_entries, 0)),
      "entries with a match",
      `of ${count(run.lists.reduce((sum, list) => sum + list.num_entries, 0))}`,
    ),
  ];
  const whatIf = element("section", { id: "whatif" }, element("h2", {}, "What another threshold would keep"));
  const rows = languageRows(run);
  place.append(
    element(
      "section",
      {},
      element(
        "div",
        { class: "cards" },
        cards.map((item) => item.node),
      ),
    ),
    whatIf,
    element("section", {}, element("h2", {}, "Languages"), reasonLegend(run, sums), rows.node),
  );
  const slider = await loadChunk("slider");
  const panel = sliderPanel(run, slider, unit, (state) => rows.draw(state));
  whatIf.append(...panel);
}

function reasonLegend(run, sums) {
  return legend(
    run.reasons.map(([name, colour, meaning], i) => [colour, meaning, sums[i]]).filter((row) => row[2] > 0),
  );
}

function reasonBar(run, counts) {
  const total = counts.reduce((a, b) => a + b, 0) || 1;
  return bar(
    run.reasons
      .map(([name, colour, meaning], i) => [counts[i] / total, colour, `${meaning}: ${count(counts[i])}`])
      .reverse(),
  );
}

// Return {node, draw(state)}: a row per language, the largest first.
function languageRows(run) {
  const order = run.languages
    .map((language, number) => ({ language, number, pairs: language.counts.reduce((a, b) => a + b, 0) }))
    .sort((a, b) => b.pairs - a.pairs);
  const cells = [];
  let lastState = null;
  const body = element("tbody");
  const headings = [
    ["language"],
    ["pairs in", true],
    ["what became of them"],
    ["expected", true],
    ["share", true],
    ["threshold", true],
    ["effective, target", true],
  ];
  const head = element(
    "tr",
    {},
    headings.map(([name, isNumber]) => element("th", { scope: "col", class: isNumber ? "n" : null }, name)),
  );
  const more = inParts(order, NUM_ROWS, (part) => part.map(drawRow), body);
  function drawRow({ language, number, pairs }) {
    const own = [0, 1, 2, 3].map(() => element("td", { class: "n" }));
    cells.push({ own, number, list: language.list });
    if (lastState) fillRow(cells.at(-1), lastState);
    return element(
      "tr",
      {},
      element("td", {}, link(["language", language.code], languageName(language))),
      element("td", { class: "n" }, count(pairs)),
      element("td", {}, reasonBar(run, language.counts)),
      own,
    );
  }
  function fillRow({ own, number, list }, state) {
    const expected = state.expected(number);
    const threshold = list < 0 ? null : state.threshold(list);
    own[0].textContent = count(expected);
    own[1].textContent = percent(state.total > 0 ? expected / state.total : 0);
    own[2].textContent = threshold === null ? "" : count(threshold);
    own[3].textContent = list < 0 ? "" : count(state.effective(list));
  }
  function draw(state) {
    lastState = state;
    cells.forEach((row) => fillRow(row, state));
  }
  const node = element("div", {}, scrolling("Languages", element("table", {}, element("thead", {}, head), body)), more);
  return { node, draw };
}

// Return the nodes of the slider with its charts; onChange gets each state.
function sliderPanel(run, slider, unit, onChange) {
  const last = slider.values.length - 1;
  const start = slider.own === null ? Math.round(last / 2) : slider.own;
  const english = run.languages.findIndex((language) => language.code === "en");
  const own = slider.own === null ? null : stateAt(slider, slider.own);
  const kept = card("", `${unit} expected`, own ? `${count(own.total)} under the recipe` : "");
  const share = card("", "share of English", own ? `${englishShare(own)} under the recipe` : "");
  const value = element("output", { for: "place", "aria-live": "polite" });
  const input = element("input", {
    type: "range",
    id: "place",
    min: 0,
    max: last,
    step: 0.05,
    value: start,
    input: () => draw(Number(input.value)),
  });
  const sizes = chart(
    `Expected ${unit} for each value`,
    `balance.${slider.key}`,
    unit,
    logAxis(slider.values[0], slider.values[last]),
    linearAxis(Math.max(...slider.total)),
  );
  sizes.line("s1")(slider.values.map((x, i) => [x, slider.total[i]]));
  const mark = svgElement("circle", { r: 5, fill: "var(--s2)" });
  sizes.node.append(mark);
  const curves = curvePanel(run, () => draw(Number(input.value)));
  function englishShare(state) {
    return english < 0 ? "none" : percent(state.total > 0 ? state.expected(english) / state.total : 0);
  }
  function step(direction) {
    const place = Number(input.value);
    input.value = direction > 0 ? Math.min(last, Math.floor(place + 1)) : Math.max(0, Math.ceil(place - 1));
    draw(Number(input.value));
  }
  function draw(place) {
    performance.mark("redraw-start");
    const state = stateAt(slider, place);
    const setting = settingText(slider, state);
    value.textContent = state.isExact
      ? `${setting}: computed, as worldclip estimate gives it`
      : `${setting}: interpolated between two computed values`;
    input.setAttribute("aria-valuetext", setting);
    value.classList.toggle("between", !state.isExact);
    kept.figure.textContent = count(state.total);
    share.figure.textContent = englishShare(state);
    mark.setAttribute("cx", sizes.x(state.value));
    mark.setAttribute("cy", sizes.y(state.total));
    curves.draw(state);
    onChange(state);
    performance.measure("redraw", "redraw-start");
  }
  draw(start);
  const recipe =
    slider.own === null
      ? "The recipe's own thresholds have no place on it."
      : "The slider starts at the recipe's own value.";
  return [
    element(
      "p",
      { class: "lead" },
      `${slider.values.length} values are computed beforehand; between them numbers are interpolated. ${recipe}`,
    ),
    element(
      "div",
      { class: "slider" },
      element("label", { for: "place" }, slider.key === "tail_fraction" ? "Tail fraction p" : "English threshold t"),
      element("button", { type: "button", "aria-label": "Previous computed value", click: () => step(-1) }, "‹"),
      input,
      element("button", { type: "button", "aria-label": "Next computed value", click: () => step(1) }, "›"),
      value,
    ),
    element("div", { class: "cards" }, kept.node, share.node),
    element(
      "div",
      { class: "grid wide" },
      element("figure", {}, element("figcaption", {}, `Expected ${unit}`), sizes.node),
      curves.node,
    ),
  ];
}

// Return {node, draw(state)}: the head-tail curve of a list that the reader chooses.
function curvePanel(run, redraw) {
  const lists = run.lists
    .map((list, number) => ({ ...list, number }))
    .filter((list) => list.num_matches > 0)
    .sort((a, b) => b.num_matches - a.num_matches);
  const english = lists.find((list) => list.name === "en") || lists[0];
  const choice = element(
    "select",
    { "aria-label": "List of entries", change: choose },
    lists.map((list) => element("option", { value: list.number, selected: list === english }, list.title)),
  );
  const figure = element("div", { class: "curve-place" });
  const text = element("small");
  let curve = null;
  async function choose() {
    const number = Number(choice.value);
    const list = await loadChunk(`lists/${number}`);
    curve = headTailChart(run.lists[number].title, list);
    figure.replaceChildren(curve.node);
    redraw();
  }
  if (english) choose();
  const node = element(
    "figure",
    {},
    element("figcaption", {}, "Entries of ", choice, " by rank ", text),
    figure,
    legend([
      ["s7", "in the pool"],
      ["s1", "sampling target"],
    ]),
  );
  return {
    node,
    draw(state) {
      if (!curve) return;
      const number = Number(choice.value);
      curve.draw(state.threshold(number));
      text.textContent = `threshold ${count(state.threshold(number) || 0)}, ${count(state.effective(number))} effective entries in the target`;
    },
  };
}
