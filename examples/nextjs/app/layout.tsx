import { ClerkProvider } from "@clerk/nextjs";
import type { Metadata } from "next";
import type { ReactNode } from "react";

import "./styles.css";

export const metadata: Metadata = { title: "Messages with Ably, Clerk and Next.js" };

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

export default function Layout({ children }: { children: ReactNode }) {
  return (
    <html lang="en">
      <head>
        {/* Next.js may send its metadata after the page has loaded. */}
        <link rel="icon" href="data:," />
      </head>
      <body>
        <ClerkProvider signInUrl="/sign-in" afterSignOutUrl="/sign-in" appearance={appearance}>
          {children}
        </ClerkProvider>
      </body>
    </html>
  );
}
