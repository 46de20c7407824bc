// Builds HTML safely: text is inserted as text.

export const byId = (id) => document.getElementById(id);

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== false && value != null) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

/** A row of a list of fields: name, value (a node, or any JSON value), and meaning. */
export function field(name, value, gloss) {
  const isProse = value instanceof Node;
  const text = isProse || typeof value === "string" ? value : JSON.stringify(value);
  const shown = value === undefined
    ? element("dd", { class: "absent" }, "absent")
    : element("dd", { class: isProse ? false : "value", "data-field": name }, text);
  return element("div", {}, element("dt", {}, name), shown, gloss ? element("dd", { class: "gloss" }, gloss) : null);
}

/** Marks a step and its station as idle, active, done or failed. */
export function mark(step, state) {
  const section = byId(`step-${step}`);
  section.dataset.state = state;
  const station = section.closest(".station");
  const states = [...station.querySelectorAll(".step")].map((each) => each.dataset.state);
  station.dataset.state = states.includes("failed") ? "failed"
    : states.every((each) => each === "done") ? "done"
    : states.some((each) => each === "active" || each === "done") ? "active" : "idle";
}
