// Keeps the page itself for visits without a network; the model is kept by the package's own cache.
const SHELL = "peel-demo-shell";

self.addEventListener("install", (event) => {
  const page = ["./", "demo.css", "demo.js", "catalogue.json", "dist/peel.js", "dist/peel.wasm"];
  event.waitUntil(
    caches
      .open(SHELL)
      .then((cache) => cache.addAll(page))
      .then(() => self.skipWaiting()),
  );
});

self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

self.addEventListener("fetch", (event) => {
  if (event.request.headers.has("Range")) return;
  event.respondWith(
    fetch(event.request).catch(async (error) => {
      const kept = await caches.match(event.request, { ignoreSearch: true });
      if (kept) return kept;
      throw error;
    }),
  );
});
