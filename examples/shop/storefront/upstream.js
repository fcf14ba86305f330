// Calls to the other services.

import http from "node:http";

const TIMEOUT_MS = 15_000;
const BODY_BYTES_MAX = 1 << 20;
const agent = new http.Agent({ keepAlive: true, maxSockets: 32 });

/** A service did not answer, or not with JSON. */
export class Unavailable extends Error {}

/** Resolves to `{ status, body }` with the decoded body. The trace of our request goes along. */
export function call(baseUrl, method, path, { traceparent, body, idempotencyKey } = {}) {
  const url = new URL(path, baseUrl);
  const headers = { accept: "application/json" };
  if (traceparent) headers.traceparent = traceparent;
  if (idempotencyKey) headers["idempotency-key"] = idempotencyKey;
  const payload = body === undefined ? undefined : JSON.stringify(body);
  if (payload !== undefined) {
    headers["content-type"] = "application/json";
    headers["content-length"] = Buffer.byteLength(payload);
  }
  return new Promise((resolve, reject) => {
    const fail = (reason) => reject(new Unavailable(`${url.hostname}: ${reason}`));
    const request = http.request(url, { method, headers, agent, timeout: TIMEOUT_MS }, (response) => {
      const chunks = [];
      let length = 0;
      response.on("data", (chunk) => {
        chunks.push(chunk);
        length += chunk.length;
        if (length > BODY_BYTES_MAX) request.destroy(new Error("the answer is too long"));
      });
      response.on("error", (error) => fail(error.message));
      response.on("end", () => {
        try {
          resolve({ status: response.statusCode, body: JSON.parse(Buffer.concat(chunks).toString()) });
        } catch {
          fail(`answered ${response.statusCode} without JSON`);
        }
      });
    });
    request.on("timeout", () => request.destroy(new Error("no answer in time")));
    request.on("error", (error) => fail(error.message));
    request.end(payload);
  });
}
