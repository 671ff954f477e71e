// Conversations on this device, if the person wants that: IndexedDB, which may be forbidden, full, or emptied at any time.

import { effect, signal } from "./html.js";
import { onStoredElsewhere, store, stored } from "./local.js";
import { newId } from "./conversation-text.js";
import { soundRecord } from "./records.js";

const DATABASE = "wasmrt-conversations";
const TABLE = "conversations";
const SAVE_MS = 400; // after a change
const SAVE_WRITING_MS = 2000; // while a text is written, of which every piece is a change

export class Keeper {
  /** Whether the person wants it. */
  wanted = signal(stored("keep", false) === true);
  /** Why nothing can be kept; "" while nothing speaks against it. */
  trouble = signal("");
  /** @type {{value: import("./records.js").Record[]}} the last changed first */
  records = signal([]);

  #conversation;
  #database = null; // a promise of it
  #timer = 0;
  #saved = null; // the record as it was last saved, without its time
  #times = new Map(); // id -> `changed` of what we have read or written

  /** @param {import("./conversation.js").Conversation} conversation the one that is shown */
  constructor(conversation) {
    this.#conversation = conversation;
  }

  /** Read what is there, go on with the last conversation, and from then on save each change. */
  async start() {
    if (this.wanted.value) await this.#resume();
    effect(() => {
      const { live } = this.#conversation;
      const soon = this.#conversation.record && live.value ? SAVE_WRITING_MS : SAVE_MS;
      if (this.wanted.value) this.#timer ||= setTimeout(() => this.save(), soon);
    });
    addEventListener("pagehide", () => this.save());
    // All were forgotten for good: this tab's is not to come back.
    onStoredElsewhere("keep", () => {
      this.wanted.value &&= stored("keep", false) === true;
      this.#saved = null;
    });
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "hidden") this.save();
      else if (this.wanted.value) this.#list(); // of another tab
    });
  }

  /** Keep them from now on, or forget all. */
  async want(wanted) {
    this.wanted.value = wanted;
    store("keep", wanted || undefined);
    this.trouble.value = "";
    if (!wanted) await this.removeAll();
    else if (await this.#list()) await this.save();
  }

  async save() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    const record = this.#conversation.record;
    const same = JSON.stringify(record);
    if (!this.wanted.value || same === this.#saved) return;
    this.#saved = same;
    if (!record.messages.length) {
      if (this.#times.has(record.id)) await this.remove(record.id); // it was cleared
      return;
    }
    await this.put({ ...record, changed: Date.now() });
    rememberCurrent(this.#conversation.id.value);
  }

  /** Another tab may have changed it meanwhile: then ours becomes one of its own, so that neither is lost. */
  async put(record) {
    await this.#try(async (table) => {
      const there = await done(table.get(record.id));
      const seen = this.#times.get(record.id);
      if (there && seen !== undefined && there.changed !== seen) {
        const copy = newId();
        if (this.#conversation.id.value === record.id) this.#conversation.id.value = copy;
        record = { ...record, id: copy, name: `${record.name || "Untitled"} (from another tab)` };
      }
      await done(table.put(record));
      this.#times.set(record.id, record.changed);
      this.#show([record, ...this.records.value.filter(({ id }) => id !== record.id)]);
    });
  }

  async remove(id) {
    if (!(await this.#try((table) => done(table.delete(id))))) return; // what is still there is shown
    this.#times.delete(id);
    this.#show(this.records.value.filter((record) => record.id !== id));
  }

  async removeAll() {
    if (!(await this.#try((table) => done(table.clear())))) return;
    this.#times.clear();
    this.#saved = null;
    rememberCurrent(undefined);
    this.#show([]);
  }

  async #resume() {
    if (!(await this.#list())) return;
    const current = this.records.value.find(({ id }) => id === currentId()) ?? this.records.value[0];
    if (current && !this.#conversation.messages.value.length) this.#conversation.load(current);
  }

  /** Whether they could be read. Of what is damaged nothing is shown, and nothing is deleted. */
  #list() {
    return this.#try(async (table) => {
      const found = await done(table.getAll());
      const sound = found.flatMap((record) => {
        try {
          return [{ ...soundRecord(record), id: record.id, changed: record.changed }];
        } catch (error) {
          console.warn(`wasmrt: a kept conversation is damaged: ${error.message}`);
          return [];
        }
      });
      // What another tab has made of the one we show is not what we know.
      for (const { id, changed } of sound) if (id !== this.#conversation.id.value || !this.#times.has(id)) this.#times.set(id, changed);
      this.#show(sound);
    });
  }

  #show(records) {
    this.records.value = records.toSorted((a, b) => b.changed - a.changed);
  }

  /** Whether it worked; if not, `trouble` says why. */
  async #try(use, again = true) {
    try {
      this.#database ??= open();
      const transaction = (await this.#database).transaction(TABLE, "readwrite");
      const whole = new Promise((resolve, reject) => {
        transaction.oncomplete = resolve;
        transaction.onabort = transaction.onerror = () => reject(transaction.error ?? new Error("it was broken off"));
      });
      await Promise.all([use(transaction.objectStore(TABLE)), whole]);
      this.trouble.value = "";
      return true;
    } catch (error) {
      this.#database = null;
      this.#saved = null;
      if (again && error.name === "InvalidStateError") return this.#try(use, false); // the connection was closed meanwhile
      this.trouble.value = why(error);
      return false;
    }
  }
}

function why(error) {
  if (error.name === "QuotaExceededError") {
    return "The disk space this page may use is full: the last changes are not kept. Delete something.";
  }
  return `This browser lets the page keep nothing here (a private window, or storage is blocked): ${error.message || error.name}`;
}

/** @returns {Promise<IDBDatabase>} */
async function open() {
  const request = indexedDB.open(DATABASE, 1); // throws where it is forbidden; undefined in some private windows
  request.onupgradeneeded = () => request.result.createObjectStore(TABLE, { keyPath: "id" });
  const database = await done(request);
  database.onversionchange = () => database.close(); // somebody deletes it, say the browser's own settings
  return database;
}

function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new Error("another tab holds it"));
  });
}

// Of this tab first, so that two tabs go on with their own.
const CURRENT = "wasmrt.conversation";

function currentId() {
  try {
    return sessionStorage.getItem(CURRENT);
  } catch {
    return null; // forbidden: the last one will do
  }
}

function rememberCurrent(id) {
  try {
    if (id === undefined) sessionStorage.removeItem(CURRENT);
    else sessionStorage.setItem(CURRENT, id);
  } catch {
    // forbidden: a reload goes on with the last one
  }
}
