// The search page.  Captions, paths and names are text of others: they enter the page as text nodes, never as markup.
const byId = (id) => document.getElementById(id);
const TOP = 60;
const START = 10; // pictures before the first search
const queries = []; // {text} or {image, name}; image is a data URL
let facts = { counts: {}, model: "", body_bytes: 0 };
let of = "images";
let latest = 0; // number of the newest search: answers to older ones are dropped
let rows = []; // those in sight, which the dialog steps through

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

async function showPicture(img, row, px) {
  const path = `pictures/${row}${px ? `?px=${px}` : ""}`;
  if (!sessionStorage.getItem("key")) {
    img.src = path;
    return;
  }
  const blob = await (await ask(path)).blob(); // an <img> cannot send the key
  img.src = URL.createObjectURL(blob);
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
  for (const file of files) {
    const image = await readFile(file);
    if (image.length > facts.body_bytes) {
      say(`${file.name} is too large; at most ${facts.body_bytes.toLocaleString("en")} bytes are allowed`, true);
      continue;
    }
    queries.push({ image, name: file.name });
  }
  drawQueries();
  search();
}

// --- results --------------------------------------------------------------------------------------------------------

function say(text, isBad = false) {
  byId("state").textContent = text;
  byId("state").className = isBad ? "lead bad" : "lead";
}

async function search() {
  const number = ++latest;
  const typed = byId("text").value.trim();
  const input = queries.map((query) => query.image ?? { text: query.text });
  if (typed) input.push({ text: typed });
  const texts = [...queries.flatMap((query) => query.text ?? []), ...(typed ? [typed] : [])];
  history.replaceState(null, "", texts.length ? `?${new URLSearchParams(texts.map((text) => ["q", text]))}` : ".");
  if (!input.length) return drawStart();
  say("Searching …");
  const start = performance.now();
  try {
    const body = JSON.stringify({ input, top: TOP, of, combine: true });
    const options = { method: "POST", headers: { "Content-Type": "application/json" }, body };
    const { data } = await (await ask("v1/search", options)).json();
    if (number !== latest) return;
    const ms = Math.round(performance.now() - start);
    rows = data[0].hits.map((hit) => hit.id);
    byId("hits").replaceChildren(...data[0].hits.map(hitElement));
    const combined = input.length > 1 ? `${input.length} queries combined. ` : "";
    say(`${combined}The ${rows.length} most similar ${of === "images" ? "pictures" : "texts"}, in ${ms} ms.`);
  } catch (error) {
    if (number === latest) say(error.message, true);
  }
}

function drawStart() {
  const count = of === "images" ? facts.counts.images : 0;
  rows = Array.from({ length: Math.min(START, count) }, (_, i) => Math.floor((i * count) / Math.min(START, count)));
  byId("hits").replaceChildren(...rows.map(startElement));
  say(rows.length ? `${rows.length} of ${count.toLocaleString("en")} pictures. Type what you look for, in any language, or drop a picture.` : "");
}

function startElement(row) {
  const img = element("img", { alt: `Picture ${row + 1}`, loading: "lazy" });
  showPicture(img, row, 480);
  return element("article", { className: "hit" }, element("a", { href: `#images-${row}` }, img));
}

function hitElement(hit) {
  const link = element("a", { href: `#${of}-${hit.id}` });
  const caption = element("p", { className: "caption", lang: tag(hit.lang), dir: "auto" }, hit.text);
  if (of === "images") {
    const img = element("img", { alt: hit.text || hit.path, loading: "lazy" });
    showPicture(img, hit.id, 480);
    link.ariaLabel = `Details of ${hit.path}`;
    link.append(img);
  } else {
    link.append(caption);
  }
  const parts = of === "images" ? [...(hit.text ? [caption] : []), pathElement(hit.id, hit.path)] : [];
  const about = [hit.lang_name, `similarity ${hit.score.toFixed(2)}`].filter(Boolean).join(", ");
  return element("article", { className: "hit" }, link, ...parts, element("small", {}, about));
}

// A link that opens the picture itself; it cannot send a key, and is only text then.
function pathElement(row, path) {
  const name = sessionStorage.getItem("key") ? "span" : "a";
  return element(name, { className: "path", href: `pictures/${row}`, target: "_blank" }, words(...path.split(/(?<=\/)/).flatMap((part) => [part, element("wbr")])));
}

async function showPair() {
  const [kind, row] = location.hash.slice(1).split("-");
  if (!/^\d+$/.test(row ?? "") || !(kind in facts.counts)) return;
  try {
    const pair = await (await ask(`v1/pairs/${kind}/${row}`)).json();
    const body = byId("pair-body");
    body.replaceChildren();
    const list = element("dl", { className: "about" });
    const add = (name, value) => list.append(element("dt", {}, name), element("dd", {}, value));
    if (kind === "images") {
      const img = element("img", { alt: pair.texts[0]?.text ?? pair.file });
      const size = element("span", {}, `${Math.ceil(pair.bytes / 1000).toLocaleString("en")} kB`);
      img.addEventListener("load", () => size.prepend(`${img.naturalWidth} × ${img.naturalHeight} pixels, `));
      showPicture(img, pair.id);
      body.append(img);
      add("File", pathElement(pair.id, pair.file));
      add("Folder", words(pair.folder));
      add("Size", size);
    }
    const texts = pair.texts.map((text) =>
      element("li", {}, element("span", { lang: tag(text.lang), dir: "auto" }, text.text), element("small", {}, text.lang_name)),
    );
    body.append(list, ...(texts.length ? [element("ul", {}, ...texts)] : []));
    byId("previous").disabled = neighbour(-1) === undefined;
    byId("next").disabled = neighbour(1) === undefined;
    if (!byId("pair").open) byId("pair").showModal();
  } catch (error) {
    say(error.message, true);
  }
}

// Return the row in sight before (-1) or after (1) that of the dialog.
function neighbour(by) {
  const place = rows.findIndex((row) => location.hash === `#${of}-${row}`);
  return place < 0 ? undefined : rows[place + by];
}

// --- start ----------------------------------------------------------------------------------------------------------

function drawKinds() {
  const kinds = Object.keys(facts.counts);
  byId("kinds").hidden = kinds.length < 2;
  byId("kinds").replaceChildren(
    "Search in",
    ...kinds.map((kind) => {
      const name = kind === "images" ? "Pictures" : "Texts";
      const button = element("button", { type: "button", ariaPressed: String(kind === of) }, name);
      button.addEventListener("click", () => {
        of = kind;
        drawKinds();
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
  of = Object.keys(facts.counts)[0] ?? "images";
  drawFacts();
  drawKinds();
  for (const text of new URLSearchParams(location.search).getAll("q")) queries.push({ text });
  drawQueries();
  if (Object.keys(facts.counts).length) search();
  showPair();
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
window.addEventListener("hashchange", showPair);
byId("previous").addEventListener("click", () => (location.hash = `${of}-${neighbour(-1)}`));
byId("next").addEventListener("click", () => (location.hash = `${of}-${neighbour(1)}`));
byId("pair").addEventListener("close", () => history.replaceState(null, "", location.pathname + location.search));
start();
