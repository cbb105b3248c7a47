// Features that do alike: cosine of their signed edges, and groups in which every pair is alike.
const MOST_COMPARED = 200;

// Inputs and outputs by their other end, each edge as its share of what reaches its target.
function profile(node) {
  const side = (list, end) => new Map(list.map((e) => [end[e], signed(e)]));
  return [side(node.inputs, edges.source), side(node.outputs, edges.target)];
}

function cosine(a, b) {
  let [product, left, right] = [0, 0, 0];
  for (const [key, value] of a) {
    left += value * value;
    if (b.has(key)) product += value * b.get(key);
  }
  for (const value of b.values()) right += value * value;
  return left > 0 && right > 0 ? product / Math.sqrt(left * right) : null;
}

// The mean over inputs and outputs; null where neither node has edges on a side that both have.
function alike(a, b) {
  const sides = [0, 1].map((i) => cosine(a[i], b[i])).filter((value) => value !== null);
  return sides.length ? sides.reduce((x, y) => x + y, 0) / sides.length : null;
}

// Complete link: two groups join while the least similar pair of both is at least `least`.
// Returns groups of two and more with their lowest cosine, and the highest one to a feature outside.
function suggest(members, least) {
  const profiles = members.map(profile);
  const pairs = members.map((_, i) => members.map((_, j) => (i === j ? null : alike(profiles[i], profiles[j]))));
  let groups = members.map((_, i) => [i]);
  const lowest = (a, b) => {
    let low = Infinity;
    for (const i of a) for (const j of b) low = Math.min(low, pairs[i][j] ?? -Infinity);
    return low;
  };
  for (;;) {
    let best = null;
    for (let a = 0; a < groups.length; a++) {
      for (let b = a + 1; b < groups.length; b++) {
        const low = lowest(groups[a], groups[b]);
        if (low >= least && (best === null || low > best.low)) best = { low, a, b };
      }
    }
    if (best === null) break;
    groups[best.a] = [...groups[best.a], ...groups[best.b]];
    groups.splice(best.b, 1);
  }
  return groups.filter((group) => group.length > 1).map((group) => {
    const inside = group.flatMap((i, n) => group.slice(n + 1).map((j) => pairs[i][j]));
    const outside = members.map((_, j) => j).filter((j) => !group.includes(j))
      .flatMap((j) => group.map((i) => pairs[i][j])).filter((value) => value !== null);
    return {
      members: group.map((i) => members[i]),
      low: Math.min(...inside),
      outside: outside.length ? Math.max(...outside) : null,
    };
  }).sort((a, b) => b.low - a.low);
}
