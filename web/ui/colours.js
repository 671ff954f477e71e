// What is drawn on a canvas takes its colours from the custom properties of css/tokens.css, and is drawn anew when the theme changes.

const DARK = "(prefers-color-scheme: dark)";

/** Custom properties as a canvas takes them: resolved, as light-dark() and var() are only known to style. */
export class Colours {
  #probe = document.createElement("i");

  /** @param {HTMLElement} root whose properties they are */
  constructor(root) {
    this.#probe.hidden = true;
    root.append(this.#probe);
  }

  /** @param {string} name "--text" */
  of(name) {
    this.#probe.style.color = `var(${name})`;
    return getComputedStyle(this.#probe).color;
  }

  close() {
    this.#probe.remove();
  }
}

/** @param {string} colour as Colours gives it @param {number} alpha */
export const faded = (colour, alpha) => colour.replace(/^rgb\((.*)\)$/, `rgba($1, ${alpha})`);

/** Calls back when the theme is another. @returns {() => void} ends that */
export function onTheme(callback) {
  const chosen = new MutationObserver(callback);
  chosen.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
  const system = matchMedia(DARK);
  system.addEventListener("change", callback);
  return () => {
    chosen.disconnect();
    system.removeEventListener("change", callback);
  };
}
