// The panel about one edge: all its probabilities, its entropy and its credit, now and over the epochs.

const SPARK_WIDTH = 100, SPARK_HEIGHT = 18;

class Details {
  constructor() {
    this.title = document.getElementById("details-title");
    this.state = document.getElementById("details-state");
    const body = document.getElementById("details-rows");
    this.operations = search.operations.map((operation, number) => this.addRow(body, operation.name, number));
    this.entropy = this.addRow(body, "entropy (nats)");
    this.credit = this.addRow(body, "credit (nats)");
    this.resource = this.addRow(body, "of it, penalty");
    this.entropy.row.classList.add("apart");
    this.credit.row.title = "Mean credit of the epoch's steps (SNAS sections 2.3 and 2.4): above 0, this edge lowered the loss by more than its share of the penalty adds";
    this.resource.row.title = "Minus the edge's share of the penalty; a dash where the search did not record it, and the credit is the task's alone";
  }

  addRow(body, name, operation = null) {
    const row = htmlElement("tr", "", body);
    const head = htmlElement("th", "", row, name);
    head.scope = "row";
    const made = { row };
    if (operation !== null) {
      const track = htmlElement("span", "track", htmlElement("td", "bar", row));
      made.fill = htmlElement("span", operation === noneOperation ? "fill" : `fill operation-${operation}`, track);
    }
    made.number = htmlElement("td", "number", row);
    if (operation === null) made.number.colSpan = 2;
    const svg = svgElement("svg", { viewBox: `0 0 ${SPARK_WIDTH} ${SPARK_HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" }, htmlElement("td", "spark", row));
    made.zero = svgElement("path", { class: "zero" }, svg);
    made.path = svgElement("path", {}, svg);
    made.now = svgElement("line", { class: "now", y1: 0, y2: SPARK_HEIGHT }, svg);
    return made;
  }

  choose(cell, number) {
    this.cell = cell;
    this.edge = number;
    this.title.textContent = edgeTitle(cell, number);
    this.operations.forEach((row, operation) => {
      this.drawSpark(row, Array.from({ length: numEpochs }, (_, time) => probability(cell, time, number, operation)), 0, 1);
    });
    const [entropy, credit, resource] = [cell.entropy, cell.credit, cell.resource].map((values) => overEpochs(values, cell, number));
    this.drawSpark(this.entropy, entropy, 0, Math.max(1e-9, extent([entropy])[1]));
    const [low, high] = extent([credit, resource, [0]]);  // one scale: they are parts of one sum
    for (const [row, values] of [[this.credit, credit], [this.resource, resource]]) {
      this.drawSpark(row, values, low, high > low ? high : low + 1, true);
    }
  }

  drawSpark(row, values, low, high, zero = false) {
    const y = (value) => SPARK_HEIGHT - 2 - ((value - low) / (high - low)) * (SPARK_HEIGHT - 4);
    row.path.setAttribute("d", curvePath(values, sparkX, y));
    row.zero.setAttribute("d", `M0 ${y(zero ? 0 : low).toFixed(1)}H${SPARK_WIDTH}`);
  }

  show(time) {
    const { cell, edge } = this, at = time * cell.edges.length + edge, x = sparkX(time).toFixed(1);
    this.state.textContent = edgeState(cell, edge, time);
    this.operations.forEach((row, operation) => {
      const share = probability(cell, time, edge, operation);
      row.fill.style.transform = `scaleX(${share || 0})`;
      row.number.textContent = Number.isNaN(share) ? "–" : share.toFixed(3);
      row.row.classList.toggle("shown", operation === cell.shown[at]);
    });
    this.entropy.number.textContent = shortNumber(cell.entropy[at]);
    this.credit.number.textContent = shortNumber(cell.credit[at]);
    this.resource.number.textContent = shortNumber(cell.resource[at]);
    for (const row of [...this.operations, this.entropy, this.credit, this.resource]) {
      row.now.setAttribute("x1", x);
      row.now.setAttribute("x2", x);
    }
  }
}

function sparkX(time) {
  return numEpochs === 1 ? SPARK_WIDTH / 2 : 1 + (time / (numEpochs - 1)) * (SPARK_WIDTH - 2);
}
