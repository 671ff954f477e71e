// What went wrong, in words that say what to do next. Pure: moves are named here, session.js knows what they do.

/** The kind of an error: a class of Python's, "EngineStopped", "AbortError", or JavaScript's own name. */
export const kindOf = (error) => error?.kind ?? error?.name ?? "Error";

const TITLES = {
  EngineStopped: "The engine has stopped",
  SourceError: "The model cannot be read",
  FormatError: "This file is damaged, or no GGUF model",
  UnsupportedError: "This model is not supported yet",
  BudgetError: "It does not fit in this memory",
  ContextFull: "The context is full",
  DeviceError: "The device cannot be used",
};

/** Raised on purpose, with a message for people; all else is a bug, of which the trace tells more. */
const MEANT = new Set([...Object.keys(TITLES), "ValueError", "TypeError"]);

/**
 * @param {Error} error
 * @param {"examine" | "open" | "write" | "page"} doing
 * @param {{device: string, memory: string, context: string, cache: boolean, kind: string, needs: string | null}} state what is
 *   chosen, and the least memory that works, as the option takes it
 * @returns {{title: string, text: string, kind: string, trace: string | null, moves: string[]}} moves: keys of MOVES
 */
export function problemOf(error, doing, state) {
  const kind = kindOf(error);
  const meant = MEANT.has(kind);
  return {
    title: TITLES[kind] ?? (meant ? "That does not work" : "Something unexpected went wrong"),
    text: textOf(kind, error?.message || String(error), doing),
    kind,
    trace: meant ? null : error?.trace ?? error?.stack ?? null,
    moves: [...new Set(movesOf(kind, doing, state))],
  };
}

/** Of a stopped engine only why: the title says the rest. */
function textOf(kind, message, doing) {
  const why = kind === "EngineStopped" && /\((.*)\)/.exec(message)?.[1];
  if (!why) return sentence(message);
  return doing === "examine" ? sentence(why) : `${sentence(why)} What was written is kept; the model has to be loaded again.`;
}

function movesOf(kind, doing, { device, memory, context, needs }) {
  const again = doing === "examine" ? "examine" : doing === "open" ? "load" : "restart";
  switch (kind) {
    case "EngineStopped":
      return [again === "examine" ? "examine" : "restart", memory !== "" || device !== "cpu" ? "less" : "other", "other"];
    case "SourceError":
      return [again, "other"];
    case "FormatError":
    case "UnsupportedError":
      return ["other"];
    case "BudgetError":
      return [...(needs ? ["enough"] : []), ...(memory ? ["automatic"] : []), "shorter", "other"];
    case "ContextFull":
      return doing === "write" ? ["longer", "dismiss"] : [...(context ? ["automaticContext"] : []), "other"];
    case "DeviceError":
      return [...(device === "cpu" ? [] : ["cpu"]), again, "other"];
    default:
      return doing === "page" || doing === "write" ? ["dismiss", "restart"] : [again, "other"];
  }
}

export const MOVES = {
  examine: "Try again",
  load: "Try again",
  restart: "Restart and load it again",
  cpu: "Use the CPU",
  enough: "Use the memory it needs",
  automatic: "Let the engine choose the memory",
  automaticContext: "Use the usual context",
  less: "Use less memory",
  shorter: "Use a shorter context",
  longer: "Load it with a longer context",
  goOn: "Go on without a copy",
  room: "Make room…",
  other: "Choose another model",
  dismiss: "Dismiss",
};

/** What the engine notes when this origin may keep no more: it goes on without. */
export const isFull = (note) => /no more of .+ is kept|may keep no more/.test(note);

// The engine names what can be chosen as a command line does.
const CHOICES = [
  [/--device (cpu|gpu)/g, (_, device) => `the ${device.toUpperCase()}`],
  [/--kv-type f16/g, () => "a cache of half the size (f16)"],
  [/(smaller )?--(gpu-)?memory/g, (_, smaller, gpu) => `${smaller ?? "the "}${gpu ? "GPU " : ""}memory`],
  [/--context/g, () => "the context"],
];

/**
 * With a capital and an end, as the engine's messages have neither, and with the page's names of what can be chosen. A name, an
 * address or a quotation stays as it begins.
 */
export function sentence(text) {
  text = CHOICES.reduce((all, [flag, words]) => all.replace(flag, words), text);
  const begun = /^[a-z]+[\s,;]/.test(text) ? text[0].toUpperCase() + text.slice(1) : text;
  return /[.!?…]$/.test(begun) ? begun : `${begun}.`;
}
