// React Fast Refresh. It has to be there before react-dom.

import runtime from "react-refresh/runtime";

runtime.injectIntoGlobalHook(window);

export const register = (component: unknown, id: string) => runtime.register(component, id);
export const refresh = () => runtime.performReactRefresh();
