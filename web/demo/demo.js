// Pick a few items, move the budget, turn the network off: everything here runs on the device.
import { Peel, SourceError } from "./dist/peel.js";

const MODEL = new URL("model.peel", location.href).href;
const STATE = "peel-demo";
const LISTED = 10;
const CHOICES = 36;

const element = (id) => document.getElementById(id);
const saved = JSON.parse(localStorage.getItem(STATE) ?? "{}");
const likes = new Set(saved.likes ?? []);
let budgetIndex = saved.budgetIndex;
let catalogue;
let titles;
let peel;
let fetched = 0;

// The switch cuts off this page alone, as a flight mode would the device.
const fetchFromNetwork = globalThis.fetch;
globalThis.fetch = async (...request) => {
  if (!element("network").checked) throw new TypeError("the network is switched off");
  const response = await fetchFromNetwork(...request);
  if (response.status === 206) fetched += Number(response.headers.get("Content-Length"));
  return response;
};

function bytesText(bytes) {
  return bytes < 1e6 ? `${Number((bytes / 1e3).toPrecision(3))} KB` : `${(bytes / 1e6).toFixed(2)} MB`;
}

function titleOf(item) {
  return titles.get(item) ?? `Item ${item}`;
}

function tell(problem) {
  element("problem").hidden = !problem;
  element("problem").textContent = problem ? problem.message : "";
}

function save() {
  localStorage.setItem(STATE, JSON.stringify({ likes: [...likes], budgetIndex }));
}

function fillList(list, items, isNew = () => false) {
  list.replaceChildren(
    ...items.map((item) => {
      const line = document.createElement("li");
      line.classList.toggle("liked", likes.has(item));
      const title = document.createElement("span");
      title.textContent = titleOf(item);
      line.append(title);
      if (isNew(item)) {
        const mark = document.createElement("small");
        mark.textContent = "new";
        line.append(mark);
      }
      return line;
    }),
  );
}

function showChoices() {
  const words = element("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const matches = (title) => words.every((word) => title.toLowerCase().includes(word));
  const others = catalogue.items.filter(
    ({ id, title }) => !likes.has(id) && (words.length === 0 || matches(title)),
  );
  const shown = [...likes, ...others.slice(0, CHOICES).map(({ id }) => id)];
  const focused = document.activeElement?.dataset?.item;
  element("choices").replaceChildren(
    ...shown.map((id) => {
      const choice = document.createElement("button");
      choice.type = "button";
      choice.textContent = titleOf(id);
      choice.dataset.item = JSON.stringify(id);
      choice.setAttribute("aria-pressed", String(likes.has(id)));
      return choice;
    }),
  );
  if (focused) {
    [...element("choices").children].find(({ dataset }) => dataset.item === focused)?.focus();
  }
  element("clear").disabled = likes.size === 0;
}

function showHeld() {
  const share = (bytes) => `${(100 * bytes) / catalogue.size}%`;
  element("held").textContent = `${bytesText(peel.nbytes)} of ${bytesText(catalogue.size)}`;
  element("budget").setAttribute("aria-valuetext", bytesText(peel.nbytes));
  element("bar-held").style.width = share(peel.nbytes);
  element("fetched").textContent = bytesText(fetched);
  const online = element("network").checked && navigator.onLine;
  element("status").textContent = peel.failure
    ? "No network: this is what the device has."
    : online
      ? "Connected. Only bytes that are missing are fetched."
      : "No network, and no need of one.";
}

async function recommend() {
  const began = performance.now();
  const { items } = await peel.recommend({ history: [...likes], n: LISTED });
  element("time").textContent = `${(performance.now() - began).toFixed(1)} ms`;
  fillList(element("shipped"), catalogue.shipped);
  fillList(element("live"), items, (item) => !catalogue.shipped.includes(item));
}

async function showKept() {
  const cache = await caches.open(STATE);
  const [key] = await cache.keys();
  const kept = key ? Number((await cache.match(key)).headers.get("peel-start")) : 0;
  element("bar-kept").style.width = `${(100 * kept) / catalogue.size}%`;
}

/** Everything that depends on what is held or liked. */
async function show() {
  await recommend();
  const { items } = await peel.score(new Float32Array(peel.embeddingDim), {
    n: peel.numEmbeddings,
  });
  element("rows").textContent = `${items.length} / ${peel.numEmbeddings}`;
  showHeld();
  await showKept();
}

async function resize() {
  const before = budgetIndex;
  budgetIndex = Number(element("budget").value);
  try {
    await peel.resize(catalogue.budgets[budgetIndex]);
    tell(null);
  } catch (error) {
    if (!(error instanceof SourceError)) throw error;
    budgetIndex = before;
    element("budget").value = String(before);
    tell(new Error("There is no network for more bytes. What is held stays."));
  }
  save();
  await show();
}

async function start() {
  if ("serviceWorker" in navigator) await navigator.serviceWorker.register("sw.js");
  catalogue = await (await fetch("catalogue.json")).json();
  titles = new Map(catalogue.items.map(({ id, title }) => [id, title]));
  budgetIndex = Math.min(budgetIndex ?? 2, catalogue.budgets.length - 1);
  peel = await Peel.open(MODEL, { budgetBytes: catalogue.budgets[budgetIndex], cache: STATE });
  const slider = element("budget");
  slider.max = String(catalogue.budgets.length - 1);
  slider.value = String(budgetIndex);
  slider.disabled = false;
  showChoices();
  await show();
}

// One change after another: each shows what the one before it left.
let changes = start();
function change(f) {
  changes = changes.then(f).catch(tell);
}
changes.catch(tell);

element("choices").addEventListener("click", ({ target }) => {
  if (!target.dataset.item) return;
  const item = JSON.parse(target.dataset.item);
  if (!likes.delete(item)) likes.add(item);
  save();
  showChoices();
  change(recommend);
});
element("clear").addEventListener("click", () => {
  likes.clear();
  save();
  showChoices();
  change(recommend);
});
element("search").addEventListener("input", showChoices);
element("budget").addEventListener("input", () => change(resize));
element("network").addEventListener("change", () => change(showHeld));
for (const event of ["online", "offline"]) addEventListener(event, () => change(showHeld));
