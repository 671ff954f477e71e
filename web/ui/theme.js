// Light, dark, or as the system has it. What was chosen is in place before anything is painted: ui/first.js.

import { store, stored } from "./local.js";

export const THEMES = ["auto", "light", "dark"];

const root = document.documentElement;
const known = (theme) => (THEMES.includes(theme) ? theme : "auto");

export const theme = () => known(root.dataset.theme);

export function setTheme(wanted) {
  if (known(wanted) === "auto") delete root.dataset.theme;
  else root.dataset.theme = wanted;
  store("theme", known(wanted) === "auto" ? undefined : wanted);
}

setTheme(stored("theme", "auto"));
