import { OrganizationSwitcher, UserButton } from "@clerk/nextjs";
import { auth } from "@clerk/nextjs/server";

import { Messages } from "./messages";
import { Realtime } from "./realtime";
import { Status } from "./status";

export default async function Page() {
  await auth.protect();
  return (
    <>
      <header className="top">
        <h1>Messages</h1>
        <OrganizationSwitcher />
        <UserButton />
      </header>
      <main className="content">
        <Realtime>
          <Status />
          <Messages />
        </Realtime>
      </main>
    </>
  );
}
