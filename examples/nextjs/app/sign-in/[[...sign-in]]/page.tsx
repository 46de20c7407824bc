import { SignIn } from "@clerk/nextjs";

export default function Page() {
  return (
    <main className="signed-out">
      <p role="status">You are signed out, so there is no connection to Ably.</p>
      <SignIn fallbackRedirectUrl="/" />
    </main>
  );
}
