/**
 * Markdown of a model, shown: rendered by marked, sanitised by DOMPurify, in bounded time. The text is an adversary's.
 *
 * A text that grows is drawn block by block: what has ended stays in the page as it is, only the last block is drawn anew. A block
 * that would take long, or that has cost much already, stands there as plain text, and a line says so.
 */

import { Marked } from "./vendor/marked.js";
import purify from "./vendor/purify.js";

const WINDOW = 6000; // characters that are looked at at once
const MOST_BLOCK = 24_000; // of one block, say a long list; a longer one is cut into several
const MOST_FENCE = MOST_BLOCK + 200; // how far to look for a listing
const MOST_MARKS = 1500; // characters that mean something, in a window: real texts have some hundreds, and time grows as their square
const MOST_DEPTH = 40; // of what is nested at a line's start
const BLOCK_MS = 60; // a block that took longer is the last that is rendered
const FENCE = /^(`{3,}|~{3,})[ \t]*([^\s`]*)[^`\n]*(?:\n|$)/m;
const SCHEMES = ["http:", "https:", "mailto:"];

const TAGS = [
  "a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "kbd", "li", "ol", "p", "pre", "s", "strong",
  "sub", "sup", "table", "tbody", "td", "th", "thead", "tr", "ul",
];
const POLICY = {
  ALLOWED_TAGS: TAGS,
  ALLOWED_ATTR: ["href", "title", "start", "align", "class"],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  RETURN_DOM_FRAGMENT: true,
};

const escaped = (text) => text.replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);

// Tags in a text are shown as they are written, but for a few that carry no attributes. Nothing is loaded for an image: it is a link.
const marked = new Marked({
  gfm: true,
  renderer: {
    html: ({ text }) => (/^<\/?(?:br|kbd|sub|sup|s|em|strong)\s*\/?>\s*$/i.test(text) ? text : escaped(text)),
    image: ({ href, text }) => `<a href="${escaped(href)}">${escaped(text || "image")}</a>`,
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  },
});

/** Draws a growing text into an element. */
export class MarkdownView {
  #place;
  #done = 0; // characters of the text whose blocks have ended
  #last = []; // nodes of the block that has not
  #links = {}; // [name]: address, as far as they are known
  #open = null; // {at, head, box}: a listing that has not ended, which stays in its place
  #plain = null; // the element of the rest, once it is too much
  #drawn = "";

  /** @param {HTMLElement} place empty */
  constructor(place) {
    this.#place = place;
  }

  /** Show this text. One that does not begin with what was shown before is drawn anew. */
  draw(text) {
    if (!text.startsWith(this.#drawn)) this.#restart();
    this.#drawn = text;
    if (this.#plain) {
      this.#plain.textContent = text.slice(this.#done);
      return;
    }
    for (const node of this.#last) node.remove();
    this.#last = [];
    while (this.#done < text.length && !this.#plain) {
      if (!this.#step(text)) break;
    }
  }

  #restart() {
    this.#place.replaceChildren();
    this.#done = 0;
    this.#last = [];
    this.#links = {};
    this.#open = null;
    this.#plain = null;
    this.#drawn = "";
  }

  /** Draw what a window shows of the rest. Whether there may be more. */
  #step(text) {
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
      if (!tokens) return this.#giveUp(text);
      // The last block may go on past the window, or in what is still to be written; blank lines do not end a list.
      let ended = tokens.length;
      if (!toFence && !cut) ended -= 1;
      while (ended > 0 && ended < tokens.length && tokens[ended].type === "space") ended -= 1;
      for (const token of tokens.slice(0, ended)) {
        const nodes = this.#render(token);
        if (!nodes) return this.#giveUp(text);
        this.#place.append(nodes);
        this.#done += token.raw.length;
      }
      if (toEnd) return this.#drawLast(tokens.slice(Math.max(ended, 0)), text);
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
      pre.append(element("code", ""));
      this.#open = { at: this.#done, head, box: listing(pre, /^[\w+#.-]{1,30}$/.test(language) ? language : "") };
      this.#place.append(this.#open.box);
    }
    // Of the rest only the text: a reader may have the button in focus.
    this.#open.box.querySelector("code").textContent = code;
    if (!end) return false;
    this.#open = null;
    this.#done = end.index + end[0].length;
    return true;
  }

  #drawLast(tokens, text) {
    for (const token of tokens) {
      const nodes = this.#render(token);
      if (!nodes) return this.#giveUp(text);
      this.#last.push(...nodes.childNodes);
      this.#place.append(nodes);
    }
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

  #render(token) {
    try {
      return timed(() => safe(marked.parser([token])));
    } catch {
      return null;
    }
  }

  /** The rest is plain text. */
  #giveUp(text) {
    for (const node of this.#last) node.remove();
    this.#last = [];
    const note = element("p", "chat-plain-note", "The rest is shown as plain text: it is too much to format.");
    this.#plain = element("div", "chat-plain", text.slice(this.#done));
    this.#place.append(note, this.#plain);
    return false;
  }
}

/** What it gives; null if it took too long. */
function timed(work) {
  const begun = performance.now();
  const result = work();
  return performance.now() - begun > BLOCK_MS ? null : result;
}

const DEEP = new RegExp(`^[ \\t]*(?:(?:[>*+-]|\\d{1,9}[.)])[ \\t]*){${MOST_DEPTH}}|^[ \\t]{${2 * MOST_DEPTH},}(?:[>*+-]|\\d{1,9}[.)])[ \\t]`, "m");
const LONG_WORD = /[\w.!#$%&'*+/=?^`{|}~-]{1500}/; // might be a mail address, for which marked looks anew at each letter

/** Whether its marks could make marked slow, or deep. */
function tooMuch(part) {
  const marks = part.match(/[[\]*_`~<>|!()\\&]/g)?.length ?? 0;
  return marks > MOST_MARKS * Math.max(1, part.length / WINDOW) || DEEP.test(part) || LONG_WORD.test(part);
}

/** @param {string} markup @returns {DocumentFragment} what of it does no harm, with what a reader needs beside it */
function safe(markup) {
  const nodes = purify.sanitize(markup, POLICY);
  for (const link of nodes.querySelectorAll("a")) completeLink(link);
  for (const code of nodes.querySelectorAll("pre > code")) completeCode(code);
  for (const table of nodes.querySelectorAll("table")) scrollable(table, "Table");
  for (const classed of nodes.querySelectorAll("[class^=language-]")) classed.removeAttribute("class");
  return nodes;
}

function completeLink(link) {
  let scheme = "";
  try {
    scheme = new URL(link.getAttribute("href")).protocol;
  } catch {
    // no address of its own
  }
  if (!SCHEMES.includes(scheme)) return link.replaceWith(...link.childNodes);
  link.target = "_blank";
  link.rel = "noopener noreferrer";
}

function completeCode(code) {
  const pre = code.parentElement;
  const place = document.createComment("");
  pre.replaceWith(place);
  place.replaceWith(listing(pre, /^language-([\w+#.-]{1,30})$/.exec(code.className)?.[1] ?? ""));
}

/** A listing with a head that has its language and a button; it can be scrolled by keyboard. */
function listing(pre, language) {
  const box = element("div", "chat-code");
  const head = element("div", "chat-code-head");
  const copy = element("button", "chat-code-copy", "Copy");
  copy.type = "button";
  head.append(element("span", "chat-code-language", language || "text"), copy);
  box.append(head, pre);
  scrollable(pre, language ? `Listing, ${language}` : "Listing");
  return box;
}

function scrollable(thing, label) {
  thing.tabIndex = 0;
  thing.setAttribute("role", "region");
  thing.setAttribute("aria-label", label);
  if (thing.localName !== "table") return;
  const box = element("div", "chat-table");
  for (const name of ["tabindex", "role", "aria-label"]) {
    box.setAttribute(name, thing.getAttribute(name));
    thing.removeAttribute(name);
  }
  thing.replaceWith(box);
  box.append(thing);
}

function element(name, className, text = "") {
  return Object.assign(document.createElement(name), { className, textContent: text });
}
