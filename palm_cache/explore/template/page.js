
const data = JSON.parse(document.getElementById("data").textContent);
const clips = data.path.map((_, clip) => clip);
const map = new ClipMap(byId("map"), data.x.map((x) => x / 10000), data.y.map((y) => y / 10000));
const player = byId("player");
const classSymbols = data.classes.map((_, number) => classSymbol(number));

/* ---- what is known of a clip ---- */

function verdictOf(clip) {
  if (data.said[clip] < 0) return "none";
  return data.said[clip] === data.label[clip] ? "right" : "wrong";
}

function said(clip) {
  if (data.said[clip] < 0) return "nothing: not tested";
  return `${data.classes[data.said[clip]]}, ${Math.round(100 * data.share[clip])} % (${data.verdicts[verdictOf(clip)]})`;
}

/* Address of a clip's file, from where the clip begins in it. */
function audioAddress(clip) {
  const address = data.audio + data.files[data.file[clip]];
  return isPart(clip) ? `${address}#t=${data.start[clip]}` : address;
}

const isPart = (clip) => data.start[clip] > 0 || data.end[clip] !== null;

/* ---- looks ---- */

function recolour() {
  const byVerdict = document.querySelector("input[name=colour]:checked").value === "verdict";
  const rank = { none: 0, right: 1, wrong: 2 };
  map.symbols = clips.map((clip) => (byVerdict ? VERDICT_SYMBOLS[verdictOf(clip)] : classSymbols[data.label[clip]]));
  map.order = [...clips];
  if (byVerdict) map.order.sort((clip, other) => rank[verdictOf(clip)] - rank[verdictOf(other)]);
  byId("key").hidden = !byVerdict;
  map.redraw();
}

function drawMarks() {
  const ratio = window.devicePixelRatio || 1;
  for (const mark of document.querySelectorAll("canvas.mark")) {
    const { class: number, verdict } = mark.dataset;
    mark.width = mark.height = Math.round(18 * ratio);
    const symbol = verdict ? VERDICT_SYMBOLS[verdict] : classSymbols[number];
    drawSymbol(mark.getContext("2d"), symbol, mark.width / 2, mark.height / 2, 5.5 * ratio);
  }
}

/* ---- which clips are shown ---- */

function applyLegend() {
  const off = new Set();
  for (const box of document.querySelectorAll("#legend input")) if (!box.checked) off.add(Number(box.value));
  for (const clip of clips) map.shown[clip] = off.has(data.label[clip]) ? 0 : 1;
  map.redraw();
}

function applySearch() {
  const words = byId("find").value.trim().toLowerCase();
  const matches = (clip) => `${data.path[clip]}\n${data.classes[data.label[clip]]}`.toLowerCase().includes(words);
  for (const clip of clips) map.bright[clip] = matches(clip) ? 1 : 0;
  map.redraw();
}

function checkAll(checked) {
  for (const box of document.querySelectorAll("#legend input")) box.checked = checked;
  applyLegend();
}

/* ---- pointing and choosing ---- */

function point(clip, x, y) {
  const tip = byId("tip");
  tip.hidden = clip < 0;
  map.canvas.style.cursor = clip < 0 ? "crosshair" : "pointer";
  if (clip < 0) return;
  tip.replaceChildren(
    element("b", {}, data.path[clip]),
    element("span", {}, data.classes[data.label[clip]]),
    element("span", {}, `${data.verdict}: ${said(clip)}`),
  );
  const left = x + 14 + tip.offsetWidth > map.width ? x - 14 - tip.offsetWidth : x + 14;
  const top = y + 14 + tip.offsetHeight > map.height ? y - 14 - tip.offsetHeight : y + 14;
  tip.style.left = `${Math.max(0, left)}px`;
  tip.style.top = `${Math.max(0, top)}px`;
}

function choose(clip, heard) {
  if (clip < 0) return;
  for (const button of listed(map.chosen)) button.removeAttribute("aria-current");
  map.chosen = clip;
  map.reveal(clip);
  map.redraw();
  byId("nothing").hidden = true;
  byId("absent").hidden = true;
  byId("facts").hidden = player.hidden = false;
  byId("path").textContent = data.path[clip];
  byId("label").textContent = data.classes[data.label[clip]];
  byId("said").textContent = said(clip);
  for (const button of listed(clip)) button.setAttribute("aria-current", "true");
  history.replaceState(null, "", `#clip=${clip}`);
  player.src = audioAddress(clip);
  if (heard) playChosen();
}

/* The list may be far below the chosen clip's box: its entry shows what becomes of it. */
function listed(clip) {
  return document.querySelectorAll(`#confused [data-clip="${clip}"]`);
}

function playChosen() {
  if (map.chosen >= 0) play(player);
}

/* Of a file of which a clip is a part, the part is played; the file's other clips have points of their own. */
function stayInside() {
  const clip = map.chosen;
  if (!isPart(clip)) return;
  const [start, end] = [data.start[clip], data.end[clip] ?? Infinity];
  if (player.currentTime >= end) player.pause();
  if (player.currentTime >= end || player.currentTime < start - 0.05) player.currentTime = start;
  if (!player.paused) requestAnimationFrame(stayInside);
}
player.addEventListener("play", stayInside);

player.addEventListener("error", () => {
  player.hidden = true;
  for (const button of listed(map.chosen)) button.classList.add("absent");
  byId("absent").hidden = false;
  byId("absent").textContent = `It cannot be played: nothing this browser can decode lies at ${player.getAttribute("src")}. `
    + "Put the page into the dataset's folder, or make it with --audio and that folder.";
});

/* ---- mouse and fingers ---- */

const pointers = new Map();
let travelled = 0;

function place(event) {
  const box = map.canvas.getBoundingClientRect();
  return { x: event.clientX - box.left, y: event.clientY - box.top };
}

map.canvas.addEventListener("pointerdown", (event) => {
  if (event.isPrimary) travelled = 0;
  pointers.set(event.pointerId, place(event));
  map.canvas.setPointerCapture(event.pointerId);
});

map.canvas.addEventListener("pointermove", (event) => {
  const now = place(event);
  const before = pointers.get(event.pointerId);
  if (!before) {
    point(map.clipAt(now.x, now.y), now.x, now.y);
    return;
  }
  travelled += Math.hypot(now.x - before.x, now.y - before.y);
  if (pointers.size === 1 && travelled > 5) {
    map.moveBy(now.x - before.x, now.y - before.y);
  } else if (pointers.size === 2) {
    const [fixed] = [...pointers].filter(([id]) => id !== event.pointerId).map(([, other]) => other);
    const spread = (finger) => Math.max(10, Math.hypot(finger.x - fixed.x, finger.y - fixed.y));
    map.zoomBy(spread(now) / spread(before), (now.x + fixed.x) / 2, (now.y + fixed.y) / 2);
  }
  pointers.set(event.pointerId, now);
});

map.canvas.addEventListener("pointerup", (event) => {
  const clicked = pointers.size === 1 && pointers.has(event.pointerId) && travelled <= 5;
  pointers.delete(event.pointerId);
  if (!clicked) return;
  const now = place(event);
  const clip = map.clipAt(now.x, now.y);
  if (event.pointerType !== "mouse") point(clip, now.x, now.y);
  choose(clip, true);
});

map.canvas.addEventListener("pointercancel", (event) => pointers.delete(event.pointerId));
map.canvas.addEventListener("pointerleave", (event) => {
  if (event.pointerType === "mouse") point(-1);
});

map.canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  const now = place(event);
  map.zoomBy(Math.exp(-event.deltaY / 400), now.x, now.y);
  point(-1);
}, { passive: false });

/* ---- keyboard ---- */

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

map.canvas.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key in ARROWS) {
    const seen = map.chosen >= 0 && map.shown[map.chosen] && map.bright[map.chosen];
    choose(seen ? map.neighbour(map.chosen, ...ARROWS[event.key]) : map.middleClip(), false);
  } else if (event.key === "Enter" || event.key === " ") playChosen();
  else if (event.key === "+" || event.key === "=") map.zoomBy(1.5);
  else if (event.key === "-") map.zoomBy(1 / 1.5);
  else if (event.key === "0") map.whole();
  else if (event.key === "Escape") point(-1);
  else return;
  event.preventDefault();
});

/* ---- everything else ---- */

for (const choice of document.querySelectorAll("input[name=colour]")) choice.addEventListener("change", recolour);
byId("legend").addEventListener("change", applyLegend);
byId("all").addEventListener("click", () => checkAll(true));
byId("none").addEventListener("click", () => checkAll(false));
byId("find").addEventListener("input", applySearch);
byId("closer").addEventListener("click", () => map.zoomBy(1.5));
byId("farther").addEventListener("click", () => map.zoomBy(1 / 1.5));
byId("whole").addEventListener("click", () => map.whole());
byId("confused").addEventListener("click", (event) => {
  if (event.target.dataset.clip) choose(Number(event.target.dataset.clip), true);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  map.forgetColours();
  drawMarks();
});

function followHash() {
  const wanted = /^#clip=(\d+)$/.exec(location.hash);
  if (wanted && Number(wanted[1]) < clips.length) choose(Number(wanted[1]), false);
}

window.addEventListener("hashchange", followHash);
drawMarks();
recolour();
followHash();
