// Cα trace + secondary structure -> triangles of a cartoon: flat ribbons for helices, arrows for strands, tubes between.
"use strict";

const Vec = {
  add: (a, b) => [a[0] + b[0], a[1] + b[1], a[2] + b[2]],
  sub: (a, b) => [a[0] - b[0], a[1] - b[1], a[2] - b[2]],
  scale: (a, s) => [a[0] * s, a[1] * s, a[2] * s],
  dot: (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2],
  cross: (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]],
  mix: (a, b, t) => [a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t],
  unit(a) {
    const length = Math.hypot(a[0], a[1], a[2]);
    return length > 1e-9 ? Vec.scale(a, 1 / length) : [1, 0, 0];
  },
};

// Half widths in ångström: across the ribbon, and through it.
const SHAPES = { H: [1.35, 0.28], E: [1.15, 0.3], C: [0.34, 0.34] };
const ARROW = 1.75;
const SEGMENTS = 14;

// trace: {ca: [[x, y, z]], side: [[x, y, z]], ss: "HEC...", breaks: [rows that start a new piece]}
// -> {positions, normals (Float32Array), rows (vertex -> residue row), indices (Uint32Array)}
function ribbonMesh(trace, smooth) {
  const mesh = { positions: [], normals: [], rows: [], indices: [] };
  const starts = [0, ...trace.breaks, trace.ca.length];
  for (let piece = 0; piece + 1 < starts.length; piece++) addPiece(mesh, trace, starts[piece], starts[piece + 1], smooth);
  return {
    positions: new Float32Array(mesh.positions),
    normals: new Float32Array(mesh.normals),
    rows: mesh.rows,
    indices: new Uint32Array(mesh.indices),
  };
}

function addPiece(mesh, trace, first, end, smooth) {
  if (end - first < 2) return;
  const points = [];
  for (let i = first; i < end; i++) points.push(onRibbon(trace, i, first, end));
  const sides = alignedSides(trace.side.slice(first, end));
  const at = (list, i) => list[Math.max(0, Math.min(list.length - 1, i))];
  const rings = [];
  const last = points.length - 1;
  for (let i = 0; i <= last; i++) {
    for (let k = 0; k < (i === last ? 1 : smooth); k++) {
      const t = k / smooth;
      const four = [at(points, i - 1), points[i], at(points, i + 1), at(points, i + 2)];
      const tangent = Vec.unit(hermite(four, t, true));
      let side = Vec.mix(sides[i], at(sides, i + 1), t);
      side = Vec.unit(Vec.sub(side, Vec.scale(tangent, Vec.dot(side, tangent))));
      const row = first + (t < 0.5 ? i : Math.min(i + 1, last));
      rings.push({ centre: hermite(four, t, false), side, up: Vec.cross(tangent, side), tangent, row, size: crossSection(trace.ss, first + i, t, end) });
    }
  }
  addRings(mesh, rings);
}

// Strands zigzag from Cα to Cα: average them flat. Helices and coils pass through their Cα.
function onRibbon(trace, i, first, end) {
  if (trace.ss[i] !== "E" || i === first || i === end - 1) return trace.ca[i];
  const middle = Vec.scale(Vec.add(trace.ca[i - 1], trace.ca[i + 1]), 0.5);
  return Vec.mix(trace.ca[i], middle, 0.5);
}

// The carbonyl direction flips from residue to residue in strands; a ribbon must not.
function alignedSides(sides) {
  const result = [sides[0]];
  for (let i = 1; i < sides.length; i++) {
    result.push(Vec.dot(sides[i], result[i - 1]) < 0 ? Vec.scale(sides[i], -1) : sides[i]);
  }
  return result.map((_, i) => Vec.add(Vec.add(result[Math.max(0, i - 1)], Vec.scale(result[i], 2)), result[Math.min(result.length - 1, i + 1)]));
}

function hermite([before, a, b, after], t, derivative) {
  const first = Vec.scale(Vec.sub(b, before), 0.5);
  const second = Vec.scale(Vec.sub(after, a), 0.5);
  const [h0, h1, h2, h3] = derivative
    ? [6 * t * t - 6 * t, 3 * t * t - 4 * t + 1, 6 * t - 6 * t * t, 3 * t * t - 2 * t]
    : [2 * t ** 3 - 3 * t * t + 1, t ** 3 - 2 * t * t + t, 3 * t * t - 2 * t ** 3, t ** 3 - t * t];
  return Vec.add(Vec.add(Vec.scale(a, h0), Vec.scale(first, h1)), Vec.add(Vec.scale(b, h2), Vec.scale(second, h3)));
}

function crossSection(ss, i, t, end) {
  const here = SHAPES[ss[i]];
  const next = i + 1 < end ? ss[i + 1] : ss[i];
  if (ss[i] === "E" && next !== "E") return [ARROW + (SHAPES.C[0] - ARROW) * t, here[1]];
  if (ss[i] === next) return here;
  const ease = t * t * (3 - 2 * t);
  return [0, 1].map((axis) => here[axis] + (SHAPES[next][axis] - here[axis]) * ease);
}

function addRings(mesh, rings) {
  const base = mesh.rows.length;
  for (const ring of rings) {
    const [wide, thin] = ring.size;
    for (let k = 0; k < SEGMENTS; k++) {
      const angle = (2 * Math.PI * k) / SEGMENTS;
      const [c, s] = [Math.cos(angle), Math.sin(angle)];
      mesh.positions.push(...Vec.add(ring.centre, Vec.add(Vec.scale(ring.side, wide * c), Vec.scale(ring.up, thin * s))));
      mesh.normals.push(...Vec.unit(Vec.add(Vec.scale(ring.side, c / wide), Vec.scale(ring.up, s / thin))));
      mesh.rows.push(ring.row);
    }
  }
  for (let i = 0; i + 1 < rings.length; i++) {
    for (let k = 0; k < SEGMENTS; k++) {
      const [a, b] = [base + i * SEGMENTS + k, base + i * SEGMENTS + ((k + 1) % SEGMENTS)];
      mesh.indices.push(a, b, a + SEGMENTS, b, b + SEGMENTS, a + SEGMENTS);
    }
  }
  addCap(mesh, rings[0], base, -1);
  addCap(mesh, rings[rings.length - 1], base + (rings.length - 1) * SEGMENTS, 1);
}

function addCap(mesh, ring, start, direction) {
  const centre = mesh.rows.length;
  const normal = Vec.scale(ring.tangent, direction);
  for (let k = 0; k <= SEGMENTS; k++) {
    const from = k === 0 ? ring.centre : mesh.positions.slice(3 * (start + k - 1), 3 * (start + k));
    mesh.positions.push(...from);
    mesh.normals.push(...normal);
    mesh.rows.push(ring.row);
  }
  for (let k = 0; k < SEGMENTS; k++) {
    const pair = [centre + 1 + k, centre + 1 + ((k + 1) % SEGMENTS)];
    mesh.indices.push(centre, ...(direction > 0 ? pair : pair.reverse()));
  }
}
