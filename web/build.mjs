// Builds the page into src/septum/studio/static; with --check proves that what lies there is what the sources build to;
// with --test runs the tests of the plain functions.
import { build } from "esbuild";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";

const here = new URL(".", import.meta.url).pathname;
const target = join(here, "../src/septum/studio/static");
const mostBytes = 60_000; // compressed, all files together

if (process.argv.includes("--test")) {
  const folder = mkdtempSync(join(tmpdir(), "studio-"));
  const tests = readdirSync(join(here, "test")).filter((name) => name.endsWith(".test.ts"));
  await build({
    entryPoints: tests.map((name) => join(here, "test", name)),
    outdir: folder,
    bundle: true,
    platform: "node",
    format: "esm",
    outExtension: { ".js": ".mjs" },
  });
  const files = tests.map((name) => join(folder, name.replace(/\.ts$/, ".mjs")));
  const done = spawnSync(process.execPath, ["--test", ...files], { stdio: "inherit" });
  rmSync(folder, { recursive: true });
  process.exit(done.status ?? 1);
}

const script = await build({
  entryPoints: [join(here, "src/app.ts")],
  bundle: true,
  minify: true,
  format: "iife",
  target: "es2022",
  write: false,
});
const style = await build({ entryPoints: [join(here, "src/style.css")], minify: true, write: false });
const made = {
  "app.js": script.outputFiles[0].text,
  "style.css": style.outputFiles[0].text,
  "index.html": readFileSync(join(here, "src/index.html"), "utf8"),
};
const bytes = Object.values(made).reduce((sum, text) => sum + gzipSync(text, { level: 9 }).length, 0);
console.log(`page: ${bytes} bytes compressed`);
if (bytes > mostBytes) {
  console.error(`the page has more than ${mostBytes} bytes compressed`);
  process.exit(1);
}
for (const [name, text] of Object.entries(made)) {
  const file = join(target, name);
  if (!process.argv.includes("--check")) {
    writeFileSync(file, text);
  } else if (readFileSync(file, "utf8") !== text) {
    console.error(`${name} is not what the sources build to; run: make page`);
    process.exit(1);
  }
}
