// Records in the build which sources it was made from: the sum of every source's path and bytes, in the order of the paths.
// tests/browser/test_web_build.py computes the same and says where somebody forgot `npm run build`.
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";

const files = ["index.html", "package-lock.json", "package.json", "tsconfig.json", "vite.config.ts"];
for (const folder of ["src", "public"])
  for (const each of readdirSync(folder, { recursive: true, withFileTypes: true }))
    if (each.isFile()) files.push(`${each.parentPath}/${each.name}`);
const sum = createHash("sha256");
for (const file of files.sort()) sum.update(`${file}\n`).update(readFileSync(file)).update("\n");
writeFileSync("../openbook/serve/static/sources.sha256", `${sum.digest("hex")}\n`);
