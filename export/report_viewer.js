// A small WebGL viewer: cartoons, turned by the mouse, lit from the eye, with a dark outline. Draws only when something changed.
"use strict";

const VERTEX = `#version 300 es
in vec3 position; in vec3 normal; in vec3 colour;
uniform mat3 turn; uniform vec3 centre; uniform vec2 scale; uniform vec2 shift; uniform float depth; uniform float swell;
out vec3 facing; out vec3 tint; out float away;
void main() {
  vec3 p = turn * (position - centre + normal * swell);
  facing = turn * normal; tint = colour; away = clamp(0.5 - 0.5 * p.z / depth, 0.0, 1.0);
  gl_Position = vec4(p.xy * scale + shift, -p.z / depth * 0.9, 1.0);
}`;
const FRAGMENT = `#version 300 es
precision highp float;
in vec3 facing; in vec3 tint; in float away;
uniform vec3 backdrop; uniform vec4 outline;
out vec4 pixel;
void main() {
  vec3 n = normalize(facing);
  float key = max(dot(n, normalize(vec3(-0.35, 0.55, 0.75))), 0.0);
  float fill = max(dot(n, normalize(vec3(0.6, -0.3, 0.5))), 0.0);
  float shine = pow(max(dot(n, normalize(vec3(-0.2, 0.32, 0.92))), 0.0), 40.0);
  vec3 lit = tint * (0.42 + 0.56 * key + 0.14 * fill) + vec3(0.16) * shine;
  lit = mix(lit, outline.rgb, outline.a);
  pixel = vec4(mix(lit, backdrop, 0.55 * away * away), 1.0);
}`;

class Viewer {
  // parts: name -> {trace, colours: [r, g, b] 0..1 per point of the trace, visible}; trace.rows are the points' residues
  constructor(canvas, parts, onHover) {
    this.canvas = canvas;
    this.parts = parts;
    this.onHover = onHover;
    this.gl = canvas.getContext("webgl2", { antialias: true, preserveDrawingBuffer: true });
    this.backdrop = [1, 1, 1];
    this.marked = null;
    this.reset();
    if (this.gl) this.prepare();
    this.listen();
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  reset() {
    const points = Object.values(this.parts).flatMap((part) => part.trace.ca);
    this.centre = Vec.scale(points.reduce(Vec.add, [0, 0, 0]), 1 / points.length);
    this.turn = frontView(points, this.centre);
    // The middle of the front view's box, so that it fills the canvas.
    const seen = points.map((p) => apply(this.turn, Vec.sub(p, this.centre)));
    const [low, high] = [Math.min, Math.max].map((end) => [0, 1, 2].map((axis) => end(...seen.map((p) => p[axis]))));
    this.centre = Vec.add(this.centre, apply(transpose(this.turn), Vec.scale(Vec.add(low, high), 0.5)));
    this.extent = [0, 1].map((axis) => (high[axis] - low[axis]) / 2 + 4);
    this.radius = Math.max(...points.map((p) => Math.hypot(...Vec.sub(p, this.centre)))) + 3;
    this.zoom = 1;
    this.shift = [0, 0];
    this.draw();
  }

  prepare() {
    const gl = this.gl;
    this.program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
      gl.attachShader(this.program, shader);
    }
    gl.linkProgram(this.program);
    this.place = (name) => gl.getUniformLocation(this.program, name);
    for (const part of Object.values(this.parts)) {
      const mesh = ribbonMesh(part.trace, part.trace.ca.length > 600 ? 5 : 9);
      part.rows = mesh.rows;
      part.count = mesh.indices.length;
      part.array = gl.createVertexArray();
      gl.bindVertexArray(part.array);
      this.attribute("position", mesh.positions);
      this.attribute("normal", mesh.normals);
      part.buffer = this.attribute("colour", this.tints(part));
      gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
      gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, mesh.indices, gl.STATIC_DRAW);
    }
  }

  attribute(name, values) {
    const gl = this.gl;
    const buffer = gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
    const location = gl.getAttribLocation(this.program, name);
    gl.enableVertexAttribArray(location);
    gl.vertexAttribPointer(location, 3, gl.FLOAT, false, 0, 0);
    return buffer;
  }

  tints(part) {
    const values = new Float32Array(3 * part.rows.length);
    part.rows.forEach((row, i) => values.set(part.trace.rows[row] === this.marked ? [1, 0.2, 0.75] : part.colours[row], 3 * i));
    return values;
  }

  recolour() {
    if (!this.gl) return this.draw();
    for (const part of Object.values(this.parts)) {
      this.gl.bindBuffer(this.gl.ARRAY_BUFFER, part.buffer);
      this.gl.bufferData(this.gl.ARRAY_BUFFER, this.tints(part), this.gl.STATIC_DRAW);
    }
    this.draw();
  }

  mark(row) {
    if (row === this.marked) return;
    this.marked = row;
    this.recolour();
  }

  draw() {
    if (this.pending) return;
    this.pending = requestAnimationFrame(() => {
      this.pending = 0;
      this.fit();
      if (this.gl) this.render();
      else this.sketch();
    });
  }

  fit() {
    const ratio = window.devicePixelRatio || 1;
    const [w, h] = [this.canvas.clientWidth, this.canvas.clientHeight].map((n) => Math.max(1, Math.round(n * ratio)));
    if (this.canvas.width !== w || this.canvas.height !== h) Object.assign(this.canvas, { width: w, height: h });
    const pixels = this.zoom * Math.min(w / this.extent[0], h / this.extent[1]);
    this.scale = [pixels / w, pixels / h];
  }

  render() {
    const gl = this.gl;
    gl.viewport(0, 0, this.canvas.width, this.canvas.height);
    gl.clearColor(...this.backdrop, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.enable(gl.DEPTH_TEST);
    gl.enable(gl.CULL_FACE);
    gl.useProgram(this.program);
    gl.uniformMatrix3fv(this.place("turn"), true, this.turn.flat());
    gl.uniform3fv(this.place("centre"), this.centre);
    gl.uniform2fv(this.place("scale"), this.scale);
    gl.uniform2fv(this.place("shift"), this.shift);
    gl.uniform1f(this.place("depth"), this.radius * 1.1);
    gl.uniform3fv(this.place("backdrop"), this.backdrop);
    const edge = this.backdrop[0] > 0.5 ? 0.25 : 0.02;
    for (const part of Object.values(this.parts).filter((p) => p.visible)) {
      gl.bindVertexArray(part.array);
      for (const [face, swell, strength] of [[gl.FRONT, 0.1 / Math.sqrt(this.zoom), 0.85], [gl.BACK, 0, 0]]) {
        gl.cullFace(face);
        gl.uniform1f(this.place("swell"), swell);
        gl.uniform4f(this.place("outline"), edge, edge, edge, strength);
        gl.drawElements(gl.TRIANGLES, part.count, gl.UNSIGNED_INT, 0);
      }
    }
  }

  // Without WebGL: the Cα trace, far pieces first.
  sketch() {
    const paint = this.canvas.getContext("2d");
    const { width, height } = this.canvas;
    paint.fillStyle = rgb(this.backdrop);
    paint.fillRect(0, 0, width, height);
    const pieces = [];
    for (const part of Object.values(this.parts).filter((p) => p.visible)) {
      const seen = part.trace.ca.map((p) => this.project(p));
      for (let i = 1; i < seen.length; i++) {
        if (!part.trace.breaks.includes(i)) pieces.push({ a: seen[i - 1], b: seen[i], colour: part.trace.rows[i] === this.marked ? "#f3c" : rgb(part.colours[i]) });
      }
    }
    pieces.sort((p, q) => p.a[2] + p.b[2] - q.a[2] - q.b[2]);
    paint.lineCap = "round";
    for (const [extra, plain] of [[3, true], [0, false]]) {
      for (const { a, b, colour } of pieces) {
        paint.lineWidth = 0.6 * this.scale[1] * height * 0.5 + extra;
        paint.strokeStyle = plain ? "#0005" : colour;
        paint.beginPath();
        paint.moveTo(a[0], a[1]);
        paint.lineTo(b[0], b[1]);
        paint.stroke();
      }
    }
  }

  // ångström -> [x, y in canvas pixels, depth towards the eye]
  project(point) {
    const p = apply(this.turn, Vec.sub(point, this.centre));
    const [x, y] = [p[0] * this.scale[0] + this.shift[0], p[1] * this.scale[1] + this.shift[1]];
    return [(x * 0.5 + 0.5) * this.canvas.width, (0.5 - y * 0.5) * this.canvas.height, p[2]];
  }

  pick(event) {
    const box = this.canvas.getBoundingClientRect();
    const ratio = this.canvas.width / box.width;
    const [x, y] = [(event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio];
    let best = null;
    for (const part of Object.values(this.parts)) {
      if (!part.visible) continue;
      part.trace.ca.forEach((point, i) => {
        const p = this.project(point);
        const distance = Math.hypot(p[0] - x, p[1] - y);
        if (distance < 11 * ratio && (!best || p[2] > best.z)) best = { row: part.trace.rows[i], z: p[2] };
      });
    }
    return best && best.row;
  }

  listen() {
    const canvas = this.canvas;
    canvas.addEventListener("pointerdown", (event) => {
      this.drag = [event.clientX, event.clientY];
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointerup", () => (this.drag = null));
    canvas.addEventListener("pointerleave", () => this.onHover(null));
    canvas.addEventListener("pointermove", (event) => {
      if (!this.drag) return this.onHover(this.pick(event), event);
      const [dx, dy] = [event.clientX - this.drag[0], event.clientY - this.drag[1]];
      this.drag = [event.clientX, event.clientY];
      if (event.shiftKey || event.buttons === 2) {
        this.shift = [this.shift[0] + (2 * dx) / canvas.clientWidth, this.shift[1] - (2 * dy) / canvas.clientHeight];
      } else {
        this.rotate(dx * 0.01, dy * 0.01);
      }
      return this.draw();
    });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom = Math.min(12, Math.max(0.3, this.zoom * Math.exp(-event.deltaY * 0.0012)));
      this.draw();
    }, { passive: false });
    canvas.addEventListener("dblclick", () => this.reset());
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] }[event.key];
      if (!step) return;
      event.preventDefault();
      this.rotate(...step);
      this.draw();
    });
  }

  rotate(aboutY, aboutX) {
    const [cy, sy, cx, sx] = [Math.cos(aboutY), Math.sin(aboutY), Math.cos(aboutX), Math.sin(aboutX)];
    const y = [[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]];
    const x = [[1, 0, 0], [0, cx, -sx], [0, sx, cx]];
    this.turn = product(x, product(y, this.turn));
  }
}

const rgb = (c) => `rgb(${c.map((v) => Math.round(255 * v)).join(",")})`;
const apply = (m, v) => m.map((row) => Vec.dot(row, v));
const transpose = (m) => [0, 1, 2].map((i) => m.map((row) => row[i]));
const product = (a, b) => a.map((row) => transpose(b).map((column) => Vec.dot(row, column)));

// The longest extension lies across the screen, the shortest points at the eye: principal axes by power iteration.
function frontView(points, centre) {
  const away = points.map((p) => Vec.sub(p, centre));
  const spread = [0, 1, 2].map((i) => [0, 1, 2].map((j) => away.reduce((sum, p) => sum + p[i] * p[j], 0)));
  const axes = [];
  for (let k = 0; k < 2; k++) {
    let v = [0.48, 0.62, 0.62];
    for (let i = 0; i < 60; i++) {
      for (const axis of axes) v = Vec.sub(v, Vec.scale(axis, Vec.dot(axis, v)));
      v = Vec.unit(apply(spread, v));
    }
    for (const axis of axes) v = Vec.unit(Vec.sub(v, Vec.scale(axis, Vec.dot(axis, v))));
    axes.push(v);
  }
  return [axes[0], axes[1], Vec.cross(axes[0], axes[1])];
}
