// Builds HTML safely: text is inserted as text.

export const byId = (id) => document.getElementById(id);

/** `element("p.hint", { id: "x" }, …children)`: attributes are optional, and those without a value are left out. */
export function element(tag, ...children) {
  const [name, ...classes] = tag.split(".");
  const made = document.createElement(name);
  if (classes.length) made.className = classes.join(" ");
  const attributes = children[0]?.constructor === Object ? children.shift() : {};
  for (const [key, value] of Object.entries(attributes)) {
    if (value != null) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

/** A row of a list of fields: name, value (a node, or any JSON value), and meaning. */
export function field(name, value, gloss) {
  const isProse = value instanceof Node;
  const text = isProse || typeof value === "string" ? value : JSON.stringify(value);
  const shown = value === undefined ? element("dd.absent", "absent")
    : element(isProse ? "dd" : "dd.value", { "data-field": name }, text);
  return element("div", element("dt", name), shown, gloss ? element("dd.gloss", gloss) : null);
}

export const pill = (mood, text) => element("span.pill", { "data-mood": mood }, text);

/** Sets a text that screen readers announce only if it changes. Without a text, hides its element. */
export function say(id, text = "", mood = "") {
  const shown = byId(id);
  if (shown.textContent !== text) shown.textContent = text;
  shown.dataset.mood = mood;
  shown.hidden = !text;
}

/** Runs `act` unless the button is busy with it. */
export async function whileBusy(button, act) {
  if (button.getAttribute("aria-busy")) return;
  button.setAttribute("aria-busy", "true");
  await act().finally(() => button.removeAttribute("aria-busy"));
}

/** Marks a step as idle, active, done or failed. */
export function mark(step, state) {
  byId(`step-${step}`).dataset.state = state;
}
