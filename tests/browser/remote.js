// The page's end of the remote control (server.py): asks what to do, imports a test's module, calls it, sends what it returns.
// Commands run side by side, so that a page whose test hangs can still be sent elsewhere.

const page = new URLSearchParams(location.search).get("page");
const doc = Math.random().toString(36).slice(2); // after a reload the old document's requests are told from the new one's

const where = (path) => `/remote/${path}?page=${page}&doc=${doc}`;
const post = (path, value) => fetch(where(path), { method: "POST", body: JSON.stringify(value, encode) });

const reports = new Set(); // on their way
function report(kind, text) {
  const sent = post("event", { kind, text: String(text).slice(0, 20000) }).finally(() => reports.delete(sent));
  reports.add(sent);
}

for (const level of ["error", "warn"]) {
  const original = console[level].bind(console);
  console[level] = (...values) => {
    original(...values);
    report(`console.${level}`, values.map((value) => value?.stack ?? String(value)).join(" "));
  };
}
addEventListener("error", (event) => report("error", event.error?.stack ?? event.message));
addEventListener("unhandledrejection", (event) => report("unhandledrejection", event.reason?.stack ?? event.reason));
addEventListener("securitypolicyviolation", (event) =>
  report("csp", `${event.effectiveDirective} refused ${event.blockedURI} at ${event.sourceFile}:${event.lineNumber}`),
);

const TYPED = { Int8Array, Uint8Array, Uint8ClampedArray, Int16Array, Uint16Array, Int32Array, Uint32Array, Float32Array, Float64Array, BigInt64Array, BigUint64Array };

function encodeBytes(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += 0x8000) text += String.fromCharCode(...bytes.slice(i, i + 0x8000));
  return btoa(text);
}

/** What JSON has no word for: typed arrays and buffers go as {$array, base64}, bigints as numbers or text. */
function encode(_, value) {
  if (typeof value === "bigint") return Number.isSafeInteger(Number(value)) ? Number(value) : String(value);
  if (typeof value === "number" && !Number.isFinite(value)) return { $number: String(value) };
  if (value instanceof ArrayBuffer) value = new Uint8Array(value);
  if (ArrayBuffer.isView(value) && value.constructor.name in TYPED) {
    const bytes = new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
    return { $array: value.constructor.name, base64: encodeBytes(bytes) };
  }
  if (value instanceof Map) return Object.fromEntries(value);
  if (value instanceof Error) return describe(value);
  return value;
}

function decode(_, value) {
  if (value?.$array === undefined) return value;
  const bytes = Uint8Array.from(atob(value.base64), (c) => c.charCodeAt(0));
  return new TYPED[value.$array](bytes.buffer);
}

function describe(error) {
  if (!(error instanceof Error)) return { name: "thrown", message: String(error) };
  return { name: error.name, kind: error.kind, message: error.message, stack: error.stack };
}

async function perform(command) {
  if (command.go) {
    await post("result", { id: command.id, value: null });
    if (command.go === "reload") location.reload();
    else location.replace(command.go);
    return;
  }
  let answer;
  try {
    const module = await import(command.module);
    const value = await module.default(command.args, { note: (text) => report("note", text) });
    answer = { id: command.id, value: value === undefined ? null : value };
  } catch (error) {
    answer = { id: command.id, error: describe(error) };
  }
  await new Promise((resolve) => setTimeout(resolve)); // a violation of the policy is told in a task of its own
  await Promise.all(reports);
  await post("result", answer);
}

for (;;) {
  const response = await fetch(where("next"), { cache: "no-store" });
  if (response.status === 410) break;
  if (response.status === 200) perform(JSON.parse(await response.text(), decode));
}
