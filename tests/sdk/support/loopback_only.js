// Makes every connection of this process to anything but this machine an error: no test needs one, and ably-js would
// look for Ably itself when it takes a stand-in for a broken network.

import { Socket, isIP } from "node:net";

const connect = Socket.prototype.connect;

Socket.prototype.connect = function (...args) {
  // `net.connect` hands its normalized arguments on as one array.
  const [first, second] = Array.isArray(args[0]) ? args[0] : args;
  const host = typeof first === "object" ? first.host : typeof second === "string" ? second : "localhost";
  const isPipe = typeof first === "object" ? Boolean(first.path) : typeof first === "string";
  if (!isPipe && !isLoopback(host ?? "localhost")) {
    throw new Error(`a test must not connect to ${host}`);
  }
  return connect.apply(this, args);
};

function isLoopback(host) {
  if (isIP(host) === 4) return host.startsWith("127.");
  return host === "localhost" || host === "::1" || host === "[::1]";
}
