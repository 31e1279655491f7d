// A text field above a list of what is found: a combobox as the ARIA patterns have it. Knows no items and no server.
import { element } from "./pictures.js";

const PATIENCE = 120; // ms of silence before a text that is being typed is looked for

// find(text, signal) promises options, told(option) gives the nodes that show one, chosen(option) takes one
export function combobox(input, list, { find, told, chosen, failed }) {
  let options = [];
  let at = -1; // the option that Enter would take; -1: none
  let timer = 0;
  let asking = new AbortController();

  function render(nothing) {
    const rows = options.map((option, place) => element("li",
      { role: "option", id: `${list.id}-${place}`, "aria-selected": String(place === at), onclick: () => choose(place) }, ...told(option)));
    if (nothing) rows.push(element("li", { role: "option", "aria-disabled": "true", class: "quiet" }, nothing));
    list.replaceChildren(...rows);
    list.hidden = !rows.length;
    input.setAttribute("aria-expanded", String(!list.hidden));
    input.setAttribute("aria-activedescendant", at < 0 ? "" : `${list.id}-${at}`);
    list.children[at]?.scrollIntoView({ block: "nearest" });
  }

  function close() {
    asking.abort();
    clearTimeout(timer);
    options = [];
    at = -1;
    render();
  }

  function choose(place) {
    const option = options[place];
    input.value = "";
    close();
    chosen(option);
    input.focus();
  }

  async function look() {
    const text = input.value.trim();
    if (!text) return close();
    asking.abort();
    asking = new AbortController();
    try {
      options = await find(text, asking.signal);
      at = -1;
      render(options.length ? null : `Nothing is called “${text}”.`);
    } catch (error) {
      if (error.name !== "AbortError") failed(error);
    }
  }

  function steer(event) {
    const last = options.length - 1;
    const to = { ArrowDown: at < last ? at + 1 : 0, ArrowUp: at > 0 ? at - 1 : last }[event.key];
    if (event.key === "Escape" && !list.hidden) close();
    else if (event.key === "Enter" && last >= 0) choose(Math.max(0, at));
    else if (to === undefined || last < 0) return;
    else { at = to; render(); }
    event.preventDefault();
  }

  input.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(look, PATIENCE); });
  input.addEventListener("keydown", steer);
  input.addEventListener("blur", close);
  list.addEventListener("mousedown", (event) => event.preventDefault()); // the focus stays in the text
}
