import { useOrganization } from "@clerk/react";
import type { ErrorInfo, RealtimeChannel } from "ably";
import { ChannelProvider, useAbly, useChannelStateListener, useConnectionStateListener } from "ably/react";
import { useEffect, useState, type ReactNode } from "react";

import { Chat } from "./Chat";

/** A room for everyone, and one for the active organization. The service's rules decide who may enter. */
export function Rooms() {
  const { organization } = useOrganization();
  const [wantsOrganization, setWantsOrganization] = useState(false);
  const inOrganization = wantsOrganization && organization;
  const room = inOrganization ? `org:${organization.id}:chat` : "chat:lobby";
  return (
    <section className="panel" aria-labelledby="room">
      <h2 id="room">{inOrganization ? organization.name : "Lobby"}</h2>
      {organization && (
        <div role="group" aria-label="Room" className="row">
          <button className="button" type="button" aria-pressed={!wantsOrganization} onClick={() => { setWantsOrganization(false); }}>
            Lobby
          </button>
          <button className="button" type="button" aria-pressed={wantsOrganization} onClick={() => { setWantsOrganization(true); }}>
            {organization.name}
          </button>
        </div>
      )}
      <ChannelProvider key={room} channelName={room}>
        <Room name={room}>
          <Chat />
        </Room>
      </ChannelProvider>
    </section>
  );
}

/** Attaches to the channel before its children use it. If the rules refuse it, says so until a new token comes. */
function Room({ name, children }: { name: string; children: ReactNode }) {
  const channel = useAbly().channels.get(name);
  const [isOpen, setIsOpen] = useState(false);
  const [refusal, setRefusal] = useState<ErrorInfo | null>(null);
  useChannelStateListener(({ current, reason }) => {
    if (current !== "attached" && current !== "failed") return;
    setIsOpen(current === "attached");
    setRefusal(reason ?? null);
  });
  useConnectionStateListener(({ current }) => {
    if (current === "connected" && channel.state === "failed") attach(channel);
  });
  useEffect(() => {
    attach(channel);
    return () => {
      detach(channel);
    };
  }, [channel]);

  if (isOpen) return children;
  if (!refusal) return <p role="status">Entering …</p>;
  return (
    <p role="alert" className="error">
      You may not use this room: {refusal.message}
    </p>
  );
}

function attach(channel: RealtimeChannel) {
  channel.attach().catch(ignore);
}

function detach(channel: RealtimeChannel) {
  channel.detach().catch(ignore);
}

/** The channel's state says what went wrong. */
function ignore() {
  return undefined;
}
