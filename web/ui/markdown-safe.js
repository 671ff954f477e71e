/**
 * What of a model's Markdown gets into the page: marked renders, DOMPurify lets through what is named here, and nothing of it is
 * loaded, styled, named or sent.
 */

import { Marked } from "./vendor/marked.js";
import purify from "./vendor/purify.js";

const SCHEMES = ["http:", "https:", "mailto:"];

const TAGS = [
  "a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "kbd", "li", "ol", "p", "pre", "s",
  "strong", "sub", "sup", "table", "tbody", "td", "th", "thead", "tr", "ul",
];
const POLICY = {
  ALLOWED_TAGS: TAGS,
  ADD_URI_SAFE_ATTR: ["start", "align"], // no addresses, so the pattern below is not for them
  ALLOWED_ATTR: ["href", "title", "start", "align", "class"],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  RETURN_DOM_FRAGMENT: true,
};

const escaped = (text) => text.replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);

// Tags in a text are shown as they are written, but for a few that carry no attributes. An image is a link: nothing is loaded.
export const marked = new Marked({
  gfm: true,
  renderer: {
    html({ text, block }) {
      if (/^<\/?(?:br|kbd|sub|sup|s|em|strong)\s*\/?>\s*$/i.test(text)) return text;
      return block ? `<p>${escaped(text.trim()).replaceAll("\n", "<br>")}</p>` : escaped(text);
    },
    image: ({ href, text }) => `<a href="${escaped(href)}">${escaped(text || "image")}</a>`,
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  },
});

/** @param {string} markup @returns {DocumentFragment} what of it does no harm, with what a reader needs beside it */
export function safe(markup) {
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
export function listing(pre, language) {
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

export function element(name, className, text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}
