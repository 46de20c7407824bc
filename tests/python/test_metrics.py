"""The metrics, as Prometheus' own parser of its text format reads them."""

import socket
import unittest

import httpx
from prometheus_client.parser import text_string_to_metric_families

from support import SandboxTest


def free_port():
    """A port that is free now. The admin listener takes no 0 for one that is."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Metrics(SandboxTest):
    def scrape(self, port):
        response = httpx.get(f"http://127.0.0.1:{port}/metrics").raise_for_status()
        self.assertEqual(response.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8")
        return {family.name: family for family in text_string_to_metric_families(response.text)}

    async def test_every_sample_belongs_to_a_family_with_a_type_and_a_help(self):
        port = free_port()
        sandbox = self.sandbox(ADMIN_PORT=port, TOKEN_FORMAT="token_details")
        await self.rest(sandbox).auth.request_token()
        httpx.get(sandbox.auth_url)
        httpx.get(f"{sandbox.auth_url}/nowhere")

        families = self.scrape(port)
        for family in families.values():
            self.assertIn(family.type, ("counter", "gauge", "histogram"), family)
            self.assertTrue(family.documentation, family)
            self.assertTrue(family.samples, family)
        issued = families["ably_clerk_auth_tokens_issued"]
        self.assertEqual(issued.type, "counter")
        by_format = {sample.labels["format"]: sample.value for sample in issued.samples}
        self.assertEqual(by_format, {"token_request": 0, "jwt": 0, "token_details": 1})
        [refused] = families["ably_clerk_auth_token_refusals"].samples
        labels = {"tenant": "default", "reason": "session-token-missing", "status": "401"}
        self.assertEqual((refused.name, refused.labels, refused.value), ("ably_clerk_auth_token_refusals_total", labels, 1))
        [misled] = families["ably_clerk_auth_request_refusals"].samples
        self.assertEqual(misled.labels, {"reason": "no-such-route", "status": "404"})
        states = {sample.labels["state"]: sample.value for sample in families["ably_clerk_auth_store_state"].samples}
        self.assertEqual(states, {"starting": 0, "ready": 1, "degraded": 0})
        outages = families["ably_clerk_auth_store_outages"]
        self.assertEqual((outages.type, [sample.value for sample in outages.samples]), ("counter", [0]))
        counts = [sample.value for sample in families["ably_clerk_auth_token_duration_seconds"].samples
                  if sample.name.endswith("_count")]
        self.assertEqual(sorted(counts), [1, 1])


if __name__ == "__main__":
    unittest.main()
