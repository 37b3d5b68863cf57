//! The Jaeger UI's own pages, as the crate `otlp-embedded` carries them; only its assets are used,
//! not its store. The UI is a single page: every path that is no asset is the index, and the script
//! in it shows what the path says.

use axum::{Router, middleware::map_response, response::Response};
use http::{StatusCode, header};
use otlp_embedded::{Config, State, ui_app};

/// Where the pages are served; the index tells the browser.
const BASE_PATH: &str = "/";

/// The pages and their assets.
pub(crate) fn pages() -> Router {
    // The store that the crate insists on: nothing is ever put in, and its routes are shadowed by
    // ours.
    let unused = State::new(Config {
        max_length: 1,
        max_memory_usage: 1,
    });
    ui_app(unused, BASE_PATH).layer(map_response(found))
}

/// The crate answers pages with a redirect to nowhere; browsers forgive it, health checks and `curl
/// --fail` do not.
async fn found(mut response: Response) -> Response {
    let nowhere = !response.headers().contains_key(header::LOCATION);
    if response.status() == StatusCode::TEMPORARY_REDIRECT && nowhere {
        *response.status_mut() = StatusCode::OK;
    }
    response
}
