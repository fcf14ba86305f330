// The shop's page. It is made on the server, from what catalog and orders say, and works without
// scripts in the browser.
//
//   GET  /            the products
//   POST /order       places an order (form fields sku, quantity, key), then leads to its page
//   GET  /order/{id}  an order; GET /order?id= leads there
//   GET  /healthz

import fs from "node:fs";
import http from "node:http";
import { randomUUID } from "node:crypto";
import * as page from "./page.js";
import { Unavailable, call } from "./upstream.js";

const PORT = 3000;
const FORM_BYTES_MAX = 4096;
const CATALOG_URL = process.env.CATALOG_URL ?? "http://catalog:8000";
const ORDERS_URL = process.env.ORDERS_URL ?? "http://orders:8000";
const style = fs.readFileSync(new URL("style.css", import.meta.url));

/** What a request is answered with instead of a page of its own. */
class Refused extends Error {
  constructor(status, reason) {
    super(reason);
    this.status = status;
  }
}

const server = http.createServer(async (request, response) => {
  try {
    await route(request, response);
  } catch (error) {
    const status = error instanceof Unavailable ? 503 : (error.status ?? 500);
    log("request failed", request, { status, reason: error.message });
    if (response.headersSent) return response.destroy();
    html(response, status, page.failure(status, status === 500 ? "Something went wrong here." : error.message));
  }
});

async function route(request, response) {
  const url = new URL(request.url, "http://storefront");
  const is = (method, path) => url.pathname === path && (request.method === method || (method === "GET" && request.method === "HEAD"));
  const order = /^\/order\/([0-9a-f-]{1,64})$/.exec(url.pathname);
  if (is("GET", "/")) return html(response, 200, page.products(await products(request), randomUUID()));
  if (is("GET", "/style.css")) return send(response, 200, "text/css; charset=utf-8", style, { "cache-control": "max-age=300" });
  if (is("GET", "/healthz")) return send(response, 200, "application/json", '{"status":"ok"}');
  if (is("POST", "/order")) return placeOrder(request, response);
  if (is("GET", "/order")) return redirect(response, `/order/${encodeURIComponent((url.searchParams.get("id") ?? "").trim())}`);
  if (order && request.method === "GET") return showOrder(order[1], request, response);
  if (url.pathname.startsWith("/order/")) throw new Refused(404, "There is no such order.");
  throw new Refused(404, "There is nothing at this address.");
}

async function products(request) {
  const { status, body } = await call(CATALOG_URL, "GET", "/api/catalog", { traceparent: request.headers.traceparent });
  if (status !== 200) throw new Unavailable(`catalog answered ${status}`);
  return body;
}

async function placeOrder(request, response) {
  const form = new URLSearchParams(await read(request));
  const { status, body } = await call(ORDERS_URL, "POST", "/api/orders", {
    traceparent: request.headers.traceparent,
    // From the page's form: a button that is pressed twice orders once.
    idempotencyKey: form.get("key") || undefined,
    body: { sku: form.get("sku"), quantity: Number(form.get("quantity")) },
  });
  if (status !== 201) throw new Refused(status, sentence(body.error ?? `orders answered ${status}`));
  log("order placed", request, { order_id: body.id });
  redirect(response, `/order/${body.id}`);
}

async function showOrder(id, request, response) {
  const [{ status, body }, list] = await Promise.all([
    call(ORDERS_URL, "GET", `/api/orders/${id}`, { traceparent: request.headers.traceparent }),
    products(request),
  ]);
  if (status !== 200) throw new Refused(status, sentence(body.error ?? `orders answered ${status}`));
  html(response, 200, page.order(body, list.find((product) => product.sku === body.sku)));
}

function sentence(reason) {
  return `${reason.charAt(0).toUpperCase()}${reason.slice(1)}.`;
}

async function read(request) {
  const chunks = [];
  let length = 0;
  for await (const chunk of request) {
    length += chunk.length;
    if (length > FORM_BYTES_MAX) throw new Refused(413, "The form is too long.");
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString();
}

function html(response, status, text) {
  send(response, status, "text/html; charset=utf-8", text, {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
  });
}

function redirect(response, location) {
  send(response, 303, "text/plain; charset=utf-8", "", { location });
}

function send(response, status, type, body, headers = {}) {
  response.writeHead(status, {
    "content-type": type,
    "content-length": Buffer.byteLength(body),
    "x-content-type-options": "nosniff",
    ...headers,
  });
  response.end(response.req.method === "HEAD" ? undefined : body);
}

/** One line of JSON, with the trace that the request belongs to. */
function log(message, request, fields) {
  console.log(JSON.stringify({ message, traceparent: request.headers.traceparent ?? null, path: request.url, fields }));
}

for (const signal of ["SIGTERM", "SIGINT"]) {
  process.on(signal, () => {
    // Ends what is under way, then the process, as nothing else keeps it alive.
    server.close(() => process.exit(0));
    server.closeIdleConnections();
    setTimeout(() => process.exit(0), 8000).unref();
  });
}

server.listen(PORT, "0.0.0.0", () => console.log(JSON.stringify({ message: `listening on port ${PORT}` })));
