// Which epoch and which edge are shown, and all the ways to change them.

const SPEEDS = [1, 2, 4, 8, 15, 30]; // epochs per second
const PLAY_ICON = "M4 2.5v11L13 8z", PAUSE_ICON = "M3.5 2.5h3.2v11H3.5zM9.3 2.5h3.2v11H9.3z";
const part = (id) => document.getElementById(id);

const state = { time: numEpochs - 1, playing: false, speed: 0, pinned: false, started: 0, startTime: 0, wish: undefined };
// A whole search plays in about a quarter of a minute.
state.speed = SPEEDS.reduce((best, speed, place) => (Math.abs(Math.log(numEpochs / speed / 15)) < Math.abs(Math.log(numEpochs / SPEEDS[best] / 15)) ? place : best), 0);

function show(time) {
  state.time = Math.min(numEpochs - 1, Math.max(0, time));
  const epoch = search.epochs[state.time];
  part("epoch-number").textContent = epoch;
  part("slider").value = state.time;
  part("change").textContent = changeWords(state.time);
  part("next-change").disabled = nextChange(state.time) < 0;
  for (const view of [...graphs, details, ...panels]) view.show(state.time);
  if (!state.playing) describe();
}

/** Words for screen readers, once the picture stands still. */
function describe() {
  const epoch = `epoch ${search.epochs[state.time]} of ${search.epochs[numEpochs - 1]}`;
  part("slider").setAttribute("aria-valuetext", epoch);
  for (const view of [...graphs, ...panels]) view.describe(state.time);
  const cells = graphs.map((graph) => `${graph.cell.name}: ${graph.summary}`).join(". ");
  part("words").textContent = `${epoch}. ${cells}. ${changeWords(state.time)} ${panels.map((panel) => panel.words(state.time)).join(", ")}`;
}

function setPlaying(playing) {
  state.playing = playing && numEpochs > 1;
  part("play").setAttribute("aria-label", state.playing ? "Pause" : "Play");
  part("play").querySelector("path").setAttribute("d", state.playing ? PAUSE_ICON : PLAY_ICON);
  if (!state.playing) {
    describe();
    return;
  }
  if (state.time === numEpochs - 1) show(0); // at the end, play begins anew
  restartClock();
  requestAnimationFrame(tick);
}

function restartClock() {
  state.started = performance.now();
  state.startTime = state.time;
}

function tick(now) {
  if (!state.playing) return;
  const time = state.startTime + Math.floor((Math.max(0, now - state.started) / 1000) * SPEEDS[state.speed]);
  if (time !== state.time) {
    show(time);
    sayEpoch();
  }
  if (state.time === numEpochs - 1) setPlaying(false);
  else requestAnimationFrame(tick);
}

function goToChange() {
  const time = nextChange(state.time);
  if (time >= 0) goTo(time);
}

/** The reader takes over: stop and show. */
function goTo(time) {
  if (state.playing) setPlaying(false);
  show(time);
  sayEpoch();
}

/** A page with several players keeps them in step: it passes on what one of them says. */
function sayEpoch() {
  if (window.parent !== window) window.parent.postMessage({ snasPlayerEpoch: search.epochs[state.time] }, "*");
}

function keepStep(event) {
  const epoch = event.data?.snasPlayerEpoch;
  if (event.source !== window.parent || event.source === window || typeof epoch !== "number") return;
  const time = search.epochs.findLastIndex((own) => own <= epoch);
  if (state.playing) setPlaying(false);
  show(Math.max(0, time)); // one that ended earlier stays at its end
}

function setSpeed(place) {
  state.speed = Math.min(SPEEDS.length - 1, Math.max(0, place));
  const speed = SPEEDS[state.speed];
  part("speed").textContent = speed === 1 ? "1 epoch/s" : `${speed} epochs/s`;
  part("slower").disabled = state.speed === 0;
  part("faster").disabled = state.speed === SPEEDS.length - 1;
  restartClock();
}

/** Hovering looks at an edge unless another one is pinned; focus and clicks always do, and a click pins or lets go. */
function choose(cell, edge, how) {
  const same = details.cell === cell && details.edge === edge;
  if (how === "hover" && state.pinned) return;
  if (how === "click") pin(!(same && state.pinned));
  else if (!same) pin(false);
  if (same) return;
  details.choose(cell, edge);
  for (const graph of graphs) graph.choose(graph.cell === cell ? edge : -1);
  details.show(state.time);
}

function pin(pinned) {
  state.pinned = pinned;
  part("pinned").hidden = !pinned;
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const actions = {
    " ": () => setPlaying(!state.playing),
    ArrowLeft: () => goTo(state.time - 1),
    ArrowRight: () => goTo(state.time + 1),
    Home: () => goTo(0),
    End: () => goTo(numEpochs - 1),
    n: goToChange,
    ArrowUp: () => setSpeed(state.speed + 1),
    ArrowDown: () => setSpeed(state.speed - 1),
    "+": () => setSpeed(state.speed + 1),
    "-": () => setSpeed(state.speed - 1),
    Escape: () => pin(false),
  };
  const action = actions[event.key];
  if (!action || (event.key === " " && event.target instanceof HTMLButtonElement)) return; // space presses a button
  event.preventDefault(); // the slider must not step a second time, nor the page scroll
  action();
}

/** What the address asks for behind `#`: theme=dark|light, epoch=N|last, compact. */
function obeyAddress() {
  const wishes = new URLSearchParams(location.hash.slice(1) || document.documentElement.dataset.wishes), theme = wishes.get("theme"), epoch = wishes.get("epoch");
  document.documentElement.style.colorScheme = theme === "dark" || theme === "light" ? theme : "";
  document.documentElement.classList.toggle("compact", wishes.has("compact"));
  if (epoch === state.wish) return; // only the theme has changed: stay where the reader is
  state.wish = epoch;
  const time = search.epochs.indexOf(Number(epoch ?? NaN));
  if (state.playing) setPlaying(false);
  show(time >= 0 ? time : numEpochs - 1);
}

function fit() {
  for (const view of [...graphs, ...panels]) view.fit();
  for (const panel of panels) panel.show(state.time);
  const height = document.querySelector("main").getBoundingClientRect().bottom + window.scrollY;
  if (window.parent !== window) window.parent.postMessage({ snasPlayerHeight: height + 12 }, "*"); // a frame may fit it
}

styleOperations();
drawLegend();
document.title = search.title ? `${search.title} – cell player` : "Cell player";
part("title").textContent = search.title || "Cell player";
part("subtitle").textContent = search.subtitle;
part("subtitle").hidden = !search.subtitle;
part("story").textContent = storyWords();
drawChanges();
part("epoch-last").textContent = ` of ${search.epochs[numEpochs - 1]}`;
part("slider").max = numEpochs - 1;
const graphs = search.cells.map((cell) => new CellGraph(cell, choose));
const details = new Details();
const panels = search.curves.map((curve) => new CurvePanel(curve, goTo));
choose(search.cells[0], 0, "focus");
setSpeed(state.speed);
for (const id of ["first", "back", "play", "forth", "last"]) part(id).disabled = numEpochs === 1;
part("first").addEventListener("click", () => goTo(0));
part("back").addEventListener("click", () => goTo(state.time - 1));
part("play").addEventListener("click", () => setPlaying(!state.playing));
part("forth").addEventListener("click", () => goTo(state.time + 1));
part("last").addEventListener("click", () => goTo(numEpochs - 1));
part("next-change").addEventListener("click", goToChange);
part("slower").addEventListener("click", () => setSpeed(state.speed - 1));
part("faster").addEventListener("click", () => setSpeed(state.speed + 1));
part("slider").addEventListener("input", () => goTo(Number(part("slider").value)));
document.addEventListener("keydown", onKey);
window.addEventListener("hashchange", obeyAddress);
window.addEventListener("message", keepStep);
obeyAddress();
new ResizeObserver(fit).observe(document.querySelector("main"));
