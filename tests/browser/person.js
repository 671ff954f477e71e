// A person at the page, which is in a frame: finds things by role and name or by the text that they show, and acts on them by DOM events.
// For engines that nobody drives from outside; pages.py does the same in Chromium.

const ROLES = {
  button: "button, [role=button], summary",
  textbox: "textarea, input:not([type]), input[type=text], input[type=url], [role=textbox]",
  radio: "input[type=radio], [role=radio]",
  switch: "[role=switch]",
  file: "input[type=file]",
  heading: "h1, h2, h3, [role=heading]",
};
const SECONDS = 60;
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const squeezed = (text) => text.replace(/\s+/g, " ").trim();

/** The page, as who has not been there finds it. */
export async function visit(url) {
  localStorage.clear();
  document.querySelector("iframe")?.remove();
  const frame = Object.assign(document.createElement("iframe"), { src: url });
  Object.assign(frame.style, { width: "1200px", height: "850px" });
  document.documentElement.append(frame);
  await new Promise((resolve) => (frame.onload = resolve));
  return new Person(frame);
}

class Person {
  constructor(frame) {
    this.frame = frame;
    this.window = frame.contentWindow;
    this.document = frame.contentDocument;
  }

  text() {
    return this.document.body.innerText;
  }

  /** Its value, once that is true. */
  async until(holds, what, seconds = SECONDS) {
    const end = performance.now() + 1000 * seconds;
    for (;;) {
      const value = holds();
      if (value) return value;
      if (performance.now() > end) throw new Error(`not within ${seconds} s: ${what}\n${this.text()}`);
      await sleep(50);
    }
  }

  name(element) {
    const by = element.getAttribute("aria-labelledby")?.split(" ").map((id) => this.document.getElementById(id)?.textContent ?? "");
    const labels = [...(element.labels ?? [])].map((label) => label.textContent);
    return squeezed(element.getAttribute("aria-label") ?? by?.join(" ") ?? (labels.join(" ") || element.textContent));
  }

  all(role, name) {
    const named = (element) => (name instanceof RegExp ? name.test(this.name(element)) : this.name(element) === name);
    const shown = (element) => role === "file" || element.getClientRects().length > 0;
    return [...this.document.querySelectorAll(ROLES[role])].filter((element) => shown(element) && named(element));
  }

  /** The first that is there, can be seen and can be used. */
  find(role, name, seconds) {
    return this.until(() => this.all(role, name).find((element) => !element.disabled), `${role} ${name}`, seconds);
  }

  async press(name, role = "button") {
    const element = await this.find(role, name);
    element.focus();
    element.click();
  }

  async write(name, text) {
    const element = await this.find("textbox", name);
    element.focus();
    const { prototype } = element instanceof this.window.HTMLTextAreaElement ? this.window.HTMLTextAreaElement : this.window.HTMLInputElement;
    Object.getOwnPropertyDescriptor(prototype, "value").set.call(element, text);
    element.dispatchEvent(new this.window.InputEvent("input", { bubbles: true }));
    element.dispatchEvent(new this.window.Event("change", { bubbles: true }));
    return element;
  }

  /** Hand a file over, as its dialog would. */
  async pick(name, file) {
    const element = await this.find("file", name);
    const given = new this.window.DataTransfer();
    given.items.add(file);
    element.files = given.files;
    element.dispatchEvent(new this.window.Event("change", { bubbles: true }));
  }

  sees(pattern, seconds) {
    return this.until(() => pattern.exec(this.text())?.[0], `${pattern}`, seconds);
  }
}
