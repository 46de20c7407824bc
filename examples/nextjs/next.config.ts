import type { NextConfig } from "next";

const service = process.env.ABLY_CLERK_AUTH_URL ?? "http://localhost:8080";

const config: NextConfig = {
  rewrites: () => Promise.resolve([{ source: "/api/ably", destination: `${service}/api/ably` }]),
};

export default config;
