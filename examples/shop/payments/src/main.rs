//! The shop's payments: the service that must be isolated most, so it runs in a micro VM.
//!
//! - `POST /payments` with `{"order_id", "amount_cents"}`: 201 with `{"payment_id", …}`. The same
//!   order is paid once: asking again answers with the same payment, 409 if the amount differs.
//! - `GET /payments/{order_id}`
//! - `GET /healthz`
//!
//! `payments healthcheck` asks a running service whether it is well.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::io::Read;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{json, Value};

mod service;

const PORT: u16 = 8000;
/// Payments kept in memory; beyond it, the oldest is forgotten.
const LEDGER_LENGTH: usize = 10_000;
const ORDER_ID_BYTES_MAX: usize = 64;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    order_id: String,
    amount_cents: u64,
}

#[derive(Debug, Clone, Serialize)]
struct Payment {
    payment_id: String,
    order_id: String,
    amount_cents: u64,
}

#[derive(Default)]
struct Ledger {
    by_order: HashMap<String, Payment>,
    oldest_first: VecDeque<String>,
}

impl Ledger {
    /// The payment of the order: a new one, or the one made before.
    fn pay(&mut self, request: &Request) -> std::io::Result<Payment> {
        if let Some(payment) = self.by_order.get(&request.order_id) {
            return Ok(payment.clone());
        }
        let payment = Payment {
            payment_id: payment_id()?,
            order_id: request.order_id.clone(),
            amount_cents: request.amount_cents,
        };
        if self.oldest_first.len() == LEDGER_LENGTH {
            if let Some(oldest) = self.oldest_first.pop_front() {
                self.by_order.remove(&oldest);
            }
        }
        self.oldest_first.push_back(request.order_id.clone());
        self.by_order
            .insert(request.order_id.clone(), payment.clone());
        Ok(payment)
    }
}

fn payment_id() -> std::io::Result<String> {
    let mut bytes = [0; 12];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes
        .iter()
        .fold("pay_".to_owned(), |id, byte| format!("{id}{byte:02x}")))
}

type Shared = Arc<Mutex<Ledger>>;
type Failure = (StatusCode, Json<Value>);

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("healthcheck") {
        return service::healthcheck(PORT);
    }
    service::run(PORT, router())
}

fn router() -> Router {
    Router::new()
        .route("/payments", post(pay))
        .route("/payments/{order_id}", get(payment))
        .route("/healthz", get(|| async { Json(json!({"status": "ok"})) }))
        .fallback(|| async { error(StatusCode::NOT_FOUND, "there is nothing at this path") })
        .layer(DefaultBodyLimit::max(16 << 10))
        .with_state(Shared::default())
}

async fn pay(
    State(ledger): State<Shared>,
    headers: HeaderMap,
    body: Result<Json<Request>, JsonRejection>,
) -> Result<(StatusCode, Json<Payment>), Failure> {
    let Json(request) =
        body.map_err(|rejection| error(rejection.status(), &rejection.body_text()))?;
    if request.order_id.is_empty() || request.order_id.len() > ORDER_ID_BYTES_MAX {
        return Err(error(
            StatusCode::UNPROCESSABLE_ENTITY,
            "order_id must have 1 to 64 bytes",
        ));
    }
    if request.amount_cents == 0 {
        return Err(error(
            StatusCode::UNPROCESSABLE_ENTITY,
            "amount_cents must be at least 1",
        ));
    }
    let payment = ledger
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .pay(&request)
        .map_err(|cause| {
            error(
                StatusCode::INTERNAL_SERVER_ERROR,
                &format!("no random numbers: {cause}"),
            )
        })?;
    if payment.amount_cents != request.amount_cents {
        return Err(error(
            StatusCode::CONFLICT,
            &format!("this order was paid with {} cents", payment.amount_cents),
        ));
    }
    service::log(
        "order paid",
        &headers,
        &BTreeMap::from([
            ("order_id", payment.order_id.clone()),
            ("payment_id", payment.payment_id.clone()),
        ]),
    );
    Ok((StatusCode::CREATED, Json(payment)))
}

async fn payment(
    State(ledger): State<Shared>,
    Path(order_id): Path<String>,
) -> Result<Json<Payment>, Failure> {
    ledger
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .by_order
        .get(&order_id)
        .cloned()
        .map(Json)
        .ok_or_else(|| error(StatusCode::NOT_FOUND, "this order has not been paid"))
}

fn error(status: StatusCode, reason: &str) -> Failure {
    (status, Json(json!({"error": reason})))
}
