// Search pictures by text, and names by picture, with the model in this tab.  Captions, keys and names are text of
// others: they enter the page as text nodes, never as markup.
import {
  AutoProcessor,
  AutoTokenizer,
  CLIPTextModelWithProjection,
  CLIPVisionModelWithProjection,
  RawImage,
  env,
} from "@huggingface/transformers";

const MODEL = "model";
const TOP = 40;
const NUM_NAMES = 24; // in sight
const byId = (id) => document.getElementById(id);
let facts;
let latest = 0; // number of the newest search: answers to older ones are dropped

env.allowRemoteModels = false; // everything lies beside this page
env.allowLocalModels = true;
env.localModelPath = "./";
env.useBrowserCache = false; // offline.js keeps the files, once
env.backends.onnx.wasm.wasmPaths = { wasm: new URL("js/ort-wasm-simd-threaded.wasm", location.href).href };

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function say(text, isBad = false) {
  byId("state").textContent = text;
  byId("state").className = isBad ? "lead bad" : "lead";
}

function once(load) {
  let pending;
  return () => (pending ??= load());
}

// --- the model and the vectors ----------------------------------------------------------------------------------------

const textTower = once(async () => {
  const options = { dtype: facts.dtype, device: "wasm" };
  return Promise.all([AutoTokenizer.from_pretrained(MODEL), CLIPTextModelWithProjection.from_pretrained(MODEL, options)]);
});
const imageTower = once(async () => {
  const options = { dtype: facts.dtype, device: "wasm" };
  return Promise.all([AutoProcessor.from_pretrained(MODEL), CLIPVisionModelWithProjection.from_pretrained(MODEL, options)]);
});
const pictures = once(() => collection("pictures"));
const names = once(() => collection("names"));

// Return {rows, scales, vectors}: vectors are float32, or int8 with a scale per row.
async function collection(name) {
  const [rows, buffer] = await Promise.all([
    fetch(`${name}.json?v=${facts.version}`).then((answer) => answer.json()),
    fetch(`${name}.bin?v=${facts.version}`).then((answer) => answer.arrayBuffer()),
  ]);
  if (facts.dtype === "fp32") return { rows, scales: null, vectors: new Float32Array(buffer) };
  return { rows, scales: new Float32Array(buffer, 0, rows.length), vectors: new Int8Array(buffer, 4 * rows.length) };
}

// Take special strings out of a text, as worldclip does: no text becomes a special token.  The tokenizers apply NFKC.
function clean(text) {
  const broken = breakSpecials(text);
  const normal = broken.normalize("NFKC");
  return facts.specials.some((string) => normal.includes(string)) ? breakSpecials(normal) : broken;
}

function breakSpecials(text) {
  for (;;) {
    const special = facts.specials.find((string) => text.includes(string));
    if (special === undefined) return text;
    text = text.replaceAll(special, special.length > 1 ? `${special[0]} ${special.slice(1)}` : "");
  }
}

function unit(vector) {
  const norm = Math.hypot(...vector);
  return Float32Array.from(vector, (value) => value / norm);
}

async function encodeText(text) {
  const [tokenizer, model] = await textTower();
  const { text_embeds } = await model(tokenizer([clean(text)], { padding: true, truncation: true }));
  return unit(text_embeds.data);
}

async function encodePicture(blob) {
  const [processor, model] = await imageTower();
  const image = await RawImage.fromBlob(blob).catch(() => Promise.reject(Error(`${blob.name} cannot be read`)));
  const { image_embeds } = await model(await processor(image.rgb()));
  return unit(image_embeds.data);
}

// Return [[row, score], ...] of the rows nearest to a vector, best first, ties by row.
function nearest({ rows, scales, vectors }, query, top) {
  const dim = query.length;
  const scores = new Float32Array(rows.length);
  for (let row = 0; row < rows.length; row++) {
    let sum = 0;
    for (let d = 0, at = row * dim; d < dim; d++, at++) sum += vectors[at] * query[d];
    scores[row] = scales ? sum * scales[row] : sum;
  }
  const order = Array.from(scores.keys()).sort((a, b) => scores[b] - scores[a] || a - b);
  return order.slice(0, top).map((row) => [row, scores[row]]);
}

// --- the page -----------------------------------------------------------------------------------------------------------

const languageNames = new Intl.DisplayNames(["en"], { type: "language", fallback: "code" });

function tag(code) {
  return code.replaceAll("_", "-"); // our codes as BCP 47: cbk_zam
}

function languageName(code) {
  try {
    return code ? languageNames.of(tag(code)) : "";
  } catch {
    return code; // not a code that browsers know
  }
}

function hitElement(picture, score) {
  const [file, key, caption, lang] = picture;
  const img = element("img", { src: `pictures/${file}?v=${facts.version}`, alt: caption || key, loading: "lazy" });
  const parts = caption ? [element("p", { className: "caption", lang: tag(lang), dir: "auto" }, caption)] : [];
  const about = [languageName(lang), `similarity ${score.toFixed(2)}`].filter(Boolean).join(", ");
  const hit = element("article", { className: "hit", title: key }, img, ...parts, element("small", {}, about));
  hit.dataset.key = key;
  return hit;
}

// The best name in each language, and the best whose language is not known; best first.
function nameElements(table, query) {
  const best = new Map();
  for (const [row, score] of nearest(table, query, table.rows.length)) {
    const [text, lang] = table.rows[row];
    if (!best.has(lang)) best.set(lang, [text, score]);
  }
  const lines = [...best].map(([lang, [text, score]]) =>
    element(
      "li",
      {},
      element("b", {}, score.toFixed(3)),
      element("span", { lang: tag(lang), dir: "auto" }, text),
      element("small", {}, languageName(lang)),
    ),
  );
  if (!lines.length) return [];
  const list = (items) => element("ul", { className: "names" }, ...items);
  const rest = lines.slice(NUM_NAMES);
  const folded = element("details", {}, element("summary", {}, `${rest.length} more languages`), list(rest));
  return [element("h2", {}, "Names"), list(lines.slice(0, NUM_NAMES)), ...(rest.length ? [folded] : [])];
}

async function search(encode, describe) {
  const number = ++latest;
  say("Searching …");
  byId("names").replaceChildren();
  try {
    const start = performance.now();
    const query = await encode();
    const encoded = performance.now();
    const table = facts.counts.pictures ? await pictures() : { rows: [], vectors: [] };
    const compared = performance.now();
    const hits = nearest(table, query, TOP);
    const end = performance.now();
    if (number !== latest) return;
    byId("hits").replaceChildren(...hits.map(([row, score]) => hitElement(table.rows[row], score)));
    const milliseconds = `encoded in ${Math.round(encoded - start)} ms, compared in ${(end - compared).toFixed(1)} ms`;
    say(`${hits.length ? `The ${hits.length} most similar pictures: ` : ""}${milliseconds}.`);
    await describe?.(query, number);
    document.body.dataset.searches = number;
  } catch (error) {
    if (number === latest) say(error.message, true);
  }
}

function searchText() {
  const text = byId("text").value.trim();
  if (!text) return;
  byId("queries").replaceChildren();
  search(() => encodeText(text));
}

function searchPicture(file) {
  if (!file) return;
  const img = element("img", { src: URL.createObjectURL(file), alt: file.name });
  byId("queries").replaceChildren(element("li", {}, img));
  byId("text").value = "";
  search(
    () => encodePicture(file),
    async (query, number) => {
      if (!facts.counts.names) return;
      const table = await names();
      if (number === latest) byId("names").replaceChildren(...nameElements(table, query));
    },
  );
}

// Return what the page holds, and what of the embedded folder it leaves out.
function factsText({ counts, left_out }) {
  const numbered = (parts) => Object.entries(parts).map(([name, number]) => `${number.toLocaleString("en")} ${name}`);
  const sentences = [];
  if (numbered(counts).length) sentences.push(`${numbered(counts).join(" and ")}.`);
  if (numbered(left_out).length) sentences.push(`Left out: ${numbered(left_out).join(", ")}.`);
  return [...sentences, "The model runs here: no text and no picture leaves this browser."].join(" ");
}

async function start() {
  facts = await (await fetch("facts.json", { cache: "no-cache" })).json();
  byId("facts").textContent = factsText(facts);
  const megabytes = (facts.page_bytes["first search"] / 1e6).toFixed(0);
  say(`Loading the model, ${megabytes} MB once …`);
  try {
    await leaveOldVersion();
    await textTower();
  } catch (error) {
    say(error.message, true);
    return;
  }
  say("Ready. Type what you look for, in any language, or drop a picture.");
  document.body.dataset.ready = "yes";
  keepForOffline();
}

// Wait for the worker of this version: an older one would answer with the vectors and the model that it keeps.
async function leaveOldVersion() {
  const controller = navigator.serviceWorker?.controller;
  if (!controller || controller.scriptURL.endsWith(`v=${facts.version}`)) return;
  const changed = new Promise((done) => {
    navigator.serviceWorker.addEventListener("controllerchange", done, { once: true });
  });
  await navigator.serviceWorker.register(`offline.js?v=${facts.version}`);
  await changed;
}

// Load all files and pictures through the service worker, which keeps them.  Browsers have none without HTTPS, besides
// localhost, and in some private windows; the page then needs its host.
async function keepForOffline() {
  if (!navigator.serviceWorker) return;
  try {
    await navigator.serviceWorker.register(`offline.js?v=${facts.version}`);
    if (!navigator.serviceWorker.controller) {
      await new Promise((done) => navigator.serviceWorker.addEventListener("controllerchange", done, { once: true }));
    }
    const shown = facts.counts.pictures ? (await pictures()).rows.map(([file]) => `pictures/${file}`) : [];
    for (const file of [location.href, "facts.json", ...facts.files, ...shown]) await (await fetch(file)).arrayBuffer();
    document.body.dataset.offline = "yes";
  } catch (error) {
    console.info(`not kept for offline use: ${error.message}`);
  }
}

byId("search").addEventListener("submit", (event) => {
  event.preventDefault();
  searchText();
});
byId("file").addEventListener("change", (event) => searchPicture(event.target.files[0]));
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    document.body.classList.toggle("over", name === "dragover");
    if (name === "drop") searchPicture(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) searchPicture(event.clipboardData.files[0]);
});
start();
