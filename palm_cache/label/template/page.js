const LONGEST = Number(document.body.dataset.longest);
const FILE = document.body.dataset.file;
const FALLBACK = "abcdefghijklmnopqrstuvwxyz";
const NEARBY = 100; // rows on either side of the one that is heard that are listed: a class may have thousands
const player = byId("player");

let state = null;
let keyOf = new Map(); // class name -> key
let queue = []; // rows as the server shows them
let place = -1; // of the row that is heard, in the queue
let source = { by: "both" };
let played = 0; // seconds of the row that can be heard
const passedOver = new Set();

/* ---- talking to the server: one thing after the other, in the order of the keys ---- */

let turn = Promise.resolve();
function inTurn(action) {
  turn = turn.then(action).catch((error) => notify(error.message));
  return turn;
}

async function ask(address, options) {
  let answer;
  try {
    answer = await fetch(address, options);
  } catch {
    throw new Error("The server does not answer, and nothing more is kept. Every label before this is on disk: "
      + "run palm-cache label again and open its new address.");
  }
  let content;
  try {
    content = await answer.json();
  } catch {
    throw new Error("This page is an old one, and nothing more is kept from it: palm-cache label was started again. "
      + "Every label before this is on disk: open its new address.");
  }
  if (!answer.ok) throw new Error(options ? `Not kept: ${content.error}` : content.error);
  return content;
}

function post(address, content) {
  const headers = { "Content-Type": "application/json" };
  return ask(address, { method: "POST", headers, body: JSON.stringify(content) });
}

function notify(message) {
  byId("notice").textContent = message;
  byId("notice").hidden = !message;
}

/* ---- what is known of the whole ---- */

function takeState(given) {
  state = given;
  keyOf = keys(state.classes.map(({ name }) => name));
  byId("labelled").textContent = state.labelled.toLocaleString("en");
  byId("saving").textContent = state.fitting ? " · fitting …" : "";
  byId("undo").disabled = !state.undo;
  byId("text").disabled = Boolean(state.text_off);
  byId("text-off").hidden = !state.text_off;
  byId("text-off").textContent = state.text_off && `Text search is off: ${state.text_off}`;
  showProblems();
  showClasses();
  showChoices();
  showAccuracy();
  if (state.fitting) watch();
}

function showProblems() {
  const { problems } = state;
  const [summary, list] = byId("problems").children;
  const oddities = problems.length === 1 ? "an oddity" : `${problems.length} oddities`;
  byId("problems").hidden = !problems.length;
  summary.textContent = `${FILE} has ${oddities}; everything else in it counts`;
  list.replaceChildren(...problems.map((problem) => element("li", {}, problem)));
  byId("trouble").hidden = !state.trouble;
  byId("trouble").textContent = state.trouble;
}

let watching = false;
async function watch() {
  if (watching) return;
  watching = true;
  await new Promise((resolve) => setTimeout(resolve, 400));
  watching = false;
  refresh();
}

function refresh() {
  return inTurn(async () => {
    takeState(await ask("state"));
    if (!state.fitting) await refreshRows();
  });
}

/* Another window of this page may have given labels meanwhile, or an editor. */
window.addEventListener("focus", refresh);

/* The first ten classes have digits, others a letter of their own name where one is free. */
function keys(names) {
  const keyByName = new Map();
  const free = new Set(FALLBACK);
  names.forEach((name, number) => {
    if (number < 10) {
      keyByName.set(name, String((number + 1) % 10));
      return;
    }
    const letter = [...name.toLowerCase(), ...FALLBACK].find((candidate) => free.has(candidate));
    if (letter) keyByName.set(name, letter);
    free.delete(letter);
  });
  return keyByName;
}

/* A name in a sentence: one that is written from right to left leaves the words around it where they are. */
const isolated = (name) => element("bdi", {}, name);

/* Put buttons in the place of others; the one that has the keyboard keeps it. */
function replaceButtons(list, key, buttons) {
  const held = list.contains(document.activeElement) ? document.activeElement.dataset[key] : undefined;
  list.replaceChildren(...buttons);
  if (held !== undefined) list.querySelector(`[data-${key}="${CSS.escape(held)}"]`)?.focus();
}

function showClasses() {
  const own = queue[place]?.class_name;
  replaceButtons(byId("classes"), "name", state.classes.map(({ name, count }) => element(
    "button",
    { type: "button", "data-name": name, "aria-pressed": String(name === own) },
    ...(keyOf.has(name) ? [element("kbd", {}, keyOf.get(name).toUpperCase())] : []),
    element("span", {}, isolated(name)),
    element("small", {}, String(count)),
  )));
  byId("names").replaceChildren(...state.classes.map(({ name }) => element("option", { value: name })));
}

function showChoices() {
  const option = (kind, name, count) => element("option", { value: `${kind}:${name}` }, `\u2068${name}\u2069${count}`);
  const chosen = byId("by").value;
  byId("likely").replaceChildren(...state.guessed.map((name) => option("likely", name, "")));
  byId("reviewed").replaceChildren(...state.classes.filter(({ count }) => count)
    .map(({ name, count }) => option("labelled", name, ` (${count})`)));
  byId("by").value = chosen;
}

/* ---- how good it is ---- */

const percent = (share) => `${Math.round(100 * share)} %`;

function showAccuracy() {
  const points = state.growth;
  const last = points.at(-1);
  byId("growth").setAttribute("hidden", "");
  if (last) {
    byId("verdict").textContent = `${percent(last.mean)} right (95 %: ${percent(last.low)} to ${percent(last.high)}) on the `
      + `${last.rows} labelled rows, each held out with all rows of its recording.`;
    if (points.length > 1) drawGrowth(points);
  } else if (state.labelled) {
    byId("verdict").textContent = "Not known yet: label rows of two classes and two recordings.";
  } else {
    byId("verdict").textContent = "Label rows of two classes to begin.";
  }
  byId("sample").textContent = state.sample
    ? `${percent(state.sample.mean)} (${percent(state.sample.low)} to ${percent(state.sample.high)}) on the ${state.sample.rows} of them `
      + "that are a random sample: what to expect of all rows."
    : last ? "Rows in doubt are harder than others. What to expect of all rows is said once ten are labelled that were proposed at random." : "";
}

function drawGrowth(points) {
  const left = 42, right = 312, top = 8, bottom = 128;
  const most = points.at(-1).rows;
  const x = (rows) => left + ((right - left) * rows) / most;
  const y = (share) => bottom - (bottom - top) * share;
  const at = ({ rows }, share) => `${x(rows).toFixed(1)},${y(share).toFixed(1)}`;
  const svg = (tag, attributes, text = "") => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.textContent = text;
    return node;
  };
  const lines = [0, 0.5, 1].flatMap((share) => [
    svg("line", { class: "grid", x1: left, x2: right, y1: y(share), y2: y(share) }),
    svg("text", { x: left - 5, y: y(share) + 3.5, "text-anchor": "end" }, `${100 * share} %`),
  ]);
  const band = [...points.map((point) => at(point, point.high)), ...points.toReversed().map((point) => at(point, point.low))];
  byId("growth").replaceChildren(
    ...lines,
    svg("polygon", { class: "band", points: band.join(" ") }),
    svg("polyline", { class: "line", points: points.map((point) => at(point, point.mean)).join(" ") }),
    ...points.map((point) => svg("circle", { cx: x(point.rows), cy: y(point.mean), r: 2.5 })),
    svg("text", { x: left, y: 146 }, "0"),
    svg("text", { x: right, y: 146, "text-anchor": "end" }, `${most} labelled rows`),
  );
  byId("growth").removeAttribute("hidden");
}

/* ---- the rows ---- */

const times = (from, to) => `${clock(from)} – ${to === null ? "end" : clock(to)}`;

function clock(seconds) {
  const rest = (seconds % 60).toFixed(seconds % 1 ? 1 : 0);
  return `${Math.floor(seconds / 60)}:${rest.padStart(rest.includes(".") ? 4 : 2, "0")}`;
}

const isPart = (row) => row.start > 0 || row.end !== null;

const SOURCES = {
  both: "Rows in doubt, and unlike each other.",
  uncertain: "Rows that the head is least sure of.",
  diverse: "Rows that are unlike anything labelled.",
  random: "Rows at random.",
};

function describe() {
  if (source.by === "text") return ["Nearest to “", isolated(source.text), "”, not labelled yet."];
  if (source.by === "row") return ["Like ", isolated(source.path), ", not labelled yet."];
  if (source.by === "likely") return ["Most likely ", isolated(source.class), "."];
  if (source.by === "labelled") return ["Labelled as ", isolated(source.class), ", the last first."];
  return [state.guessed.length || source.by === "random" ? SOURCES[source.by] : SOURCES.diverse];
}

async function load(from) {
  const wanted = new URLSearchParams({ ...from, passed_over: [...passedOver].slice(-500).join(",") });
  const { rows } = await ask(`rows?${wanted}`);
  source = from;
  queue = rows;
  place = -1;
  byId("source").replaceChildren(...describe(), rows.length ? "" : " There are none left.");
  showQueue();
  if (rows.length) choose(0);
  else notify("No rows are left here. Choose other rows, or end the page with Ctrl-C in its terminal.");
}

/* Of all rows in the queue those that are listed, and the number of the first. */
const firstListed = () => Math.max(0, place - NEARBY);
const listed = () => queue.slice(firstListed(), place + NEARBY);

function showQueue() {
  byId("queue").hidden = !queue.length;
  replaceButtons(byId("queue"), "place", listed().map((row, index) => {
    const number = firstListed() + index;
    const guess = row.guesses.length ? [isolated(row.guesses[0]), "?"] : [];
    const name = row.class_name === null ? guess : [isolated(row.class_name)];
    return element("li", {}, element(
      "button",
      { type: "button", "data-place": number, "aria-current": number === place ? "true" : null, title: row.path },
      element("span", {}, element("bdi", {}, isPart(row) ? `${row.path} ${times(row.start, row.end)}` : row.path)),
      element("small", { class: row.class_name ? "given" : null }, ...name),
    ));
  }));
  // Only the list: the page stays where it is, and Tab goes on from where it was.
  const current = byId("queue").querySelector("[aria-current]");
  byId("queue").scrollTop = (current?.offsetTop ?? 0) - byId("queue").clientHeight / 2;
}

function choose(number) {
  if (!queue[number]) return;
  const changed = number !== place;
  place = number;
  showQueue();
  showClasses();
  showGuesses();
  if (changed) hear(queue[place]);
}

function showGuesses() {
  const { guesses } = queue[place];
  byId("guesses").hidden = !guesses.length;
  byId("guess-list").replaceChildren(...guesses.map((name, number) => (number
    ? element("span", { class: "soft" }, "or ", isolated(name))
    : element("button", { type: "button", id: "agree" }, isolated(name), " ", element("kbd", {}, "Enter")))));
}

async function refreshRows() {
  if (!queue.length) return;
  const { rows } = await ask(`rows?by=these&rows=${listed().map((row) => row.row).join(",")}`);
  queue.splice(firstListed(), rows.length, ...rows);
  choose(place);
}

async function hear(row) {
  byId("path").textContent = row.path;
  byId("stretch").textContent = isPart(row) ? times(row.start, row.end) : "";
  player.pause();
  player.removeAttribute("src");
  byId("picture").hidden = byId("cursor").hidden = true;
  byId("gone").hidden = true;
  byId("high").textContent = byId("low").textContent = "";
  let facts;
  try {
    facts = await ask(`facts/${row.row}`);
  } catch (error) {
    if (queue[place]?.row !== row.row) return;
    byId("gone").textContent = error.message;
    byId("gone").hidden = false;
    return;
  }
  if (queue[place]?.row !== row.row) return;
  played = facts.played;
  const cut = facts.seconds > LONGEST + 0.001 ? `, the ${LONGEST} s in its middle are played` : "";
  byId("stretch").textContent = `${isPart(row) ? `${times(row.start, row.start + facts.seconds)}, ` : ""}${facts.seconds.toFixed(1)} s${cut}`;
  byId("high").textContent = `${facts.rate / 2000} kHz`;
  byId("low").textContent = "0";
  byId("picture").src = `picture/${row.row}`;
  byId("picture").alt = `Spectrogram of ${row.path}`;
  byId("picture").hidden = false;
  player.src = `sound/${row.row}`;
  play(player);
}

/* ---- what the user does ---- */

/* A key is for the row that is seen when it is pressed, however long the keys before it take. */
function label(name) {
  const seen = queue[place]?.row;
  return inTurn(async () => {
    if (seen === undefined) return;
    const { state: after, row } = await post("label", { row: seen, class: name });
    notify("");
    if (byId("name").value.trim() === name) byId("name").value = "";
    const number = placeOf(seen);
    if (number >= 0) queue[number] = row;
    takeState(after);
    if (name !== null && number === place) await advance();
    else choose(place);
  });
}

const placeOf = (number) => queue.findIndex(({ row }) => row === number);

async function advance() {
  const next = queue.findIndex((row, number) => number > place && !row.class_name);
  if (next >= 0) choose(next);
  else if (source.by === "labelled") choose(Math.min(place + 1, queue.length - 1));
  else await load(source);
}

function skip() {
  return inTurn(async () => {
    if (queue[place] && !queue[place].class_name) passedOver.add(queue[place].row);
    if (place + 1 < queue.length) choose(place + 1);
    else if (source.by !== "labelled") await load(source);
  });
}

function undo() {
  return inTurn(async () => {
    if (!state.undo) return;
    const { state: after, row } = await post("undo", { steps: state.undo }).catch((error) => {
      refresh();
      throw error;
    });
    notify("");
    takeState(after);
    if (!row) return;
    if (placeOf(row.row) >= 0) queue[placeOf(row.row)] = row;
    else queue.splice(Math.max(place, 0), 0, row);
    place = -1;
    choose(placeOf(row.row));
  });
}

function change(from) {
  return inTurn(async () => {
    notify("");
    await load(from);
  });
}

function alike() {
  const row = queue[place];
  return row ? change({ by: "row", row: row.row, path: row.path }) : undefined;
}

function agree() {
  const first = queue[place]?.guesses[0];
  return first === undefined ? undefined : label(first);
}

function playOrStop() {
  if (player.paused) play(player);
  else player.pause();
}

function startNaming() {
  byId("name").focus();
  byId("name").select(); // a name that was not kept is there again, to be sent or typed over
}

const COMMANDS = {
  " ": playOrStop,
  Enter: agree,
  ArrowRight: skip,
  ArrowDown: skip,
  ArrowLeft: () => inTurn(() => choose(place - 1)),
  ArrowUp: () => inTurn(() => choose(place - 1)),
  Backspace: undo,
  Delete: () => label(null),
  ".": alike,
  "+": startNaming,
  "=": startNaming,
  "/": () => byId("text").focus(),
  "?": () => { byId("help").open = !byId("help").open; },
};

document.addEventListener("keydown", (event) => {
  const focused = document.activeElement;
  const typing = focused?.matches("input, select, textarea");
  if (event.key === "Escape" && focused) focused.blur();
  if (event.key === "z" && (event.ctrlKey || event.metaKey) && !typing) {
    event.preventDefault();
    undo();
    return;
  }
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  // A focused button, list or player has these keys for itself.
  const own = focused?.matches("button, summary, audio") && [" ", "Enter"].includes(event.key);
  if (own || (focused === player && event.key.startsWith("Arrow"))) return;
  const name = [...keyOf].find(([, key]) => key === event.key.toLowerCase())?.[0];
  if (event.repeat && (name !== undefined || !event.key.startsWith("Arrow"))) return;
  if (name === undefined && !COMMANDS[event.key]) return;
  event.preventDefault();
  if (name === undefined) COMMANDS[event.key]();
  else label(name);
});

/* A button that was clicked gives the keyboard back; one that was reached with Tab keeps it. */
document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (event.detail > 0) button.blur();
  if (button.dataset.name !== undefined) label(button.dataset.name);
  else if (button.dataset.place !== undefined) inTurn(() => choose(Number(button.dataset.place)));
  else if (button.id === "agree") agree();
});

for (const [id, action] of Object.entries({
  play: playOrStop, previous: COMMANDS.ArrowLeft, next: skip, undo, clear: COMMANDS.Delete, alike,
})) byId(id).addEventListener("click", action);

byId("by").addEventListener("change", () => {
  const [by, ...rest] = byId("by").value.split(":");
  byId("by").blur();
  change(rest.length ? { by, class: rest.join(":") } : { by });
});

byId("find").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = byId("text").value.trim();
  byId("text").blur();
  if (text) change({ by: "text", text });
});

byId("new").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = byId("name").value.trim(); // it stays there until it is kept
  byId("name").blur();
  if (name) label(name);
});

/* ---- the place in the sound ---- */

byId("stage").addEventListener("click", (event) => {
  if (!played) return;
  const box = byId("stage").getBoundingClientRect();
  player.currentTime = (played * (event.clientX - box.left)) / box.width;
  play(player);
});

function moveCursor() {
  byId("cursor").hidden = !played || byId("picture").hidden;
  byId("cursor").style.left = `${(100 * player.currentTime) / played}%`;
  if (!player.paused) requestAnimationFrame(moveCursor);
}
for (const happening of ["play", "seeked", "pause", "ended"]) player.addEventListener(happening, moveCursor);

inTurn(async () => {
  takeState(await ask("state"));
  await load(source);
});
