// Elements and numbers. Texts only ever reach the page through textContent and attributes.
const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);

function make(name, options = {}, ...inside) {
  const made = document.createElement(name);
  const { text, kind, ...attributes } = options;
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...inside);
  return made;
}

function draw(name, attributes = {}, ...inside) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...inside);
  return made;
}

function button(text, act, kind) {
  const made = make("button", { text, kind, type: "button" });
  made.addEventListener("click", act);
  return made;
}

// By whole characters, so that no emoji is cut in half.
function shorten(text, length) {
  if (text.length <= length) return text;
  const characters = Array.from(text.slice(0, 2 * length + 2));
  return characters.length <= length ? text : characters.slice(0, length - 1).join("") + "…";
}

// A name that somebody typed, or put into a link: without marks that turn text round.
const clean = (text) => text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, "").slice(0, 200).trim();

function number(value) {
  if (value === null) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const digits = size < 1 ? 3 : size < 10 ? 2 : size < 100 ? 1 : 0;
  const text = size < 5e-4 || size >= 1e5 ? value.toExponential(1) : value.toFixed(digits);
  return text.replaceAll("-", "−");
}

const percent = (share) => `${number(100 * share)}%`;
const plural = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;
