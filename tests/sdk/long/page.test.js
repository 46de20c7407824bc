// The sandbox's page on every device, in both colour schemes.

import * as nodeTest from "node:test";

import { startChromium } from "../support/chromium.js";
import { checkLooks } from "../support/dev_page_looks.js";
import { DESKTOP, PHONE } from "../support/looks.js";

const { describe, test } = nodeTest;
const chromium = await startChromium(nodeTest);

const DEVICES = {
  desktop: DESKTOP,
  "desktop-zoomed": { viewport: { width: 640, height: 400 }, deviceScaleFactor: 2 },
  tablet: { viewport: { width: 820, height: 1180 }, isMobile: true, hasTouch: true },
  phone: PHONE,
};

for (const [name, device] of Object.entries(DEVICES)) {
  describe(`axe-core finds nothing serious, the console has no error, and six screens are enough: ${name}`, () => {
    for (const colorScheme of ["light", "dark"]) {
      test(colorScheme, (t) => checkLooks(t, chromium, name, { ...device, colorScheme }));
    }
  });
}
