// What went wrong, in words that say what to do next.

/** The kind of an error: a class of Python's, "EngineStopped", "AbortError", or JavaScript's own name. */
export const kindOf = (error) => error?.kind ?? error?.name ?? "Error";

export function problemOf(error, doing) {
  return { title: "Something went wrong", text: error.message, kind: kindOf(error), moves: [] };
}
