import { useChannel, useChannelStateListener, usePresence, usePresenceListener } from "ably/react";
import type { Message } from "ably";
import { useState, type SyntheticEvent } from "react";

/** Stands among the messages where others may be missing. */
const GAP = "gap";

/** The messages and the members of the nearest channel. */
export function Chat() {
  const [entries, setEntries] = useState<(Message | typeof GAP)[]>([]);
  const { publish } = useChannel((message) => {
    setEntries((before) => [...before, message]);
  });
  // After a long break, Ably attaches the channel anew and does not send what it missed.
  useChannelStateListener(({ current, resumed }) => {
    if (current === "attached" && !resumed) setEntries((before) => [...before, GAP]);
  });
  usePresence();
  const { presenceData } = usePresenceListener();
  const members = [...new Set(presenceData.map(({ clientId }) => clientId))].sort();
  const [problem, setProblem] = useState("");

  async function send(event: SyntheticEvent<HTMLFormElement>) {
    event.preventDefault();
    const form = event.currentTarget;
    const text = new FormData(form).get("text");
    if (!text) return;
    try {
      await publish("message", text);
      form.reset();
      setProblem("");
    } catch (error) {
      setProblem(error instanceof Error ? error.message : String(error));
    }
  }

  return (
    <>
      <h3 id="members">Here now</h3>
      <ul className="members" aria-labelledby="members">
        {members.map((member) => (
          <li key={member}>{member}</li>
        ))}
      </ul>
      <div className="messages" role="log" aria-label="Messages" tabIndex={0}>
        <ol>
          {entries.map((entry, index) =>
            entry === GAP ? (
              <li key={index} className="muted">
                You were disconnected. Messages may be missing here.
              </li>
            ) : (
              <li key={index}>
                <b>{entry.clientId}</b> {String(entry.data)}
              </li>
            ),
          )}
        </ol>
      </div>
      <form className="row" onSubmit={(event) => void send(event)}>
        <label htmlFor="text">Message</label>
        <input className="input" id="text" name="text" autoComplete="off" required maxLength={500} />
        <button className="button primary" type="submit">Send</button>
      </form>
      {problem && (
        <p role="alert" className="error">
          Not sent: {problem}
        </p>
      )}
    </>
  );
}
