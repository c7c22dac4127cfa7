// Gradio sends a camera's frames by a clock, also while earlier ones are still on their way. Over a slow network they
// would pile up in the browser, and what is shown would get older and older. So there is one frame on its way at a time,
// and those that come meanwhile are left out: the next one is newer. The server keeps the last one only.
(() => {
  const send = window.fetch;
  const onTheirWay = new Set(); // streams
  window.fetch = async (address, options) => {
    const url = new URL(address?.url ?? address, location.href);
    if (options?.method !== "POST" || !/\/stream\/[^/]+$/.test(url.pathname)) return send(address, options);
    if (onTheirWay.has(url.pathname)) {
      return new Response('{"msg": "left out"}', { headers: { "content-type": "application/json" } });
    }
    onTheirWay.add(url.pathname);
    try {
      return await send(address, options);
    } finally {
      onTheirWay.delete(url.pathname);
    }
  };
})();
