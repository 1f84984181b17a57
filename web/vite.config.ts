import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

// One script, one style sheet, under names that do not change: the server tells browsers to ask whether they are new.
export default defineConfig({
  base: "./",
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  build: {
    outDir: fileURLToPath(new URL("../openbook/serve/static", import.meta.url)),
    emptyOutDir: true,
    target: "es2022",
    cssTarget: "chrome123", // light-dark() is kept as it is written
    modulePreload: { polyfill: false },
    assetsInlineLimit: 0, // no data: addresses, which the policy forbids
    rollupOptions: {
      output: { entryFileNames: "page.js", chunkFileNames: "[name].js", assetFileNames: "page[extname]" },
    },
  },
  test: { include: ["test/**/*.test.ts"] },
} as Parameters<typeof defineConfig>[0]);
