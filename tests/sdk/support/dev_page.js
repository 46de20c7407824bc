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
  await page.locator("[data-testid^=user-]", { hasText: name }).click();
  await shows(page, "sign-in-state", `Signed in as ${name}`);
}

/** Waits until the part of the page with this test id says `text` and is visible. */
export async function shows(page, testId, text) {
  await page.getByTestId(testId).filter({ hasText: text, visible: true }).waitFor();
}

/** The text of one field in a list of fields. */
export function fieldOf(page, part, name) {
  return page.getByTestId(part).locator(`[data-field="${name}"]`).textContent();
}
