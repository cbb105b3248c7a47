// What is shown, and the link that restores it. Everything that changes goes through `change`.
const START_EDGES = Math.min(EDGES, 400);
const first = nodes.find((node) => node.kind === TARGET) ?? null;
const SHOWN_FIRST = 300;
const START_SHARE = (() => {
  const strengths = nodes.filter((node) => node.kind === FEATURE || node.kind === ERROR)
    .map((node) => 100 * node.influence).sort((a, b) => a - b);
  return strengths.length <= SHOWN_FIRST ? 100 : Math.min(100, Math.max(5, Math.floor(strengths[SHOWN_FIRST])));
})();
const fresh = () => ({
  share: START_SHARE, edges: START_EDGES, errors: true, query: "", least: 0.6,
  pinned: [], current: first, groups: [],
});
let state = fresh();
const watchers = [];

function change(values) {
  Object.assign(state, values);
  state.groups = state.groups
    .map((group) => ({ ...group, members: group.members.filter((node) => state.pinned.includes(node)) }))
    .filter((group) => group.members.length);
  for (const watch of watchers) watch();
  const link = `#${fragment()}`;
  if (link !== (location.hash || "#")) history.replaceState(null, "", link);
}

function isShown(node) {
  if (state.pinned.includes(node)) return true;
  if (node.kind === ERROR && !state.errors) return false;
  return node.influence === null || node.kind === TOKEN || 100 * node.influence <= state.share + 1e-9
    || state.share === 100;
}

// A first click pins, one on the pinned node that is looked at unpins.
function press(node) {
  if (!state.pinned.includes(node)) change({ pinned: [...state.pinned, node], current: node });
  else if (state.current !== node) change({ current: node });
  else unpin(node);
}

function unpin(node) {
  change({ pinned: state.pinned.filter((one) => one !== node) });
}

const names = (list) => list.map((node) => node.id).join(",");

function fragment() {
  const start = fresh();
  const parts = new URLSearchParams();
  for (const key of ["share", "edges", "least"]) if (state[key] !== start[key]) parts.set(key, state[key]);
  if (!state.errors) parts.set("errors", "0");
  if (state.query) parts.set("q", state.query);
  if (state.current !== start.current) parts.set("node", state.current ? state.current.id : "");
  if (state.pinned.length) parts.set("pin", names(state.pinned));
  for (const group of state.groups) parts.append("group", `${names(group.members)},${group.name}`);
  return parts.toString();
}

// Returns how many of the link's nodes this graph does not have.
function restore(text) {
  const parts = new URLSearchParams(text.replace(/^#/, ""));
  const next = fresh();
  let missing = 0;
  const find = (ids) => {
    const found = ids.map((id) => byName.get(id)).filter((node) => node);
    missing += ids.length - found.length;
    return [...new Set(found)];
  };
  const within = (key, low, high) => {
    const value = Number(parts.get(key));
    if (parts.has(key) && Number.isFinite(value)) next[key] = Math.min(Math.max(value, low), high);
  };
  within("share", 5, 100);
  within("edges", 0, EDGES);
  within("least", 0, 1);
  next.edges = Math.round(next.edges);
  next.errors = parts.get("errors") !== "0";
  next.query = parts.get("q") ?? "";
  if (parts.has("node")) next.current = find(parts.get("node") ? [parts.get("node")] : [])[0] ?? null;
  if (parts.get("pin")) next.pinned = find(parts.get("pin").split(","));
  for (const text of parts.getAll("group")) {
    const words = text.split(",");
    // Ids have no comma; a name may have some.
    let end = 0;
    while (end < words.length - 1 && byName.has(words[end])) end++;
    const taken = new Set(next.groups.flatMap((group) => group.members));
    const members = find(words.slice(0, end)).filter((node) => !taken.has(node));
    if (members.length) next.groups.push({ name: clean(words.slice(end).join(",")) || nameOf(members[0]), members });
  }
  change(next);
  return missing;
}
