// The pinned nodes beside the whole graph, a group as one box.
const BOX = { width: 150, height: 46, gapX: 14, gapY: 36, line: 23 };

function boxes() {
  const grouped = new Set(state.groups.flatMap((group) => group.members));
  const single = state.pinned.filter((node) => !grouped.has(node)).map((node) => ({ name: nameOf(node), members: [node] }));
  return [...state.groups.map((group) => ({ ...group, group })), ...single];
}

// Rows by mean layer, left to right by mean position; a row that is too long goes on above.
function arrange(items, width) {
  const mean = (item, key) => item.members.reduce((sum, node) => sum + node[key], 0) / item.members.length;
  const fit = Math.max(1, Math.floor((width + BOX.gapX) / (BOX.width + BOX.gapX)));
  const levels = new Map();
  for (const item of items) {
    const row = Math.round(mean(item, "row"));
    if (!levels.has(row)) levels.set(row, []);
    levels.get(row).push(item);
  }
  const rows = [];
  for (const [, members] of [...levels].sort((a, b) => a[0] - b[0])) {
    members.sort((a, b) => mean(a, "position") - mean(b, "position"));
    for (let i = 0; i < members.length; i += fit) rows.push(members.slice(i, i + fit));
  }
  const height = rows.length * (BOX.height + BOX.gapY) - BOX.gapY + 8;
  rows.forEach((row, n) => row.forEach((item, i) => {
    // Near the token's own place, as far as there is room.
    const free = width - row.length * (BOX.width + BOX.gapX) + BOX.gapX;
    const share = mean(item, "position") / Math.max(data.tokens.length - 1, 1);
    // Rows of one column are shifted a little, so that boxes do not hide the edges past them.
    const shift = row.length < fit ? [0, -0.3, 0.3][n % 3] * Math.min(free, BOX.width) : 0;
    item.x = i * (BOX.width + BOX.gapX) + Math.min(Math.max(Math.max(free, 0) * share + shift, 0), Math.max(free, 0));
    item.y = height - 4 - n * (BOX.height + BOX.gapY) - BOX.height;
  }));
  return height;
}

// Of a group: the mean over its members of the signed shares that another box gives them.
function between(items) {
  const owner = new Map();
  for (const item of items) for (const node of item.members) owner.set(node.i, item);
  const sums = new Map();
  for (const to of items) {
    for (const node of to.members) {
      for (const e of node.inputs) {
        const from = owner.get(edges.source[e]);
        if (!from || from === to) continue;
        if (!sums.has(from)) sums.set(from, new Map());
        sums.get(from).set(to, (sums.get(from).get(to) ?? 0) + signed(e) / to.members.length);
      }
    }
  }
  return [...sums].flatMap(([from, targets]) => [...targets].map(([to, value]) => ({ from, to, value })));
}

function wire({ from, to, value }) {
  const [x1, y1, x2, y2] = [from.x + BOX.width / 2, from.y, to.x + BOX.width / 2, to.y + BOX.height];
  const bend = Math.max(Math.abs(y1 - y2) / 2, 18);
  const path = draw("path", {
    class: `edge ${sign(value)}`, d: `M${x1} ${y1}C${x1} ${y1 - bend} ${x2} ${y2 + bend} ${x2} ${y2}`,
    "stroke-width": Math.max(0.6, 6 * Math.sqrt(Math.min(Math.abs(value), 1))), "stroke-opacity": 0.75,
  });
  const title = draw("title");
  title.textContent = `${shorten(from.name, 60)} → ${shorten(to.name, 60)}: ${value < 0 ? "−" : ""}${percent(Math.abs(value))} of the input`;
  path.append(title);
  return path;
}

// Broken at a space where there is one.
function twoLines(text) {
  const characters = Array.from(text.slice(0, 4 * BOX.line));
  if (characters.length <= BOX.line) return [text, ""];
  const space = characters.slice(0, BOX.line + 1).lastIndexOf(" ");
  const end = space > BOX.line / 3 ? space : BOX.line;
  return [characters.slice(0, end).join(""), shorten(characters.slice(end).join("").trim(), BOX.line)];
}

function boxOf(item) {
  const node = item.members[0];
  const under = item.group ? plural(item.members.length, "node") : spotOf(node);
  const made = draw("g", {
    class: `box${item.group ? " group" : ""}${item.members.includes(state.current) ? " current" : ""}`,
    transform: `translate(${item.x} ${item.y})`, tabindex: 0, role: "button", "aria-label": `${item.name}, ${under}`,
  }, draw("rect", { width: BOX.width, height: BOX.height, rx: 5 }));
  const [one, two] = twoLines(item.name);
  const lines = two ? [[14, one, ""], [27, two, ""], [40, under, "under"]] : [[20, one, ""], [35, under, "under"]];
  // An inner drawing, so that wide letters are cut at the edge of the box.
  const inside = draw("svg", { width: BOX.width, height: BOX.height });
  for (const [y, words, kind] of lines) {
    const text = draw("text", { x: BOX.width / 2, y, "text-anchor": "middle", class: kind });
    text.textContent = words;
    inside.append(text);
  }
  made.append(inside);
  const look = () => change({ current: item.members[(item.members.indexOf(state.current) + 1) % item.members.length] });
  made.addEventListener("click", look);
  made.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    look();
    byId("pinned").querySelector(".current")?.focus();
  });
  made.addEventListener("pointermove", (event) => showTip(node, event.clientX, event.clientY, item));
  made.addEventListener("pointerleave", hideTip);
  return made;
}

function showPinned() {
  const area = byId("pinned");
  byId("part-title").textContent = state.pinned.length ? `${plural(state.pinned.length, "pinned node")}` : "Pinned nodes";
  if (!state.pinned.length) {
    area.replaceChildren(make("p", { kind: "empty", text: "Nodes that you pin are drawn here, with the edges between them." }));
    return;
  }
  const items = boxes();
  const width = Math.max(area.clientWidth - 2, BOX.width + 4);
  const height = arrange(items, width - 4);
  const drawing = draw("svg", { width, height, role: "group", "aria-label": "Pinned nodes and their edges" });
  const lines = between(items).sort((a, b) => Math.abs(a.value) - Math.abs(b.value));
  const inside = draw("g", { transform: "translate(2 0)" }, ...lines.map(wire), ...items.map(boxOf));
  drawing.append(inside);
  area.replaceChildren(drawing);
}
