// The page: a history becomes a question, the answer becomes rows. The address keeps the state.
import { combobox } from "./combobox.js";
import { element, found as drawFound, percent, shares as drawShares } from "./pictures.js";

const $ = (id) => document.getElementById(id);
const PATIENCE = 250; // ms of silence before a condition that is being typed counts
const FOLLOWING = 10000; // milliseconds for all workers to serve a change
const RETRY = 2000; // ms until a server that did not answer is asked again
const HIDDEN = ["title", "name", "training_events"]; // attributes that are not among a row's details

const state = { history: [], k: 10, seen: false, filter: {} };
const known = new Map(); // key of an item id -> its attributes
let columns = {};
let shown = { items: [] }; // the last answer
let key = ""; // of the server, if it asks for one
let asking = new AbortController();
let retry = 0;

// Items

const keyOf = (id) => JSON.stringify(id);
const count = (number) => number.toLocaleString("en");
const titleOf = (id) => { const fields = known.get(keyOf(id)) ?? {}; return fields.title ?? fields.name ?? String(id); };
const show = (node, text) => { node.hidden = !text; node.textContent = text ?? ""; };

const offers = ([name, { type, values, least }]) => !HIDDEN.includes(name) && name !== "item_id" && (values || least != null || type === "Boolean");
const offered = () => Object.entries(columns).filter(offers).map(([name]) => name);

function details(id) {
  const fields = known.get(keyOf(id)) ?? {};
  const brief = (name) => typeof fields[name] === "string" && fields[name].length <= 40;
  const names = new Set([...offered().filter((name) => fields[name] != null), ...Object.keys(fields).filter(brief)]);
  const repeated = (name) => typeof fields[name] === "string" && titleOf(id).includes(fields[name]);
  const told = [...names].filter((name) => !repeated(name)).slice(0, 5);
  const value = (name) => ({ boolean: fields[name] ? name : `not ${name}`, number: `${name} ${fields[name]}` })[typeof fields[name]] ?? fields[name];
  return [...(titleOf(id) === String(id) ? [] : [String(id)]), ...told.map(value)].join(" · ").replaceAll("_", " ");
}

// The server

class Failure extends Error {
  constructor(status, message, after) { super(message); Object.assign(this, { status, after }); }
}

async function ask(path, body, signal) {
  const headers = { ...(body && { "Content-Type": "application/json" }), ...(key && { "X-API-Key": key }) };
  const options = { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal };
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure(0, "The server does not answer. Asking again every two seconds.");
  }
  const answer = await response.json().catch(() => ({}));
  if (response.status === 401) { await askForKey(); return ask(path, body, signal); }
  if (!response.ok) {
    throw new Failure(response.status, answer.error ?? `The server says ${response.status}.`, response.headers.get("Retry-After"));
  }
  for (const item of answer.items ?? []) if (item.fields) known.set(keyOf(item.item_id), item.fields);
  return answer;
}

function askForKey() {
  askForKey.answer ??= new Promise((given) => {
    $("key").addEventListener("close", () => { key = $("key-value").value; $("key").firstElementChild.reset(); given(); }, { once: true });
    $("key").showModal();
  }).finally(() => { askForKey.answer = null; });
  return askForKey.answer; // one dialog for all that wait
}

// The question

const name = (column) => `"${column.replaceAll('"', '""')}"`;
const text = (value) => `'${value.replaceAll("'", "''")}'`;

function condition() {
  const parts = Object.entries(state.filter).flatMap(([column, { least, most, is }]) => [
    least && `${name(column)} >= ${least}`,
    most && `${name(column)} <= ${most}`,
    is && (columns[column]?.type === "Boolean" ? (is === "true" ? name(column) : `not ${name(column)}`) : `${name(column)} = ${text(is)}`),
  ]);
  const own = $("condition").value.trim();
  return [...parts, own && (parts.some(Boolean) ? `(${own})` : own)].filter(Boolean).join(" and ") || null;
}

function question() {
  return { history: state.history, k: state.k, where: condition(), exclude_seen: !state.seen };
}

async function update() {
  clearTimeout(retry);
  asking.abort();
  asking = new AbortController();
  const { signal } = asking;
  history.replaceState(null, "", `#${encodeURIComponent(JSON.stringify({ ...state, condition: $("condition").value }))}`);
  for (const part of ["results", "pictures"]) $(part).setAttribute("aria-busy", "true");
  try {
    const start = performance.now();
    const answer = await ask("v1/recommend", { ...question(), return_fields: ["*"] }, signal);
    shown = { ...answer, here: performance.now() - start };
    show($("trouble"));
    complain(null);
    renderAnswer();
    await updateFound(signal);
  } catch (error) {
    if (error.name !== "AbortError") fail(error);
  }
}

// One worker of the server has made the change; another one may have to open it first.
async function updateTo(changed) {
  const number = ({ model_version: version }) => parseInt(version?.slice(1) ?? 0, 10);
  const until = performance.now() + FOLLOWING;
  for (await update(); number(shown) < number(changed) && performance.now() < until; await update()) {
    await new Promise((go) => setTimeout(go, 100));
  }
}

function fail(error) {
  if (error.status === 422 && condition()) return complain(error.message);
  show($("trouble"), error.message);
  if ([0, 429, 503, 504].includes(error.status)) retry = setTimeout(start, error.after ? error.after * 1000 : RETRY);
}

function complain(message) {
  show($("condition-error"), message);
  $("condition").setAttribute("aria-invalid", String(Boolean(message)));
}

// The answer

function renderAnswer() {
  const { items, certificate, cost, fallback, eligible, unknown_items: unknown } = shown;
  const scored = certificate.scanned / certificate.catalogue;
  const figure = (value, label) => element("div", {}, element("dd", {}, value), element("dt", {}, label));
  const proof = certificate.bound == null ? "no other item is eligible" : `nothing else scores above ${certificate.bound.toFixed(3)}`;
  $("figures").replaceChildren(...(fallback ? [] : [
    figure(`${(cost.actual_us / 1000).toPrecision(2)} ms`, "to search the catalogue"),
    figure(`${shown.here.toFixed(shown.here < 10 ? 1 : 0)} ms`, "from question to answer"),
    figure(percent(scored), `scored: ${count(certificate.scanned)} of ${count(certificate.catalogue)}`),
    figure(shown.exact ? "exact" : "cut short", proof),
  ]));
  const few = items.length < state.k ? ` Only ${count(eligible ?? items.length)} are eligible.` : "";
  const missing = unknown ? ` ${count(unknown)} of the history are not in this catalogue.` : "";
  $("said").textContent = items.length
    ? (fallback ? "The most popular items, as there is no history yet. Add one." : `${items.length} items, best first.`) + few + missing
    : "No item passes this filter.";
  $("results").replaceChildren(...items.map(row));
  $("results").removeAttribute("aria-busy");
  $("model").textContent = `${count(certificate.catalogue)} items, model ${shown.model_version}`;
}

function row(item) {
  const why = element("div", { class: "why", hidden: true });
  const title = titleOf(item.item_id);
  const toggle = element("button", { type: "button", class: "plain toggle", "aria-expanded": "false", "aria-label": `Why ${title}` }, "Why");
  toggle.addEventListener("click", () => explain(item, why, toggle));
  const add = () => pick(item.item_id);
  return element("li", { "data-id": keyOf(item.item_id) },
    element("span", { class: "rank" }, String(item.rank)),
    element("div", { class: "item" }, element("strong", {}, title), element("span", { class: "quiet" }, details(item.item_id))),
    element("span", { class: "score" }, shown.fallback ? percent(item.score) : item.score.toFixed(3)),
    shown.fallback ? null : toggle,
    element("button", { type: "button", class: "plus", "aria-label": `Add ${title} to the history`, title: "Add to the history", onclick: add }, "+"),
    why);
}

async function explain(item, why, toggle) {
  const open = toggle.getAttribute("aria-expanded") === "true";
  toggle.setAttribute("aria-expanded", String(!open));
  why.hidden = open;
  if (open || why.childElementCount) return;
  try {
    const answer = await ask("v1/explain", { history: state.history, item_id: item.item_id });
    why.replaceChildren(...drawShares(answer, titleOf));
  } catch (error) {
    why.replaceChildren(element("p", { class: "error" }, error.message));
  }
}

async function updateFound(signal) {
  const searched = state.history.length && shown.items.length && !shown.fallback;
  show($("found-said"), searched ? null : "Nothing was searched. With a history, this shows what the search looked at.");
  try {
    if (searched && $("found").open) drawFound(await ask("v1/found", question(), signal), { into: $("pictures"), titleOf });
    else $("pictures").replaceChildren();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    show($("found-said"), error.message);
    $("pictures").replaceChildren();
  }
  $("pictures").removeAttribute("aria-busy");
}

// The history

function pick(id) {
  state.history.push(id);
  renderHistory();
  update();
}

function renderHistory() {
  const rows = state.history.map((id, place) => {
    const drop = () => { state.history.splice(place, 1); renderHistory(); update(); $("query").focus(); };
    return element("li", {}, element("span", {}, titleOf(id)),
      element("button", { type: "button", class: "plain", "aria-label": `Remove ${titleOf(id)}`, title: "Remove", onclick: drop }, "×"));
  });
  $("picked").replaceChildren(...rows.reverse());
  $("clear").hidden = !rows.length;
}

async function find(query, signal) {
  return (await ask(`v1/catalogue?limit=20&query=${encodeURIComponent(query)}`, null, signal)).items.map((item) => item.item_id);
}

// The filter: a control for every attribute that has few values or is a number

function control(column, { type, values, least, most }) {
  const label = column.replaceAll("_", " ");
  const input = (part, placeholder) => element("input", { type: "number", step: "any", "data-column": column, "data-part": part,
    value: state.filter[column]?.[part], placeholder, "aria-label": `${label} ${part === "least" ? "at least" : "at most"}` });
  if (least != null) return element("div", { class: "row" }, element("span", {}, label), input("least", least), "to", input("most", most));
  const options = type === "Boolean" ? [["true", "yes"], ["false", "no"]] : values.map((value) => [value, value]);
  const id = `column-${column}`;
  const chosen = state.filter[column]?.is;
  return element("div", { class: "row" }, element("label", { for: id }, label),
    element("select", { id, "data-column": column, "data-part": "is" }, element("option", { value: "" }, "any"),
      ...options.map(([value, told]) => element("option", { value, selected: value === chosen }, told))));
}

function renderFilter() {
  $("columns").replaceChildren(...offered().map((column) => control(column, columns[column])));
}

function filtered(event) {
  const { column, part } = event.target.dataset;
  if (column) state.filter[column] = { ...state.filter[column], [part]: event.target.value };
  Object.assign(state, { k: Number($("k").value), seen: $("seen").checked });
  clearTimeout(filtered.timer);
  filtered.timer = setTimeout(update, ["text", "number"].includes(event.target.type) ? PATIENCE : 0);
}

// A new item

const TYPES = { String: "text", Boolean: "checkbox", Int: "number", UInt: "number", Float: "number" };
const typeOf = (column) => TYPES[columns[column].type.replace(/\d+$/, "")];

function openAdd() {
  const others = shown.items.slice(0, 5).map((item) => item.item_id).filter((id) => !state.history.includes(id));
  const likes = [...new Set([...state.history].reverse()), ...others];
  const checked = Math.max(1, new Set(state.history).size);
  const example = known.get(keyOf(likes[0])) ?? {};
  $("like").replaceChildren(...likes.map((id, place) => element("label", { class: "check" },
    element("input", { type: "checkbox", name: "like", value: keyOf(id), checked: place < checked }), titleOf(id))));
  const fields = Object.keys(columns).filter((column) => column !== "training_events" && typeOf(column));
  $("add-fields").replaceChildren(...["item_id", ...fields.filter((column) => column !== "item_id")].map((column) => {
    const type = typeOf(column);
    const value = column === "item_id" || HIDDEN.includes(column) || type === "checkbox" ? null : example[column];
    return element("label", {}, element("span", {}, column.replaceAll("_", " ")),
      element("input", { type, name: column, step: "any", value, checked: type === "checkbox" && example[column] }));
  }));
  show($("add-error"));
  $("add").showModal();
}

async function addItem(event) {
  event.preventDefault();
  const { elements } = $("add-form");
  const fields = {};
  for (const input of $("add-fields").querySelectorAll("input")) {
    const value = input.type === "checkbox" ? input.checked : input.type === "number" ? input.valueAsNumber : input.value.trim();
    if (value !== "" && !Number.isNaN(value)) fields[input.name] = value;
  }
  const { item_id: id, ...rest } = fields;
  const like = [...$("like").querySelectorAll(":checked")].map((input) => JSON.parse(input.value));
  if (id === undefined) { show($("add-error"), "The item needs an id."); return elements.item_id.focus(); }
  event.submitter.disabled = true;
  let changed;
  try {
    changed = await ask("v1/items", { upsert: [{ item_id: id, fields: rest, like }], delete: [] });
  } catch (error) {
    return show($("add-error"), error.message);
  } finally {
    event.submitter.disabled = false;
  }
  $("add").close();
  known.set(keyOf(id), rest);
  await updateTo(changed);
  const at = shown.items.find((item) => item.item_id === id)?.rank;
  document.querySelector(`#results > [data-id="${CSS.escape(keyOf(id))}"]`)?.classList.add("new");
  toast(`“${titleOf(id)}” is in the catalogue${at ? `, and number ${at} here` : "; search finds it"}.`, async () => {
    const undone = await ask("v1/items", { upsert: [], delete: [id] });
    state.history = state.history.filter((other) => other !== id);
    renderHistory();
    await updateTo(undone);
    toast(`“${titleOf(id)}” is no longer recommended.`);
  });
}

function toast(message, undo) {
  const again = (event) => { event.target.disabled = true; undo().catch((error) => toast(error.message)); };
  $("toast").replaceChildren(message, undo ? element("button", { type: "button", onclick: again }, "Undo") : "");
  $("toast").hidden = false;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => { $("toast").hidden = true; }, undo ? 12000 : 5000);
}

// The beginning

function restore() {
  let said;
  try {
    said = JSON.parse(decodeURIComponent(location.hash.slice(1)));
  } catch {
    return; // no state in the address, or none of ours
  }
  const ids = Array.isArray(said.history) ? said.history.filter((id) => ["string", "number"].includes(typeof id)) : [];
  const filter = Object.entries(said.filter ?? {}).filter(([column, parts]) => columns[column] && parts && typeof parts === "object");
  Object.assign(state, { history: ids, seen: Boolean(said.seen), filter: Object.fromEntries(filter) });
  if ([...$("k").options].some((option) => option.value === String(said.k))) state.k = said.k;
  $("condition").value = typeof said.condition === "string" ? said.condition : "";
  Object.assign($("seen"), { checked: state.seen });
  $("k").value = String(state.k);
}

async function start() {
  try {
    columns = (await ask("v1/catalogue?limit=1&query=")).columns;
    if (!state.history.length) restore();
    renderFilter();
    const unknown = state.history.filter((id) => !known.has(keyOf(id)));
    const body = { history: [], include: unknown, k: unknown.length, return_fields: ["*"] };
    if (unknown.length) await ask("v1/recommend", body); // titles of items of which the address has only the ids
    renderHistory();
    await update();
  } catch (error) {
    fail(error);
  }
}

combobox($("query"), $("matches"), {
  find,
  told: (id) => [element("span", {}, titleOf(id)), element("span", { class: "quiet" }, details(id))],
  chosen: pick,
  failed: fail,
});
$("clear").addEventListener("click", () => { state.history = []; renderHistory(); update(); $("query").focus(); });
$("filter").addEventListener("input", filtered);
$("filter").addEventListener("submit", (event) => { event.preventDefault(); update(); });
$("filter").addEventListener("reset", (event) => {
  event.preventDefault(); // a form resets after this event: whatever is chosen in between would be lost
  Object.assign(state, { filter: {}, seen: false, k: 10 });
  Object.assign($("seen"), { checked: state.seen });
  [$("condition").value, $("k").value] = ["", String(state.k)];
  renderFilter();
  update();
});
$("found").addEventListener("toggle", () => updateFound(asking.signal).catch(() => {}));
$("open-add").addEventListener("click", openAdd);
$("add-cancel").addEventListener("click", () => $("add").close());
$("add-form").addEventListener("submit", addItem);
addEventListener("hashchange", () => { state.history = []; start(); });
$("filter-open").open = matchMedia("(min-width: 560px)").matches;
start();
