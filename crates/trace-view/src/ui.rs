//! The Jaeger UI's own pages, as the crate `otlp-embedded` carries them; only its assets are used,
//! not its store. The UI is a single page: every path that is no asset is the index, and the script
//! in it shows what the path says.

use axum::{
    Router,
    body::to_bytes,
    middleware::map_response,
    response::{IntoResponse, Response},
};
use http::{StatusCode, header};
use otlp_embedded::{Config, State, ui_app};

/// Where the pages are served. The index names it to the browser.
const BASE_PATH: &str = "/";

/// The pages and their assets.
pub(crate) fn pages() -> Router {
    // The store that the crate insists on: nothing is ever put in, and its routes are shadowed by
    // ours.
    let unused = State::new(Config {
        max_length: 1,
        max_memory_usage: 1,
    });
    ui_app(unused, BASE_PATH)
        .layer(map_response(configured))
        .layer(map_response(found))
}

/// The line of the index that configures the UI, and our version of it: the page *Monitor* shows
/// metrics of spans, which this collector does not have, so the menu must not lead to it.
const UNCONFIGURED: &str = "const JAEGER_CONFIG = DEFAULT_CONFIG;";
const CONFIGURED: &str = r#"const JAEGER_CONFIG = {"monitor":{"menuEnabled":false}};"#;

/// The index is a few kilobytes.
const LARGEST_PAGE_BYTES: usize = 1 << 20;

async fn configured(response: Response) -> Response {
    let is_page = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    if !is_page {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Ok(page) = to_bytes(body, LARGEST_PAGE_BYTES).await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let page = String::from_utf8_lossy(&page).replacen(UNCONFIGURED, CONFIGURED, 1);
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, page.into())
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
