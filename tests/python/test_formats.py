"""Each form of a token, as Ably's Python SDK takes it: token requests by `auth_callback`, the others from `auth_url`."""

import asyncio
import base64
import json
import time
import unittest

from ably.types.tokendetails import TokenDetails
from ably.util.exceptions import AblyException

from support import PATIENCE_S, SandboxTest, until, with_each_format

# How often Ably is asked for a token, by whomever: clients exchange token requests, the service token details.
EXCHANGES = {"token_request": 1, "jwt": 0, "token_details": 1}


def claims(jwt):
    payload = jwt.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


async def published(channel):
    """Publishes a message and returns the newest of the channel."""
    await channel.publish("greeting", {"n": 1})
    page = await channel.history()
    return page.items[0]


class Rest(SandboxTest):
    @with_each_format
    async def test_a_token_is_requested_and_used(self, token_format):
        sandbox = self.sandbox(TOKEN_FORMAT=token_format)
        client = self.rest(sandbox)
        details = await client.auth.request_token()
        self.assertIsInstance(details, TokenDetails)
        if token_format == "jwt":
            self.assertEqual(claims(details.token)["x-ably-clientId"], "alice")
        else:
            self.assertEqual(details.client_id, "alice")
        self.assertEqual(sandbox.calls()["request_token"], EXCHANGES[token_format])

    @with_each_format
    async def test_a_client_publishes_as_the_clerk_user_and_reads_history(self, token_format):
        sandbox = self.sandbox(TOKEN_FORMAT=token_format)
        for options in ({}, {"auth_method": "POST"}, {"use_binary_protocol": False}):
            with self.subTest(**options):
                message = await published(self.rest(sandbox, **options).channels.get(f"room {options}"))
                self.assertEqual((message.name, message.data), ("greeting", {"n": 1}))
                self.assertEqual(message.client_id, "alice")

    @with_each_format
    async def test_params_of_auth_url_shape_the_token(self, token_format):
        sandbox = self.sandbox(TOKEN_FORMAT=token_format)
        for auth_method in ("GET", "POST"):
            with self.subTest(auth_method=auth_method):
                auth_params = {"clientId": "alice", "capability": json.dumps({"allowed": ["publish", "history"]})}
                client = self.rest(sandbox, auth_method=auth_method, auth_params=auth_params)
                self.assertEqual((await published(client.channels.get("allowed"))).client_id, "alice")
                with self.assertRaises(AblyException) as refused:
                    await client.channels.get("elsewhere").publish("greeting", "")
                self.assertEqual(refused.exception.code, 40160)

    @with_each_format
    async def test_a_token_that_is_over_is_replaced(self, token_format):
        sandbox = self.sandbox(TOKEN_FORMAT=token_format, TOKEN_TTL="1s")
        client = self.rest(sandbox)
        first = await client.auth.authorize()
        expires = claims(first.token)["exp"] * 1000 if token_format == "jwt" else first.expires
        await until("the token to be over", lambda: time.time() * 1000 > expires)
        # A second is short: this token may be over too by the time that it is used, and is then replaced again.
        channel = client.channels.get("room")
        await until_it_succeeds(lambda: channel.publish("greeting", "again"))
        self.assertNotEqual(client.auth.token_details.token, first.token)

    @with_each_format
    async def test_refusals_are_understood(self, token_format):
        sandbox = self.sandbox(TOKEN_FORMAT=token_format)
        for options, status, code, words in [
            ({"auth_headers": {"X-Nothing": "here"}}, 401, 40101, "No Clerk session"),
            ({"user": "mallory"}, 403, 40300, "banned"),
            ({"auth_params": {"clientId": "bob"}}, 403, 40012, "clientId"),
            ({"auth_params": {"ttl": "0"}}, 400, 40003, "ttl"),
        ]:
            with self.subTest(**options):
                with self.assertRaises(AblyException) as refused:
                    await self.rest(sandbox, **options).auth.authorize()
                error = refused.exception
                if token_format == "token_request":
                    # So the SDK wraps what an auth_callback raises.
                    self.assertEqual((error.status_code, error.code), (401, 40170))
                    error = error.cause
                self.assertEqual((error.status_code, error.code), (status, code))
                self.assertIn(words, error.message)
        self.assertEqual(sandbox.calls()["request_token"], 0)

    async def test_by_auth_url_ably_gets_the_session_token_beside_a_token_request_and_answers_40144(self):
        sandbox = self.sandbox(TOKEN_FORMAT="token_request")
        by_auth_url = self.rest(sandbox, auth_url=sandbox.auth_url)
        with self.assertRaises(AblyException) as refused:
            await by_auth_url.auth.request_token()
        self.assertEqual((refused.exception.status_code, refused.exception.code), (401, 40144))
        self.assertEqual(sandbox.calls()["request_token"], 1)

        by_auth_callback = self.rest(sandbox)
        self.assertEqual((await by_auth_callback.auth.request_token()).client_id, "alice")


class Realtime(SandboxTest):
    @with_each_format
    async def test_a_client_connects_as_the_clerk_user_publishes_and_receives(self, token_format):
        sandbox = self.sandbox(TOKEN_FORMAT=token_format)
        client = self.realtime(sandbox)
        await asyncio.wait_for(client.connection.once_async("connected"), PATIENCE_S)
        [connection] = sandbox.connections()
        self.assertEqual(connection["clientId"], "alice")
        self.assertEqual(client.auth.client_id, "alice")

        channel = client.channels.get("room")
        received = asyncio.get_running_loop().create_future()
        await channel.subscribe("greeting", lambda message: received.done() or received.set_result(message))
        await channel.publish("greeting", "hello")
        message = await asyncio.wait_for(received, PATIENCE_S)
        self.assertEqual((message.data, message.client_id), ("hello", "alice"))
        self.assertEqual(sandbox.calls()["request_token"], EXCHANGES[token_format])

    @with_each_format
    async def test_a_connected_client_renews_its_token(self, token_format):
        sandbox = self.sandbox(TOKEN_FORMAT=token_format, TOKEN_TTL="4s")
        client = self.realtime(sandbox)
        await asyncio.wait_for(client.connection.once_async("connected"), PATIENCE_S)
        [first] = sandbox.connections()
        token = client.auth.token_details.token
        states = []
        client.connection.on(lambda change: states.append(change.current.value))

        def is_renewed():
            over = time.time() * 1000 > first["tokenExpires"]
            return over and any(each["tokenExpires"] > first["tokenExpires"] for each in sandbox.connections())

        await until("the first token to be over, and replaced", is_renewed)
        self.assertNotEqual(client.auth.token_details.token, token)
        # A bare JWT does not name its client to the SDK, which then renews by connecting anew, and resumes.
        self.assertNotIn("failed", states)
        known = [(each["connectionId"], each["clientId"]) for each in sandbox.connections()]
        self.assertEqual(known, [(first["connectionId"], "alice")])


async def until_it_succeeds(call):
    """Calls until Ably does not take the token for expired, up to a limit that no healthy run comes near."""

    async def attempts():
        while True:
            try:
                return await call()
            except AblyException as error:
                if error.code != 40142:
                    raise

    return await asyncio.wait_for(attempts(), PATIENCE_S)


if __name__ == "__main__":
    unittest.main()
