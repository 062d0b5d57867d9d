// Classify and embed with transformers.js: NODE_MODULES FOLDER IMAGE TEXTS.json DTYPE SHAPES
// SHAPES: JSON list of numbers of images and texts, "2x1".
// Prints {labels, joint: {"2x1": {image, text}, ...}: rows of model.onnx for numbers of images and texts,
// text: rows of text_model.onnx, image: rows of vision_model.onnx}.
import { readFileSync } from "node:fs";
import { dirname, basename } from "node:path";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [modules, folder, image, textsFile, dtype, shapes] = process.argv.slice(2);
const require = createRequire(pathToFileURL(modules + "/"));
const js = await import(pathToFileURL(require.resolve("@huggingface/transformers")).href);
js.env.allowRemoteModels = false;
js.env.localModelPath = dirname(folder) + "/";
const name = basename(folder);
const texts = JSON.parse(readFileSync(textsFile, "utf8"));
const picture = await js.RawImage.read(image);

const tokenizer = await js.AutoTokenizer.from_pretrained(name);
const tokenize = (some) => tokenizer(some, { padding: true, truncation: true });
const encoder = await js.CLIPTextModelWithProjection.from_pretrained(name, { dtype });
const { text_embeds } = await encoder(tokenize(texts));
const processor = await js.AutoProcessor.from_pretrained(name);
const imageEncoder = await js.CLIPVisionModelWithProjection.from_pretrained(name, { dtype });
const { image_embeds } = await imageEncoder(await processor(picture));

const classify = await js.pipeline("zero-shot-image-classification", name, { dtype });
const labels = await classify(image, texts.slice(0, 3), { hypothesis_template: "{}" });
const both = await js.AutoModel.from_pretrained(name, { dtype });
const joint = {};
for (const shape of JSON.parse(shapes)) {
  const [numImages, numTexts] = shape.split("x").map(Number);
  const images = await processor(Array(numImages).fill(picture));
  const output = await both({ ...tokenize(texts.slice(0, numTexts)), ...images });
  joint[shape] = { image: output.image_embeds.tolist(), text: output.text_embeds.tolist() };
}
console.log(`transformers.js ${js.env.version} in Node.js ${process.version}`);
console.log(JSON.stringify({ labels, joint, text: text_embeds.tolist(), image: image_embeds.tolist() }));
