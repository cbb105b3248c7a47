// Columns are tokens and rows layers, tokens at the bottom; both are wider where more nodes are.
// In long prompts, tokens above which nothing is shown stand close together, without their text.
const LONG = 100, CLOSE = 4, COLUMN = 20;
const MARGIN = { left: 40, top: 74, right: 84, bottom: 84 };

function spread(needed, room) {
  const total = needed.reduce((a, b) => a + b, 0);
  const more = Math.max(room - total, 0) / Math.max(needed.length, 1);
  return needed.map((need) => need + more);
}

function layOut(shown, width) {
  const slot = shown.length > 500 ? 9 : shown.length > 150 ? 11 : 14;
  const cells = new Map();
  for (const node of shown) {
    const key = node.row * data.tokens.length + node.position;
    if (!cells.has(key)) cells.set(key, []);
    cells.get(key).push(node);
  }
  const columns = data.tokens.map(() => (data.tokens.length > LONG ? CLOSE : COLUMN));
  for (const node of shown) if (node.kind !== TOKEN || state.pinned.includes(node)) columns[node.position] = COLUMN;
  const rows = Array.from({ length: TARGET_ROW + 1 }, () => 5);
  const sides = new Map();
  for (const [key, members] of cells) {
    const [row, position] = [members[0].row, members[0].position];
    const wide = row === TARGET_ROW ? members.length : Math.min(members.length, Math.ceil(1.4 * Math.sqrt(members.length)));
    const side = row === TARGET_ROW ? 20 : slot;
    sides.set(key, [wide, side]);
    if (row > 0) columns[position] = Math.max(columns[position], wide * side + 8);
    rows[row] = Math.max(rows[row], Math.ceil(members.length / wide) * slot + 5);
  }
  const widths = spread(columns, width - MARGIN.left - MARGIN.right);
  const heights = spread(rows, 380);
  const x = [MARGIN.left], y = [MARGIN.top + heights.reduce((a, b) => a + b, 0)];
  for (const w of widths) x.push(x[x.length - 1] + w);
  for (const h of heights) y.push(y[y.length - 1] - h);
  const at = new Map();
  for (const [key, members] of cells) {
    const [wide, side] = sides.get(key);
    const [row, position] = [members[0].row, members[0].position];
    const high = Math.ceil(members.length / wide);
    members.forEach((node, n) => {
      const inRow = Math.min(wide, members.length - Math.floor(n / wide) * wide);
      at.set(node.i, [
        (x[position] + x[position + 1]) / 2 + ((n % wide) - (inRow - 1) / 2) * side,
        (y[row] + y[row + 1]) / 2 + (Math.floor(n / wide) - (high - 1) / 2) * slot,
      ]);
    });
  }
  return { at, x, y, slot, width: x[x.length - 1] + MARGIN.right, height: y[0] + MARGIN.bottom };
}
