//! The server of the sandbox page: embedded files, addresses, ably-js and the policy editor.

mod editor;

use std::io;
use std::path::PathBuf;

use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use actix_web::middleware::DefaultHeaders;
use actix_web::web::{self, Data, ServiceConfig};
use actix_web::{HttpResponse, Responder};
use sandbox::loopback::{Listeners, Server};
use serde_json::{Value, json};

use super::ready::Ready;

pub(super) use editor::Editor;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

const FILES: [(&str, &str, &str); 13] = [
    ("/", HTML, include_str!("../../page/index.html")),
    ("/page.css", CSS, include_str!("../../page/page.css")),
    ("/page.js", JAVASCRIPT, include_str!("../../page/page.js")),
    ("/dom.js", JAVASCRIPT, include_str!("../../page/dom.js")),
    ("/session.js", JAVASCRIPT, include_str!("../../page/session.js")),
    ("/requests.js", JAVASCRIPT, include_str!("../../page/requests.js")),
    ("/connection.js", JAVASCRIPT, include_str!("../../page/connection.js")),
    ("/access.js", JAVASCRIPT, include_str!("../../page/access.js")),
    ("/policy.js", JAVASCRIPT, include_str!("../../page/policy.js")),
    ("/explanation.js", JAVASCRIPT, include_str!("../../page/explanation.js")),
    ("/jwt.js", JAVASCRIPT, include_str!("../../page/jwt.js")),
    ("/words.js", JAVASCRIPT, include_str!("../../page/words.js")),
    ("/icon.svg", SVG, include_str!("../../page/icon.svg")),
];

/// The running server of the page.
#[derive(Debug)]
pub(super) struct Page(Server);

impl Page {
    pub(super) async fn start(listeners: Listeners, ready: &Ready, editor: Editor) -> io::Result<Self> {
        let editor = Data::new(editor);
        let policy = content_security_policy(ready);
        let config = config(ready);
        let configure = move |app: &mut ServiceConfig| {
            let config = config.clone();
            let headers = DefaultHeaders::new()
                .add(("Content-Security-Policy", policy.as_str()))
                .add(("X-Content-Type-Options", "nosniff"))
                .add(("Referrer-Policy", "no-referrer"))
                .add(("Cross-Origin-Opener-Policy", "same-origin"))
                .add(("Cross-Origin-Resource-Policy", "same-origin"))
                // The files change with every build, and are served from memory.
                .add((CACHE_CONTROL, "no-store"));
            let mut routes = web::scope("").wrap(headers).app_data(editor.clone()).configure(editor::routes);
            for (path, content_type, body) in FILES {
                routes = routes.route(
                    path,
                    web::get().to(move || async move {
                        HttpResponse::Ok().insert_header((CONTENT_TYPE, content_type)).body(body)
                    }),
                );
            }
            let routes = routes.route("/ably.js", web::get().to(ably_js)).route(
                "/config.json",
                web::get().to(move || {
                    let config = config.clone();
                    async move { HttpResponse::Ok().json(config) }
                }),
            );
            app.service(routes);
        };
        Server::start(listeners, configure).await.map(Self)
    }

    pub(super) async fn stop(self) {
        self.0.stop().await;
    }
}

fn config(ready: &Ready) -> Value {
    json!({
        "clerk": ready.clerk,
        "ably": ready.ably,
        "service_port": ready.service_port,
        "publishable_key": ready.publishable_key,
        "cookie_suffix": ready.cookie_suffix,
    })
}

/// The page may run its own scripts and connect to the three servers of the sandbox.
fn content_security_policy(ready: &Ready) -> String {
    let Ready { clerk, ably, service_port, ably_port, .. } = ready;
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
         connect-src 'self' {clerk} {ably} ws://127.0.0.1:{ably_port} \
         http://localhost:{service_port} http://127.0.0.1:{service_port}; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

/// Read for each request, so that reloading the page picks up `npm ci`.
async fn ably_js() -> impl Responder {
    for path in ably_js_paths() {
        if let Ok(body) = tokio::fs::read(path).await {
            return HttpResponse::Ok().insert_header((CONTENT_TYPE, JAVASCRIPT)).body(body);
        }
    }
    HttpResponse::NotFound().insert_header((CONTENT_TYPE, JAVASCRIPT)).body("// ably-js is not installed\n")
}

/// The paths of ably-js: where `npm ci` puts it in this source tree, or beside the executable.
fn ably_js_paths() -> impl Iterator<Item = PathBuf> {
    let installed = concat!(env!("CARGO_MANIFEST_DIR"), "/page/node_modules/ably/build/ably.min.js");
    let beside = std::env::current_exe().ok().map(|path| path.with_file_name("ably.min.js"));
    std::iter::once(PathBuf::from(installed)).chain(beside)
}
