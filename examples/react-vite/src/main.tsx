import { ClerkProvider } from "@clerk/react";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";

import { App } from "./App";
import "./styles.css";

const { VITE_CLERK_PUBLISHABLE_KEY, VITE_CLERK_PROXY_URL = "" } = import.meta.env;

/** Clerk's components in the colours of `styles.css`. */
const appearance = {
  variables: {
    colorPrimary: "var(--brand)",
    colorPrimaryForeground: "var(--on-brand)",
    colorBackground: "var(--surface)",
    colorForeground: "var(--text)",
    colorMutedForeground: "var(--muted)",
    colorInput: "var(--surface)",
    colorInputForeground: "var(--text)",
    colorNeutral: "var(--text)",
    colorDanger: "var(--danger)",
  },
};

const root = document.getElementById("root");
if (!root) throw new Error("index.html has no element #root.");
createRoot(root).render(
  <StrictMode>
    <ClerkProvider
      publishableKey={VITE_CLERK_PUBLISHABLE_KEY}
      proxyUrl={VITE_CLERK_PROXY_URL}
      afterSignOutUrl="/"
      appearance={appearance}
      telemetry={false}
    >
      <App />
    </ClerkProvider>
  </StrictMode>,
);
