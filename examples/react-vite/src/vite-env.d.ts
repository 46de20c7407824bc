interface ImportMetaEnv {
  readonly VITE_CLERK_PUBLISHABLE_KEY: string;
  readonly VITE_CLERK_PROXY_URL?: string;
  readonly VITE_ABLY_OPTIONS?: string;
}
