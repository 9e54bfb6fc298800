// Bundles each widget into one module and one style sheet, in a folder of the Python package that git ignores.
//
// An entry is src/NAME/widget.ts (what a notebook loads) or src/NAME/page.ts (what a saved HTML file holds). A bundle is sent
// to the browser with each widget, so its size is a promise, held here.

import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const TARGET = "../znb/widgets/static";
const BYTES_MAX = 60_000;
const GZIP_BYTES_MAX = 25_000;

const entries = {};
for (const name of readdirSync("src")) {
  for (const [file, suffix] of [["widget", ""], ["page", "-page"]]) {
    if (existsSync(`src/${name}/${file}.ts`)) entries[name + suffix] = `src/${name}/${file}.ts`;
  }
}
rmSync(TARGET, { recursive: true, force: true });
mkdirSync(TARGET, { recursive: true });
await build({
  entryPoints: entries,
  outdir: TARGET,
  bundle: true,
  minify: true,
  format: "esm",
  target: ["es2022", "chrome109", "firefox115", "safari16"], // style sheets: older ones know no nested rules
  legalComments: "inline",
  charset: "utf8",
  logLevel: "warning",
});

let tooLarge = false;
for (const file of readdirSync(TARGET).sort()) {
  const content = readFileSync(`${TARGET}/${file}`);
  const zipped = gzipSync(content).length;
  const over = content.length > BYTES_MAX || zipped > GZIP_BYTES_MAX;
  tooLarge ||= over;
  console.log(`${file}: ${content.length} bytes, ${zipped} zipped${over ? `: more than ${BYTES_MAX} or ${GZIP_BYTES_MAX}` : ""}`);
}
if (tooLarge) process.exit(1);
