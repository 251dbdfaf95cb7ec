"use strict";
// The players share one page, whose data is put in when a search is chosen.

const frame = document.getElementById("player");
const page = JSON.parse(document.getElementById("player-page").textContent);

function watch(trial, moves) {
  const data = document.getElementById(`player-${trial}`).textContent;
  frame.srcdoc = page.replace("/*DATA*/", () => data);
  document.getElementById("watch").hidden = false;
  const title = document.getElementById("watch-title");
  title.textContent = `The search of trial ${trial}, epoch by epoch`;
  for (const button of buttons) button.setAttribute("aria-pressed", button.dataset.trial === trial);
  if (moves) title.focus();
}

window.addEventListener("message", (event) => {
  const height = Number(event.data?.snasPlayerHeight);
  if (event.source === frame.contentWindow && height > 0) frame.style.height = `${Math.ceil(height)}px`;
});

const buttons = [...document.querySelectorAll("button[data-trial]")];
for (const button of buttons) button.addEventListener("click", () => watch(button.dataset.trial, true));
const first = document.querySelector('script[id^="player-"]:not(#player-page)'); // that of the cell to keep
if (first) watch(first.id.slice("player-".length), false);
