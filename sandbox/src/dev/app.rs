//! The settings of a user's own app, to paste into its `.env.local`.

use sandbox::ably::Ably;
use sandbox::clerk::Clerk;
use serde::{Serialize, Serializer};
use serde_json::json;

/// A page's origin, `scheme://host[:port]`.
pub(super) fn origin(text: &str) -> Result<String, String> {
    let url = reqwest::Url::parse(text).ok().filter(|url| {
        let is_bare =
            url.path() == "/" && url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
        matches!(url.scheme(), "http" | "https") && is_bare
    });
    let url = url.ok_or("use the address of the app without a path, such as http://localhost:5173")?;
    Ok(url.origin().ascii_serialization())
}

/// The variables of an app for each framework.
#[derive(Clone, Debug, Serialize)]
pub(super) struct AppSettings {
    pub(super) origin: String,
    #[serde(serialize_with = "as_object")]
    pub(super) vite: Vec<(&'static str, String)>,
    #[serde(serialize_with = "as_object")]
    pub(super) next: Vec<(&'static str, String)>,
    #[serde(skip)]
    clerk: String,
    #[serde(skip)]
    service: String,
}

fn as_object<S: Serializer>(settings: &[(&'static str, String)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(settings.iter().map(|(name, value)| (name, value)))
}

impl AppSettings {
    pub(super) fn new(origin: String, clerk: &Clerk, ably: &Ably, service_port: u16) -> Self {
        let service = format!("http://localhost:{service_port}");
        let key = clerk.publishable_key();
        let clerk_url = format!("http://localhost:{}", clerk.port());
        // The options of ably-js as JSON. In production the variable is unset, and ably-js finds Ably itself.
        // The last two keep it from asking its own servers whether there is a network when the sandbox has stopped.
        let ably_options = json!({
            "endpoint": "localhost",
            "port": ably.port(),
            "tls": false,
            "disableConnectivityCheck": true,
            "wsConnectivityCheckUrl": format!("ws://localhost:{}/", ably.port()),
        })
        .to_string();
        Self {
            origin,
            vite: vec![
                ("VITE_CLERK_PUBLISHABLE_KEY", key.to_owned()),
                ("VITE_CLERK_PROXY_URL", "/__clerk".to_owned()),
                ("VITE_ABLY_OPTIONS", ably_options.clone()),
            ],
            next: vec![
                ("NEXT_PUBLIC_CLERK_PUBLISHABLE_KEY", key.to_owned()),
                ("CLERK_SECRET_KEY", clerk.secret_key().to_owned()),
                ("CLERK_API_URL", clerk_url.clone()),
                ("NEXT_PUBLIC_CLERK_PROXY_URL", format!("{clerk_url}/__clerk")),
                ("NEXT_PUBLIC_CLERK_JS_URL", format!("{clerk_url}/npm/@clerk/clerk-js@6/dist/clerk.browser.js")),
                ("NEXT_PUBLIC_CLERK_UI_URL", format!("{clerk_url}/npm/@clerk/ui@1/dist/ui.browser.js")),
                ("NEXT_PUBLIC_CLERK_SIGN_IN_URL", format!("{clerk_url}/sign-in")),
                ("NEXT_PUBLIC_CLERK_TELEMETRY_DISABLED", "1".to_owned()),
                ("NEXT_PUBLIC_ABLY_OPTIONS", ably_options),
                ("ABLY_CLERK_AUTH_URL", service.clone()),
            ],
            clerk: clerk_url,
            service,
        }
    }

    /// The line of Vite's configuration that passes two paths on.
    pub(super) fn vite_proxy(&self) -> String {
        let Self { clerk, service, .. } = self;
        format!(r#"server: {{ proxy: {{ "/api/ably": "{service}", "/__clerk": "{clerk}" }} }},"#)
    }
}

/// The lines of Next.js's configuration that pass a path on.
pub(super) const NEXT_REWRITES: &str = "\
async rewrites() {
  return [{ source: \"/api/ably\", destination: `${process.env.ABLY_CLERK_AUTH_URL}/api/ably` }];
},";

/// A line of a `.env` file. A value with quotation marks is in single ones.
pub(super) fn line((name, value): &(&'static str, String)) -> String {
    if value.contains('"') { format!("{name}='{value}'") } else { format!("{name}={value}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bare_origin_names_an_app() {
        for (text, expected) in [
            ("http://localhost:5173", Some("http://localhost:5173")),
            ("http://localhost:5173/", Some("http://localhost:5173")),
            ("https://app.example.com:443", Some("https://app.example.com")),
            ("http://localhost:5173/app", None),
            ("http://localhost:5173/?a", None),
            ("http://me@localhost:5173", None),
            ("localhost:5173", None),
            ("ws://localhost:5173", None),
            ("", None),
        ] {
            assert_eq!(origin(text).ok().as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn json_is_quoted() {
        assert_eq!(line(&("A", "b".to_owned())), "A=b");
        assert_eq!(line(&("A", r#"{"b":1}"#.to_owned())), r#"A='{"b":1}'"#);
    }
}
