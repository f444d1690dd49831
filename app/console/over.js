// What lies over the page is dressed before it is shown.

import { el } from "./dom.js";

await new Promise((resolve) => {
  const href = new URL("over.css", import.meta.url).href;
  document.head.append(el("link", { rel: "stylesheet", href, onload: resolve, onerror: resolve }));
});
