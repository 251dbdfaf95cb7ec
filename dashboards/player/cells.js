// The graphs of the cells. Everything is made once; an epoch only changes classes, widths and texts.

/** Classes `operation-N` carry colours and dashes, so that an edge changes its look by one attribute. */
function styleOperations() {
  const sheet = document.styleSheets[0];
  search.operations.forEach((operation, number) => {
    const [line, text] = [operation.line, operation.text].map((pair) => `light-dark(${pair[0]}, ${pair[1]})`);
    sheet.insertRule(`.operation-${number} { --line-colour: ${line}; --text-colour: ${text}; }`);
    if (operation.dashes.length) sheet.insertRule(`.operation-${number}.line { stroke-dasharray: ${operation.dashes.join(" ")}; }`);
  });
}

class CellGraph {
  /**
   * @param cell from the data.
   * @param choose called with (cell, edge, "hover" | "focus" | "click").
   */
  constructor(cell, choose) {
    this.cell = cell;
    this.card = htmlElement("section", "card cell", document.getElementById("cells"));
    const head = htmlElement("div", "cell-head", this.card);
    const title = htmlElement("h2", "", head, cell.name);
    title.id = `title-${cell.type}`;
    this.counts = htmlElement("p", "", head);
    const top = 12, bottom = 6; // the layout leaves room for a heading, which stands above the graph here
    this.svg = svgElement("svg", {
      viewBox: `0 ${top} ${cell.width} ${cell.height - top - bottom}`, role: "group", "aria-labelledby": title.id,
    }, this.card);
    const layer = () => svgElement("g", { "aria-hidden": "true" }, this.svg);
    const [outputs, halos, lines, heads, places, labels] = [layer(), layer(), layer(), layer(), layer(), layer()];
    this.outputs = cell.outputs.map((route) => {
      const group = svgElement("g", {}, outputs);
      svgElement("path", { class: "output", d: route.path }, group);
      svgElement("polygon", { class: "output-head", points: route.head }, group);
      return group;
    });
    this.edges = cell.edges.map((edge) => ({ halo: svgElement("path", { class: "halo", d: edge.path }, halos) }));
    // Short edges lie on top: where lines cross, the one that ends nearby stays whole.
    const order = cell.edges.map((_, number) => number);
    order.sort((a, b) => cell.edges[b].target - cell.edges[b].source - cell.edges[a].target + cell.edges[a].source);
    for (const number of order) this.drawEdge(number, lines, heads, labels);
    this.places = cell.places.map((at, place) => this.drawPlace(at, place, places));
    this.addTargets(choose);
  }

  drawEdge(number, lines, heads, labels) {
    const edge = this.cell.edges[number], [x, y] = edge.label;
    const group = svgElement("g", { "data-edge": `${this.cell.type}-${edge.source}-${edge.target}` }, lines);
    Object.assign(this.edges[number], {
      group,
      casing: svgElement("path", { d: edge.path }, group),
      line: svgElement("path", { d: edge.path }, group),
      head: svgElement("polygon", { points: edge.head }, heads),
      label: svgElement("text", { x, y, dy: "0.35em" }, labels),
      look: "", width: "", text: "",
    });
  }

  drawPlace(at, place, parent) {
    const [x, y] = at, isBox = place < 2 || place === this.cell.places.length - 1;
    const shape = isBox
      ? svgElement("rect", { x: x - 29, y: y - 15, width: 58, height: 30, rx: 7 }, parent)
      : svgElement("circle", { cx: x, cy: y, r: 15 }, parent);
    const name = svgElement("text", { x, y, dy: "0.35em" }, parent);
    name.textContent = isBox ? "c" : String(place - 2);
    const end = this.cell.ends[Math.min(place, 2)];
    if (isBox && end) name.textContent = end;
    else if (isBox) {
      const index = svgElement("tspan", { class: "index", dy: "0.3em" }, name);
      index.textContent = place === 0 ? "k−2" : place === 1 ? "k−1" : "k";
    }
    return { shape, name, kind: isBox ? "box" : "node" };
  }

  /** What the mouse and the keyboard meet: one wide invisible line per edge, in the order of the edges. */
  addTargets(choose) {
    const parent = svgElement("g", {}, this.svg);
    this.cell.edges.forEach((edge, number) => {
      const [x, y] = edge.label;
      const target = svgElement("g", { class: "edge", tabindex: "0", role: "img", "data-target": `${this.cell.type}-${edge.source}-${edge.target}` }, parent);
      svgElement("path", { class: "target", d: edge.path }, target);
      svgElement("rect", { class: "target-label", x: x - 28, y: y - 10, width: 56, height: 20 }, target);
      target.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") choose(this.cell, number, "hover"); });
      target.addEventListener("focus", () => {
        this.ring(number, target.matches(":focus-visible"));
        choose(this.cell, number, "focus");
      });
      target.addEventListener("blur", () => this.ring(number, false));
      target.addEventListener("click", () => choose(this.cell, number, "click"));
      target.addEventListener("keydown", (event) => { if (event.key === "Enter") choose(this.cell, number, "click"); });
      this.edges[number].target = target;
    });
  }

  /** The focus of the keyboard: two rails along the edge. */
  ring(number, shown) {
    for (const part of ["halo", "group"]) this.edges[number][part].classList.toggle("focused", shown);
  }

  /** Letters keep about 11 pixels and lines their weight, as far as there is room, however small the picture is. */
  fit() {
    const scale = this.svg.clientWidth / this.cell.width, { places } = this.cell;
    if (!scale) return;
    const column = places.length > 4 ? places[3][0] - places[2][0] : 140;
    const letters = 0.62 * Math.max(...search.operations.map((operation) => operation.label.length));
    const size = Math.min(20, Math.max(11.5, 11.5 / scale), Math.max(11.5, (column - 4) / letters));
    this.svg.style.setProperty("--label-size", `${size.toFixed(1)}px`);
    const lift = size * letters > column - 36 ? 22 : 0; // does not fit between two nodes: stands over the line
    this.cell.edges.forEach((edge, number) => {
      if (edge.source >= 2 && edge.target === edge.source + 1) this.edges[number].label.setAttribute("y", edge.label[1] - lift);
    });
    this.svg.style.setProperty("--weight", Math.min(1.7, Math.max(1, 0.85 / scale)).toFixed(2));
  }

  show(time) {
    const { cell } = this, numEdges = cell.edges.length, reached = new Set([0, 1]), read = new Set();
    let kept = 0;
    cell.edges.forEach((edge, number) => {
      const at = time * numEdges + number, operation = cell.shown[at], isKept = cell.kept[at] === 1;
      const gone = isGone(cell, at);
      if (isKept) {
        kept++;
        read.add(edge.source);
        if (reached.has(edge.source)) reached.add(edge.target); // edges come by target, so sources are settled
      }
      const look = gone ? "gone" : `operation-${operation}${isKept ? "" : " spare"}`;
      this.paintEdge(this.edges[number], look, gone ? 0 : probability(cell, time, number, operation), gone ? "" : search.operations[operation].label);
    });
    this.paintPlaces(time, reached, read);
    const nodes = reached.size - 2, numNodes = cell.outputs.length;
    this.summary = `${kept} of ${numEdges} edges kept, ${nodes} of ${numNodes} ${numNodes === 1 ? "node" : "nodes"} fed`;
    this.counts.textContent = this.summary;
  }

  paintEdge(edge, look, strength, text) {
    if (edge.look !== look) {
      edge.look = look;
      for (const part of ["casing", "line", "head", "label"]) edge[part].setAttribute("class", `${part} ${look}`);
    }
    const width = (1.3 + 3.2 * (strength || 0)).toFixed(2);
    if (edge.width !== width) {
      edge.width = width;
      edge.group.style.setProperty("--width", width);
      edge.group.style.setProperty("--strength", (0.45 + 0.55 * (strength || 0)).toFixed(3));
    }
    if (edge.text !== text) edge.label.textContent = edge.text = text;
  }

  paintPlaces(time, reached, read) {
    const { cell } = this, output = cell.places.length - 1;
    this.places.forEach((place, number) => {
      const used = number < 2 ? read.has(number) : number === output || reached.has(number);
      place.shape.setAttribute("class", used ? place.kind : `${place.kind} empty`);
      place.name.setAttribute("class", used ? "place-name" : "place-name empty");
    });
    this.outputs.forEach((group, node) => {
      group.setAttribute("visibility", cell.concat[time * this.outputs.length + node] ? "visible" : "hidden");
    });
  }

  /** Names of the edges for those who listen; not while playing, for nobody can listen that fast. */
  describe(time) {
    this.edges.forEach((edge, number) => edge.target.setAttribute("aria-label", `${edgeTitle(this.cell, number)}: ${edgeState(this.cell, number, time)}`));
  }

  choose(number) {
    this.edges.forEach((edge, own) => edge.halo.classList.toggle("chosen", own === number));
  }
}

function edgeTitle(cell, number) {
  const { source, target } = cell.edges[number];
  return `${cell.name}, ${nodeName(cell, source)} → ${nodeName(cell, target)}`;
}

function edgeState(cell, number, time) {
  const at = time * cell.edges.length + number, operation = cell.shown[at];
  if (operation === UNKNOWN_OPERATION) return "its probabilities are no numbers";
  const { name } = search.operations[operation], share = probability(cell, time, number, operation).toFixed(3);
  if (cell.kept[at]) return `${name} at ${share}, in the derived cell`;
  if (operation === noneOperation) return `vanished, none at ${share}`;
  return `${name} at ${share}, not in the derived cell`;
}

/** One entry per operation, then what the other looks mean, as far as this search has them. */
function drawLegend() {
  const legend = document.getElementById("legend");
  const entry = (text, draw, width = 38) => {
    const item = htmlElement("li", "", legend);
    draw(svgElement("svg", { viewBox: `0 0 ${width} 14`, width, height: 14, "aria-hidden": "true" }, item));
    htmlElement("span", "", item, text);
  };
  const line = (svg, look, width = 3) => {
    const path = svgElement("path", { d: "M0 7H38", class: `line ${look}` }, svg);
    path.style.setProperty("--width", width);
  };
  search.operations.forEach((operation, number) => {
    if (number !== noneOperation) entry(operation.name, (svg) => line(svg, `operation-${number}`));
  });
  if (noneOperation >= 0) entry("none: vanished", (svg) => line(svg, "gone"));
  const hasSpare = search.cells.some((cell) => cell.kept.some((kept, at) => !kept && cell.shown[at] !== noneOperation && cell.shown[at] !== UNKNOWN_OPERATION));
  if (hasSpare) {
    for (const [look, text] of [["", "in the derived cell"], ["spare", "likely, but not in the derived cell"]]) {
      entry(text, (svg) => {
        svg.style.setProperty("--line-colour", "var(--muted)");
        line(svg, look, 2);
        svgElement("polygon", { points: "38,7 27,1.5 27,12.5", class: `head ${look}` }, svg);
      });
    }
  }
  entry("node that no input reaches", (svg) => svgElement("circle", { cx: 7, cy: 7, r: 6, class: "node empty" }, svg), 14);
  entry("the more probable, the stronger (0.1, 0.5, 1)", (svg) => {
    [0.1, 0.5, 1].forEach((share, place) => {
      const path = svgElement("path", { d: `M${place * 13.5} 7h11`, class: "line" }, svg);
      path.style.setProperty("--strength", 0.45 + 0.55 * share);
      path.style.setProperty("--width", 1.3 + 3.2 * share);
      path.style.setProperty("--line-colour", "var(--ink)");
    });
  });
}
