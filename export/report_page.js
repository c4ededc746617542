// Fills the page from the data block and links its parts: a residue under the pointer is marked everywhere.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const dark = matchMedia("(prefers-color-scheme: dark)");
const EXPERIMENT = [0.62, 0.65, 0.7];

function header() {
  at("name").textContent = data.name;
  at("subtitle").textContent = data.title;
  for (const { label, value, unit, level } of data.figures) {
    const item = element(at("figures"), "li");
    const number = element(item, "b");
    if (level !== null) element(number, "i", { style: `background: ${levelColour(level)}` });
    number.append(value);
    if (unit) element(number, "small", {}, unit);
    element(item, "span", {}, label);
  }
}

function tables() {
  const longest = Math.max(...data.timings.map(([, seconds]) => seconds));
  for (const [label, seconds] of data.timings) {
    const row = element(at("timings"), "tr");
    element(row, "td", {}, label);
    element(element(row, "td"), "i", { style: `width: ${(100 * seconds) / longest}%` });
    element(row, "td", {}, seconds < 1 ? `${Math.round(1000 * seconds)} ms` : `${seconds.toFixed(1)} s`);
  }
  at("time-note").textContent = `${data.timings.reduce((sum, [, seconds]) => sum + seconds, 0).toFixed(1)} s in all`;
  for (const [key, value] of data.provenance) {
    element(at("provenance"), "dt", {}, key);
    element(at("provenance"), "dd", /^[0-9a-f]{40,}$/.test(value) ? { class: "hash" } : {}, value);
  }
}

function sequence(onHover) {
  const cells = [];
  let block = null;
  [...data.sequence].forEach((letter, i) => {
    if (i % 10 === 0) {
      block = element(at("sequence"), "div");
      element(block, "small", {}, data.numbers[i]);
    }
    const cell = element(block, "span", { style: `border-color: ${levelColour(data.plddt[i])}`, title: label(i) }, letter);
    cell.addEventListener("pointerenter", () => onHover(i));
    cell.addEventListener("pointerleave", () => onHover(null));
    cells.push(cell);
  });
  let last = null;
  return (i) => {
    if (last !== null) cells[last].classList.remove("on");
    if (i !== null) cells[i].classList.add("on");
    last = i;
  };
}

const label = (i) => `${data.names[i]} ${data.numbers[i]}, pLDDT ${data.plddt[i].toFixed(1)}`;

const CHAIN = ["#3156c8", "#2fa9c9", "#4fb964", "#f0c33c", "#e0523f"];
const DISTANCE = ["#2a9d6f", "#e6c84b", "#d6336c"];

function along(hexes, share) {
  const stops = hexes.map(hexToRgb);
  const place = Math.min(0.9999, share) * (stops.length - 1);
  return Vec.mix(stops[Math.floor(place)], stops[Math.floor(place) + 1], place % 1);
}

const COLOURINGS = {
  Confidence: { of: (i) => hexToRgb(levelColour(data.plddt[i])), legend: LEVELS.map((l) => [l.colour, l.name]) },
  "Chain order": { of: (i) => along(CHAIN, i / data.plddt.length), legend: [[CHAIN[0], "N-terminus"], [CHAIN[4], "C-terminus"]] },
};
if (data.experiment) {
  COLOURINGS.Distance = {
    of: (i) => (data.distance[i] === null ? EXPERIMENT : along(DISTANCE, data.distance[i] / 5)),
    legend: [[DISTANCE[0], "0 Å from the experiment"], [DISTANCE[2], "5 Å and more"]],
  };
}

function choices(holder, names, first, chosen) {
  const buttons = names.map((name) => element(holder, "button", { type: "button", "aria-pressed": name === first }, name));
  buttons.forEach((button) =>
    button.addEventListener("click", () => {
      for (const other of buttons) other.setAttribute("aria-pressed", other === button);
      chosen(button.textContent);
    }),
  );
  chosen(first);
}

function legend(holder, entries) {
  holder.replaceChildren();
  for (const [colour, text] of entries) {
    const item = element(holder, "li");
    element(item, "i", { style: `background: ${colour}` });
    item.append(text);
  }
}

function save(name, url) {
  Object.assign(document.createElement("a"), { href: url, download: name }).click();
}

function structure(onHover) {
  const colours = (name) => data.predicted.rows.map(COLOURINGS[name].of);
  const parts = { predicted: { trace: data.predicted, colours: colours("Confidence"), visible: true } };
  if (data.experiment) {
    parts.experiment = { trace: data.experiment, colours: data.experiment.ca.map(() => EXPERIMENT), visible: true };
  }
  const viewer = new Viewer(at("viewer"), parts, onHover);
  const theme = () => {
    viewer.backdrop = hexToRgb(getComputedStyle(document.documentElement).getPropertyValue("--scene").trim());
    viewer.draw();
  };
  dark.addEventListener("change", theme);
  theme();
  if (data.experiment) {
    choices(at("shown"), ["Both", "Predicted", "Experiment"], "Both", (name) => {
      parts.predicted.visible = name !== "Experiment";
      parts.experiment.visible = name !== "Predicted";
      viewer.draw();
    });
  }
  choices(at("colouring"), Object.keys(COLOURINGS), "Confidence", (name) => {
    parts.predicted.colours = colours(name);
    legend(at("legend"), [...COLOURINGS[name].legend, ...(data.experiment ? [["#9ea6b2", "experiment"]] : [])]);
    viewer.recolour();
  });
  const actions = {
    PNG: () => save(`${data.name}.png`, at("viewer").toDataURL()),
    mmCIF: () => save(`${data.name}.cif`, URL.createObjectURL(new Blob([data.mmcif], { type: "chemical/x-mmcif" }))),
  };
  for (const [name, action] of Object.entries(actions)) {
    element(at("actions"), "button", { type: "button", title: `Save as ${name}` }, name).addEventListener("click", action);
  }
  return (i) => viewer.mark(i);
}

function start() {
  header();
  tables();
  const marks = [];
  const hover = (i) => {
    for (const mark of marks) mark(i);
    at("hovered").textContent = i === null ? "" : label(i) + (data.lddt && data.lddt[i] !== null ? `, lDDT ${(100 * data.lddt[i]).toFixed(1)}` : "");
  };
  marks.push(structure(hover), plddtChart(at("plddt"), data, hover), sequence(hover));
  at("plddt-legend").innerHTML = '<li><i class="stroke" style="background: var(--accent)"></i>pLDDT, predicted</li>';
  if (data.lddt) at("plddt-legend").innerHTML += '<li><i class="stroke" style="background: var(--soft)"></i>lDDT-Cα to the experiment</li>';
  if (data.pae) {
    const readout = at("pae-readout");
    const idle = `mean ${data.pae.mean.toFixed(1)} Å`;
    colourScale(at("pae-scale"), paeColour, "0 Å", `${data.pae.maximum.toFixed(0)} Å`);
    readout.textContent = idle;
    paeChart(at("pae"), data.pae, data.numbers, (hit) => {
      hover(hit === null ? null : hit.j);
      readout.textContent = hit === null ? idle : `residue ${data.numbers[hit.j]} seen from ${data.numbers[hit.i]}: expected error ${hit.error.toFixed(1)} Å`;
    });
  } else {
    at("pae-card").remove();
    at("structure").className = "card full";
  }
  at("msa-note").textContent = `${data.msa.depth} sequences, effective depth ${data.msa.effective.toFixed(1)}`;
  colourScale(at("msa-scale"), identityColour, "0 % identity to the query", "100 %");
  const msa = () => {
    at("msa").replaceChildren();
    msaChart(at("msa"), data.msa, data.plddt.length, dark.matches);
  };
  dark.addEventListener("change", msa);
  msa();
}

start();
