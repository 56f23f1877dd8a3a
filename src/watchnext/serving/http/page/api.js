// Calls of the API. Ids are sent back exactly as received: an int64 above 2^53 keeps its digits where JSON.rawJSON exists.

const keepDigits = (_, value, context) =>
  Number.isInteger(value) && !Number.isSafeInteger(value) && context?.source && JSON.rawJSON ? JSON.rawJSON(context.source) : value;
export const parse = (text) => JSON.parse(text, keepDigits);
export const name = (id) => id?.rawJSON ?? String(id ?? "none");
export const key = (id) => JSON.stringify(id);
export const random = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

let bearer = null; // the key of a server that asks for one, typed in; it lives as long as the page
export const useKey = (key) => { bearer = key; };

export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    Object.assign(this, { status, code });
  }
}

export async function call(path, { body, signal } = {}) {
  const headers = { ...(body && { "Content-Type": "application/json" }), ...(bearer && { Authorization: `Bearer ${bearer}` }) };
  const answer = await fetch(path, { method: body ? "POST" : "GET", body: body && JSON.stringify(body), headers, signal }).catch((error) => {
    throw error.name === "AbortError" ? error : new ApiError(0, "silent", "The server does not answer.");
  });
  const text = await answer.text();
  if (answer.ok && !answer.headers.get("Content-Type")?.includes("json")) return text;
  let content = null;
  try { content = parse(text); } catch { /* an error page of a proxy */ }
  if (answer.ok && content) return content;
  const { code, message } = content?.error ?? {};
  const wait = answer.headers.get("Retry-After");
  const reported = message ?? (text.slice(0, 200) || answer.statusText);
  throw new ApiError(answer.status, code, `${reported}${wait ? ` (in ${wait} s)` : ""}`);
}

// Returns what a call answers, or null where the server has no such route or grants no right to it.
export async function optional(path, options) {
  try {
    return await call(path, options);
  } catch (error) {
    if ([401, 403, 404].includes(error.status)) return null;
    throw error;
  }
}
