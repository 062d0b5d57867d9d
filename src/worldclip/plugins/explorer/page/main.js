// The views and their addresses: #/NAME/ARGUMENT/...
"use strict";

const VIEWS = {
  overview: ["Overview", showOverview],
  language: [null, showLanguage],
  entry: [null, showEntry],
  why: ["Why was it dropped?", showWhy],
  labels: ["Language labels", showLabels],
  checked: ["Checked", showChecked],
};

let numShown = 0; // a view that is late draws nothing

async function showView() {
  const [name, ...words] = location.hash.replace(/^#\/?/, "").split("/").map(decoded);
  const [, show] = Object.hasOwn(VIEWS, name) ? VIEWS[name] : VIEWS.overview;
  const place = element("div", { class: "view" });
  const number = ++numShown;
  try {
    await show(place, ...words);
  } catch (error) {
    place.append(element("p", { class: "note" }, error.message));
  }
  if (number !== numShown) return;
  document.getElementById("main").replaceChildren(place);
  performance.mark("shown");
  for (const item of document.querySelectorAll("nav a")) {
    if (item.dataset.view === (name || "overview")) item.setAttribute("aria-current", "page");
    else item.removeAttribute("aria-current");
  }
  if (number > 1) {
    document.getElementById("main").focus({ preventScroll: true });
    scrollTo(0, 0);
  }
}

function decoded(word) {
  try {
    return decodeURIComponent(word);
  } catch {
    return word;
  }
}

function start() {
  const run = chunks.get("run");
  document.title = `Curation explorer: ${run.name}`;
  document.getElementById("sub").textContent =
    `Run ${run.name}: every decision, and what another threshold would keep.${run.unread && ` ${run.unread}.`}`;
  document.querySelector("nav").append(
    ...Object.entries(VIEWS)
      .filter(([, [title]]) => title)
      .map(([name, [title]]) => element("a", { href: `#/${name}`, "data-view": name }, title)),
  );
  addEventListener("hashchange", () => {
    if (location.hash !== "#main") showView();
  });
  showView();
}

start();
