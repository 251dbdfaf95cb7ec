/* What the pages do in the browser: theme, downloads, copies, and the sign that a view is drawn. */
"use strict";

(function () {
  const THEME_KEY = "snas-theme";

  function preferred() {
    const kept = window.localStorage.getItem(THEME_KEY);
    if (kept === "light" || kept === "dark") return kept;
    return window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  }

  function applyTheme(theme) {
    document.documentElement.dataset.theme = theme;
    const button = document.getElementById("theme-button");
    if (button) button.textContent = theme === "dark" ? "Light" : "Dark";
    return theme;
  }

  applyTheme(preferred());

  /* A graph far out of sight is drawn when it comes near, so that the page is there sooner; before printing, all are.
     Dash draws by `Plotly.react`, and waits for its promise before it does anything else to the graph. */
  const NEAR_PX = 300;
  const deferred = new Map();
  const nearness = new IntersectionObserver(
    (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => drawNow(entry.target)),
    { rootMargin: `${NEAR_PX}px 0px` },
  );

  function isNear(graph) {
    const { top, bottom } = graph.getBoundingClientRect();
    return top < window.innerHeight + NEAR_PX && bottom > -NEAR_PX;
  }

  function drawNow(graph) {
    const draw = deferred.get(graph);
    deferred.delete(graph);
    nearness.unobserve(graph);
    if (draw) draw();
  }

  function deferredGraphs(isMeant) {
    return [...deferred.keys()].filter(isMeant);
  }

  function drawWithin(id) {
    deferredGraphs((graph) => graph.closest("#" + CSS.escape(id))).forEach(drawNow);
  }

  /* Once a view is there, what lies out of sight is drawn too, one graph whenever the browser has nothing else to do. */
  function drawRest(turn) {
    const soon = window.requestIdleCallback || ((draw) => window.setTimeout(draw, 100));
    soon(() => {
      const [next] = deferredGraphs((graph) => graph.isConnected);
      if (turn !== waiting || !next) return;
      drawNow(next);
      drawRest(turn);
    });
  }

  /* The line of the search that is pointed at is drawn once more, heavy and on top: its trace holds other searches, too. */
  function highlighting(graph) {
    let shown = null;
    const place = () => graph.data.findIndex((trace) => trace.meta === "pointed");
    const point = (number, source) => {
      if (number === shown && (number === null || place() >= 0)) return;
      shown = number;
      const own = source ? source.x.map((_, i) => i).filter((i) => source.customdata[i] === number) : [];
      const [x, y] = source ? [own.map((i) => source.x[i]), own.map((i) => source.y[i])] : [[], []];
      const line = { width: 5, color: source ? source.line.color : undefined, dash: source ? source.line.dash : undefined };
      if (place() >= 0) plotly.restyle(graph, { x: [x], y: [y], line: [line] }, [place()]);
      else plotly.addTraces(graph, { type: "scatter", mode: "lines", x, y, line, meta: "pointed", hoverinfo: "skip", showlegend: false });
    };
    graph.on("plotly_hover", ({ points: [{ customdata, data }] }) => {
      if (typeof customdata === "number") point(customdata, data);
    });
    graph.on("plotly_unhover", () => point(null, null));
    return point;
  }

  /* Points beyond a few hundred come once the view is there. */
  function drawLate(graph) {
    deferred.set(graph, () => {
      if (!graph.data) return;  // another view was shown meanwhile
      const late = graph.data.map((_, place) => place).filter((place) => graph.data[place].meta === "late");
      plotly.restyle(graph, { visible: true }, late);
    });
    if (document.getElementById("main").dataset.drawn === "true") drawRest(waiting);
  }

  function deferring(plotly) {
    const draw = async (graph, figure, ...more) => {
      const late = (data) => (data || []).filter((trace) => trace.meta === "late");
      const isWhole = late(graph.data).some((trace) => trace.visible);
      late(figure.data).forEach((trace) => { trace.visible = isWhole; });
      await plotly.react(graph, figure, ...more);
      if (!isWhole && late(figure.data).length) drawLate(graph);
      if (graph.closest("#chart-many-curves") && !graph.snasHover) graph.snasHover = highlighting(graph);
      window.snasChoice.drawn(graph);
      return graph;
    };
    const react = (graph, ...figure) => {
      if (graph.querySelector(".main-svg") || isNear(graph)) return draw(graph, ...figure);
      return new Promise((resolve) => {
        deferred.set(graph, () => resolve(graph.isConnected ? draw(graph, ...figure) : graph));
        nearness.observe(graph);
      });
    };
    return Object.create(plotly, { react: { value: react } });
  }

  let plotly;
  Object.defineProperty(window, "Plotly", { get: () => plotly, set: (loaded) => { plotly = deferring(loaded); } });
  window.addEventListener("beforeprint", () => deferredGraphs(() => true).forEach(drawNow));

  /* A view counts as drawn when its grid and its graphs but those deferred are there and nothing has changed for a
     moment; `drawn-at` is the last change, in ms since the page was opened. Tests and benchmarks wait for it. */
  const QUIET_MS = 120;
  let lastChange = 0;
  let waiting = 0;

  function hasAll(main) {
    const graphs = [...main.querySelectorAll(".dash-graph")];
    const isDeferred = (graph) => deferredGraphs((one) => graph.contains(one)).length > 0;
    if (!graphs.every((graph) => graph.querySelector(".main-svg") || isDeferred(graph))) return false;
    const inGrid = '.ag-row [col-id="trial"] a, .ag-overlay-no-rows-center';  // rows come first, their texts later
    if (!main.querySelector("#trials") || main.querySelector(inGrid)) return true;
    return main.querySelector("#trials-count").textContent === ", 0 shown";  // filters leave no row
  }

  /* Dash's list catches the focus with a field that is hidden from screen readers; its button can do that itself. */
  function mendDropdowns(main) {
    for (const field of main.querySelectorAll(".dash-dropdown-focus-target:not([tabindex='-1'])")) {
      field.tabIndex = -1;
      field.parentElement.querySelector("button.dash-dropdown").tabIndex = 0;
    }
  }

  function awaitDrawn(said) {
    const turn = ++waiting;
    const main = document.getElementById("main");
    main.dataset.drawn = "false";
    lastChange = performance.now();
    if (!main.snasObserver) {
      main.snasObserver = new MutationObserver(() => {
        lastChange = performance.now();
        mendDropdowns(main);
      });
      main.snasObserver.observe(main, { childList: true, subtree: true });
    }
    function look() {
      if (turn !== waiting) return;
      if (hasAll(main) && performance.now() - lastChange > QUIET_MS) {
        deferredGraphs((graph) => !graph.isConnected).forEach(drawNow);  // of the view before
        main.dataset.drawnAt = lastChange.toFixed(1);
        main.dataset.address = said.address;
        main.dataset.drawn = "true";
        drawRest(turn);
      } else {
        window.setTimeout(look, 20);
      }
    }
    look();
  }

  /* What is on the page, as trees of Dash's components; `path` leads to a component in Dash's layout. */
  let tree = null;
  let update = null;

  const isComponent = (value) => value !== null && typeof value === "object" && "namespace" in value && "props" in value;
  const isSame = (one, other) => JSON.stringify(one) === JSON.stringify(other);
  const isAlike = (one, other) =>
    isComponent(one) && isComponent(other) && one.type === other.type && one.props.id === other.props.id &&
    (one.type !== "AgGrid" || (isSame(one.props.columnDefs, other.props.columnDefs) &&
                               isSame(one.props.dashGridOptions, other.props.dashGridOptions)));

  /* Where `main` is in Dash's layout, whose root has a place of its own in some versions. */
  function mainPath() {
    const place = Number(document.getElementById("main").dataset.place);
    const paths = [["components"], []].map((root) => root.concat("props", "children", place));
    return paths.find((path) => { const at = window.dash_component_api.getLayout(path); return at && at.props.id === "main"; });
  }

  /* Change the component at `path` from `before` to `after`, as little as can be. */
  function amend(path, before, after) {
    const changed = {};
    for (const name of Object.keys(after.props)) {
      if (name !== "children" && !isSame(before.props[name], after.props[name])) changed[name] = after.props[name];
    }
    for (const name of Object.keys(before.props)) {
      if (/^(aria-|data-(?!dash)|className)/.test(name) && !(name in after.props)) changed[name] = null;
    }
    // A graph takes one figure after the other: what waits for its first would pile up.
    if (changed.figure) drawWithin(before.props.id);
    const one = before.props.children, other = after.props.children;
    const place = path.concat("props", "children");
    if (isAlike(one, other)) amend(place, one, other);
    else if (Array.isArray(one) && Array.isArray(other) && one.length === other.length &&
             one.every((child, index) => isSame(child, other[index]) || isAlike(child, other[index]))) {
      one.forEach((child, index) => { if (!isSame(child, other[index])) amend(place.concat(index), child, other[index]); });
    } else if (!isSame(one, other)) changed.children = other === undefined ? null : other;
    if (Object.keys(changed).length) window.dash_clientside.set_props(path, changed);
  }

  /* Focus that went with a part that was built anew goes to its namesake. */
  function keepFocus(change) {
    const active = document.activeElement, href = active && active.getAttribute("href");
    change();
    if (href && !active.isConnected) {
      const again = document.querySelector(`main a[href="${CSS.escape(href)}"]`);
      if (again) again.focus({ preventScroll: true });
    }
  }

  const MOST_COMPARED = 40;
  let lastAddress = null;
  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    snas: {
      shown(said, body, children) {
        if (!said) return window.dash_clientside.no_update;
        if (body && body !== update) {
          const main = { props: { children: tree } };
          keepFocus(() => amend(mainPath(), main, { props: { children: body } }));
          tree = update = body;
        } else {
          tree = children;
        }
        document.title = said.title + " · SNAS";
        setBusy(false);
        awaitDrawn(said);
        const path = said.address.split("?")[0];
        if (lastAddress !== null && lastAddress !== path) {
          window.scrollTo(0, 0);
          document.getElementById("main").focus({ preventScroll: true });
        }
        window.snasChoice.moved(lastAddress === path);
        lastAddress = path;
        return said.name;
      },
      theme(clicks) {
        let theme = preferred();
        if (clicks) {
          theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
          window.localStorage.setItem(THEME_KEY, theme);
        }
        return applyTheme(theme);
      },
      chosen(names) {
        const query = new URLSearchParams(window.location.search);
        const before = query.getAll("trial");
        const wanted = (names || []).slice(0, MOST_COMPARED);
        if (before.join("\n") === wanted.join("\n")) return window.dash_clientside.no_update;
        query.delete("trial");
        wanted.forEach((name) => query.append("trial", name));
        follow("/compare?" + query.toString());
        return wanted;
      },
      selected(rows) {
        window.snasSelected = (rows || []).filter((row) => row.trial !== null).map((row) => row.trial);
        return window.snasSelected.length < 2 || window.snasSelected.length > MOST_COMPARED;
      },
    },
  });

  async function savePicture(button) {
    drawWithin(button.dataset.graph);
    const graph = document.querySelector("#" + CSS.escape(button.dataset.graph) + " .js-plotly-plot");
    if (!graph) return;
    const style = getComputedStyle(document.documentElement);
    const layout = Object.assign({}, graph.layout, {
      title: { text: button.dataset.title.replace(/&/g, "&amp;").replace(/</g, "&lt;"), x: 0.01, font: { size: 16 } },
      paper_bgcolor: style.getPropertyValue("--surface").trim(),
      margin: Object.assign({}, graph.layout.margin, { t: (graph.layout.margin.t || 0) + 44 }),
    });
    const height = graph.offsetHeight + 44;
    const width = graph.offsetWidth;
    const figure = { data: graph.data, layout: Object.assign(layout, { height, width }) };
    const kind = button.dataset.picture;
    await window.Plotly.downloadImage(figure, {
      format: kind, filename: button.dataset.name, height, width, scale: kind === "png" ? 2 : 1,
    });
  }

  function toggleColumn(button) {
    const isShown = button.getAttribute("aria-pressed") !== "true";
    window.dash_ag_grid.getApi("trials").setColumnsVisible([button.dataset.column], isShown);
    button.setAttribute("aria-pressed", isShown);
  }

  async function copy(button) {
    const text = button.dataset.copy;
    try {
      await navigator.clipboard.writeText(text);
    } catch (error) {
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
      button.focus();
    }
    const before = button.textContent;
    button.textContent = "Copied";
    window.setTimeout(() => { button.textContent = before; }, 1500);
  }

  document.addEventListener("click", (event) => {
    const inside = event.target.closest("a[data-inside]");
    if (inside && !(event.ctrlKey || event.metaKey || event.shiftKey || event.altKey)) {
      event.preventDefault();
      follow(inside.getAttribute("href"));
      return;
    }
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.picture) savePicture(button);
    if (button.dataset.copy) copy(button);
    if (button.dataset.column) toggleColumn(button);
    if (button.id === "compare-chosen" && window.snasSelected) {
      const query = new URLSearchParams();
      window.snasSelected.forEach((number) => query.append("trial", button.dataset.study + ":" + number));
      follow("/compare?" + query.toString());
    }
  });

  /* The grid moves its focus from cell to cell, past what is inside of them. */
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !event.target.classList.contains("ag-cell")) return;
    const inside = event.target.querySelector("a[data-inside]");
    if (inside) follow(inside.getAttribute("href"));
  });

  /* Said only if a view takes long enough to be noticed. */
  let busySoon = 0;
  function setBusy(isBusy) {
    window.clearTimeout(busySoon);
    const sign = document.getElementById("busy");
    if (isBusy) busySoon = window.setTimeout(() => { sign.hidden = false; }, 250);
    else sign.hidden = true;
  }

  function follow(href) {
    href = window.snasChoice.carried(href);
    if (href === window.location.pathname + window.location.search) return;
    setBusy(true);
    window.history.pushState({}, "", href);
    window.dispatchEvent(new CustomEvent("_dashprivate_pushstate"));
  }

  /* A trial's point or line in a chart leads to its page; the table of trials does the same for the keyboard. */
  document.addEventListener("click", (event) => {
    const hover = event.target.closest(".js-plotly-plot");
    const view = document.getElementById("main").dataset.view;
    if (!hover || !["study", "curves"].includes(view) || !hover._hoverdata || !hover._hoverdata.length) return;
    const number = hover._hoverdata[0].customdata;
    if (typeof number === "number") follow(window.location.pathname.replace(/(\/curves)?\/?$/, "") + "/trial/" + number);
  }, true);

  /* A player says how high it is, and which epoch its reader went to; all others follow. It has no origin of its own, so
     it is known by its window. */
  window.addEventListener("message", (event) => {
    const { snasPlayerHeight: height, snasPlayerEpoch: epoch } = event.data || {};
    const frames = [...document.querySelectorAll("iframe.player")];
    if (typeof epoch === "number" && frames.some((frame) => frame.contentWindow === event.source)) {
      for (const frame of frames) {
        if (frame.contentWindow !== event.source) frame.contentWindow.postMessage({ snasPlayerEpoch: epoch }, "*");
      }
    }
    if (typeof height !== "number") return;
    for (const frame of frames) {
      if (frame.contentWindow === event.source) {
        frame.style.height = Math.min(2400, Math.max(240, Math.ceil(height))) + "px";
      }
    }
  });

  const functions = (window.dashAgGridComponentFunctions = window.dashAgGridComponentFunctions || {});
  functions.TrialLink = function (props) {
    const React = window.React;
    return React.createElement("a", { href: props.data.href, "data-inside": "true" }, props.data.label);
  };
})();
