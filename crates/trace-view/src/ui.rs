//! The pages of the Jaeger UI, which the folder `jaeger-ui` holds.
//!
//! The UI is a single page: every path that is no asset answers with the index, and the script in
//! it shows what the path asks for. The assets are stored compressed and sent compressed, because
//! every browser unpacks them.

use axum::{
    Router,
    extract::Path,
    response::{Html, IntoResponse, Response},
    routing::get,
};
use http::{StatusCode, header};

/// A file under `/static`: its name, its media type, and its content compressed by gzip.
type Asset = (&'static str, &'static str, &'static [u8]);

macro_rules! asset {
    ($name:literal, $media_type:literal) => {
        (
            $name,
            $media_type,
            include_bytes!(concat!("../jaeger-ui/", $name, ".gz")),
        )
    };
}

const ASSETS: [Asset; 5] = [
    asset!("index-Ba4Pmzjs.js", "text/javascript"),
    asset!("index-BCPS3alI.css", "text/css"),
    asset!("jaeger-logo-CNZsoUdk.svg", "image/svg+xml"),
    asset!("monitor-BYreg9RK.png", "image/png"),
    asset!("favicon-BxcVf0am.ico", "image/x-icon"),
];

/// The pages and their assets.
pub(crate) fn pages() -> Router {
    Router::new()
        .route("/static/{name}", get(asset))
        .fallback(async || Html(include_str!("../jaeger-ui/index.html")))
}

async fn asset(Path(name): Path<String>) -> Response {
    let Some((_, media_type, content)) = ASSETS.iter().find(|asset| asset.0 == name) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let headers = [
        (header::CONTENT_TYPE, *media_type),
        (header::CONTENT_ENCODING, "gzip"),
    ];
    (headers, *content).into_response()
}
