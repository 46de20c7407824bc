//! The bundles of clerk-js and its components, where Clerk's SDKs look for them.

use std::path::PathBuf;

use actix_web::HttpResponse;
use actix_web::http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_TYPE};
use actix_web::web::{self, Path, ServiceConfig};

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

pub(super) fn routes(app: &mut ServiceConfig) {
    app.route("/npm/@clerk/{package:clerk-js|ui}@{version}/dist/{file:[A-Za-z0-9._-]+\\.js}", web::get().to(file));
}

/// A file of the version that is installed, whichever version the page asks for. Read for each request, so that a page
/// picks up what `make` has fetched since.
async fn file(path: Path<(String, String, String)>) -> HttpResponse {
    let (package, _version, file) = path.into_inner();
    for directory in directories() {
        if let Ok(body) = tokio::fs::read(directory.join("@clerk").join(&package).join("dist").join(&file)).await {
            return HttpResponse::Ok()
                .insert_header((CONTENT_TYPE, JAVASCRIPT))
                .insert_header((ACCESS_CONTROL_ALLOW_ORIGIN, "*"))
                .insert_header((CACHE_CONTROL, "no-cache"))
                .body(body);
        }
    }
    HttpResponse::NotFound()
        .insert_header((CONTENT_TYPE, JAVASCRIPT))
        .insert_header((ACCESS_CONTROL_ALLOW_ORIGIN, "*"))
        .body("// clerk-js is not here. `make clerk-js` fetches it.\n")
}

/// Where `make clerk-js` puts the packages in this source tree, or beside the executable.
fn directories() -> impl Iterator<Item = PathBuf> {
    let fetched = concat!(env!("CARGO_MANIFEST_DIR"), "/clerk-js/node_modules");
    let beside = std::env::current_exe().ok().map(|path| path.with_file_name("clerk-js"));
    std::iter::once(PathBuf::from(fetched)).chain(beside)
}
