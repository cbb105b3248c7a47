// Groups (supernodes) of pinned nodes: made by hand, or taken from a suggestion.
let chosen = new Set(), suggested = null;

function group(members, name) {
  const others = state.groups.map((one) => ({ ...one, members: one.members.filter((node) => !members.includes(node)) }));
  change({ groups: [...others, { name: name || nameOf(members[0]), members }] });
}

function pinRow(node) {
  const box = make("input", { type: "checkbox" });
  box.checked = chosen.has(node);
  box.addEventListener("change", () => {
    if (box.checked) chosen.add(node);
    else chosen.delete(node);
    byId("group").disabled = chosen.size < 2;
  });
  const own = state.groups.find((one) => one.members.includes(node));
  const line = make("label", {}, box, make("span", { kind: "name", text: shorten(nameOf(node), 80), title: placeOf(node) }));
  line.append(make("span", { kind: "of", text: own ? `${spotOf(node)}, in ${shorten(own.name, 40)}` : spotOf(node) }));
  return make("li", {}, line, button("unpin", () => unpin(node), "quiet"));
}

function groupRow(one) {
  const name = make("input", { type: "text", "aria-label": "Name of the group" });
  name.value = one.name;
  name.addEventListener("change", () => change({ groups: state.groups.map((other) => (other === one ? { ...one, name: clean(name.value) || one.name } : other)) }));
  return make("li", { kind: "row" }, name, make("span", { kind: "soft", text: plural(one.members.length, "node") }),
    button("ungroup", () => change({ groups: state.groups.filter((other) => other !== one) }), "quiet"));
}

function candidateRow({ members, low, outside }) {
  const taken = members.every((node) => state.groups.some((one) => one.members.includes(node)));
  const take = button("Group", () => group(members, nameOf(members[0])));
  take.disabled = taken;
  return make("li", {}, make("div", {}, make("p", { text: shorten(members.map((node) => `${nameOf(node)} (${spotOf(node)})`).join(" + "), 300) }),
    make("p", { kind: "note", text: `lowest cosine inside ${number(low)}; highest to another pinned feature ${number(outside)}` })), take);
}

function criterion() {
  const least = make("input", { type: "range", min: 0, max: 1, step: 0.05, "aria-label": "Least cosine", id: "least" });
  least.value = state.least;
  least.addEventListener("change", () => {
    suggested = null;
    change({ least: Number(least.value) });
    byId("least").focus();
  });
  return [make("span", { kind: "soft", text: "least cosine" }), least, make("output", { kind: "soft", text: state.least.toFixed(2) })];
}

function suggestions(features) {
  if (suggested === null) return [];
  suggested.list = suggested.list.filter((one) => one.members.every((node) => features.includes(node)));
  const words = `Cosine of signed edges, inputs and outputs each as shares of what reaches their target, averaged over both; in a group every pair has at least ${state.least.toFixed(2)} (complete link).`;
  const none = suggested.list.length ? [] : [make("p", { text: "No two pinned features are that much alike." })];
  return [make("p", { kind: "note", text: words }), ...none, make("ul", { kind: "candidates" }, ...suggested.list.map(candidateRow))];
}

function showGroups() {
  const area = byId("groups"), top = area.querySelector(".pins")?.scrollTop ?? 0;
  chosen = new Set([...chosen].filter((node) => state.pinned.includes(node)));
  if (!state.pinned.length) {
    suggested = null;
    area.replaceChildren();
    return;
  }
  const features = state.pinned.filter((node) => node.kind === FEATURE);
  const name = make("input", { type: "text", placeholder: "name of the group", "aria-label": "Name of the new group", id: "group-name" });
  const together = button("Group the checked", () => {
    const members = state.pinned.filter((node) => chosen.has(node));
    chosen = new Set();
    group(members, clean(name.value));
  });
  together.id = "group";
  together.disabled = chosen.size < 2;
  const ask = button("Suggest groups", () => {
    suggested = { list: suggest(features, state.least) };
    showGroups();
    byId("suggest").focus();
  });
  ask.id = "suggest";
  ask.disabled = features.length < 2 || features.length > MOST_COMPARED;
  ask.title = features.length > MOST_COMPARED ? `for at most ${MOST_COMPARED} pinned features` : "";
  area.replaceChildren(
    make("ul", { kind: "pins", "aria-label": "Pinned nodes" }, ...state.pinned.map(pinRow)),
    make("div", { kind: "row" }, name, together),
    make("ul", { "aria-label": "Groups" }, ...state.groups.map(groupRow)),
    make("div", { kind: "row" }, ask, ...criterion()), ...suggestions(features));
  area.querySelector(".pins").scrollTop = top;
}
