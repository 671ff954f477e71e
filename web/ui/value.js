// Properties of components may be signals: then the component alone follows them, not whoever draws it.

/** @template T @param {T | {value: T}} given @returns {T} */
export const valueOf = (given) => (typeof given?.peek === "function" ? given.value : given);
