declare module "react-refresh/runtime" {
  const runtime: {
    injectIntoGlobalHook(target: Window): void;
    register(component: unknown, id: string): void;
    performReactRefresh(): void;
  };
  export default runtime;
}

interface Window {
  app: Record<string, unknown>;
}
