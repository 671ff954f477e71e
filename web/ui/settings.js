// How a text is written: each setting with the engine's own range, what it means, and how text from a field becomes its value.

/**
 * @typedef {object} Settings
 * @property {number} temperature
 * @property {number} topK
 * @property {number} topP
 * @property {number} minP
 * @property {number} repeatPenalty
 * @property {number | null} maxTokens null: until the model ends or the context is full
 * @property {string} seed decimal, as it may be past 2**53; "" for another one each time
 */

/** The order is that of a person's interest. A field takes what the engine takes: from `least`, or what is `above`, to `limit`; a
 * slider goes from `least` to `most`. */
export const SETTINGS = [
  {
    name: "temperature", label: "Temperature", least: 0, most: 2, step: 0.05, first: 0.7, digits: 2,
    help: "Higher is more surprising, lower more predictable. 0 always takes the likeliest word.",
  },
  {
    name: "topP", label: "Top-p", above: 0, least: 0.01, most: 1, limit: 1, step: 0.01, first: 0.95, digits: 2,
    help: "Draw from the fewest tokens that together are this probable. 1 is off.",
  },
  {
    name: "topK", label: "Top-k", least: 0, most: 200, step: 1, first: 40, whole: true,
    help: "Draw from so many of the likeliest tokens. 0 is off.",
  },
  {
    name: "minP", label: "Min-p", least: 0, most: 1, limit: 1, step: 0.01, first: 0.05, digits: 2,
    help: "Leave out tokens less probable than this share of the likeliest one. 0 is off.",
  },
  {
    name: "repeatPenalty", label: "Repeat penalty", least: 0.01, most: 2, limit: 100, step: 0.01, first: 1, digits: 2,
    help: "Above 1, tokens used lately become less likely. 1 is off.",
  },
  {
    name: "maxTokens", label: "Longest answer", unit: "tokens", least: 1, whole: true, optional: true, first: null,
    placeholder: "no limit",
    help: "Empty: until the model ends or its context is full.",
  },
  {
    name: "seed", label: "Seed", least: 0, seed: true, optional: true, first: "", placeholder: "random",
    help: "The same seed, settings and text give the same answer again. Empty: another one each time.",
  },
];

const MOST_TOKENS = 2 ** 31 - 1;
const SEEDS = 2n ** 64n;

/** @returns {Settings} */
export const firstSettings = () => Object.fromEntries(SETTINGS.map(({ name, first }) => [name, first]));

/**
 * What a field's text is worth. Exactly one of the two is there.
 * @returns {{value: number | string | null, error?: undefined} | {error: string, value?: undefined}}
 */
export function checkSetting(setting, text) {
  const trimmed = String(text ?? "").trim();
  if (trimmed === "") return setting.optional ? { value: setting.first } : { error: `${setting.label} needs a number.` };
  if (setting.seed) {
    if (/^\d{1,20}$/.test(trimmed) && BigInt(trimmed) < SEEDS) return { value: String(BigInt(trimmed)) };
    return { error: "Seed: a whole number from 0 to 2⁶⁴ − 1." };
  }
  const value = Number(trimmed.replace(",", "."));
  const limit = setting.limit ?? (setting.whole ? MOST_TOKENS : Number.MAX_VALUE);
  const { label, least, above } = setting;
  const right = Number.isFinite(value) && (above === undefined ? value >= least : value > above) && value <= limit;
  if (right && (!setting.whole || Number.isInteger(value))) return { value };
  const kind = setting.whole ? "a whole number" : "a number";
  if (above !== undefined) return { error: `${label}: ${kind} above ${above}, and at most ${limit}.` };
  return { error: `${label}: ${kind} ${setting.limit ? `from ${least} to ${limit}` : `of ${least} or more`}.` };
}

/** Settings from anywhere, say an imported file: what is right of them, and the first values for the rest. @returns {Settings} */
export function soundSettings(given) {
  const settings = firstSettings();
  for (const setting of SETTINGS) {
    const found = given?.[setting.name];
    if (typeof found !== "number" && typeof found !== "string") continue;
    const { value, error } = checkSetting(setting, found);
    if (!error) settings[setting.name] = value;
  }
  return settings;
}

/** As Model.chat and Model.generate take them. @param {Settings} settings */
export function forEngine({ seed, ...settings }) {
  return seed === "" ? settings : { ...settings, seed: BigInt(seed) };
}
