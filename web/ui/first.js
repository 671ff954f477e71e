// Light or dark, as the person has chosen: before anything is painted. No module: one would wait for all that the page preloads,
// and first paint with it (835 ms became 414 ms, with six programs for each core). ui/theme.js has the rest.
try {
  const theme = JSON.parse(localStorage.getItem("wasmrt.theme"));
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Storage may be forbidden, or hold anything: then it is as the system has it.
}
