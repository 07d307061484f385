//! An axum application behind a limit: `tidegate dev`, then `cargo run --example axum`, then
//! `curl -i -H 'x-user: u1' http://127.0.0.1:3000/` six times.

use axum::Router;
use axum::extract::Request;
use axum::routing::get;
use tidegate_client::{Check, Client, Config, RateLimitLayer};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let node = std::env::var("TIDEGATE_URL").unwrap_or_else(|_| "http://127.0.0.1:8080".to_owned());
    let client = Client::new(Config::new([node]))?;
    let per_user = |request: &Request| {
        let user = request.headers().get("x-user")?.to_str().ok()?;
        Some(Check::new("demo").with("user", user))
    };
    let app = Router::new().route("/", get(async || "hello\n")).layer(RateLimitLayer::new(client, per_user));
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:3000".to_owned());
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("serving on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}
