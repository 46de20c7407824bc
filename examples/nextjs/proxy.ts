import { clerkMiddleware } from "@clerk/nextjs/server";

export default clerkMiddleware({ signInUrl: "/sign-in" });

export const config = {
  // Without /api/ably: the service verifies the session itself, and ably-js needs its answer, not a redirect to the sign-in page.
  matcher: [
    "/((?!api/ably$|_next/|.*\\.(?:html?|css|js|jpe?g|webp|png|gif|svg|ttf|woff2?|ico|csv|docx?|xlsx?|zip|webmanifest)$).*)",
    "/(api(?!/ably$)|trpc)(.*)",
  ],
};
