"""The sandbox as a child process, and clients of Ably's Python SDK that authenticate by `auth_url` or `auth_callback`."""

import asyncio
import functools
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import unittest
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from ably import AblyRealtime, AblyRest
from ably.util.exceptions import AblyException

PATIENCE_S = 30
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", Path(__file__).parents[2] / "target"))
BINARY = Path(os.environ.get("SANDBOX", TARGET / "debug" / "sandbox"))

# These tests are about clients, and have the whole capability of the API key.
WITHOUT_RULES = '[token]\ncapability = "key"\n'


def _stay_here(event, arguments):
    """Makes every look-up of and connection to anything but this machine an error: no test needs one."""
    if event == "socket.connect":
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else "localhost"
    elif event == "socket.getaddrinfo":
        host = arguments[0]
    else:
        return
    if host not in ("localhost", "127.0.0.1", "::1", None):
        raise PermissionError(f"a test must not connect to {host}")


sys.addaudithook(_stay_here)
# unittest's event loop tells of every step that takes a while, which a sandbox does to start.
logging.getLogger("asyncio").setLevel(logging.ERROR)
for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
    del os.environ[name]


class Sandbox:
    """Both stand-ins and the service's real binary between them. `settings` are variables of the service."""

    def __init__(self, settings):
        if not BINARY.exists():
            raise RuntimeError(f"There is no sandbox at {BINARY}: cargo build --workspace --bins, or set SANDBOX.")
        command = [str(BINARY), "dev", "--json"]
        for part in ("page", "service", "clerk", "ably"):
            command += [f"--{part}-port", "0"]
        for name, value in settings.items():
            command += ["--set", f"{name}={value}"]
        # Real keys in the surroundings are none of the sandbox's business: it would refuse to start.
        environment = {"LOG_FORMAT": "pretty", "LOG_LEVEL": os.environ.get("LOG_LEVEL", "info")}
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as policy:
            policy.write(WITHOUT_RULES)
            policy.flush()
            command += ["--policy", policy.name]
            self._child = subprocess.Popen(command, env=environment, text=True, **pipes)
            self._log = []
            self._reader = threading.Thread(target=self._read_log, daemon=True)
            self._reader.start()
            ready = self._child.stdout.readline()
        if not ready:
            self._reader.join()
            raise RuntimeError("the sandbox did not start:\n" + "".join(self._log))
        ready = json.loads(ready)
        self.clerk, self.ably = ready["clerk"], ready["ably"]
        self.token_format = settings.get("TOKEN_FORMAT", "token_request")
        self.auth_url = ready["service"] + "/api/ably"

    def _read_log(self):
        for line in self._child.stderr:
            self._log.append(line)
            if "SANDBOX_LOG" in os.environ:
                sys.stderr.write(line)

    def stop(self):
        """Were this process killed, the end of the sandbox's standard input would stop it too."""
        self._child.stdin.close()
        code = self._child.wait()
        self._reader.join()
        self._child.stdout.close()
        self._child.stderr.close()
        if code != 0:
            raise RuntimeError(f"the sandbox ended with {code}:\n" + "".join(self._log))

    def session_token(self, user, **claims):
        """A session token as Clerk mints it; `claims` are laid over the usual ones."""
        body = {"user": user, "claims": claims}
        return httpx.post(f"{self.clerk}/sandbox/session-tokens", json=body).raise_for_status().text

    def connections(self):
        """The connections that the Ably stand-in has now."""
        return httpx.get(f"{self.ably}/sandbox/connections").raise_for_status().json()

    def calls(self):
        """How often each route of the Ably stand-in was called."""
        return httpx.get(f"{self.ably}/sandbox/calls").raise_for_status().json()


class SandboxTest(unittest.IsolatedAsyncioTestCase):
    """A test that starts sandboxes and clients, and cleans up after them."""

    def sandbox(self, **settings):
        sandbox = Sandbox(settings)
        self.addCleanup(sandbox.stop)
        return sandbox

    def rest(self, sandbox, user="alice", **options):
        """A REST client with a session token of `user`."""
        client = AblyRest(**self._options(sandbox, user, options))
        self.addAsyncCleanup(client.close)
        return client

    def realtime(self, sandbox, user="alice", **options):
        """A realtime client with a session token of `user`, on its way to connect."""
        client = AblyRealtime(auto_connect=False, **self._options(sandbox, user, options))
        # The SDK has no option for the port of its WebSocket.
        client.options.get_host = lambda: urlsplit(sandbox.ably).netloc
        self.addAsyncCleanup(client.close)
        client.connect()
        return client

    @staticmethod
    def _options(sandbox, user, options):
        ably = urlsplit(sandbox.ably)
        here = dict(endpoint=ably.hostname, port=ably.port, tls=False, fallback_hosts=[])
        here["connectivity_check_url"] = f"{sandbox.ably}/time"
        if "auth_headers" not in options:
            here["auth_headers"] = {"Authorization": f"Bearer {sandbox.session_token(user)}"}
        here |= options
        if sandbox.token_format == "token_request" and "auth_url" not in options:
            return here | auth_by_callback(sandbox, here)
        return here | {"auth_url": sandbox.auth_url}


def auth_by_callback(sandbox, options):
    """The options for asking the service that keep the session token from Ably, as docs/connect.md advises."""
    method, headers = options.pop("auth_method", "GET"), options.pop("auth_headers")
    auth_params = options.pop("auth_params", {})

    async def token_request(token_params):
        # The SDK calls a client ID client_id, and auth_url clientId.
        names = {"client_id": "clientId"}
        params = auth_params | {names.get(name, name): value for name, value in token_params.items()}
        part = "params" if method == "GET" else "data"
        async with httpx.AsyncClient() as http:
            response = await http.request(method, sandbox.auth_url, headers=headers, **{part: params})
        AblyException.raise_for_response(response)
        return response.json()

    return {"auth_callback": token_request}


async def until(what, is_true):
    """Waits until `is_true()` is, looking again and again, up to a limit that no healthy run comes near."""

    async def look():
        while not await asyncio.to_thread(is_true):
            await asyncio.sleep(0.02)

    try:
        await asyncio.wait_for(look(), PATIENCE_S)
    except TimeoutError:
        raise AssertionError(f"waited {PATIENCE_S} s for {what}") from None


def with_each_format(test):
    """Runs a test once with each TOKEN_FORMAT."""

    @functools.wraps(test)
    async def run(self):
        for token_format in ("token_request", "jwt", "token_details"):
            with self.subTest(TOKEN_FORMAT=token_format):
                await test(self, token_format)

    return run
