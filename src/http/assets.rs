//! The console's static files, part of the binary. They hold no data and need no credential.

use axum::extract::{Path, Request};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use rust_embed::{EmbeddedFile, RustEmbed};

use super::problem::Problem;

#[derive(RustEmbed)]
#[folder = "src/http/console/"]
struct Files;

/// Everything is of this server; other nodes' APIs may be called, since the page outlives the node
/// that served it. Inline is one line alone: a page of which a part did not come, since the network
/// changed just then, loads itself again, where it stayed empty.
const POLICY: &str = "default-src 'none'; \
     script-src 'self' 'sha256-3H5rmLwSFblbcneAuwP9MzIINDDg8Jd/Bl4EjaGlGyI='; style-src 'self'; \
     img-src 'self' data: blob:; media-src 'self' blob:; connect-src 'self' http: https:; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'self'";

/// `GET /`.
pub(super) async fn index(request: Request) -> Result<Response, Problem> {
    file("index.html", &request)
}

/// `GET /records`.
pub(super) async fn records(request: Request) -> Result<Response, Problem> {
    file("records.html", &request)
}

/// `GET /watch/{name}`: the same page for every stream; it reads the name from its URL.
pub(super) async fn watch(request: Request) -> Result<Response, Problem> {
    file("watch.html", &request)
}

/// `GET /assets/{file}`.
pub(super) async fn asset(Path(name): Path<String>, request: Request) -> Result<Response, Problem> {
    file(&name, &request)
}

fn file(name: &str, request: &Request) -> Result<Response, Problem> {
    let found: EmbeddedFile = Files::get(name)
        .ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "no such page or file"))?;
    let hash = data_encoding::HEXLOWER.encode(&found.metadata.sha256_hash());
    let etag = format!("\"{}\"", hash.get(..32).unwrap_or(&hash));
    let known = request.headers().get_all(header::IF_NONE_MATCH).iter().any(|value| {
        value.to_str().is_ok_and(|list| list.split(',').any(|one| one.trim() == etag))
    });
    let mut response = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        found.data.into_owned().into_response()
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, content_type(name)),
        // Checked at every use: a node that was updated serves its own files at once.
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        headers.insert(header::ETAG, etag);
    }
    Ok(response)
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_page_loads_itself_again_with_the_one_line_that_the_policy_allows() {
        for name in Files::iter().filter(|name| name.ends_with(".html")) {
            let page = Files::get(&name).unwrap().data.into_owned();
            let page = String::from_utf8(page).unwrap();
            let (_, code) = page.split_once("<script>").expect("it is there");
            let (code, rest) = code.split_once("</script>").unwrap();
            assert!(!rest.contains("<script>"), "{name}: only one is inline");
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, code.as_bytes());
            let hash = format!("'sha256-{}'", data_encoding::BASE64.encode(digest.as_ref()));
            assert!(POLICY.contains(&hash), "{name}: {hash}");
        }
    }
}
