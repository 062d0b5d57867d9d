// Classify and embed with transformers.js: NODE_MODULES FOLDER IMAGE TEXTS.json DTYPE
// Prints {versions, labels, text: rows of text_model.onnx}.
import { readFileSync } from "node:fs";
import { dirname, basename } from "node:path";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [modules, folder, image, textsFile, dtype] = process.argv.slice(2);
const require = createRequire(pathToFileURL(modules + "/"));
const js = await import(pathToFileURL(require.resolve("@huggingface/transformers")).href);
js.env.allowRemoteModels = false;
js.env.localModelPath = dirname(folder) + "/";
const name = basename(folder);
const texts = JSON.parse(readFileSync(textsFile, "utf8"));

const classify = await js.pipeline("zero-shot-image-classification", name, { dtype });
const labels = await classify(image, texts.slice(0, 3), { hypothesis_template: "{}" });

const tokenizer = await js.AutoTokenizer.from_pretrained(name);
const encoder = await js.CLIPTextModelWithProjection.from_pretrained(name, { dtype });
const inputs = tokenizer(texts, { padding: true, truncation: true });
const { text_embeds } = await encoder(inputs);
const rows = text_embeds.tolist();
console.log(JSON.stringify({ versions: [`transformers.js ${js.env.version} in Node.js ${process.version}`], labels, text: rows }));
