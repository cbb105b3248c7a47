// The graph: nodes with their edges, strongest first.
const [FEATURE, ERROR, TOKEN, TARGET] = [0, 1, 2, 3];
const data = JSON.parse(byId("data").textContent);
const edges = data.edges;
const EDGES = edges.source.length;
const TARGET_ROW = data.layers + 1;

const nodes = data.nodes.map(([id, kind, layer, position, feature, activation, influence, target], i) => ({
  i, id, kind, layer, position, feature, activation, influence, target,
  row: kind === TOKEN ? 0 : kind === TARGET ? TARGET_ROW : layer + 1,
  about: kind === FEATURE ? data.features[`${layer}/${feature}`] : null,
  inputs: [], outputs: [],
}));
const byName = new Map(nodes.map((node) => [node.id, node]));
for (let e = 0; e < EDGES; e++) {
  nodes[edges.target[e]].inputs.push(e);
  nodes[edges.source[e]].outputs.push(e);
}
for (const node of nodes) {
  for (const list of [node.inputs, node.outputs]) list.sort((a, b) => edges.share[b] - edges.share[a]);
}

const signed = (e) => (edges.weight[e] < 0 ? -edges.share[e] : edges.share[e]);
const sign = (value) => (value < 0 ? "negative" : "positive");

// What a node is called where there is room for a few words.
function nameOf(node) {
  if (node.kind === TOKEN) return `token ${data.tokens[node.position]}`;
  if (node.kind === TARGET) {
    const [label, probability] = data.targets[node.target];
    return probability === null ? label : `${label} (${percent(probability)})`;
  }
  if (node.kind === ERROR) return "error";
  return node.about.label || (node.about.tokens.length && node.about.tokens[0].length
    ? `→ ${node.about.tokens[0].slice(0, 3).join(" ")}` : `feature ${node.feature}`);
}

// Where it is, in short and in full.
function spotOf(node) {
  if (node.kind === TARGET) return "target";
  if (node.kind === TOKEN) return `position ${node.position}`;
  const place = node.kind === FEATURE ? `L${node.layer}/${node.feature}` : `L${node.layer}`;
  return `${place} · ${shorten(data.tokens[node.position], 12)}`;
}

function placeOf(node) {
  const at = `position ${node.position} (${shorten(data.tokens[node.position], 24)})`;
  if (node.kind === TARGET) return "target at the last position";
  if (node.kind === TOKEN) return `token at position ${node.position}`;
  return node.kind === ERROR ? `layer ${node.layer}, ${at}` : `layer ${node.layer}, feature ${node.feature}, ${at}`;
}

const searched = nodes.map((node) => {
  const about = node.about;
  const words = about ? [`${node.layer}/${node.feature}`, about.label, ...about.tokens.flat()] : [nameOf(node)];
  return [...words, node.id, data.tokens[node.position]].join("\n").toLowerCase();
});
