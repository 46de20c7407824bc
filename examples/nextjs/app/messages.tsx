"use client";

import type { Message } from "ably";
import { ChannelProvider, useChannel } from "ably/react";
import { useState, type SyntheticEvent } from "react";

const CHANNEL = "chat:lobby";

export function Messages() {
  return (
    <ChannelProvider channelName={CHANNEL}>
      <Lobby />
    </ChannelProvider>
  );
}

function Lobby() {
  const [messages, setMessages] = useState<Message[]>([]);
  const [problem, setProblem] = useState("");
  const { publish, channelError } = useChannel((message) => {
    setMessages((before) => [...before, message]);
  });

  async function send(event: SyntheticEvent<HTMLFormElement>) {
    event.preventDefault();
    const form = event.currentTarget;
    try {
      await publish("message", new FormData(form).get("text"));
      form.reset();
      setProblem("");
    } catch (error) {
      setProblem(error instanceof Error ? error.message : String(error));
    }
  }

  const error = channelError?.message ?? problem;
  return (
    <section className="panel" aria-labelledby="lobby">
      <h2 id="lobby">Lobby</h2>
      <div className="messages" role="log" aria-label="Messages" tabIndex={0}>
        <ol>
          {messages.map(({ id, clientId, data }) => (
            <li key={id}>
              <b>{clientId}</b> {String(data)}
            </li>
          ))}
        </ol>
      </div>
      <form className="row" onSubmit={(event) => void send(event)}>
        <label htmlFor="text">Message</label>
        <input className="input" id="text" name="text" autoComplete="off" required maxLength={500} />
        <button className="button primary" type="submit">
          Send
        </button>
      </form>
      {error && (
        <p role="alert" className="error">
          {error}
        </p>
      )}
    </section>
  );
}
