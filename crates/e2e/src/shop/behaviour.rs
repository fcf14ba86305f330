//! What the shop's users see.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Shop, TRACE, UNKNOWN_ORDER};
use crate::http::Request;
use crate::instance::eventually;

impl Shop<'_> {
    pub(super) fn page(&self) -> Result<()> {
        let page = self.get("/")?.expect(200)?;
        let kind = page.header("content-type").unwrap_or_default();
        ensure!(kind.starts_with("text/html"), "content-type {kind}");
        let text = page.text();
        for expected in [
            "<!doctype html>",
            "Bulkhead Chandlery",
            "Ship&#39;s bell",
            "€129.00",
            "</html>",
        ] {
            ensure!(text.contains(expected), "the page lacks {expected}: {text}");
        }
        let style = self.get("/style.css")?.expect(200)?;
        ensure!(
            style.text().contains("prefers-color-scheme"),
            "the style is cut off"
        );
        Ok(())
    }

    pub(super) fn catalog(&self) -> Result<()> {
        let catalog = self.get("/api/catalog")?.expect(200)?.json()?;
        let products = catalog.as_array().context("the catalog is no list")?;
        ensure!(products.len() == 6, "{} products", products.len());
        for product in products {
            ensure!(
                product["sku"].is_string()
                    && product["name"].is_string()
                    && product["price_cents"].is_u64(),
                "{product}"
            );
        }
        self.get("/api/catalog/anchor")?.expect(404).map(drop)
    }

    pub(super) fn order(&self) -> Result<()> {
        let order = self.placed("rope", 3)?;
        ensure!(order["total_cents"] == 3 * 3450, "{order}");
        let payment = order["payment_id"].as_str().unwrap_or_default();
        ensure!(payment.starts_with("pay_"), "{order}");
        let id = order["id"].as_str().context("no id")?;
        let kept = self
            .get(&format!("/api/orders/{id}"))?
            .expect(200)?
            .json()?;
        ensure!(kept == order, "placed {order}, kept {kept}");

        let key = [
            ("content-type", "application/json"),
            ("idempotency-key", "the same order"),
        ];
        let body = r#"{"sku": "bell", "quantity": 1}"#;
        let again = || -> Result<Value> {
            let request = Request::post("/api/orders", body).with_headers(&key);
            self.instance.http(request)?.expect(201)?.json()
        };
        let (first, second) = (again()?, again()?);
        ensure!(first == second, "one key, two orders: {first}, {second}");
        Ok(())
    }

    pub(super) fn form(&self) -> Result<()> {
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        let request = Request::post("/order", "sku=compass&quantity=2").with_headers(&headers);
        let answer = self.instance.http(request)?.expect(303)?;
        let page = self
            .get(answer.header("location").context("no location")?)?
            .expect(200)?
            .text();
        for expected in ["2 × Gimballed compass", "€152.00", "pay_"] {
            ensure!(page.contains(expected), "the page lacks {expected}: {page}");
        }
        Ok(())
    }

    pub(super) fn refusals(&self) -> Result<()> {
        for (body, status) in [
            (r#"{"sku": "anchor", "quantity": 1}"#, 422),
            (r#"{"sku": "rope", "quantity": 0}"#, 422),
            (r#"{"sku": "rope", "quantity": -1}"#, 422),
            (r#"{"sku": "rope", "quantity": 1.5}"#, 422),
            (r#"{"sku": "rope"}"#, 422),
            (r#"{"sku": "rope", "quantity": 1"#, 400),
            ("[]", 400),
        ] {
            let answer = self
                .place(body)?
                .expect(status)
                .with_context(|| body.to_owned())?;
            ensure!(answer.json()?["error"].is_string(), "{body}: no reason");
        }
        let answer = self.get(UNKNOWN_ORDER)?.expect(404)?;
        ensure!(answer.json()?["error"].is_string(), "no reason");
        Ok(())
    }

    pub(super) fn trace(&self) -> Result<()> {
        let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
        let headers = [
            ("content-type", "application/json"),
            ("traceparent", parent.as_str()),
        ];
        let request = Request::post("/api/orders", r#"{"sku": "flags", "quantity": 1}"#)
            .with_headers(&headers);
        self.instance.http(request)?.expect(201)?;
        for service in ["orders", "catalog", "payments"] {
            eventually(&format!("the trace in the log of {service}"), || {
                let logs = self.compose(&["logs", service])?;
                ensure!(logs.contains(TRACE), "{logs}");
                Ok(())
            })?;
        }
        Ok(())
    }
}
