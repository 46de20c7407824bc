//! The message of a running sandbox: text for a person, or one line of JSON for a program.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;
use std::{env, fmt, io};

use sandbox::ably::Ably;
use sandbox::clerk::Clerk;
use serde::Serialize;

use super::app::{self, AppSettings};

/// Addresses and keys.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Ready {
    /// As `localhost`, which browsers treat as a secure origin, and whose cookies reach the service.
    pub(super) page: String,
    /// As an address, because not every HTTP client tries both addresses of `localhost`.
    pub(super) service: String,
    pub(super) auth_url: String,
    /// The admin listener; `None` if it is off.
    pub(super) admin: Option<String>,
    pub(super) clerk: String,
    /// The address of the Frontend API for clerk-js.
    pub(super) clerk_proxy_url: String,
    pub(super) ably: String,
    pub(super) api_key: String,
    pub(super) publishable_key: String,
    pub(super) secret_key: String,
    pub(super) jwt_key: String,
    pub(super) cookie_suffix: String,
    /// A command that revokes a user's access, for the directory where the sandbox was started.
    pub(super) revoke: Option<String>,
    /// The settings of the user's own app, if there is one.
    pub(super) app: Option<AppSettings>,
    #[serde(skip)]
    pub(super) service_port: u16,
    #[serde(skip)]
    pub(super) ably_port: u16,
}

/// The user of the examples.
const USER: &str = "alice";

/// The path of a program for a shell in the working directory.
fn in_shell(program: &Path) -> String {
    let here = env::current_dir().ok();
    let below = here.as_deref().and_then(|here| program.strip_prefix(here).ok());
    // The shell looks up a name without a slash in `PATH`.
    let below = below.filter(|below| below.components().count() > 1);
    let text = below.unwrap_or(program).display().to_string();
    let is_plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-+".contains(&b));
    if is_plain { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

impl Ready {
    pub(super) fn new(
        clerk: &Clerk,
        ably: &Ably,
        page_port: u16,
        service_port: u16,
        admin_port: Option<u16>,
        program: &Path,
        app: Option<AppSettings>,
    ) -> Self {
        let user = clerk.users().into_iter().find(|user| user.username.as_deref() == Some(USER));
        Self {
            admin: admin_port.map(|port| format!("http://127.0.0.1:{port}")),
            revoke: admin_port
                .zip(user)
                .map(|(port, user)| format!("ADMIN_PORT={port} {} revoke --user {}", in_shell(program), user.id)),
            page: format!("http://localhost:{page_port}"),
            service: format!("http://127.0.0.1:{service_port}"),
            auth_url: format!("http://localhost:{service_port}/api/ably"),
            clerk: clerk.url(),
            clerk_proxy_url: format!("http://localhost:{}/__clerk", clerk.port()),
            ably: ably.url(),
            api_key: ably.api_key().to_owned(),
            publishable_key: clerk.publishable_key().to_owned(),
            secret_key: clerk.secret_key().to_owned(),
            jwt_key: clerk.jwt_key().to_owned(),
            cookie_suffix: clerk.cookie_suffix(),
            app,
            service_port,
            ably_port: ably.port(),
        }
    }

    pub(super) fn announce(&self, as_json: bool, after: Duration) {
        let mut out = io::stdout().lock();
        let style = if out.is_terminal() { Style::Bold } else { Style::Plain };
        let written = if as_json {
            writeln!(out, "{}", serde_json::json!(self))
        } else {
            writeln!(out, "{}", Text { ready: self, after, style })
        };
        // The output may be closed.
        let _ = written.and_then(|()| out.flush());
    }
}

#[derive(Clone, Copy)]
enum Style {
    Bold,
    Plain,
}

impl Style {
    fn of(self, text: &str) -> String {
        match self {
            Self::Bold => format!("\u{1b}[1m{text}\u{1b}[0m"),
            Self::Plain => text.to_owned(),
        }
    }
}

struct Text<'a> {
    ready: &'a Ready,
    after: Duration,
    style: Style,
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ready { page, auth_url, clerk, ably, revoke, app, .. } = self.ready;
        let title = |text| self.style.of(text);
        writeln!(f, "\n  {} in {:.2} s\n", title("The sandbox is ready"), self.after.as_secs_f64())?;
        writeln!(f, "  page      {}", title(page))?;
        writeln!(f, "  authUrl   {auth_url}")?;
        writeln!(f, "  Clerk     {clerk}  (stand-in)")?;
        writeln!(f, "  Ably      {ably}  (stand-in)")?;
        writeln!(f, "\n  {}", title("Without a browser"))?;
        writeln!(
            f,
            "  curl -sH \"Authorization: Bearer $(curl -sd user={USER} {clerk}/sandbox/session-tokens)\" {auth_url}"
        )?;
        if let Some(revoke) = revoke {
            writeln!(f, "  {revoke}")?;
        }
        if let Some(app) = app {
            writeln!(f, "\n  {}", title("Your app on Vite: .env.local, and server.proxy in vite.config"))?;
            write_app(f, &app.vite)?;
            writeln!(f, "{}", app.vite_proxy())?;
            writeln!(f, "\n  {}", title("Your app on Next.js: .env.local, and rewrites() in next.config"))?;
            write_app(f, &app.next)?;
            writeln!(f, "{}", app::NEXT_REWRITES)?;
            writeln!(f, "\n  Users of {} sign in as {USER} with any password. More: docs/sandbox.md", app.origin)?;
        }
        writeln!(f, "\n  {}", title("With your own keys"))?;
        writeln!(f, "  export ABLY_API_KEY=…             from Ably's dashboard")?;
        writeln!(f, "  export CLERK_PUBLISHABLE_KEY=…    from Clerk's dashboard")?;
        writeln!(f, "  export CLERK_SECRET_KEY=…         not needed if session tokens carry a username claim")?;
        writeln!(f, "  cargo run\n")?;
        write!(f, "  Ctrl-C stops everything.")
    }
}

/// One variable a line, without indentation, ready to be copied.
fn write_app(f: &mut fmt::Formatter<'_>, settings: &[(&'static str, String)]) -> fmt::Result {
    settings.iter().try_for_each(|setting| writeln!(f, "{}", app::line(setting)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_path_is_quoted_for_the_shell() {
        let here = env::current_dir().unwrap();
        assert_eq!(in_shell(&here.join("target/debug/ably-clerk-auth")), "target/debug/ably-clerk-auth");
        assert!(in_shell(&here.join("service")).ends_with("/service"));
        assert_eq!(in_shell(Path::new("/opt/a-b/service")), "/opt/a-b/service");
        assert_eq!(in_shell(Path::new("/opt/it's here/service")), r"'/opt/it'\''s here/service'");
    }
}
