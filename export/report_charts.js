// Charts as SVG: pLDDT curve, PAE map, alignment coverage.
"use strict";

const LEVELS = [
  { from: 90, colour: "#0053d6", name: "very high, ≥ 90" },
  { from: 70, colour: "#65cbf3", name: "confident, ≥ 70" },
  { from: 50, colour: "#ffdb13", name: "low, ≥ 50" },
  { from: -1, colour: "#ff7d45", name: "very low" },
];
const SVG = document.querySelector("svg").namespaceURI;
const levelColour = (plddt) => LEVELS.find((level) => plddt >= level.from).colour;
const hexToRgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16) / 255);

function element(parent, tag, attributes = {}, text = "") {
  const drawn = ["svg", "line", "path", "rect", "text", "image"].includes(tag) || parent instanceof SVGElement;
  const node = drawn ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== "") node.textContent = text;
  parent.append(node);
  return node;
}

// A few round numbers between low and high.
function ticks(low, high, about) {
  const raw = (high - low) / about;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
  const found = [];
  for (let v = Math.ceil(low / step) * step; v <= high + 1e-9; v += step) found.push(Math.round(v * 1e6) / 1e6);
  return found;
}

// A plot area with axes: {svg, x, y} where x and y turn values into coordinates.
function frame(holder, { width, height, xRange, yRange, xTicks, yTicks, xTitle, yTitle, down = false }) {
  const [left, right, top, bottom] = [46, 12, 8, 40];
  const svg = element(holder, "svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  const x = (v) => left + ((v - xRange[0]) / (xRange[1] - xRange[0])) * (width - left - right);
  const share = (v) => (v - yRange[0]) / (yRange[1] - yRange[0]);
  const y = (v) => top + (down ? share(v) : 1 - share(v)) * (height - top - bottom);
  for (const v of yTicks) {
    if (!down) element(svg, "line", { x1: left, x2: width - right, y1: y(v), y2: y(v), class: "grid" });
    element(svg, "text", { x: left - 8, y: y(v) + 4, "text-anchor": "end" }, v);
  }
  for (const v of xTicks) element(svg, "text", { x: x(v), y: height - bottom + 17, "text-anchor": "middle" }, v);
  element(svg, "text", { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, xTitle);
  const middle = (top + height - bottom) / 2;
  element(svg, "text", { x: 11, y: middle, transform: `rotate(-90 11 ${middle})`, "text-anchor": "middle" }, yTitle);
  return { svg, x, y, left, right: width - right, top, bottom: height - bottom };
}

const curve = (values, x, y) =>
  values.reduce((path, v, i) => (v === null ? path : `${path}${i === 0 || values[i - 1] === null ? "M" : "L"}${x(i)} ${y(v)}`), "");

function plddtChart(holder, data, onHover) {
  const n = data.plddt.length;
  const number = (i) => data.numbers[i];
  const size = { width: 1240, height: 240 };
  const axes = { xTitle: "residue", yTitle: data.lddt ? "pLDDT, 100 × lDDT" : "pLDDT", yTicks: [0, 50, 70, 90, 100], yRange: [0, 100] };
  const xTicks = ticks(1, n, 12).map((v) => Math.max(v, 1));
  const area = frame(holder, { ...size, ...axes, xRange: [0.5, n + 0.5], xTicks });
  const step = (area.right - area.left) / n;
  data.plddt.forEach((v, i) => {
    const bar = { x: area.x(i + 0.5), width: step + 0.4, y: area.y(v), height: area.bottom - area.y(v), fill: levelColour(v), opacity: 0.22 };
    element(area.svg, "rect", bar);
  });
  const at = (i) => area.x(i + 1);
  element(area.svg, "path", { d: curve(data.plddt, at, area.y), fill: "none", stroke: "var(--accent)", "stroke-width": 2, "stroke-linejoin": "round" });
  if (data.lddt) {
    const values = data.lddt.map((v) => (v === null ? null : 100 * v));
    element(area.svg, "path", { d: curve(values, at, area.y), fill: "none", stroke: "var(--soft)", "stroke-width": 1.6, "stroke-dasharray": "5 4" });
  }
  const cursor = element(area.svg, "line", { y1: area.top, y2: area.bottom, class: "cursor", visibility: "hidden" });
  area.svg.addEventListener("pointermove", (event) => {
    const box = area.svg.getBoundingClientRect();
    const i = Math.floor((((event.clientX - box.left) / box.width) * size.width - area.left) / step);
    onHover(i >= 0 && i < n ? i : null);
  });
  area.svg.addEventListener("pointerleave", () => onHover(null));
  element(area.svg, "title", {}, `pLDDT of residues ${number(0)} to ${number(n - 1)}`);
  return (i) => {
    cursor.setAttribute("visibility", i === null ? "hidden" : "visible");
    if (i !== null) for (const end of ["x1", "x2"]) cursor.setAttribute(end, at(i));
  };
}

function unpack(text) {
  return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
}

// pixels(i) -> [r, g, b] 0..255, row by row
function picture(width, height, pixels) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const paint = canvas.getContext("2d");
  const image = paint.createImageData(width, height);
  for (let i = 0; i < width * height; i++) image.data.set([...pixels(i), 255], 4 * i);
  paint.putImageData(image, 0, 0);
  return canvas.toDataURL();
}

const blend = (a, b, t) => a.map((v, i) => Math.round(v + (b[i] - v) * t));

// Dark green is certain, pale is not, as AlphaFold DB draws it.
const paeColour = (share) => blend([8, 76, 38], [243, 250, 245], Math.pow(share, 0.72));

function paeChart(holder, pae, numbers, onHover) {
  const n = numbers.length;
  const values = unpack(pae.values);
  const places = ticks(1, n, 6).map((v) => Math.max(v, 1));
  const axes = { xRange: [0.5, n + 0.5], yRange: [0.5, n + 0.5], xTicks: places, yTicks: places, xTitle: "scored residue", yTitle: "aligned residue", down: true };
  const area = frame(holder, { width: 480, height: 462, ...axes });
  const box = { x: area.left, y: area.top, width: area.right - area.left, height: area.bottom - area.top };
  const href = picture(n, n, (i) => paeColour(values[i] / 255));
  element(area.svg, "image", { ...box, href, preserveAspectRatio: "none", style: "image-rendering: pixelated" });
  area.svg.addEventListener("pointermove", (event) => {
    const seen = area.svg.getBoundingClientRect();
    const scale = 480 / seen.width;
    const j = Math.floor((((event.clientX - seen.left) * scale - area.left) / box.width) * n);
    const i = Math.floor((((event.clientY - seen.top) * scale - area.top) / box.height) * n);
    if (i < 0 || j < 0 || i >= n || j >= n) return onHover(null);
    return onHover({ i, j, error: (values[i * n + j] / 255) * pae.maximum });
  });
  area.svg.addEventListener("pointerleave", () => onHover(null));
}

const IDENTITY = [[222, 73, 104], [240, 150, 90], [246, 213, 120], [108, 190, 190], [45, 105, 200]];

function identityColour(share) {
  const place = Math.min(0.9999, Math.max(0, share)) * (IDENTITY.length - 1);
  return blend(IDENTITY[Math.floor(place)], IDENTITY[Math.floor(place) + 1], place % 1);
}

// A bar from low to high in the colours of a map.
function colourScale(holder, colour, low, high) {
  const stops = [0, 1, 2, 3, 4, 5, 6, 7, 8].map((k) => `rgb(${colour(k / 8).join(" ")})`);
  element(holder, "span", {}, low);
  element(holder, "i", { style: `background: linear-gradient(to right, ${stops.join(", ")})` });
  element(holder, "span", {}, high);
}

// Rows from most to least like the query, coloured by identity; gaps are empty; the line counts rows per residue.
function msaChart(holder, msa, n, dark) {
  const rows = msa.identity.length;
  const bits = unpack(msa.present);
  const empty = dark ? [23, 26, 32] : [255, 255, 255];
  const stride = Math.ceil(n / 8);
  const present = (r, c) => (bits[r * stride + (c >> 3)] >> (7 - (c & 7))) & 1;
  const axes = { xTitle: "residue", yTitle: "sequences", xTicks: ticks(1, n, 8).map((v) => Math.max(v, 1)), yTicks: ticks(0, msa.depth, 5) };
  const area = frame(holder, { width: 620, height: 330, ...axes, xRange: [0.5, n + 0.5], yRange: [0, msa.depth] });
  const href = picture(n, rows, (i) => (present(Math.floor(i / n), i % n) ? identityColour(msa.identity[Math.floor(i / n)]) : empty));
  const box = { x: area.left, y: area.top, width: area.right - area.left, height: area.bottom - area.top };
  element(area.svg, "image", { ...box, href, preserveAspectRatio: "none", style: "image-rendering: pixelated", transform: `matrix(1 0 0 -1 0 ${area.top + area.bottom})` });
  element(area.svg, "path", { d: curve(msa.coverage, (i) => area.x(i + 1), area.y), fill: "none", stroke: "var(--text)", "stroke-width": 1.8 });
}
