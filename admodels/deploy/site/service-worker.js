// Keeps the whole page, so that it works without a network. `DIGEST` of the contents, `FILES` and `LATER` are written
// above when the page is built; `LATER` are files that only some browsers need.

const PREFIX = `${self.registration.scope}:`; // several pages can share a host
const CACHE = PREFIX + DIGEST;
const MARK = '<meta name="generator" content="admodels">'; // in every version of the page

// Threads need an isolated page, which many hosts of static files cannot ask for.
const HEADERS = {
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Resource-Policy": "cross-origin",
};

self.addEventListener("install", (event) => {
  const kept = async () => {
    const cache = await caches.open(CACHE);
    // "no-cache" asks the host whether what the browser still has is what is there now.
    const keep = async (file) => {
      const response = await fetch(file, { cache: "no-cache", mode: "cors" });
      if (!response.ok) throw new Error(`${file} answers ${response.status}`);
      await cache.put(file, isolated(response));
    };
    await Promise.all(FILES.map(keep));
    await self.skipWaiting();
  };
  event.waitUntil(kept());
});

self.addEventListener("activate", (event) => {
  const tidied = async () => {
    const old = (await caches.keys()).filter((name) => name.startsWith(PREFIX) && name !== CACHE);
    await Promise.all(old.map((name) => caches.delete(name)));
    await self.clients.claim();
  };
  event.waitUntil(tidied());
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method !== "GET") return;
  if (request.mode === "navigate") event.respondWith(page(request));
  else if ([...FILES, ...LATER].some((file) => absolute(file) === request.url)) event.respondWith(fromCache(request));
});

const absolute = (file) => new URL(file, self.registration.scope).href;

/**
 * The kept page, as long as its host has one of ours: the files of a newer one come only when all of them are here.
 * Anything else that the host has there now is shown as it is.
 */
async function page(request) {
  const kept = await caches.match(request, { cacheName: CACHE, ignoreSearch: true });
  try {
    const response = await fetch(request);
    if (!kept || !(await response.clone().text()).includes(MARK)) return isolated(response);
  } catch {
    // Without a network there is still the kept one.
  }
  return kept ?? Response.error();
}

async function fromCache(request) {
  const kept = await caches.match(request, { cacheName: CACHE });
  if (kept) return kept;
  const response = isolated(await fetch(request));
  if (response.ok) {
    const cache = await caches.open(CACHE);
    await cache.put(request, response.clone());
  }
  return response;
}

function isolated(response) {
  const isOwn = response.type === "basic" || response.type === "default";
  if (!isOwn || response.status !== 200) return response;
  const headers = new Headers(response.headers);
  for (const [name, value] of Object.entries(HEADERS)) headers.set(name, value);
  return new Response(response.body, { status: 200, statusText: response.statusText, headers });
}
