//! Who may do what: Host, Origin, token, content type, size.

use serde_json::json;

use crate::{gateway::Gateway, ledger::id};

const PATHS: [&str; 7] = ["/healthz", "/readyz", "/metrics", "/openapi.json", "/v1/effects", "/v1/audit", "/v1/limits"];

#[tokio::test]
async fn names_that_are_not_ours_are_refused_everywhere() {
    let gateway = Gateway::start().await;
    for path in PATHS.into_iter().chain(["/nothing"]) {
        let refused = gateway.send("GET", path, &[("Host", "rebound.example")], b"").await;
        assert_eq!(refused.refusal(), (403, "host-not-allowed"), "{path}");
        let none = gateway.raw(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await;
        assert_eq!(none.status(), 403, "{path}");
    }
    for host in ["localhost:8081", "127.0.0.1", "[::1]:8081", "OPS.example:8081"] {
        assert_eq!(gateway.send("GET", "/healthz", &[("Host", host)], b"").await.status(), 200, "{host}");
    }
    let twice = [("Host", "localhost"), ("Host", "localhost")];
    assert!(gateway.send("GET", "/healthz", &twice, b"").await.status() >= 400);
    let absolute = gateway.send("GET", "http://rebound.example/healthz", &[("Host", "localhost")], b"").await;
    assert_eq!(absolute.refusal(), (403, "host-not-allowed"));
}

#[tokio::test]
async fn pages_of_other_sites_are_refused_everywhere() {
    let gateway = Gateway::start().await;
    for path in PATHS {
        for origin in ["https://evil.example", "null", "http://localhost:3000"] {
            let refused = gateway.send("GET", path, &[("Host", "localhost"), ("Origin", origin)], b"").await;
            assert_eq!(refused.refusal(), (403, "origin-not-allowed"), "{path} {origin}");
            assert_eq!(refused.message.header("access-control-allow-origin"), None);
        }
    }
    let bearer = format!("Bearer {}", gateway.token);
    let fence = gateway.ledger.unknown(1).await.fence.0;
    let body = json!({ "fence": fence, "reason": "OPS-7" }).to_string();
    let path = format!("/v1/effects/{}/release", id(1));
    let base = [("Host", "localhost"), ("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
    for header in [("Origin", "https://evil.example"), ("Sec-Fetch-Site", "cross-site")] {
        let refused = gateway.send("POST", &path, &[&base[..], &[header]].concat(), body.as_bytes()).await;
        assert_eq!(refused.refusal(), (403, "origin-not-allowed"), "{header:?}");
    }
    let own = [&base[..], &[("Origin", "http://localhost"), ("Sec-Fetch-Site", "same-origin")]].concat();
    assert_eq!(gateway.send("POST", &path, &own, body.as_bytes()).await.status(), 200);
}

#[tokio::test]
async fn a_listed_page_may_ask_and_read() {
    let gateway = Gateway::start().await;
    let origin = [("Host", "ops.example"), ("Origin", "https://dash.example")];
    let preflight = [&origin[..], &[("Access-Control-Request-Method", "POST")]].concat();
    let allowed = gateway.send("OPTIONS", "/v1/reload", &preflight, b"").await;
    assert_eq!(allowed.status(), 204);
    let header = |name| allowed.message.header(name);
    assert_eq!(header("access-control-allow-origin"), Some("https://dash.example"));
    assert_eq!(header("access-control-allow-headers"), Some("authorization, content-type"));
    let read = gateway.send("GET", "/v1/effects", &origin, b"").await;
    assert_eq!(read.message.header("access-control-allow-origin"), Some("https://dash.example"));
    assert_eq!(read.message.header("vary"), Some("origin"));
    let evil = [("Host", "ops.example"), ("Origin", "https://evil.example"), ("Access-Control-Request-Method", "POST")];
    assert_eq!(gateway.send("OPTIONS", "/v1/reload", &evil, b"").await.refusal(), (403, "origin-not-allowed"));
}

#[tokio::test]
async fn changes_need_the_token() {
    let gateway = Gateway::start().await;
    gateway.ledger.unknown(1).await;
    let changes = ["settle", "release"].map(|verb| format!("/v1/effects/{}/{verb}", id(1)));
    for path in changes.iter().map(String::as_str).chain(["/v1/reload"]) {
        let with = async |credential: &str| {
            let mut headers = vec![("Host", "localhost"), ("Content-Type", "application/json")];
            headers.extend((!credential.is_empty()).then_some(("Authorization", credential)));
            gateway.send("POST", path, &headers, b"{}").await
        };
        let none = with("").await;
        assert_eq!(none.refusal(), (401, "token-required"), "{path}");
        assert_eq!(none.message.header("www-authenticate"), Some("Bearer"));
        let wrong = with(&format!("Bearer {}", "0".repeat(64))).await;
        assert_eq!(wrong.refusal(), (401, "token-wrong"), "{path}");
        assert_eq!(wrong.message.header("www-authenticate"), Some("Bearer error=\"invalid_token\""));
        for odd in ["Basic b3BlcmF0b3I6eA==", "Bearer", &gateway.token, "B\u{e9}arer x"] {
            assert_eq!(with(odd).await.refusal(), (401, "token-required"), "{path} {odd}");
        }
        assert_eq!(with(&format!("Bearer {}x", gateway.token)).await.refusal(), (401, "token-wrong"), "{path}");
        // Past the token, the empty request is what is wrong.
        assert_eq!(with(&format!("bearer  {} ", gateway.token)).await.refusal(), (422, "field-invalid"), "{path}");
    }
    let bearer = format!("Bearer {}", gateway.token);
    let twice = [("Host", "localhost"), ("Authorization", bearer.as_str()), ("Authorization", &bearer)];
    assert_eq!(gateway.send("POST", "/v1/reload", &twice, b"{}").await.refusal(), (401, "token-required"));
}

#[tokio::test]
async fn where_others_reach_the_listener_reads_need_the_token_too() {
    let gateway = Gateway::start_with(|settings| settings.reads_need_token = true).await;
    gateway.ledger.unknown(1).await;
    let effect = format!("/v1/effects/{}", id(1));
    for path in ["/v1/effects", "/v1/audit", "/v1/limits", &effect] {
        assert_eq!(gateway.get(path).await.refusal(), (401, "token-required"), "{path}");
        assert_eq!(gateway.get_with_token(path).await.status(), 200, "{path}");
    }
    for path in ["/healthz", "/readyz", "/metrics", "/openapi.json"] {
        assert_eq!(gateway.get(path).await.status(), 200, "{path}");
    }
}

#[tokio::test]
async fn changes_must_be_json() {
    let gateway = Gateway::start().await;
    let bearer = format!("Bearer {}", gateway.token);
    let base = [("Host", "localhost"), ("Authorization", bearer.as_str())];
    for kind in
        ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/json5"]
    {
        let headers = [&base[..], &[("Content-Type", kind)]].concat();
        let refused = gateway.send("POST", "/v1/reload", &headers, b"{\"reason\":\"x\"}").await;
        assert_eq!(refused.refusal(), (415, "content-type-wrong"), "{kind}");
    }
    assert_eq!(gateway.send("POST", "/v1/reload", &base, b"{}").await.refusal(), (415, "content-type-wrong"));
    let json = [&base[..], &[("Content-Type", "application/json; charset=utf-8")]].concat();
    for body in ["", "{", "{\"reason\":\"x\"} {}", "{\"reason\":\"x\",}"] {
        let refused = gateway.send("POST", "/v1/reload", &json, body.as_bytes()).await;
        assert_eq!(refused.refusal(), (400, "json-malformed"), "{body}");
        assert!(refused.json["detail"].as_str().unwrap().contains("line 1 column"), "{}", refused.json);
    }
    assert_eq!(gateway.send("POST", "/v1/reload", &json, b"{\"reason\":\"x\"}").await.status(), 200);
}

#[tokio::test]
async fn bodies_are_bounded() {
    let gateway = Gateway::start_with(|settings| settings.body_bytes_max = 100).await;
    let fits = json!({ "reason": "x".repeat(80) });
    assert_eq!(gateway.change("/v1/reload", &fits).await.status(), 200);
    let large = json!({ "reason": "x".repeat(100) });
    assert_eq!(gateway.change("/v1/reload", &large).await.refusal(), (413, "body-too-large"));
    let bearer = &gateway.token;
    let chunked = format!(
        "POST /v1/reload HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {bearer}\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\n\r\n80\r\n{}\r\n",
        " ".repeat(128)
    );
    assert_eq!(gateway.raw(chunked.as_bytes()).await.status(), 413);
}

#[tokio::test]
async fn every_answer_is_for_its_reader_only() {
    let gateway = Gateway::start().await;
    for path in PATHS.into_iter().chain(["/nothing"]) {
        let answer = gateway.get(path).await;
        assert_eq!(answer.message.header("cache-control"), Some("no-store"), "{path}");
        assert_eq!(answer.message.header("x-content-type-options"), Some("nosniff"), "{path}");
    }
}

#[tokio::test]
async fn who_is_limited_is_listed_as_far_as_asked_for() {
    let gateway = Gateway::start().await;
    let listed = gateway.get("/v1/limits?limit=2").await.json;
    let who: Vec<_> = listed["limited"].as_array().unwrap().iter().map(|one| one["who"].as_str().unwrap()).collect();
    assert_eq!(who, ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(listed["limited"][0]["wait_ms"], 1_500);
    assert_eq!(gateway.get("/v1/limits?limit=0").await.refusal(), (400, "query-invalid"));
}
