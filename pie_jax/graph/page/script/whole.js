// The whole graph: edges on canvases, so that 20,000 of them are fast; nodes as SVG.
const scroll = byId("scroll"), stage = byId("stage"), marks = byId("marks");
const base = byId("base"), over = byId("over");
const MOST_OVER = 400;
let layout = null, visible = [], cursor = null, hovered = null;
let drawn = "";

function colours() {
  const style = getComputedStyle(document.documentElement);
  return { positive: style.getPropertyValue("--positive"), negative: style.getPropertyValue("--negative") };
}

function markOf(node) {
  const [x, y] = layout.at.get(node.i);
  const r = 0.36 * layout.slot;
  const common = { "data-i": node.i, class: "mark" };
  if (node.kind === FEATURE) return draw("circle", { ...common, cx: x, cy: y, r });
  if (node.kind === ERROR) {
    return draw("path", { ...common, class: "mark error", d: `M${x - r} ${y}L${x} ${y - r}L${x + r} ${y}L${x} ${y + r}Z` });
  }
  const half = Math.max(r, 4.5), column = layout.x[node.position + 1] - layout.x[node.position];
  const across = node.kind === TOKEN ? Math.min(half, column / 2 - 0.5) : half;
  return draw("rect", { ...common, x: x - across, y: y - half, width: 2 * across, height: 2 * half, rx: Math.min(1.5, across / 2) });
}

function frame() {
  const { x, y, width } = layout;
  const parts = [], bands = [];
  for (let row = 1; row < TARGET_ROW; row += 2) {
    bands.push(draw("rect", { class: "band", x: MARGIN.left, y: y[row + 1], width: x[x.length - 1] - MARGIN.left, height: y[row] - y[row + 1] }));
  }
  const ticks = draw("g", { id: "ticks" }, draw("rect", { width: MARGIN.left - 3, height: y[0] - MARGIN.top + 10, y: MARGIN.top }));
  let last = Infinity;
  for (let row = 1; row < TARGET_ROW; row++) {
    const middle = (y[row] + y[row + 1]) / 2;
    if (last - middle < 13) continue;
    last = middle;
    const tick = draw("text", { class: "tick", x: MARGIN.left - 6, y: middle + 4, "text-anchor": "end" });
    tick.textContent = `L${row - 1}`;
    ticks.append(tick);
  }
  data.tokens.forEach((token, position) => {
    if (x[position + 1] - x[position] < 14) return;
    const middle = (x[position] + x[position + 1]) / 2;
    const label = draw("text", { class: "token-label", "text-anchor": "end", x: middle + 4, y: y[0] + 14, transform: `rotate(-45 ${middle + 4} ${y[0] + 14})` });
    label.textContent = shorten(token, 14);
    const full = draw("title");
    full.textContent = `position ${position}: ${shorten(token, 200)}`;
    label.append(full);
    parts.push(label);
  });
  for (const node of visible.filter((one) => one.kind === TARGET)) {
    const [px, py] = layout.at.get(node.i);
    const label = draw("text", { class: "target-label", x: px + 2, y: py - 10, transform: `rotate(-45 ${px + 2} ${py - 10})` });
    label.textContent = shorten(data.targets[node.target][0], 12);
    parts.push(label);
  }
  for (const drawing of [marks, byId("frame")]) {
    drawing.setAttribute("width", width);
    drawing.setAttribute("height", layout.height);
  }
  byId("frame").replaceChildren(...bands);
  return [parts, ticks];
}

function place(shown) {
  const fresh = layout === null;
  visible = shown;
  layout = layOut(visible, scroll.clientWidth);
  stage.style.width = `${layout.width}px`;
  stage.style.height = `${layout.height}px`;
  const [texts, ticks] = frame();
  marks.replaceChildren(draw("g", {}, ...texts), draw("g", {}, ...visible.map(markOf)), ticks);
  // What the graph ends in is on the right.
  if (fresh) scroll.scrollLeft = layout.width;
}

// Layers stay in sight while the graph moves under them.
function drawTicks() {
  byId("ticks").setAttribute("transform", `translate(${scroll.scrollLeft} 0)`);
}

// A canvas covers what is in sight only; the longest prompts are wider than any canvas can be.
function prepare(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [scroll.clientWidth, layout.height];
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  canvas.style.left = `${scroll.scrollLeft}px`;
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.translate(-scroll.scrollLeft, 0);
  return context;
}

// Edges of about one width and one sign are one path.
function strokes(context, list, opacity) {
  const buckets = new Map();
  for (const e of list) {
    const from = layout.at.get(edges.source[e]), to = layout.at.get(edges.target[e]);
    if (!from || !to) continue;
    const width = Math.min(Math.ceil(8 * Math.sqrt(edges.share[e])), 8);
    const key = `${sign(edges.weight[e])} ${width}`;
    if (!buckets.has(key)) buckets.set(key, new Path2D());
    const middle = (from[1] + to[1]) / 2;
    const path = buckets.get(key);
    path.moveTo(from[0], from[1]);
    path.bezierCurveTo(from[0], middle, to[0], middle, to[0], to[1]);
  }
  const colour = colours();
  for (const [key, path] of [...buckets].sort((a, b) => Number(a[0].split(" ")[1]) - Number(b[0].split(" ")[1]))) {
    const [which, width] = key.split(" ");
    context.strokeStyle = colour[which];
    context.globalAlpha = Math.min(1, opacity * (0.25 + 0.09 * width));
    context.lineWidth = 0.5 * width;
    context.stroke(path);
  }
  context.globalAlpha = 1;
}

function drawBase() {
  const list = [];
  for (let e = 0; e < EDGES && list.length < state.edges; e++) {
    if (layout.at.has(edges.source[e]) && layout.at.has(edges.target[e])) list.push(e);
  }
  strokes(prepare(base), list, 0.75);
  return list.length;
}

// The edges of the node that is looked at, and those between pinned nodes.
function drawOver() {
  const context = prepare(over);
  const focus = hovered ?? cursor ?? (state.pinned.includes(state.current) ? state.current : null);
  const list = new Set(focus ? [...focus.inputs.slice(0, MOST_OVER), ...focus.outputs.slice(0, MOST_OVER)] : []);
  if (!hovered) {
    const pinned = new Set(state.pinned.map((node) => node.i));
    for (const node of state.pinned) for (const e of node.inputs) if (pinned.has(edges.source[e])) list.add(e);
  }
  strokes(context, list, 1);
  base.classList.toggle("faded", list.size > 0);
}

function decorate() {
  const matches = found();
  marks.classList.toggle("searching", matches !== null);
  for (const mark of marks.querySelectorAll(".mark")) {
    const node = nodes[mark.dataset.i];
    mark.classList.toggle("pinned", state.pinned.includes(node));
    mark.classList.toggle("current", state.current === node || cursor === node);
    mark.classList.toggle("match", matches !== null && matches.has(node));
  }
}

function found() {
  const words = state.query.trim().toLowerCase();
  if (!words) return null;
  return new Set(nodes.filter((node) => searched[node.i].includes(words)));
}

function showWhole() {
  const shown = nodes.filter(isShown);
  const wide = state.pinned.filter((node) => node.kind === TOKEN);
  const key = [scroll.clientWidth, names(wide), shown.map((node) => node.i)].join(" ");
  if (key !== drawn) {
    place(shown);
    drawn = key;
  }
  drawTicks();
  const count = drawBase();
  drawOver();
  decorate();
  byId("nodes").value = state.share;
  byId("nodes-shown").textContent = `${state.share}%: ${visible.length} of ${nodes.length}`;
  byId("edges").value = EDGES ? Math.round(100 * Math.log1p(state.edges) / Math.log1p(EDGES)) : 0;
  byId("edges-shown").textContent = `${count.toLocaleString("en")} of ${EDGES.toLocaleString("en")}`;
  byId("errors").checked = state.errors;
}

const nodeAt = (event) => (event.target.closest?.(".mark") ? nodes[event.target.closest(".mark").dataset.i] : null);

// The nearest node in a direction: along the row, or in the next row that has one.
function step(from, key) {
  const [x, y] = layout.at.get(from.i);
  let best = null;
  for (const node of visible) {
    const [nx, ny] = layout.at.get(node.i);
    const cost = {
      ArrowLeft: nx < x - 1 && node.row === from.row ? x - nx + 3 * Math.abs(ny - y) : null,
      ArrowRight: nx > x + 1 && node.row === from.row ? nx - x + 3 * Math.abs(ny - y) : null,
      ArrowUp: ny < y - 1 ? 4 * (y - ny) + Math.abs(nx - x) : null,
      ArrowDown: ny > y + 1 ? 4 * (ny - y) + Math.abs(nx - x) : null,
    }[key];
    if (cost !== null && (best === null || cost < best.cost)) best = { node, cost };
  }
  return best ? best.node : from;
}

function moveTo(node) {
  cursor = node;
  const [x] = layout.at.get(node.i);
  if (x < scroll.scrollLeft + 40 || x > scroll.scrollLeft + scroll.clientWidth - 40) scroll.scrollLeft = x - scroll.clientWidth / 2;
  drawOver();
  decorate();
  const box = marks.querySelector(`[data-i="${node.i}"]`).getBoundingClientRect();
  showTip(node, box.right, box.bottom);
  byId("note").textContent = `${nameOf(node)}: ${placeOf(node)}`;
}

function release() {
  cursor = hovered = null;
  hideTip();
  drawOver();
  decorate();
}

function listenWhole() {
  marks.addEventListener("pointermove", (event) => {
    const node = nodeAt(event);
    if (node !== hovered) {
      hovered = node;
      drawOver();
    }
    if (node) showTip(node, event.clientX, event.clientY);
    else hideTip();
  });
  marks.addEventListener("pointerleave", () => {
    hovered = null;
    hideTip();
    drawOver();
  });
  marks.addEventListener("click", (event) => {
    const node = nodeAt(event);
    cursor = null;
    if (node) press(node);
    else change({ current: null });
  });
  scroll.addEventListener("scroll", () => { drawTicks(); drawBase(); drawOver(); });
  scroll.addEventListener("keydown", (event) => {
    if (event.key.startsWith("Arrow")) {
      const from = [cursor, state.current, first].find((node) => node && visible.includes(node)) ?? visible[0];
      if (from) moveTo(cursor ? step(from, event.key) : from);
    } else if ((event.key === "Enter" || event.key === " ") && cursor) press(cursor);
    else if (event.key === "Escape") release();
    else return;
    event.preventDefault();
  });
  scroll.addEventListener("blur", release);
}
