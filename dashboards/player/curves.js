// The curves under the cells: one panel each, with a cursor at the epoch that is shown.

const PANEL_HEIGHT = 112;
const MARGIN = { left: 44, right: 10, top: 8, bottom: 18 };

/** Round numbers from below `low` to above `high`, about three steps. */
function roundTicks(low, high) {
  const rough = (high - low) / 3, size = 10 ** Math.floor(Math.log10(rough));
  const step = size * [1, 2, 2.5, 5, 10].find((factor) => factor * size >= rough * 0.999);
  const first = Math.floor(low / step + 1e-9), last = Math.ceil(high / step - 1e-9);
  return Array.from({ length: last - first + 1 }, (_, place) => (first + place) * step);
}

class CurvePanel {
  /**
   * @param curve from the data.
   * @param scrub called with the time that the reader points at.
   */
  constructor(curve, scrub) {
    this.curve = curve;
    this.figure = htmlElement("figure", "card panel", document.getElementById("curves"));
    const caption = htmlElement("figcaption", "", this.figure);
    htmlElement("h3", "", caption, curve.title);
    if (curve.unit) htmlElement("span", "unit", caption, curve.unit);
    const readings = htmlElement("div", "readings", caption);
    this.readings = curve.lines.map((line, place) => {
      const reading = htmlElement("span", "", readings);
      if (line.label) {
        const swatch = svgElement("svg", { viewBox: "0 0 18 8", "aria-hidden": "true" }, reading);
        svgElement("path", { d: "M0 4H18", class: place ? "curve second" : "curve" }, swatch);
        reading.append(`${line.label} `);
      }
      return htmlElement("b", "", reading);
    });
    this.svg = svgElement("svg", { role: "img" }, this.figure);
    this.setTicks();
    this.addScrubbing(scrub);
  }

  setTicks() {
    let [low, high] = extent(this.curve.lines.map((line) => line.values));
    if (this.curve.zero) [low, high] = [Math.min(0, low), Math.max(0, high)];
    if (low > 0 && low < 0.6 * high) low = 0; // a curve that comes near zero is read against it
    const isFlat = high - low <= 0.005 * Math.max(Math.abs(low), Math.abs(high)); // rounding would fill the panel
    if (isFlat) [low, high] = high === 0 ? [0, 1] : [Math.min(0, 1.5 * low), Math.max(0, 1.5 * high)];
    this.ticks = roundTicks(low, high);
  }

  addScrubbing(scrub) {
    const timeAt = (event) => {
      const x = event.clientX - this.svg.getBoundingClientRect().left;
      let nearest = 0;
      for (let time = 1; time < numEpochs; time++) if (Math.abs(this.x(time) - x) < Math.abs(this.x(nearest) - x)) nearest = time;
      return nearest;
    };
    this.svg.addEventListener("pointerdown", (event) => {
      this.svg.setPointerCapture(event.pointerId);
      scrub(timeAt(event));
    });
    this.svg.addEventListener("pointermove", (event) => { if (event.buttons & 1) scrub(timeAt(event)); });
  }

  x(time) {
    const first = search.epochs[0], span = search.epochs[numEpochs - 1] - first, room = this.width - MARGIN.left - MARGIN.right;
    return MARGIN.left + room * (span ? (search.epochs[time] - first) / span : 0.5);
  }

  y(value) {
    const low = this.ticks[0], high = this.ticks[this.ticks.length - 1];
    return PANEL_HEIGHT - MARGIN.bottom - ((value - low) / (high - low)) * (PANEL_HEIGHT - MARGIN.top - MARGIN.bottom);
  }

  /** Draw all anew, for the width that the panel has. */
  fit() {
    const width = this.svg.clientWidth;
    if (!width || width === this.width) return;
    this.width = width;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${PANEL_HEIGHT}`);
    this.svg.replaceChildren();
    for (const value of this.ticks) {
      const y = this.y(value).toFixed(1);
      svgElement("line", { class: Math.abs(value) < 1e-12 && this.curve.zero ? "grid zero" : "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y, y2: y }, this.svg);
      svgElement("text", { x: MARGIN.left - 6, y, dy: "0.35em", "text-anchor": "end" }, this.svg).textContent = shortNumber(Number(value.toPrecision(12)));
    }
    for (const [time, anchor] of numEpochs > 1 ? [[0, "start"], [numEpochs - 1, "end"]] : [[0, "middle"]]) {
      svgElement("text", { x: this.x(time), y: PANEL_HEIGHT - 4, "text-anchor": anchor }, this.svg).textContent = time ? search.epochs[time] : `epoch ${search.epochs[time]}`;
    }
    const x = (time) => this.x(time), y = (value) => this.y(value);
    this.curve.lines.forEach((line, place) => {
      svgElement("path", { class: place ? "curve second" : "curve", d: curvePath(line.values, x, y) }, this.svg);
    });
    this.cursor = svgElement("line", { class: "cursor", y1: MARGIN.top - 4, y2: PANEL_HEIGHT - MARGIN.bottom }, this.svg);
    this.dots = this.curve.lines.map((_, place) => svgElement("circle", { class: place ? "dot second" : "dot", r: 4 }, this.svg));
  }

  show(time) {
    this.curve.lines.forEach((line, place) => { this.readings[place].textContent = shortNumber(line.values[time]); });
    if (!this.cursor) return; // not laid out: compact
    const x = this.x(time).toFixed(1);
    this.cursor.setAttribute("x1", x);
    this.cursor.setAttribute("x2", x);
    this.curve.lines.forEach((line, place) => {
      const known = Number.isFinite(line.values[time]), dot = this.dots[place];
      dot.setAttribute("visibility", known ? "visible" : "hidden");
      if (!known) return;
      dot.setAttribute("cx", x);
      dot.setAttribute("cy", this.y(line.values[time]).toFixed(1));
    });
  }

  words(time) {
    return this.curve.lines.map((line) => `${[line.label, this.curve.title.toLowerCase()].filter(Boolean).join(" ")} ${shortNumber(line.values[time])}${this.curve.unit ? ` ${this.curve.unit}` : ""}`).join(", ");
  }

  describe(time) {
    this.svg.setAttribute("aria-label", `Over epochs ${search.epochs[0]} to ${search.epochs[numEpochs - 1]}; at epoch ${search.epochs[time]}: ${this.words(time)}`);
  }
}
