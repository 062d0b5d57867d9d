// Build elements.  What others wrote (captions, keys, entries) becomes text nodes; there is no way to pass markup.
"use strict";

const SVG = "http://www.w3.org/2000/svg";

// Return an element.  attributes: strings or numbers; a function becomes a listener; null and false leave one out.
function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svgElement(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(2).filter((child) => child !== null && child !== undefined));
  return node;
}

// Return text of any script: it reads in its own direction and does not disturb its surroundings.
function words(text, lang) {
  return element("bdi", { dir: "auto", lang: isTag(lang) ? lang : null }, text);
}

function isTag(lang) {
  return Boolean(lang) && !["merged", "und", "other"].includes(lang);
}

function count(value) {
  return Math.round(value).toLocaleString("en-US");
}

function percent(share) {
  const digits = share > 0 && share < 0.01 ? 2 : 1;
  return `${(100 * share).toFixed(digits)}%`;
}

function probability(value) {
  return value.toFixed(4);
}

// Return a table in a frame that scrolls.  columns: [heading, whether numbers]; rows: lists of cells.
function table(caption, columns, rows) {
  const head = columns.map(([name, isNumber]) => element("th", { scope: "col", class: isNumber ? "n" : null }, name));
  const body = rows.map((cells) =>
    element(
      "tr",
      {},
      cells.map((cell, i) => element("td", { class: columns[i][1] ? "n" : null }, cell)),
    ),
  );
  return scrolling(
    caption,
    element("table", {}, element("thead", {}, element("tr", {}, head)), element("tbody", {}, body)),
  );
}

// A frame that scrolls can be reached by the keyboard, so it has a role and a name.
function scrolling(name, content) {
  return element("div", { class: "scroll", role: "region", "aria-label": name, tabindex: 0 }, content);
}

function link(path, ...children) {
  return element("a", { href: `#/${path.map(encodeURIComponent).join("/")}` }, children);
}

// Return a language's name with its code; "und" is no language.
function languageName({ name, code }) {
  return name && isTag(code) ? [name, " ", element("code", {}, code)] : [name || element("code", {}, code)];
}

// Return a button that shows more of a list: `draw` returns the nodes of some items.
function inParts(items, size, draw, place) {
  let shown = 0;
  const more = element("button", { type: "button", click: showMore }, "");
  function showMore() {
    place.append(...draw(items.slice(shown, shown + size)));
    shown += size;
    more.hidden = shown >= items.length;
    more.textContent = `Show more (${count(items.length - shown)} left)`;
  }
  showMore();
  return more;
}
