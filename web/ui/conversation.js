// A conversation: its messages, and the text that is being written into it. No DOM, no storage; `startText` is the way to a model.

import { asked, forgetting, joinStory, newId } from "./conversation-text.js";
import { batch, computed, signal } from "./html.js";
import { firstSettings, forEngine } from "./settings.js";

/**
 * A message is never changed, but replaced, so that who shows one sees at once whether it is another.
 * @typedef {object} Message
 * @property {string} id
 * @property {"user" | "assistant"} role
 * @property {string} content as yet empty while it is written: see Conversation.live
 * @property {"writing" | "done" | "stopped" | "failed"} state
 * @property {Record<string, any>} [stats] what the engine says of the text, at its end
 * @property {{kind: string, text: string}} [reason] why it failed
 */

export class Conversation {
  id = signal(newId());
  /** What a person has called it; "": titleOf its messages. */
  name = signal("");
  /** @type {{value: "chat" | "story"}} */
  mode = signal("chat");
  system = signal("");
  settings = signal(firstSettings());
  /** @type {{value: Message[]}} */
  messages = signal([]);
  /** What of the message that is being written is there; it changes once a frame. */
  live = signal("");
  /** What stands in the composer. */
  draft = signal("");
  /** So many messages from the start the model no longer gets. */
  forgotten = signal(0);
  /** @type {{value: null | {what: string, undo: () => void}}} the last thing that was taken away */
  undoable = signal(null);
  writing = computed(() => this.messages.value.at(-1)?.state === "writing");

  #startText;
  #frame;
  #run = null; // {text, generation, stopped, over}: who writes the last message
  #before = Promise.resolve(); // the end of whatever was written before

  /**
   * @param {object} how
   * @param {(run: (model: any) => any) => AsyncIterable<string>} how.startText session.js
   * @param {(draw: () => void) => void} [how.frame] calls back before the next picture is drawn
   */
  constructor({ startText, frame = (draw) => requestAnimationFrame(draw) }) {
    this.#startText = startText;
    this.#frame = frame;
  }

  /** Say something and have it answered; in a story, go on from the text. */
  send(text) {
    if (this.writing.value || !text.trim()) return;
    batch(() => {
      this.draft.value = "";
      this.undoable.value = null;
      this.#append({ role: "user", content: this.mode.value === "story" ? text : text.trim(), state: "done" });
    });
    this.#answer();
  }

  /** End the text here. What is there stays. @returns {Promise<void>} */
  async stop() {
    const run = this.#run;
    if (!run) return;
    run.stopped = true;
    await run.generation?.stop();
    await run.over;
  }

  /** Answer again what this message, or the last, has answered. What follows it goes. */
  regenerate(id = this.messages.value.at(-1)?.id) {
    const at = this.#place(id);
    if (this.writing.value || at < 0) return;
    const upTo = this.messages.value[at].role === "user" ? at + 1 : at;
    if (upTo) this.#cut(upTo, "The answer was replaced.");
    if (upTo) this.#answer();
  }

  /** Say something else in place of a message of one's own; what follows is written anew. */
  edit(id, text) {
    const at = this.#place(id);
    if (this.writing.value || at < 0 || !text.trim()) return;
    this.#cut(at, "The message was changed.");
    this.#append({ role: "user", content: text, state: "done" });
    this.#answer();
  }

  /** Go on with the last text, where it was cut off. */
  proceed() {
    const last = this.messages.value.at(-1);
    if (this.writing.value || !last) return;
    if (last.role === "user") this.#answer();
    else this.#write({ ...last, state: "writing", reason: undefined }, last.content);
  }

  /** Take a message away, with the answer if it has one. */
  remove(id) {
    const at = this.#place(id);
    if (at < 0) return;
    const old = this.messages.value;
    const pair = old[at].role === "user" && old[at + 1]?.role === "assistant";
    this.#offer(pair ? "The message and its answer were deleted." : "The message was deleted.");
    this.#abandon();
    batch(() => {
      const n = pair ? 2 : 1;
      this.messages.value = [...old.slice(0, at), ...old.slice(at + n)];
      if (at < this.forgotten.value) this.forgotten.value = Math.max(at, this.forgotten.value - n);
    });
  }

  /** Take all messages away; what was set stays. */
  clear() {
    this.#offer("The conversation was cleared.");
    this.#abandon();
    batch(() => {
      this.messages.value = [];
      this.forgotten.value = 0;
    });
  }

  /** Another conversation, with the same settings. keep: whether this one can be had back by undo(). */
  begin(mode = this.mode.value, keep = false) {
    this.load({ mode, system: this.system.value, settings: this.settings.value }, keep);
  }

  /** From now on the model does not get the older half of what was said; then the last question is answered. */
  forgetOldest() {
    const { value: messages } = this.messages;
    const from = forgetting(messages, this.forgotten.value);
    if (this.writing.value || from === null) return;
    this.forgotten.value = from;
    const last = messages.at(-1);
    if (last.role === "assistant" && !last.content) this.regenerate(last.id);
    else this.proceed();
  }

  get canForget() {
    return forgetting(this.messages.value, this.forgotten.value) !== null;
  }

  undo() {
    this.undoable.value?.undo();
  }

  /**
   * Show what was kept.
   * @param {Record<string, any>} record see records.js
   * @param {boolean} [keep] whether what was shown before can be had back by undo()
   */
  load(record, keep = false) {
    const before = this.record;
    const undoable = keep && before.messages.length > 0;
    this.#abandon();
    batch(() => {
      this.id.value = record.id ?? newId();
      this.name.value = record.name ?? "";
      this.mode.value = record.mode ?? "chat";
      this.system.value = record.system ?? "";
      this.settings.value = record.settings ?? firstSettings();
      this.messages.value = record.messages ?? [];
      this.forgotten.value = record.forgotten ?? 0;
      this.draft.value = record.draft ?? "";
      this.live.value = "";
      this.undoable.value = undoable ? { what: "The conversation was closed.", undo: () => this.load(before) } : null;
    });
  }

  /** What to keep of it, plain data. What is being written counts as stopped. */
  get record() {
    const messages = this.messages.value.map((message) => {
      return message.state === "writing" ? { ...message, content: this.#run?.text ?? "", state: "stopped" } : message;
    });
    const { id, name, mode, system, settings, forgotten, draft } = this;
    const rest = Object.entries({ id, name, mode, system, settings, forgotten, draft }).map(([key, { value }]) => [key, value]);
    return { ...Object.fromEntries(rest), messages };
  }

  #place(id) {
    return this.messages.value.findIndex((message) => message.id === id);
  }

  #append(message) {
    this.messages.value = [...this.messages.value, { id: newId(), ...message }];
  }

  #cut(at, what) {
    const gone = this.messages.value.slice(at);
    if (gone.some(({ content }) => content)) this.#offer(what);
    this.messages.value = this.messages.value.slice(0, at);
    if (this.forgotten.value >= at) this.forgotten.value = 0;
  }

  #offer(what) {
    const { id, messages, forgotten } = this.record;
    const undo = () => {
      if (this.id.value !== id) return;
      this.#abandon();
      batch(() => {
        this.messages.value = messages;
        this.forgotten.value = forgotten;
        this.undoable.value = null;
      });
    };
    this.undoable.value = { what, undo };
  }

  /** Whoever is writing stops, and what comes from there is not looked at any more. */
  #abandon() {
    const run = this.#run;
    this.#run = null;
    if (run) run.stopped = true;
    run?.generation?.stop().catch(() => {}); // its error has been told by the session
  }

  #answer() {
    this.#write({ id: newId(), role: "assistant", content: "", state: "writing" }, "");
  }

  /** Put a message at the end, or in place of the last if it is that one, and have it written. */
  #write(message, head) {
    const run = { text: head, generation: null, stopped: false, over: null };
    const kept = this.messages.value.filter(({ id }) => id !== message.id);
    this.#run = run;
    batch(() => {
      this.live.value = head;
      this.messages.value = [...kept, message];
    });
    run.over = this.#before = this.#before.then(() => this.#follow(run, message, kept));
  }

  async #follow(run, message, kept) {
    const head = run.text;
    let shown = true;
    let end;
    const show = () => {
      shown = true;
      if (this.#run === run) this.live.value = run.text;
    };
    try {
      if (run.stopped) return;
      const options = forEngine(this.settings.value);
      run.generation = this.#startText((model) => this.#request(model, kept, head, options));
      for await (const piece of run.generation) {
        run.text += piece;
        if (shown) this.#frame(show);
        shown = false;
      }
      const { stats } = run.generation;
      end = { state: run.stopped || stats?.finish === "closed" ? "stopped" : "done", stats: stats ?? undefined };
    } catch (error) {
      const stopped = run.stopped || error.name === "AbortError";
      end = stopped ? { state: "stopped" } : { state: "failed", reason: { kind: error.kind ?? error.name, text: error.message } };
    } finally {
      end ??= { state: "stopped" };
      if (this.#run === run) this.#end(message, { ...end, content: run.text });
    }
  }

  #request(model, kept, head, options) {
    const seen = kept.slice(this.forgotten.value);
    if (this.mode.value === "story") return model.generate(joinStory([...seen, { role: "assistant", content: head }]), options);
    return model.chat(asked(this.system.value, seen, head), options);
  }

  #end(message, end) {
    this.#run = null;
    batch(() => {
      this.messages.value = this.messages.value.map((one) => (one.id === message.id ? { ...message, ...end } : one));
      this.live.value = "";
    });
  }
}
