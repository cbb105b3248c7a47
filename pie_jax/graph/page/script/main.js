// Controls, and the first drawing.
const FOUND = 60;

function showFound() {
  const list = byId("found"), matches = found();
  if (byId("query").value !== state.query) byId("query").value = state.query;
  list.hidden = matches === null;
  if (matches === null) return;
  const shown = [...matches].sort((a, b) => (a.influence ?? 0) - (b.influence ?? 0)).slice(0, FOUND);
  const entries = shown.map((node) => make("li", {}, button(shorten(`${nameOf(node)} · ${placeOf(node)}`, 90), () => press(node))));
  if (!matches.size) entries.push(make("li", { kind: "soft", text: "Nothing found." }));
  if (matches.size > FOUND) entries.push(make("li", { kind: "soft", text: `and ${matches.size - FOUND} more` }));
  list.replaceChildren(...entries);
}

function strongest() {
  const best = nodes.filter((node) => node.kind === FEATURE).sort((a, b) => a.influence - b.influence).slice(0, 15);
  change({ pinned: [...new Set([...state.pinned, ...best, ...nodes.filter((node) => node.kind === TARGET)])] });
}

async function copyLink() {
  const note = byId("note");
  try {
    await navigator.clipboard.writeText(location.href);
    note.textContent = "The link to this view is copied.";
  } catch {
    note.textContent = "The browser does not let the page copy; the link to this view is in the address bar.";
  }
}

function open() {
  const missing = restore(location.hash);
  byId("note").textContent = missing ? `${plural(missing, "node")} of the link ${missing === 1 ? "is" : "are"} not in this graph.` : "";
}

watchers.push(showWhole, showPinned, showGroups, showDetails, showFound);
listenWhole();
byId("tools").addEventListener("submit", (event) => event.preventDefault());
byId("query").addEventListener("input", (event) => change({ query: event.target.value }));
byId("nodes").addEventListener("input", (event) => change({ share: Number(event.target.value) }));
byId("edges").addEventListener("input", (event) => change({ edges: Math.round(Math.expm1(event.target.value / 100 * Math.log1p(EDGES))) }));
byId("errors").addEventListener("change", (event) => change({ errors: event.target.checked }));
byId("strongest").addEventListener("click", strongest);
byId("clear").addEventListener("click", () => change({ pinned: [] }));
byId("copy").addEventListener("click", copyLink);
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input")) return;
  event.preventDefault();
  byId("query").focus();
});
addEventListener("hashchange", () => { if (location.hash.slice(1) !== fragment()) open(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { drawBase(); drawOver(); });
let wide = 0;
new ResizeObserver(() => {
  if (scroll.clientWidth === wide) return;
  wide = scroll.clientWidth;
  showWhole();
  showPinned();
}).observe(scroll);
open();
