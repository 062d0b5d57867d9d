// The service worker of the page: what the page has loaded once stays, so that it works without its host.
// Large files never change under one version; the others are asked for anew while the host answers.
const { searchParams } = new URL(self.location.href);
const PREFIX = `worldclip ${self.registration.scope} `;
const VERSION = searchParams.get("v");
const CACHE = PREFIX + VERSION;
const LARGE = /\/(model|js|pictures)\/|\.bin$/;

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(takeOver()));
self.addEventListener("fetch", (event) => {
  const { origin, pathname } = new URL(event.request.url);
  if (event.request.method !== "GET" || origin !== self.location.origin) return;
  event.respondWith(answer(event.request, LARGE.test(pathname)));
});

async function takeOver() {
  const older = (await caches.keys()).filter((name) => name.startsWith(PREFIX) && name !== CACHE);
  await Promise.all(older.map((name) => caches.delete(name)));
  await self.clients.claim();
}

async function answer(request, isLarge) {
  const cache = await caches.open(CACHE);
  const kept = await cache.match(request, { ignoreSearch: true });
  if (kept && isLarge) return kept;
  try {
    // The browser's own cache may have the file of an older version at this address.
    const fresh = isLarge
      ? await fetch(`${request.url.split("?")[0]}?v=${VERSION}`)
      : await fetch(request, { cache: "no-cache" });
    if (fresh.status === 200) await cache.put(request, fresh.clone());
    return fresh;
  } catch (error) {
    if (kept) return kept;
    throw error;
  }
}
