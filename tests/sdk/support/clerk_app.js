// An app that uses Clerk: a page with real clerk-js and its components, as the Clerk stand-in serves them.

import "./loopback_only.js";

import { once } from "node:events";
import { createServer, request as forward } from "node:http";

/**
 * Serves the app on any free port until `context` ends: `{ origin, show }`. `show` decides what the page is, once there
 * is a sandbox that allows the origin. Requests below `/__clerk` go to the stand-in, as a dev server's proxy does it.
 */
export async function serveApp(context) {
  let html = "";
  let clerk = "";
  const server = createServer((request, response) => {
    if (request.url.startsWith("/__clerk/")) return pass(request, response, clerk);
    const [type, body] = request.url === "/favicon.ico" ? ["image/x-icon", ""] : ["text/html; charset=utf-8", html];
    return response.writeHead(200, { "content-type": type }).end(body);
  });
  context.after(() => {
    server.closeAllConnections();
    server.close();
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  const show = (sandbox, proxyUrl = sandbox.clerk_proxy_url) => {
    clerk = sandbox.clerk;
    html = page(sandbox, proxyUrl);
  };
  return { origin: `http://localhost:${server.address().port}`, show };
}

function pass(request, response, clerk) {
  const { method, headers } = request;
  const onward = forward(clerk + request.url, { method, headers }, (answer) => {
    response.writeHead(answer.statusCode, answer.headers);
    answer.pipe(response);
  });
  onward.on("error", () => response.destroy());
  request.pipe(onward);
}

function page({ publishable_key: key }, proxyUrl) {
  const script = (path) =>
    `<script crossorigin="anonymous" data-clerk-publishable-key="${key}" data-clerk-proxy-url="${proxyUrl}"
      src="${proxyUrl}/npm/@clerk/${path}"></script>`;
  return `<!doctype html>
    <html lang="en">
      <title>An app</title>
      <div id="switcher"></div>
      <div id="user"></div>
      <div id="sign-in"></div>
      ${script("clerk-js@6/dist/clerk.browser.js")}
      ${script("ui@1/dist/ui.browser.js")}
      <script type="module">
        const at = (id) => document.getElementById(id);
        await Clerk.load({ ui: { ClerkUI: window.__internal_ClerkUICtor }, telemetry: { disabled: true } });
        Clerk.addListener(({ user, session }) => {
          document.documentElement.dataset.user = user?.username ?? "";
          document.documentElement.dataset.session = session?.id ?? "";
        });
        if (Clerk.user) {
          Clerk.mountUserButton(at("user"));
          Clerk.mountOrganizationSwitcher(at("switcher"));
        } else {
          Clerk.mountSignIn(at("sign-in"));
        }
      </script>
    </html>`;
}

/** Opens the app. What the browser's console calls an error is the test's failure. */
export async function openApp(t, window, { origin }) {
  const page = await window.newPage();
  const errors = [];
  page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
  t.after(() => {
    if (errors.length) throw new Error(`the console shows errors:\n${errors.join("\n")}`);
  });
  await page.goto(origin);
  return page;
}

/** Signs in with Clerk's own component. */
export async function signIn(page, identifier) {
  await page.locator("input[name=identifier]").fill(identifier);
  await page.keyboard.press("Enter");
  await page.locator("input[name=password]:visible").fill("any password");
  await page.keyboard.press("Enter");
}

/** Waits until clerk-js says that this user is signed in; an empty name is nobody. */
export async function showsUser(page, name) {
  await page.locator(`html[data-user="${name}"]`).waitFor();
}
