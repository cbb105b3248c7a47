// The node that is looked at: what it stands for, its strongest edges, and what a run measured.
const LISTED = 12;
const tip = byId("tip");

function tokensLine(kind, tokens) {
  return make("div", { kind: "tokens" }, make("span", { kind: "kind", text: kind }),
    ...tokens.map((token) => make("span", { kind: "tok", text: shorten(token, 40) })));
}

function windowLine(window) {
  return make("p", { kind: "window" }, ...window.map(([text, shade]) => make("span", { text: shorten(text, 400), kind: shade ? `a${shade}` : "" })));
}

function aboutParts(node, windows) {
  const about = node.about;
  if (!about) return [];
  const parts = [];
  if (about.scores.length) {
    parts.push(make("p", {}, ...about.scores.map(([name, value]) => make("span", { kind: "score", text: `${name} ${value}` }))));
  }
  if (about.tokens.length) {
    if (about.tokens[0].length) parts.push(tokensLine("promotes", about.tokens[0].slice(0, windows > 2 ? 8 : 5)));
    if (windows > 2 && about.tokens[1].length) parts.push(tokensLine("suppresses", about.tokens[1]));
  }
  parts.push(...about.windows.slice(0, windows).map(windowLine));
  return parts;
}

function numbersOf(node) {
  const parts = [];
  if (node.activation !== null) parts.push(`${data.changes ? "change of activation" : "activation"} ${number(node.activation)}`);
  if (node.influence !== null) parts.push(`within the strongest ${percent(node.influence)} of influence`);
  if (node.kind === TARGET && data.targets[node.target][1] !== null) parts.push(`probability ${percent(data.targets[node.target][1])}`);
  const noted = notesOf(data.notes, node.i);
  return [...parts, ...noted ? [noted] : []].join(", ");
}

// What else is known of a node or an edge: shares of prompts, or both of two graphs.
function notesOf(notes, i) {
  if (Object.values(notes).every((values) => values[i] === null)) return "";
  return Object.entries(notes).map(([name, values]) => `${name} ${name === "prompts" ? percent(values[i]) : number(values[i])}`).join(", ");
}

function showTip(node, x, y, item) {
  tip.replaceChildren(
    make("p", { kind: "label", text: shorten(item?.group ? item.name : nameOf(node), 160) }),
    ...(item?.group ? item.members.slice(0, 8).map((one) => make("p", { kind: "soft", text: shorten(`${nameOf(one)}, ${placeOf(one)}`, 120) }))
      : [make("p", { kind: "soft", text: placeOf(node) }), ...aboutParts(node, 2)]));
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = x + 14 + box.width > innerWidth ? x - 14 - box.width : x + 14;
  const top = y + 14 + box.height > innerHeight ? y - 14 - box.height : y + 14;
  tip.style.left = `${Math.max(4, Math.min(left, innerWidth - box.width - 4))}px`;
  tip.style.top = `${Math.max(4, top)}px`;
}

function hideTip() {
  tip.hidden = true;
}

function edgeList(title, list, end, note) {
  const largest = list.length ? edges.share[list[0]] : 0;
  const rows = list.slice(0, LISTED).map((e) => {
    const node = nodes[end[e]];
    const bar = make("span", { kind: `bar ${sign(edges.weight[e])}` });
    bar.style.width = `${largest ? Math.max(2, 64 * edges.share[e] / largest) : 0}px`;
    const entry = button("", () => change({ current: node }), "entry");
    const noted = notesOf(edges.notes, e);
    entry.title = shorten(placeOf(node), 200);
    entry.append(bar, make("span", { kind: "name", text: shorten(`${nameOf(node)}`, 120) }),
      make("span", { kind: "where", text: spotOf(node) }),
      make("span", { kind: "share", text: `${edges.weight[e] < 0 ? "−" : ""}${percent(edges.share[e])} · ${number(edges.weight[e])}` }),
      ...noted ? [make("span", { kind: "noted", text: noted })] : []);
    return entry;
  });
  const rest = list.length > LISTED ? [make("p", { kind: "note", text: `and ${(list.length - LISTED).toLocaleString("en")} weaker ones` })] : [];
  const none = list.length ? [] : [make("p", { kind: "note", text: "none in this graph" })];
  return make("div", {}, make("h3", { text: title }), make("p", { kind: "note", text: note }), ...rows, ...rest, ...none);
}

// All predictions against their measurements, this node's on top.
function plot(node) {
  const size = 190, pad = 10;
  const points = Object.entries(data.measured).flatMap(([i, rows]) => rows.filter((row) => row[3] !== null)
    .map((row) => ({ own: Number(i) === node.i, predicted: row[2], measured: row[3] })));
  const most = Math.max(...points.map((p) => Math.max(Math.abs(p.predicted), Math.abs(p.measured))), 1e-12);
  const scale = (value) => size / 2 + (value / most) * (size / 2 - pad);
  const drawing = draw("svg", { class: "plot", width: size, height: size, role: "img", "aria-label": "Measured against predicted effects" },
    draw("line", { class: "axis", x1: 0, x2: size, y1: size / 2, y2: size / 2 }),
    draw("line", { class: "axis", y1: 0, y2: size, x1: size / 2, x2: size / 2 }),
    draw("line", { class: "same", x1: pad, y1: size - pad, x2: size - pad, y2: pad }),
    ...points.sort((a, b) => a.own - b.own).map((p) => draw("circle", { class: p.own ? "own" : "", r: p.own ? 4 : 2.5, cx: scale(p.predicted), cy: size - scale(p.measured) })));
  return make("div", {}, drawing, make("p", { kind: "note", text: `across: predicted, up: measured, to ±${number(most)}; all measured nodes` }));
}

function measuredPart(node) {
  if (!Object.keys(data.measured).length) return [];
  const title = make("h3", { text: "Measured against predicted" });
  const rows = data.measured[node.i];
  if (!rows) return [make("div", {}, title, make("p", { kind: "note", text: "not measured for this node" }))];
  const table = make("table", {}, make("thead", {}, make("tr", {}, ...[data.changes ? "change ×" : "activation ×", "target", "predicted", "measured"].map((text) => make("th", { text })))));
  table.append(make("tbody", {}, ...rows.map(([target, factor, predicted, measured]) => make("tr", {},
    make("td", { text: number(factor), kind: "num" }), make("td", { text: shorten(data.targets[target][0], 24) }),
    make("td", { text: number(predicted), kind: "num" }), make("td", { text: number(measured), kind: "num" })))));
  return [make("div", {}, title, make("p", { kind: "note", text: "change of the target's logit" }), table, plot(node))];
}

function showDetails() {
  const area = byId("details"), node = state.current;
  const head = make("h2", { id: "details-title", text: node ? shorten(nameOf(node), 300) : "No node chosen" });
  if (!node) {
    area.replaceChildren(head, make("p", { kind: "note", text: "Click a node to see what it stands for and its strongest edges." }));
    return;
  }
  const isPinned = state.pinned.includes(node);
  const pin = button(isPinned ? "Unpin" : "Pin", () => {
    if (isPinned) unpin(node);
    else change({ pinned: [...state.pinned, node] });
    byId("pin").focus();
  });
  pin.id = "pin";
  const whole = node.about?.windows.length ? [make("div", {}, make("h3", { text: "Strongest windows" }), ...node.about.windows.map(windowLine))] : [];
  area.replaceChildren(
    make("div", { kind: "head" }, head, pin),
    make("p", { text: placeOf(node) }), make("p", { kind: "soft", text: numbersOf(node) }),
    ...aboutParts({ about: node.about && { ...node.about, windows: [] } }, 5),
    make("div", { kind: "sides" },
      edgeList("Strongest inputs", node.inputs, edges.source, "share of all that reaches this node · direct effect"),
      edgeList("Strongest outputs", node.outputs, edges.target, "share of all that reaches the other node · direct effect"),
      ...whole, ...measuredPart(node)));
}
