//! The shop's catalog: what can be bought, and for how much.
//!
//! - `GET /api/catalog`: all products
//! - `GET /api/catalog/{sku}`: one product, or 404
//! - `GET /healthz`
//!
//! `catalog healthcheck` asks a running catalog whether it is well: the image holds nothing but
//! this program, so it is its own health check.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{json, Value};

mod service;

const PORT: u16 = 8000;

/// Something that can be bought.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Product {
    sku: String,
    name: String,
    description: String,
    price_cents: u64,
}

/// In the order in which they are shown.
type Products = Arc<Vec<Product>>;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("healthcheck") {
        return service::healthcheck(PORT);
    }
    let products: Vec<Product> = match serde_json::from_str(include_str!("../catalog.json")) {
        Ok(products) => products,
        Err(error) => {
            eprintln!("catalog.json is not a list of products: {error}");
            return ExitCode::FAILURE;
        }
    };
    service::run(PORT, router(Arc::new(products)))
}

fn router(products: Products) -> Router {
    Router::new()
        .route("/api/catalog", get(list))
        .route("/api/catalog/{sku}", get(product))
        .route("/healthz", get(|| async { Json(json!({"status": "ok"})) }))
        .fallback(|| async { error(StatusCode::NOT_FOUND, "there is nothing at this path") })
        .with_state(products)
}

async fn list(State(products): State<Products>, headers: HeaderMap) -> Json<Vec<Product>> {
    service::log("list products", &headers, &BTreeMap::new());
    Json(products.to_vec())
}

async fn product(
    State(products): State<Products>,
    Path(sku): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Product>, (StatusCode, Json<Value>)> {
    service::log(
        "look up product",
        &headers,
        &BTreeMap::from([("sku", sku.clone())]),
    );
    products
        .iter()
        .find(|product| product.sku == sku)
        .cloned()
        .map(Json)
        .ok_or_else(|| {
            error(
                StatusCode::NOT_FOUND,
                &format!("there is no product '{sku}'"),
            )
        })
}

fn error(status: StatusCode, reason: &str) -> (StatusCode, Json<Value>) {
    (status, Json(json!({"error": reason})))
}
