import react from "@vitejs/plugin-react";
import { defineConfig, loadEnv } from "vite";

export default defineConfig(({ mode }) => {
  const settings = loadEnv(mode, ".", ["VITE_CLERK", "CLERK_URL", "ABLY_CLERK_AUTH_URL"]);
  if (!settings.VITE_CLERK_PUBLISHABLE_KEY) throw new Error("Write VITE_CLERK_PUBLISHABLE_KEY into .env.local: see README.md.");
  const { VITE_CLERK_PROXY_URL, CLERK_URL = "http://localhost:3001", ABLY_CLERK_AUTH_URL = "http://localhost:8080" } = settings;
  const proxy = {
    "/api/ably": ABLY_CLERK_AUTH_URL,
    // For the sandbox only: its stand-in for Clerk.
    ...(VITE_CLERK_PROXY_URL && { [VITE_CLERK_PROXY_URL]: CLERK_URL }),
  };
  // The service accepts only the origins that it knows, so the port is always the same.
  const server = { port: 5173, strictPort: true, proxy };
  return { plugins: [react()], server, preview: server };
});
