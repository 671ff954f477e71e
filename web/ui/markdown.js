/**
 * Markdown of a model, shown: rendered by marked, sanitised by DOMPurify, in bounded time. The text is an adversary's.
 *
 * A text that grows is drawn block by block: what has ended stays in the page as it is, only the last block is drawn anew. A long
 * text is drawn in slices. From a block on that would take long the rest is plain text, and a line says so.
 */

import { element, listing, marked, safe } from "./markdown-safe.js";

const WINDOW = 4000; // characters that are looked at at once
const MOST_BLOCK = 8000; // of one block, say a long list; a longer one is cut into several
const MOST_FENCE = MOST_BLOCK + 200; // how far to look for a listing
const MOST_MARKS = 4000; // that mean something, in a window: real texts have some hundreds, and time grows as their square
const MOST_DEPTH = 20; // of what is nested at a line's start
const MOST_BLOCKS = 3000;
const BLOCK_MS = 1000; // a window that took longer is the last that is rendered; on a desktop 50 ms is much
const SLICE_MS = 12; // of drawing at once; then others have their turn
const FENCE = /^(`{3,}|~{3,})[ \t]*([^\s`]*)[^`\n]*(?:\n|$)/m;

/** Draws a growing text into an element. */
export class MarkdownView {
  #place;
  #done = 0; // characters of the text whose blocks have ended
  #last = []; // nodes of the block that has not
  #links = Object.create(null); // [name]: address, as far as they are known
  #open = null; // {at, head, box, text}: a listing that has not ended, which stays in its place
  #plain = null; // the text node of the rest, once it is too much
  #text = "";
  #more = 0; // the timer of the next slice

  /** @param {HTMLElement} place empty */
  constructor(place) {
    this.#place = place;
  }

  /** Show this text; of a long one the rest comes soon. One that does not begin with what was shown before is drawn anew. */
  draw(text) {
    if (text.includes("\r")) text = text.replace(/\r\n?/g, "\n"); // marked does, and then counts fewer characters
    if (!text.startsWith(this.#text)) this.#restart();
    this.#text = text;
    if (!this.#more) this.#slice();
  }

  /** Draw no more. */
  end() {
    clearTimeout(this.#more);
    this.#more = 0;
  }

  /** Whether all of the text is there. */
  get complete() {
    return !this.#more;
  }

  #slice() {
    const text = this.#text;
    const begun = performance.now();
    this.#more = 0;
    for (const node of this.#last) node.remove();
    this.#last = [];
    while (this.#done < text.length && !this.#plain && this.#step(text)) {
      if (performance.now() - begun < SLICE_MS) continue;
      this.#more = setTimeout(() => this.#slice());
      return;
    }
    if (this.#plain) grow(this.#plain, text.slice(this.#done));
  }

  #restart() {
    this.end();
    this.#place.replaceChildren();
    this.#done = 0;
    this.#last = [];
    this.#links = Object.create(null);
    this.#open = null;
    this.#plain = null;
    this.#text = "";
  }

  /** Draw what a window shows of the rest. Whether there may be more. */
  #step(text) {
    if (this.#place.childElementCount > MOST_BLOCKS) return this.#giveUp();
    const fence = FENCE.exec(text.slice(this.#done, this.#done + MOST_FENCE));
    if (fence?.index === 0) return this.#listing(text, fence);
    this.#open?.box.remove(); // it only looked like one
    this.#open = null;
    for (let size = WINDOW; ; size *= 2) {
      let part = text.slice(this.#done, this.#done + Math.min(size, MOST_BLOCK, fence?.index ?? Infinity));
      const toEnd = this.#done + part.length === text.length;
      const toFence = part.length === fence?.index;
      const cut = !toEnd && !toFence && part.length === MOST_BLOCK;
      if (cut) part = part.slice(0, part.lastIndexOf("\n") + 1) || part;
      const tokens = tooMuch(part) ? null : this.#blocks(part);
      if (!tokens) return this.#giveUp();
      // The last block may go on past the window, or in what is still to be written; blank lines do not end a list.
      let ended = tokens.length;
      if (!toFence && !cut) ended -= 1;
      while (ended > 0 && ended < tokens.length && tokens[ended].type === "space") ended -= 1;
      if (ended > 0) {
        const nodes = this.#render(tokens.slice(0, ended));
        if (!nodes) return this.#giveUp();
        this.#place.append(nodes);
        this.#done += tokens.slice(0, ended).reduce((n, { raw }) => n + raw.length, 0);
      }
      if (toEnd) return this.#drawLast(tokens.slice(Math.max(ended, 0)));
      if (ended > 0) return true;
    }
  }

  /** A fenced listing is no work for a parser, however long it is. */
  #listing(text, fence) {
    const [head, marks, language] = fence;
    const from = this.#done + head.length;
    const closing = new RegExp(`^ {0,3}${marks[0]}{${marks.length},}[ \\t]*(?:\\n|$)`, "gm");
    closing.lastIndex = from;
    const end = from <= text.length ? closing.exec(text) : null;
    const code = text.slice(from, end ? end.index : text.length).replace(/\n$/, "");
    if (this.#open?.at !== this.#done || this.#open.head !== head) {
      this.#open?.box.remove(); // of the first line there is more now
      const pre = element("pre", "");
      const place = pre.appendChild(element("code", ""));
      const box = listing(pre, /^[\w+#.-]{1,30}$/.test(language) ? language : "");
      this.#open = { at: this.#done, head, box, text: place.appendChild(document.createTextNode("")) };
      this.#place.append(this.#open.box);
    }
    grow(this.#open.text, code);
    if (!end) return false;
    this.#open = null;
    this.#done = end.index + end[0].length;
    return true;
  }

  #drawLast(tokens) {
    const nodes = this.#render(tokens);
    if (!nodes) return this.#giveUp();
    this.#last = [...nodes.childNodes];
    this.#place.append(nodes);
    return false;
  }

  #blocks(part) {
    try {
      const lexer = new marked.Lexer(marked.defaults);
      lexer.tokens.links = this.#links;
      return timed(() => lexer.lex(part));
    } catch {
      return null; // marked's own recursion may end in a RangeError
    }
  }

  #render(tokens) {
    try {
      return timed(() => safe(marked.parser(tokens)));
    } catch {
      return null;
    }
  }

  /** The rest is plain text. */
  #giveUp() {
    for (const node of this.#last) node.remove();
    this.#last = [];
    this.#open?.box.remove();
    this.#open = null;
    this.#plain = document.createTextNode("");
    const box = element("div", "chat-plain");
    box.append(this.#plain);
    this.#place.append(element("p", "chat-plain-note", "The rest is shown as plain text: it is too much to format."), box);
    return false;
  }
}

/** A text node that gets longer; what is there stays, and with it a reader's selection. */
export function grow(node, text) {
  if (text.startsWith(node.data)) node.appendData(text.slice(node.data.length));
  else node.data = text;
}

/** What it gives; null if it took too long. */
function timed(work) {
  const begun = performance.now();
  const result = work();
  return performance.now() - begun > BLOCK_MS ? null : result;
}

const MARKER = "(?:>[ \\t]*|(?:[*+-]|\\d{1,9}[.)])[ \\t]+)";
const DEEP = new RegExp(`^[ \\t]*${MARKER}{${MOST_DEPTH}}|^[ \\t]{${2 * MOST_DEPTH},}${MARKER}`, "m");
const LONG_WORD = /[\w.!#$%&'*+/=?^`{|}~-]{800}/; // might be a mail address, for which marked looks anew at each letter

/** Whether its marks could make marked slow, or deep. A line is work too. */
function tooMuch(part) {
  const marks = part.match(/[[\]*_`~<>|!()\\&]/g)?.length ?? 0;
  const lines = part.match(/\n/g)?.length ?? 0;
  return marks + 3 * lines > MOST_MARKS || DEEP.test(part) || LONG_WORD.test(part);
}
