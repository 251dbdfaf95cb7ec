/* Trials that are chosen on the page of a study: by filters of the table, and by what was drawn around in a chart. Both
   are in the address. The table lists the trials that pass both, and all charts show what it lists. */
"use strict";

(function () {
  const KEPT = ["filter", "chosen"];
  const MOST_PICTURES = 6;
  const soon = window.requestIdleCallback || ((draw) => window.setTimeout(draw));
  let listed = null;  // numbers of the trials in the table; null: not known

  function set(query, name, text) {
    if (text === null) query.delete(name);
    else query.set(name, text);
  }

  /* Put an option into the address, null for none, without asking for the page again. */
  function keep(name, text) {
    const query = new URLSearchParams(window.location.search);
    if (query.get(name) === text) return;
    set(query, name, text);
    window.history.replaceState(window.history.state, "", window.location.pathname + (query.size ? "?" + query : ""));
  }

  /* A link within the page keeps what is chosen. */
  function carried(href) {
    const target = new URL(href, window.location), here = new URLSearchParams(window.location.search);
    if (target.pathname !== window.location.pathname || !document.getElementById("trials")) return href;
    KEPT.forEach((name) => set(target.searchParams, name, here.get(name)));
    return target.pathname + target.search;
  }

  /* Numbers of the trials that were chosen in a chart; null: nobody chose. */
  let parsed = {};
  function chosen() {
    if (parsed.search !== window.location.search) {
      const text = new URLSearchParams(window.location.search).get("chosen");
      parsed = { search: window.location.search, numbers: text === null ? null : new Set(text.split(".").map(Number)) };
    }
    return parsed.numbers;
  }

  function filterAnew() {
    if (document.getElementById("trials")) window.dash_ag_grid.getApi("trials").onFilterChanged();
  }

  /* A choice narrows the one before; if it holds none of it, it begins anew. */
  function choose(numbers) {
    const before = chosen(), narrowed = before ? numbers.filter((number) => before.has(number)) : [];
    const now = [...new Set(narrowed.length ? narrowed : numbers)].sort((a, b) => a - b);
    keep("chosen", now.length ? now.join(".") : null);
    filterAnew();
  }

  /* Trials whose points or lines are within what was drawn: on the axes of parallel coordinates, on those that it crosses. */
  function within(graph, { points, range }) {
    const axes = graph.layout.meta;
    const isNumber = (found) => typeof found === "number";  // not null, as of what has no number
    if (!axes) return points.map((point) => point.customdata).filter(isNumber);
    const crossed = axes.places.filter((_, axis) => range.x[0] <= axis && axis <= range.x[1]);
    const isWithin = (place) => isNumber(place) && range.y[0] <= place && place <= range.y[1];
    return axes.trials.filter((number, i) => isNumber(number) && crossed.length && crossed.every((of) => isWithin(of[i])));
  }

  function listen(graph) {
    graph.on("plotly_selected", (drawn) => {
      if (!drawn || !(drawn.range || drawn.lassoPoints)) return;
      choose(within(graph, drawn));
      window.setTimeout(async () => {  // the outline would overrule what the table lists
        await window.Plotly.relayout(graph, { selections: [] });
        show(graph);
      });
    });
    graph.on("plotly_deselect", () => choose([]));
  }

  /* In a chart that is drawn, points of trials that are not listed are faint, their lines hidden; some traces are there
     only while some trials are not listed. */
  function show(graph) {
    if (!listed || !graph.data) return;  // another view was shown meanwhile
    const data = graph.data, isListed = (number) => typeof number !== "number" || listed.has(number);
    const ofTrials = data.map((_, place) => place).filter((place) => Array.isArray(data[place].customdata));
    if (!ofTrials.length) return;
    const isWhole = ofTrials.every((place) => data[place].customdata.every(isListed));
    if (isWhole && !graph.snasIsPart) return;
    graph.snasIsPart = !isWhole;
    const [lines, points] = [true, false].map((are) => ofTrials.filter((place) => (data[place].mode === "lines") === are));
    if (points.length) {
      const which = (place) => data[place].customdata.flatMap((number, i) => (isListed(number) ? [i] : []));
      const seen = ({ meta, visible = true }) => (meta === "listed" ? !isWhole : visible);
      const changed = { selectedpoints: isWhole ? null : points.map(which), visible: points.map((place) => seen(data[place])) };
      window.Plotly.restyle(graph, changed, points);
    }
    if (lines.length) {
      lines.forEach((place) => { data[place].whole ??= data[place].y; });
      const part = (place) => data[place].whole.map((y, i) => (isListed(data[place].customdata[i]) ? y : null));
      window.Plotly.restyle(graph, { y: lines.map(part) }, lines);
    }
  }

  const part = (type, props) => ({ type, namespace: "dash_html_components", props });

  function pictures(rows) {
    const [, , study] = window.location.pathname.split("/"), { theme } = document.documentElement.dataset;
    return rows.filter((row) => row.state === "complete").slice(0, MOST_PICTURES).map((row) => {
      const picture = { src: `/cells/${study}/${row.run}?theme=${theme}`, alt: `Cells of ${row.label}`, className: "cells" };
      return part("A", { href: row.href, "data-inside": "true", children: [part("Img", picture), row.label] });
    });
  }

  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    choice: {
      listed(shown, _, all) {
        if (!shown) return Array(3).fill(window.dash_clientside.no_update);
        const filters = window.dash_ag_grid.getApi("trials").getFilterModel();
        keep("filter", Object.keys(filters).length ? JSON.stringify(filters) : null);
        listed = new Set(shown.map((row) => row.trial));
        const graphs = document.querySelectorAll("main .js-plotly-plot:has(.main-svg)");
        graphs.forEach((graph) => soon(() => show(graph)));  // one after the other: the page stays quick
        if (shown.length === all.length) return ["", true, []];
        return [`, ${shown.length} shown`, false, pictures(shown)];
      },
    },
  });

  window.snasChoice = {
    carried,
    /* A graph was drawn. */
    drawn(graph) {
      if (graph.layout.dragmode && !graph.snasListens) listen(graph);
      graph.snasListens = true;
      graph.snasIsPart = false;
      show(graph);
    },
    /* A view was shown, of the same page as before or of another. */
    moved(isSame) {
      if (!isSame) listed = null;
      else if (parsed.search !== window.location.search) filterAnew();
    },
  };

  (window.dashAgGridFunctions = window.dashAgGridFunctions || {}).isChosen = (row) =>
    !chosen() || chosen().has(row.data.trial);

  document.addEventListener("click", (event) => {
    if (event.target.id !== "show-all") return;
    keep("chosen", null);
    window.dash_ag_grid.getApi("trials").setFilterModel(null);
    filterAnew();
  });
})();
