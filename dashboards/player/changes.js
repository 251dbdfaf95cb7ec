// What changes from one epoch to the next: edges that vanish or come back, and those whose operation is another.

const MOST_NAMED = 2;
const changes = search.epochs.map((_, time) => (time ? search.cells.flatMap((cell) => changesOf(cell, time)) : []));

function changesOf(cell, time) {
  const numEdges = cell.edges.length, found = [];
  cell.edges.forEach((edge, number) => {
    const before = (time - 1) * numEdges + number, now = time * numEdges + number;
    const [was, is] = [isGone(cell, before), isGone(cell, now)];
    const [old, fresh] = [before, now].map((at) => search.operations[cell.shown[at]]?.label);
    const name = `${nodeName(cell, edge.source)} → ${nodeName(cell, edge.target)} of the ${cell.name.toLowerCase()}`;
    if (!was && is) found.push({ vanished: true, text: `${name} vanished` });
    else if (was && !is) found.push({ vanished: false, text: `${name} came back as ${fresh}` });
    else if (!is && old !== fresh) found.push({ vanished: false, text: `${name}: ${old} became ${fresh}` });
  });
  return found;
}

/** First epoch after `time` at which something changes; -1 if there is none. */
function nextChange(time) {
  return changes.findIndex((found, at) => at > time && found.length > 0);
}

/** What changed at an epoch, in a sentence. */
function changeWords(time) {
  const found = changes[time], more = found.length - MOST_NAMED;
  if (!time) return "The first epoch.";
  if (!found.length) return "No edge changed.";
  const text = found.slice(0, MOST_NAMED).map((change) => change.text).join("; ");
  return `${text[0].toUpperCase()}${text.slice(1)}${more > 0 ? `; and ${more} more` : ""}.`;
}

/** The whole search in a sentence: how many edges are gone at its end, and since when nothing changes. */
function storyWords() {
  const last = numEpochs - 1, still = changes.findLastIndex((found) => found.length > 0);
  const all = search.cells.reduce((sum, cell) => sum + cell.edges.length, 0);
  const gone = search.cells.reduce((sum, cell) => sum + cell.edges.filter((_, number) => isGone(cell, last * cell.edges.length + number)).length, 0);
  const since = still < 0 ? "no edge ever changed" : `the last change came in epoch ${search.epochs[still]} of ${search.epochs[last]}`;
  return `${gone} of ${all} edges have vanished at the end; ${since}.`;
}

/** Marks below the slider, one per epoch with changes; taller where more changes, and in colour where an edge vanishes. */
function drawChanges() {
  const marks = document.getElementById("changes");
  changes.forEach((found, time) => {
    if (!found.length) return;
    const height = Math.min(10, 3 + 2 * found.length), vanished = found.some((change) => change.vanished);
    const x = `${(100 * time) / (numEpochs - 1)}%`;
    const mark = svgElement("line", { class: vanished ? "vanished" : "", x1: x, x2: x, y1: 0, y2: height }, marks);
    svgElement("title", {}, mark).textContent = `Epoch ${search.epochs[time]}: ${changeWords(time)}`;
  });
}
