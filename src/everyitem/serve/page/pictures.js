// What is drawn: elements, the shares of a score, and how an answer was found. Data in, nodes out; asks no server.

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 270;
const MARGIN = { top: 22, right: 12, bottom: 34, left: 46 };

function fill(made, attributes, children) {
  for (const [attribute, value] of Object.entries(attributes)) {
    if (attribute.startsWith("on")) made.addEventListener(attribute.slice(2), value);
    else if (value === true) made.setAttribute(attribute, "");
    else if (value !== false && value != null) made.setAttribute(attribute, value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

export const element = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
const svg = (name, attributes = {}, ...children) => fill(document.createElementNS(SVG, name), attributes, children);
const count = (number) => number.toLocaleString("en");
const path = (points) => `M${points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L")}`;

// Two digits that differ from 0 or from 9: what is not all is never 100 %
export function percent(share) {
  if (share <= 0.99) return `${Number((100 * share).toPrecision(2))} %`;
  const digits = 10 ** Math.min(5, Math.ceil(-Math.log10(1 - share)));
  return `${share < 1 ? Math.floor(share * 100 * digits) / digits : 100} %`;
}

// Why an item has its score

const TOLD = 8; // splits that are told one by one

export function shares({ score, splits, history }, titleOf) {
  const sorted = [...splits].sort((one, other) => Math.abs(other.score) - Math.abs(one.score));
  const others = sorted.slice(TOLD);
  const rows = sorted.slice(0, TOLD).map((row) => [row.split == null ? "memory" : `split ${row.split}, sub-item ${row.sub_item}`, row.score]);
  if (others.length) rows.push([`${others.length} others`, others.reduce((sum, row) => sum + row.score, 0)]);
  const largest = Math.max(...rows.map(([, share]) => Math.abs(share)), 1e-9);
  const signed = rows.some(([, share]) => share < 0);
  const parts = rows.map(([told, share]) => [told, bar(share / largest, signed), share.toFixed(3)]);
  const near = history.slice(0, 5).map((row) => [titleOf(row.item_id), bar(row.similarity), row.similarity.toFixed(2)]);
  return [
    table("The score is the sum of what its sub-items are worth now", [...parts, ["score", "", score.toFixed(3)]], "sum"),
    table("Nearest in the history, by cosine", near),
  ];
}

function table(caption, rows, last) {
  const lines = rows.map(([label, drawn, value], at) => element("tr", { class: last && at === rows.length - 1 ? last : null },
    element("th", { scope: "row" }, label), element("td", {}, drawn), element("td", { class: "number" }, value)));
  return element("table", {}, element("caption", {}, caption), element("tbody", {}, ...lines));
}

function bar(share, signed = false) {
  const width = Math.min(100, Math.abs(share) * 100) / (signed ? 2 : 1);
  const x = signed ? (share < 0 ? 50 - width : 50) : 0;
  return svg("svg", { class: share < 0 ? "bar minus" : "bar", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
    signed ? svg("path", { class: "axis", d: "M50 0V8" }) : null, svg("rect", { x, y: 1, width: Math.max(width, 0.5), height: 6 }));
}

// How an answer was found

let redraw = () => {};
new ResizeObserver(() => redraw()).observe(document.documentElement);

export function found(answer, { into, titleOf }) {
  const { splits, items, pruned } = answer;
  let chosen = 0;
  const bounds = element("figure", {});
  const parts = element("figure", {});
  const choice = element("div", { class: "choice", role: "radiogroup", "aria-label": "Item whose sub-items are shown" },
    ...items.map((item, at) => element("label", { title: titleOf(item.item_id) },
      element("input", { type: "radio", name: "chosen", checked: !at, onchange: () => { chosen = at; redraw(); } }),
      element("span", {}, String(item.rank)))));
  redraw = () => {
    const width = into.clientWidth;
    if (!width) return;
    parts.firstChild.replaceWith(subItems(answer, chosen, width));
    parts.lastChild.replaceWith(losses(answer, items[chosen], titleOf));
    if (pruned) bounds.replaceChildren(...histogram(answer, width));
  };
  parts.append(element("div"), choice, element("figcaption"));
  const none = element("p", { class: "quiet" }, "The items of this model have no sub-items that could be shown.");
  into.replaceChildren(share(answer), ...(pruned ? [bounds] : []), splits.length ? parts : none);
  if (splits.length) redraw();
  else redraw = () => {};
}

const key = (kind, text) => element("span", { class: `key ${kind}` }, text);

function losses({ splits }, item, titleOf) {
  const ceiling = splits.reduce((sum, { scores }) => sum + scores[0], 0);
  const own = item.sub_items.reduce((sum, { score }) => sum + score, 0);
  const memory = Math.abs(item.score - own) > 1e-3 ? ` Its memory adds ${(item.score - own).toFixed(3)}.` : "";
  return element("figcaption", {}, element("strong", {}, titleOf(item.item_id)),
    ` scores ${own.toFixed(3)}: the best sub-items of all splits would make ${ceiling.toFixed(3)}, and it loses ${(ceiling - own).toFixed(3)}.${memory} `,
    key("rest", "a sub-item"), key("chosen", "its own"), key("lost", "what it loses there"), key("other", "of the other items found"));
}

// The catalogue as one bar: what was looked at in bytes, what was scored in full

function share({ certificate: { scanned, catalogue }, looked_at: looked }) {
  const part = (kind, number) => svg("rect", { class: kind, width: Math.max(0.4, (100 * number) / catalogue), height: 10 });
  const told = [looked == null ? null : `${count(looked)} looked at in bytes`, `${count(scanned)} scored in full`];
  return element("figure", {},
    svg("svg", { class: "share", viewBox: "0 0 100 10", preserveAspectRatio: "none", role: "img", "aria-label": told.filter(Boolean).join(", ") },
      part("all", catalogue), looked == null ? null : part("looked", looked), part("scored", scanned)),
    element("figcaption", {}, "This search: ", element("span", { class: "key all" }, `${count(catalogue)} items`),
      told[0] && element("span", { class: "key looked" }, told[0]), element("span", { class: "key scored" }, told[1])));
}

function frame(width, [low, high], label, told) {
  const inner = { left: MARGIN.left, right: width - MARGIN.right, top: MARGIN.top, bottom: HEIGHT - MARGIN.bottom };
  const span = high - low || 1;
  const y = (value) => inner.bottom - ((value - low) / span) * (inner.bottom - inner.top);
  const step = told ? 1 : nice(span / 7);
  const grid = [];
  for (let value = Math.ceil(low / step) * step; value <= high; value += step) {
    grid.push(svg("path", { class: "grid", d: `M${inner.left} ${y(value)}H${inner.right}` }),
      svg("text", { x: inner.left - 6, y: y(value) + 4, "text-anchor": "end" }, (told ?? short)(value)));
  }
  const drawn = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-label": label }, ...grid);
  return { drawn, inner, y };
}

const short = (value) => String(Number(value.toPrecision(3)));

function nice(step) {
  const power = 10 ** Math.floor(Math.log10(step));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= step);
}

// A column per split with all its sub-items; what an item loses in a split is the way from the best one to its own

function subItems({ splits, items }, chosen, width) {
  const scores = splits.flatMap((split) => [split.scores[0], split.scores.at(-1)]);
  const { drawn, inner, y } = frame(width, [Math.min(...scores), Math.max(...scores)],
    `Scores of all sub-items in ${splits.length} splits, and those of the ${items.length} items found`);
  const column = (inner.right - inner.left) / splits.length;
  const x = (split) => inner.left + (split + 0.5) * column;
  const half = Math.min(11, column * 0.34);
  const every = [1, 2, 4, 8].find((step) => step * column >= 26) ?? 16;
  splits.forEach(({ scores: all }, split) => {
    const ticks = all.map((value) => `M${(x(split) - half).toFixed(1)} ${y(value).toFixed(1)}h${(2 * half).toFixed(1)}`);
    drawn.append(svg("path", { class: "tick", d: ticks.join("") }));
    if (split % every === 0) drawn.append(svg("text", { x: x(split), y: HEIGHT - 14, "text-anchor": "middle" }, String(split)));
  });
  const dots = (item, kind, r) => item.sub_items.map(({ split, score }) => svg("circle", { class: kind, cx: x(split), cy: y(score), r }));
  items.forEach((item, at) => at !== chosen && drawn.append(...dots(item, "dot other", 2)));
  drawn.append(...items[chosen].sub_items.map(({ split, score }) =>
    svg("path", { class: "lost", d: `M${x(split)} ${y(splits[split].scores[0])}V${y(score)}` })), ...dots(items[chosen], "dot chosen", Math.min(4, half)));
  return drawn;
}

// All eligible items by the most that they can score as far as bytes tell, and the score of the last one of the answer

function histogram({ pruned: { ceiling, threshold, remembered, step, bars, passing }, certificate }, width) {
  const floor = Math.log10(0.5); // a bar of one item has a height
  const heights = bars.map((items) => (items ? Math.log10(items) : floor));
  const low = ceiling - step * bars.length;
  const { drawn, inner, y } = frame(width, [floor, Math.max(...heights, 1)], "Items by the most that they can score", (power) => count(10 ** power));
  const x = (score) => inner.left + ((score - low) / (ceiling - low || 1)) * (inner.right - inner.left);
  heights.forEach((height, at) => drawn.append(svg("rect", { class: at < passing ? "scored" : "pruned", x: x(ceiling - step * (at + 1)) + 0.5,
    y: y(height), width: Math.max(0.5, x(ceiling) - x(ceiling - step) - 1), height: inner.bottom - y(height) })));
  const sum = (part) => part.reduce((total, items) => total + items, 0);
  const [could, all] = [sum(bars.slice(0, passing)), sum(bars)];
  drawn.append(svg("text", { x: inner.left, y: HEIGHT - 14 }, low.toFixed(2)),
    svg("text", { x: inner.right, y: HEIGHT - 14, "text-anchor": "end" }, `${ceiling.toFixed(2)}: the ceiling`));
  if (threshold != null) {
    const late = x(threshold) > width / 2; // the text stands where there is room
    drawn.append(svg("path", { class: "threshold", d: `M${x(threshold)} ${inner.top - 18}V${inner.bottom}` }),
      svg("text", { class: "threshold", x: x(threshold) + (late ? -6 : 6), y: inner.top - 8, "text-anchor": late ? "end" : "start" },
        `threshold ${threshold.toFixed(2)}`));
  }
  const told = threshold == null
    ? `Fewer than asked for are eligible, so all ${count(all)} had to be scored.`
    : `${count(all - could)} of ${count(all)} eligible items (${percent((all - could) / all)}) cannot reach the threshold, so their scores need not be known. The search scored ${count(certificate.scanned)}: its threshold had to rise first. `;
  const apart = remembered ? `${count(remembered)} more, which the history brings to mind, have scores of their own. ` : "";
  return [drawn, element("figcaption", {}, "Items by the most that they can score, as far as bytes tell. ", told, apart,
    key("scored", "can reach it"), key("pruned", "cannot"))];
}
