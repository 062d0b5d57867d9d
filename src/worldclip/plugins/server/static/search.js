// The search page.  Captions, paths and names are text of others: they enter the page as text nodes, never as markup.
const byId = (id) => document.getElementById(id);
const TOP = 60;
const START = 10; // pictures before the first search
const queries = []; // {text} or {image, name}; image is a data URL
let facts = { counts: {}, model: "", body_bytes: 0, start: [], remarks: [], has_columns: false };
let columns = {}; // of each kind: {name, kind: number | choice | text, values}
let filter = []; // conditions [column, comparison, value]
let of = "images";
let latest = 0; // number of the newest search: answers to older ones are dropped
let ids = []; // of the pictures or texts in sight, which the dialog steps through

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function tag(code) {
  return code.replaceAll("_", "-"); // our codes as BCP 47: cbk_zam
}

function words(...text) {
  return element("bdi", { dir: "auto" }, ...text);
}

// --- requests -------------------------------------------------------------------------------------------------------

function headers() {
  const key = sessionStorage.getItem("key");
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function ask(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: { ...headers(), ...options.headers } }).catch(() => {
    throw new Error("The server does not answer. Start it again, then repeat the search.");
  });
  if (answer.status === 401) {
    const key = prompt("API key of this server");
    if (key) {
      sessionStorage.setItem("key", key);
      return ask(path, options);
    }
  }
  if (!answer.ok) throw new Error((await answer.json()).error.message);
  return answer;
}

async function showPicture(img, id, px) {
  const path = `pictures/${encodeURIComponent(id)}${px ? `?px=${px}` : ""}`;
  if (!sessionStorage.getItem("key")) {
    img.src = path;
    return;
  }
  const blob = await (await ask(path)).blob(); // an <img> cannot send the key
  img.src = URL.createObjectURL(blob);
}

// --- the address ----------------------------------------------------------------------------------------------------
// ?q=TEXT&q=TEXT&of=texts&filter=CONDITIONS#images-ID: each search is an entry of the browser's history, and so is what is opened from it.
// A picture to search for has no address: `searches` keeps it until the page is left.

const searches = new Map(); // history.state.search -> the form
let inSight; // history.state.search of the results in sight
let opened = ""; // location.hash of the pair in the dialog

function kinds() {
  return Object.keys(facts.counts);
}

function readForm() {
  return { queries: [...queries], typed: byId("text").value.trim(), of, filter };
}

function inputsOf(form) {
  const typed = form.typed ? [{ text: form.typed }] : [];
  return [...form.queries, ...typed];
}

function addressOf(form) {
  const texts = inputsOf(form).flatMap((query) => query.text ?? []);
  const words = new URLSearchParams(texts.map((text) => ["q", text]));
  if (form.of !== kinds()[0]) words.append("of", form.of);
  if (form.filter.length) words.append("filter", JSON.stringify(form.filter));
  return String(words) ? `?${words}` : ".";
}

function isSameSearch(form, other) {
  return JSON.stringify([form.of, form.filter, inputsOf(form)]) === JSON.stringify([other.of, other.filter, inputsOf(other)]);
}

// Make an entry of the history for a new search; the first one takes the entry that the page was opened with.
function enterSearch() {
  const form = readForm();
  const before = searches.get(history.state?.search);
  if (!before || !isSameSearch(form, before)) {
    const state = { search: performance.timeOrigin + searches.size };
    searches.set(state.search, form);
    if (before) history.pushState(state, "", addressOf(form));
    else history.replaceState(state, "", addressOf(form) + location.hash);
  }
  inSight = history.state.search;
}

function readAddress() {
  const words = new URLSearchParams(location.search);
  const texts = words.getAll("q").filter((text) => text.trim());
  const typed = texts.pop() ?? "";
  const kind = words.get("of");
  const form = { queries: texts.map((text) => ({ text })), typed, of: kinds().includes(kind) ? kind : kinds()[0] };
  try {
    const given = JSON.parse(words.get("filter") ?? "[]");
    return { ...form, filter: Array.isArray(given) && given.every(Array.isArray) ? given : [] };
  } catch {
    return { ...form, filter: [] }; // an address that was cut
  }
}

// Show what the address names: at the start, and where Back and Forward lead to.
async function openAddress() {
  if (inSight !== undefined && !history.state) {
    history.replaceState({ search: inSight }, "", location.href); // a link to a place of this page, as "Back to top"
  }
  if (inSight === undefined || history.state?.search !== inSight) {
    const form = searches.get(history.state?.search) ?? readAddress();
    queries.splice(0, queries.length, ...form.queries);
    byId("text").value = form.typed;
    of = form.of;
    filter = form.filter;
    drawQueries();
    drawKinds();
    drawFilter();
    await search();
  }
  showPair();
}

function pairAddress(kind, id) {
  return `#${kind}-${encodeURIComponent(id)}`;
}

// --- queries --------------------------------------------------------------------------------------------------------

function drawQueries() {
  byId("queries").replaceChildren(
    ...queries.map((query, i) => {
      const shown = query.image ? element("img", { src: query.image, alt: query.name }) : words(query.text);
      const remove = element("button", { type: "button", ariaLabel: `Remove ${query.text ?? query.name}` }, "×");
      remove.addEventListener("click", () => {
        queries.splice(i, 1);
        drawQueries();
        search();
        byId("text").focus();
      });
      return element("li", {}, shown, remove);
    }),
  );
}

function takeText() {
  const text = byId("text").value.trim();
  if (text) queries.push({ text });
  byId("text").value = "";
  drawQueries();
}

function readFile(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

async function takeFiles(files) {
  const tooLarge = [];
  for (const file of files) {
    const image = await readFile(file);
    if (image.length > facts.body_bytes) tooLarge.push(file.name);
    else queries.push({ image, name: file.name });
  }
  drawQueries();
  if (tooLarge.length) {
    say(`${tooLarge.join(", ")}: too large; at most ${facts.body_bytes.toLocaleString("en")} bytes are allowed`, true);
  } else {
    search();
  }
}

// --- filter ---------------------------------------------------------------------------------------------------------

// The fields of a column: a number has a least and a greatest value, any other one is equal to what is given.
function fieldsOf(column) {
  const field = (comparison, label, properties) => {
    const [, , value = ""] = filter.find(([name, known]) => name === column.name && known === comparison) ?? [];
    const made = element(column.kind === "choice" ? "select" : "input", { ariaLabel: `${column.name} ${label}`, ...properties });
    if (column.kind === "choice") {
      made.append(element("option", { value: "" }, "any"));
      made.append(...column.values.map((one) => element("option", { value: JSON.stringify(one) }, String(one))));
      made.value = value === "" ? "" : JSON.stringify(value);
    } else {
      made.value = value;
    }
    made.addEventListener("change", () => {
      filter = filter.filter(([name, known]) => name !== column.name || known !== comparison);
      const given = made.value.trim();
      if (given) filter.push([column.name, comparison, column.kind === "text" ? given : JSON.parse(given)]);
      search();
    });
    return made;
  };
  const number = { type: "number", step: "any" };
  if (column.kind !== "number") return [field("=", "is", {})];
  return [field(">=", "at least", { ...number, placeholder: "from" }), field("<=", "at most", { ...number, placeholder: "to" })];
}

function drawFilter() {
  const known = columns[of] ?? [];
  byId("filter").hidden = !known.length;
  byId("filter").replaceChildren(...known.map((column) => element("label", {}, words(column.name), ...fieldsOf(column))));
}

// --- results --------------------------------------------------------------------------------------------------------

function say(text, isBad = false) {
  byId("state").textContent = text;
  byId("state").className = isBad ? "lead bad" : "lead";
}

// Return a message of the server with the names of the queries, which it only numbers.
function nameQueries(message, asked) {
  return message.replace(/input\[(\d+)\]:/g, (whole, i) => asked[i]?.name ?? "the text");
}

async function search() {
  const number = ++latest;
  enterSearch();
  const asked = inputsOf(readForm());
  const input = asked.map((query) => query.image ?? { text: query.text });
  if (!input.length) return drawStart();
  say("Searching …");
  const start = performance.now();
  try {
    const body = JSON.stringify({ input, top: TOP, of, combine: true, filter });
    const options = { method: "POST", headers: { "Content-Type": "application/json" }, body };
    const { data } = await (await ask("v1/search", options)).json();
    if (number !== latest) return;
    const ms = Math.round(performance.now() - start);
    ids = data[0].hits.map((hit) => hit.id);
    byId("hits").replaceChildren(...data[0].hits.map(hitElement));
    const combined = input.length > 1 ? `${input.length} queries combined. ` : "";
    say(`${combined}The ${ids.length} most similar ${of === "images" ? "pictures" : "texts"}, in ${ms} ms.`);
  } catch (error) {
    if (number === latest) say(nameQueries(error.message, asked), true);
  }
}

function drawStart() {
  const count = of === "images" ? facts.counts.images : 0;
  ids = of === "images" && !facts.remarks.length ? facts.start : [];
  byId("hits").replaceChildren(...ids.map(startElement));
  say(ids.length ? `${ids.length} of ${count.toLocaleString("en")} pictures. Type what you look for, in any language, or drop a picture.` : "");
}

function startElement(id, i) {
  const img = element("img", { alt: `Picture ${i + 1}`, loading: "lazy" });
  showPicture(img, id, 480);
  return element("article", { className: "hit" }, pairLink("images", id, img));
}

function pairLink(kind, id, ...children) {
  const link = element("a", { href: pairAddress(kind, id) }, ...children);
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return; // another tab
    event.preventDefault();
    history.pushState({ search: inSight, isOpenedHere: true }, "", link.hash);
    showPair();
  });
  return link;
}

function hitElement(hit) {
  const link = pairLink(of, hit.id);
  const caption = element("p", { className: "caption", lang: tag(hit.lang), dir: "auto" }, hit.text);
  const isGone = of === "images" && facts.remarks.length > 0; // the folder of the pictures
  if (isGone) {
    link.append(words(hit.path));
  } else if (of === "images") {
    const img = element("img", { alt: hit.text || hit.path, loading: "lazy" });
    showPicture(img, hit.id, 480);
    link.ariaLabel = `Details of ${hit.path}`;
    link.append(img);
  } else {
    link.append(caption);
  }
  const parts = of === "images" && hit.text ? [caption] : [];
  if (of === "images" && !isGone) parts.push(pathElement(hit.id, hit.path));
  const about = [hit.lang_name, `similarity ${hit.score.toFixed(2)}`].filter(Boolean).join(", ");
  const values = valuesOf(hit);
  if (values.length) parts.push(element("small", {}, words(values.map(([name, value]) => `${name}: ${value}`).join(", "))));
  return element("article", { className: "hit" }, link, ...parts, element("small", {}, about));
}

// Return [name, value] of each column that the pool was embedded with.
function valuesOf(row) {
  return Object.entries(row.columns ?? {}).filter(([, value]) => value !== null);
}

// A link that opens the picture itself; it cannot send a key, and is only text then.
function pathElement(id, path) {
  const name = sessionStorage.getItem("key") ? "span" : "a";
  return element(name, { className: "path", href: `pictures/${encodeURIComponent(id)}`, target: "_blank" }, words(...path.split(/(?<=\/)/).flatMap((part) => [part, element("wbr")])));
}

// Open the pair that the address names; without one close the dialog.
async function showPair() {
  const { hash } = location;
  const [, kind, id] = /^#([a-z]+)-([^/?]+)$/.exec(hash) ?? [];
  if (!kinds().includes(kind)) {
    opened = "";
    return byId("pair").close();
  }
  try {
    const pair = await (await ask(`v1/pairs/${kind}/${id}`)).json();
    if (location.hash !== hash) return; // meanwhile another one, or none
    const body = byId("pair-body");
    body.replaceChildren();
    const list = element("dl", { className: "about" });
    const add = (name, value) => list.append(element("dt", {}, name), element("dd", {}, value));
    if (kind === "images") {
      const img = element("img", { alt: pair.texts[0]?.text ?? pair.path });
      const size = element("span", {}, pair.bytes === null ? "" : `${Math.ceil(pair.bytes / 1000).toLocaleString("en")} kB`);
      img.addEventListener("load", () => size.prepend(`${img.naturalWidth} × ${img.naturalHeight} pixels${size.textContent && ", "}`));
      showPicture(img, pair.id);
      body.append(img);
      add("Path", pathElement(pair.id, pair.path));
      add("Size", size);
    } else {
      add("Path", words(pair.path));
    }
    for (const [name, value] of valuesOf(pair)) add(words(name), words(String(value)));
    const texts = pair.texts.map((text) =>
      element("li", {}, element("span", { lang: tag(text.lang), dir: "auto" }, text.text), element("small", {}, text.lang_name)),
    );
    body.append(list, ...(texts.length ? [element("ul", {}, ...texts)] : []));
    byId("previous").disabled = neighbour(-1) === undefined;
    byId("next").disabled = neighbour(1) === undefined;
    opened = hash;
    if (!byId("pair").open) byId("pair").showModal();
  } catch (error) {
    say(error.message, true);
  }
}

// Return the id in sight before (-1) or after (1) that of the dialog.
function neighbour(by) {
  const place = ids.findIndex((id) => location.hash === pairAddress(of, id));
  return place < 0 ? undefined : ids[place + by];
}

function step(by) {
  history.replaceState(history.state, "", pairAddress(of, neighbour(by)));
  showPair();
}

// --- start ----------------------------------------------------------------------------------------------------------

function drawKinds() {
  byId("kinds").hidden = kinds().length < 2;
  byId("kinds").replaceChildren(
    "Search in",
    ...kinds().map((kind) => {
      const name = kind === "images" ? "Pictures" : "Texts";
      const button = element("button", { type: "button", ariaPressed: String(kind === of) }, name);
      button.addEventListener("click", () => {
        of = kind;
        filter = [];
        drawKinds();
        drawFilter();
        search();
      });
      return button;
    }),
  );
}

function drawFacts() {
  const counts = Object.entries(facts.counts).map(
    ([kind, count]) => `${count.toLocaleString("en")} ${kind === "images" ? "pictures" : "texts"}`,
  );
  byId("facts").textContent = counts.length ? `${counts.join(" and ")}, model ${facts.model}` : `Model ${facts.model}`;
  byId("remarks").textContent = facts.remarks.join("; ");
  if (counts.length) return;
  byId("search").hidden = true;
  byId("search").style.display = "none";
  byId("hits").className = "api";
  byId("hits").replaceChildren(
    element("p", {}, "No pictures to search. Embed some, and name the folder:"),
    element("code", {}, "worldclip embed MODEL PHOTOS --out embedded\nworldclip serve MODEL embedded"),
    element("p", {}, "The API answers at:"),
    element("code", {}, "POST /v1/embeddings\nPOST /v1/classify\nGET /v1/models\nGET /healthz\nGET /metrics"),
  );
}

async function start() {
  facts = await (await fetch("static/facts.json")).json();
  drawFacts();
  if (facts.has_columns) columns = await (await ask("v1/columns")).json();
  if (kinds().length) openAddress();
}

byId("search").addEventListener("submit", (event) => {
  event.preventDefault();
  search();
});
byId("add").addEventListener("click", () => {
  takeText();
  search();
});
byId("text").addEventListener("keydown", (event) => {
  if (event.key === "Backspace" && !event.target.value && queries.length) {
    queries.pop();
    drawQueries();
    search();
  }
});
byId("file").addEventListener("change", (event) => {
  takeFiles(event.target.files);
});
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    document.body.classList.toggle("over", name === "dragover");
    if (name === "drop") takeFiles(event.dataTransfer.files);
  });
}
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) takeFiles(event.clipboardData.files);
});
window.addEventListener("popstate", openAddress);
byId("previous").addEventListener("click", () => step(-1));
byId("next").addEventListener("click", () => step(1));
byId("pair").addEventListener("close", () => {
  if (!opened) return; // Back has closed it
  opened = "";
  if (history.state.isOpenedHere) history.back();
  else history.replaceState(history.state, "", location.pathname + location.search);
});
start();
