"use strict";
// The numbers of the search, and the few functions that all parts of the page share.

const SVG = "http://www.w3.org/2000/svg";
const UNKNOWN_PROBABILITY = 65535, UNKNOWN_OPERATION = 255; // as in player_data.py

const search = JSON.parse(document.getElementById("history").textContent);
const numEpochs = search.epochs.length;
const numOperations = search.operations.length;
const noneOperation = search.operations.findIndex((operation) => operation.name === "none");

function unpack(text, Type) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return new Type(bytes.buffer);
}

for (const cell of search.cells) {
  cell.probabilities = unpack(cell.probabilities, Uint16Array);
  for (const name of ["entropy", "credit", "resource"]) cell[name] = unpack(cell[name], Float32Array);
  for (const name of ["shown", "kept", "concat"]) cell[name] = unpack(cell[name], Uint8Array);
}
for (const curve of search.curves) for (const line of curve.lines) line.values = unpack(line.values, Float64Array);

/** Probability of an operation on an edge, NaN where it is not known; `time` counts the epochs of the file from 0. */
function probability(cell, time, edge, operation) {
  const steps = cell.probabilities[(time * cell.edges.length + edge) * numOperations + operation];
  return steps === UNKNOWN_PROBABILITY ? NaN : steps / 1000;
}

/** Whether an edge has vanished; `at` counts (epoch, edge). */
function isGone(cell, at) {
  return cell.shown[at] === UNKNOWN_OPERATION || (cell.kept[at] !== 1 && cell.shown[at] === noneOperation);
}

/** Values of one edge over all epochs, from an array in the order (epoch, edge). */
function overEpochs(values, cell, edge) {
  return Array.from({ length: numEpochs }, (_, time) => values[time * cell.edges.length + edge]);
}

function nodeName(cell, node) {
  if (node < 2 && cell.ends.length) return cell.ends[node];
  if (node < 2) return node === 0 ? "c(k−2)" : "c(k−1)";
  return `node ${node - 2}`;
}

/** A number for people: three digits, short for large ones. */
function shortNumber(value) {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  let text;
  if (value === 0) text = "0";
  else if (size >= 1e15 || size < 1e-4) text = value.toExponential(2);
  else if (size >= 1e4) text = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 }).format(value);
  else text = String(Number(value.toPrecision(3)));
  return text.replace(/-/g, "−");
}

function svgElement(name, attributes, parent) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (parent) parent.append(element);
  return element;
}

function htmlElement(name, className, parent, text = "") {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text) element.textContent = text;
  if (parent) parent.append(element);
  return element;
}

/** Path of a curve through values; what is no number leaves a gap, and a number alone becomes a short dash. */
function curvePath(values, x, y) {
  let path = "";
  for (let time = 0; time < values.length; time++) {
    if (!Number.isFinite(values[time])) continue;
    const starts = !Number.isFinite(values[time - 1]);
    const alone = starts && !Number.isFinite(values[time + 1]);
    path += `${starts ? "M" : "L"}${x(time).toFixed(1)} ${y(values[time]).toFixed(1)}${alone ? "m-2 0h4" : ""}`;
  }
  return path;
}

/** Lowest and highest number of several rows; [0, 1] if there is none. */
function extent(rows) {
  let low = Infinity, high = -Infinity;
  for (const values of rows) {
    for (const value of values) {
      if (!Number.isFinite(value)) continue;
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
  }
  return low <= high ? [low, high] : [0, 1];
}
