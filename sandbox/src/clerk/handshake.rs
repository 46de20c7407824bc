//! The handshake: the cookies that a server of an app gets from the Frontend API through the browser.

use super::client::ClientState;

/// The cookies of one handshake, until a server fetches them.
#[derive(Debug)]
pub(super) struct Handshake {
    pub(super) nonce: String,
    /// Values of `Set-Cookie`.
    pub(super) directives: Vec<String>,
}

/// The `Set-Cookie` values that bring a page up to date with its client, each under its plain and its suffixed name.
/// The session token is `None` for a client without a session.
pub(super) fn directives(client: &ClientState, session_token: Option<&str>, suffix: &str) -> Vec<String> {
    const YEAR_S: u32 = 365 * 24 * 3600;
    let set = |name: String, value: &str| format!("{name}={value}; Path=/; Max-Age={YEAR_S}; SameSite=Lax");
    let updated_at = client.updated_at_cookie().to_string();
    let mut directives = Vec::new();
    for end in ["", &format!("_{suffix}")] {
        directives.push(set(format!("__clerk_db_jwt{end}"), &client.client.dev_browser));
        directives.push(set(format!("__client_uat{end}"), &updated_at));
        directives.push(match session_token {
            Some(token) => set(format!("__session{end}"), token),
            None => format!("__session{end}=; Path=/; Max-Age=0; SameSite=Lax"),
        });
    }
    directives
}
