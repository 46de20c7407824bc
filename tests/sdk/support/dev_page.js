// The sandbox's own page, as a developer uses it.

/** The dev page, ready for use. */
export async function openDevPage(window, sandbox) {
  const page = await window.newPage();
  await page.goto(sandbox.page);
  await page.locator("html[data-ready]").waitFor();
  return page;
}

/** Picks the user on the dev page, and waits until it says that they are signed in. */
export async function signIn(page, name) {
  await page.locator("label.user", { hasText: name }).click();
  await shows(page, "sign-in-state", `Signed in as ${name}`);
}

/** Waits until the part of the page with this id says `text` and is visible. */
export async function shows(page, id, text) {
  await page.locator(`#${id}`).filter({ hasText: text, visible: true }).waitFor();
}

/** Gets a token on the dev page for who is signed in, and waits for the connection. */
export async function connect(page) {
  await page.locator("#get-token").click();
  await shows(page, "connection-state", /^connected$/);
}

/** Unfolds the part of the page under this heading. */
export async function unfold(page, heading) {
  const part = page.locator("details", { has: page.getByRole("heading", { name: heading }) });
  if ((await part.getAttribute("open")) === null) await part.locator("> summary").click();
}

/** Takes the page through its main states, and calls `look(state)` in each. */
export async function throughStates(page, look) {
  await look("signed-out");
  await signIn(page, "Alice Moreau");
  await connect(page);
  await page.locator("#message-input").fill("hello");
  await page.locator("#message-send").click();
  await shows(page, "messages", "hello");
  await look("connected");
  await unfold(page, "The policy");
  await shows(page, "verdict", "A token");
  await look("explained");
  await signIn(page, "Noor Haddad");
  await page.locator("#get-token").click();
  await shows(page, "connection-state", /^failed$/);
  await shows(page, "verdict", "No token");
  await look("refused");
}

/**
 * Clicks, and returns how long it then took until the connection of `page` was not connected any more, in milliseconds.
 * Both pages are of this machine, and of its clock.
 */
export async function untilCut(page, button) {
  const left = page.evaluate(() => new Promise((resolve) => {
    const state = document.getElementById("connection-state");
    const observer = new MutationObserver(() => {
      if (state.textContent === "connected") return;
      observer.disconnect();
      resolve(performance.timeOrigin + performance.now());
    });
    observer.observe(state, { childList: true });
  }));
  const clicked = await button.evaluate((element) => {
    const at = performance.timeOrigin + performance.now();
    element.click();
    return at;
  });
  return (await left) - clicked;
}

/** What the connection of the page says of its state from now on, each time that it is another. */
export async function statesFromNowOn(page) {
  const states = await page.evaluateHandle(() => {
    const seen = [];
    const state = document.getElementById("connection-state");
    new MutationObserver(() => {
      if (seen.at(-1) !== state.textContent) seen.push(state.textContent);
    }).observe(state, { childList: true });
    return seen;
  });
  return () => states.jsonValue();
}

/** The text of one field in a list of fields. */
export function fieldOf(page, part, name) {
  return page.locator(`#${part}`).locator(`[data-field="${name}"]`).textContent();
}
