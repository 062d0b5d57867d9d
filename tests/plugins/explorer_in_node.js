// Run the explorer's scripts under Node: node explorer_in_node.js FOLDER < [[function, arguments...], ...] > [results]
"use strict";
const fs = require("node:fs");
const path = require("node:path");
const vm = require("node:vm");

const folder = process.argv[2];
const runFile = (name) => vm.runInThisContext(fs.readFileSync(path.join(folder, name), "utf8"), { filename: name });
const SCRIPTS = ["load", "element", "slider", "example", "language", "cut", "match", "coin", "why"];
for (const name of SCRIPTS) runFile(`${name}.js`);
globalThis.readFile = async (name) => {
  runFile(`data/${name}.js`);
  return vm.runInThisContext(`chunks.get(${JSON.stringify(name)})`);
};
vm.runInThisContext("requestScript = readFile"); // there are no script tags here
globalThis.callAll = async (calls) => {
  const results = [];
  for (const [name, ...values] of calls) results.push((await vm.runInThisContext(name)(...values)) ?? null);
  return results;
};
callAll(JSON.parse(fs.readFileSync(0, "utf8"))).then((results) => process.stdout.write(JSON.stringify(results)));
