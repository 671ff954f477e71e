// What a conversation's messages are to a model, and to who looks for it in a list. Pure.

// A chat template closes what was said. So what was cut off is asked for; the model sees its own beginning, and this.
const GO_ON = "Go on exactly where you stopped, without repeating anything.";
const TITLE_LENGTH = 60;
const MOST_LOOKED_AT = 1000; // letters: a message may have millions, and a list of titles is drawn often

/** The messages as a chat template takes them. head: what there is of an answer that was cut off. */
export function asked(system, messages, head = "") {
  const said = messages.filter(({ content }) => content).map(({ role, content }) => ({ role, content }));
  if (system.trim()) said.unshift({ role: "system", content: system.trim() });
  if (head) said.push({ role: "assistant", content: head }, { role: "user", content: GO_ON });
  return said;
}

/** A story's parts as one text. What a person adds to a text that has ended without a space begins with one. */
export function joinStory(parts) {
  let before = ""; // the last part: all that gap looks at, as the whole text would be looked through for each of thousands of parts
  const texts = parts.map(({ role, content }) => {
    const lead = gap(before, role, content);
    before = content || before;
    return lead + content;
  });
  return texts.join("");
}

/** What stands between a story so far and a part that is added. */
export function gap(text, role, content) {
  return role === "user" && text && content && !/\s/.test(text.at(-1)) && !/^[\s.,;:!?'’”)]/.test(content) ? " " : "";
}

/** How many messages to leave out next, so that a question is the first that is left; null if only one is there. */
export function forgetting(messages, forgotten) {
  const questions = messages.flatMap(({ role }, at) => (role === "user" && at > forgotten ? [at] : []));
  return questions.length ? questions[(questions.length - 1) >> 1] : null;
}

/** A line that tells conversations apart. */
export function titleOf({ name, messages }) {
  if (name) return name;
  const first = messages.find(({ role }) => role === "user")?.content ?? "";
  const words = first.trimStart().slice(0, MOST_LOOKED_AT).replace(/\s+/g, " ").trim();
  const letters = [...words.slice(0, 4 * TITLE_LENGTH)]; // not half of a surrogate pair
  return letters.length > TITLE_LENGTH ? `${letters.slice(0, TITLE_LENGTH - 1).join("").trimEnd()}…` : letters.join("");
}

export function newId() {
  return [...crypto.getRandomValues(new Uint32Array(3))].map((word) => word.toString(36).padStart(7, "0")).join("");
}
